//! Every kernel gives the same numbers, up to rounding, on every instruction set of the machine.

use engraft_kernels::{
    AdamW, BlockDiagonal, CirculantBlocks, Group, GroupedRows, Isa, Kron, LowRank, PairMaps,
    Parameter, PlaneMaps, PlaneWaves, RankOneBlocks, Rotations, SparseDelta, Tokens, gelu,
    gelu_backward, isa, layer_norm, layer_norm_backward, limit_isa, rms_norm, rms_norm_backward,
    sigmoid, sigmoid_backward, silu, silu_backward, softmax, softmax_backward, tanh, tanh_backward,
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
    sigmoid(&x, &mut y);
    sigmoid_backward(&x, &gy, &mut gx);
    all.push(("sigmoid", 1, [y.clone(), gx.clone()].concat()));
    tanh(&x, &mut y);
    tanh_backward(&x, &gy, &mut gx);
    all.push(("tanh", 1, [y.clone(), gx.clone()].concat()));
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
    let gr = shape.backward(&x, &gy, Some((&r, &mut gx)));
    all.push(("rotation", rows, [y.clone(), gx.clone(), gr].concat()));
    for last_power in [None, Some(4)] {
        let shape = Rotations {
            size: 12,
            packed: false,
            last_power,
        };
        let values = numbers(width * 12, 0.2);
        let mut rotations = vec![0.0; values.len()];
        shape.apply(&values, &mut rotations);
        all.push(("rotations", 1000, rotations));
    }

    let shape = CirculantBlocks {
        width_in: width,
        width_out: width,
        inputs: 7,
        outputs: 7,
        size: 12,
    };
    let mut w = gy[..7 * width].to_vec();
    y.fill(0.0);
    gx.fill(0.0);
    shape.apply(&x, &w, 1.0, &mut y);
    let mut gw = vec![0.0; w.len()];
    shape.backward([&x, &w, &gy], 1.0, Some(&mut gx), Some(&mut gw));
    all.push((
        "circular",
        rows.max(width),
        [y.clone(), gx.clone(), gw].concat(),
    ));

    let positions: Vec<i64> = (0..(width * width / 7) as i64).map(|e| 7 * e).collect();
    w.truncate(positions.len().min(w.len()));
    let waves = PlaneWaves {
        width_in: width,
        width_out: width,
        places: &positions[..w.len()],
    };
    y.fill(0.0);
    gx.fill(0.0);
    waves.apply(Tokens::Rows(&x), &w, 1.0, &mut y);
    let mut gc = vec![0.0; w.len()];
    let tokens = Tokens::Rows(&x[..]);
    waves.backward(tokens, [&w, &gy], 1.0, Some(&mut gx), Some(&mut gc));
    all.push(("waves", len, [y.clone(), gx.clone(), gc].concat()));

    let sparse = SparseDelta {
        rows: width,
        columns: width,
        positions: &positions,
    };
    let mut gv = vec![0.0; positions.len()];
    sparse.backward_values(&x, &gy, 1.0, &mut gv);
    all.push(("sparse", rows, gv));

    let shape = PairMaps { width, half: 6 };
    shape.apply(&x, &r[..2 * width], &mut y);
    let g = shape.backward(&x, &r[..2 * width], &gy, &mut gx);
    all.push(("pair maps", rows, [y.clone(), gx.clone(), g].concat()));

    let maps: Vec<f32> = r[..4 * (width - 1)].iter().map(|r| 0.3 * r).collect();
    let shape = PlaneMaps { width };
    shape.apply(&x, &maps, &mut y);
    let g = shape.backward(&x, &maps, &gy, &mut gx);
    all.push(("plane maps", rows, [y.clone(), gx.clone(), g].concat()));

    let shape = RankOneBlocks {
        blocks: 7,
        size: 12,
        weights: &[-0.1, 0.1],
    };
    shape.apply(&x, &r[..2 * width], &mut y);
    let g = shape.backward(&x, &r[..2 * width], &gy, &mut gx);
    all.push((
        "rank one blocks",
        12 * rows,
        [y.clone(), gx.clone(), g].concat(),
    ));

    let kron = Kron {
        a: &r[..16],
        a_shape: [4, 4],
        b: &r[..441],
        b_shape: [21, 21],
    };
    y.fill(0.0);
    gx.fill(0.0);
    kron.add(&x, &mut y);
    let (ga, gb) = kron.backward(&x, &gy, Some(&mut gx));
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
        lr: 1e-3,
        step: 1,
    };
    AdamW::default().step(vec![parameter]);
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
