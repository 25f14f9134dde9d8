//! Every kernel gives the same numbers, up to rounding, on every instruction set of the machine.

use engraft_kernels::{
    AdamW, BlockDiagonal, CirculantBlocks, Group, GroupedRows, Isa, Kron, LowRank, Parameter,
    cosine_sums, gelu, gelu_backward, givens_stage, givens_stage_backward, isa, layer_norm,
    layer_norm_backward, limit_isa, rms_norm, rms_norm_backward, silu, silu_backward, softmax,
    softmax_backward,
};

/// Numbers in about `[-2, 2]`.
fn numbers(len: usize, frequency: f32) -> Vec<f32> {
    (0..len)
        .map(|i| (i as f32 * frequency).sin() * 2.0)
        .collect()
}

/// The results of every kernel on arrays of `[37, 84]`: name, terms of the longest sum in a result,
/// numbers. No term is much above 8.
fn results() -> Vec<(&'static str, usize, Vec<f32>)> {
    let (rows, width) = (37, 84);
    let len = rows * width;
    let (x, gy) = (numbers(len, 0.37), numbers(len, 0.71));
    let (gamma, beta) = (numbers(width, 1.3), numbers(width, 1.7));
    let mut all = Vec::new();

    let (mut y, mut gx) = (vec![0.0; len], vec![0.0; len]);
    gelu(&x, &mut y);
    gelu_backward(&x, &gy, &mut gx);
    all.push(("gelu", 1, [y.clone(), gx.clone()].concat()));
    silu(&x, &mut y);
    silu_backward(&x, &gy, &mut gx);
    all.push(("silu", 1, [y.clone(), gx.clone()].concat()));
    softmax(&x, width, &mut y);
    softmax_backward(&y, &gy, width, &mut gx);
    all.push(("softmax", width, [y.clone(), gx.clone()].concat()));
    let moments = layer_norm(&x, &gamma, &beta, 1e-5, &mut y);
    let (g_gamma, g_beta) = layer_norm_backward(&x, &gamma, &moments, &gy, &mut gx);
    all.push((
        "layer_norm",
        width,
        [y.clone(), gx.clone(), g_gamma, g_beta].concat(),
    ));
    let rstd = rms_norm(&x, &gamma, 1e-5, &mut y);
    let g_gamma = rms_norm_backward(&x, &gamma, &rstd, &gy, &mut gx);
    all.push(("rms_norm", width, [y.clone(), gx.clone(), g_gamma].concat()));

    let shape = BlockDiagonal {
        blocks: 7,
        size: 12,
    };
    let r = numbers(width * 12, 0.9);
    shape.apply(&x, &r, &mut y);
    shape.backward_input(&gy, &r, &mut gx);
    all.push((
        "rotation",
        rows,
        [y.clone(), gx.clone(), shape.backward_blocks(&x, &gy)].concat(),
    ));

    let shape = CirculantBlocks {
        inputs: 7,
        outputs: 7,
        size: 12,
    };
    let w = &gy[..7 * width];
    shape.apply(&x, w, &mut y);
    shape.backward_input(&gy, w, &mut gx);
    all.push((
        "circular",
        rows.max(width),
        [y.clone(), gx.clone(), shape.backward_kernel(&x, &gy)].concat(),
    ));
    cosine_sums(&x, [rows, width], &mut y);
    all.push(("cosine_sums", len, y.clone()));

    let pairs: Vec<[usize; 2]> = (0..width / 2).map(|i| [i, i + width / 2]).collect();
    let matrices = r[..2 * width].as_chunks().0;
    (y, gx) = (x.clone(), gy.clone());
    givens_stage(&mut y, width, &pairs, matrices);
    let g = givens_stage_backward(&x, &mut gx, width, &pairs, matrices);
    all.push((
        "givens",
        rows,
        [y.clone(), gx.clone(), g.into_flattened()].concat(),
    ));

    let kron = Kron {
        a: &r[..16],
        a_shape: [4, 4],
        b: &r[..441],
        b_shape: [21, 21],
    };
    kron.apply(&x, &mut y);
    let (ga, gb) = kron.backward(&x, &gy, &mut gx);
    all.push(("kron", width, [y, gx].concat()));
    all.push(("kron, factors", rows * 21 * 21, [ga, gb].concat()));

    let update = LowRank {
        a: &r[..5 * width],
        b: &gamma.repeat(5),
        offset: Some(&beta),
        scale: 0.5,
    };
    let group = Group {
        update,
        rows: &[3, 1, 36],
    };
    let shape = GroupedRows {
        d_in: width,
        d_out: width,
        tokens: 1,
    };
    y = gy.clone();
    shape.add(&x, &mut y, &[group]);
    all.push(("grouped", 5 * width, y));

    let (mut values, mut m, mut v) = (x.clone(), vec![0.0; len], vec![0.0; len]);
    let parameter = Parameter {
        values: &mut values,
        gradient: &gy,
        first_moment: &mut m,
        second_moment: &mut v,
    };
    AdamW::default().step(1, vec![parameter]);
    all.push(("adamw", 1, [values, m, v].concat()));
    all
}

#[test]
fn instruction_sets_agree() {
    let widest = isa();
    limit_isa(Isa::Portable);
    assert_eq!(isa(), Isa::Portable);
    let portable = results();
    for limit in [Isa::Avx2, Isa::Avx512] {
        limit_isa(limit);
        assert_eq!(isa(), limit.min(widest));
        for ((name, terms, found), (.., expected)) in results().iter().zip(&portable) {
            let tolerance = f32::EPSILON / 2.0 * 8.0 * *terms as f32;
            for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
                assert!(
                    (found - expected).abs() <= tolerance,
                    "{name} with {limit:?}, element {i}: {found} and {expected}"
                );
            }
        }
    }
}
