//! Runs one hot kernel once, for counting its instructions: `hot gelu`; `hot list` names them.

use engraft_kernels::{
    AdamW, BlockDiagonal, CirculantBlocks, Isa, Mat, Onto, Parameter, gelu, gelu_backward,
    layer_norm, limit_isa, matmul, rms_norm, silu, softmax,
};

const ROWS: usize = 64;
const WIDTH: usize = 768;

/// The kernels by name.
const KERNELS: &[(&str, fn())] = &[
    ("gelu", || {
        gelu(&filled(ROWS * WIDTH), &mut zeros(ROWS * WIDTH))
    }),
    ("gelu_backward", || {
        let x = filled(ROWS * WIDTH);
        gelu_backward(&x, &x, &mut zeros(ROWS * WIDTH));
    }),
    ("silu", || {
        silu(&filled(ROWS * WIDTH), &mut zeros(ROWS * WIDTH))
    }),
    ("softmax", || {
        softmax(&filled(ROWS * WIDTH), WIDTH, &mut zeros(ROWS * WIDTH))
    }),
    ("layer_norm", || {
        let (x, scale) = (filled(ROWS * WIDTH), filled(WIDTH));
        layer_norm(&x, &scale, &scale, 1e-5, &mut zeros(ROWS * WIDTH));
    }),
    ("rms_norm", || {
        rms_norm(
            &filled(ROWS * WIDTH),
            &filled(WIDTH),
            1e-5,
            &mut zeros(ROWS * WIDTH),
        );
    }),
    ("adamw", || {
        let len = ROWS * WIDTH;
        let rule = AdamW {
            lr: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.01,
        };
        let parameter = Parameter {
            values: &mut filled(len),
            gradient: &filled(len),
            first_moment: &mut zeros(len),
            second_moment: &mut zeros(len),
        };
        rule.step(1, vec![parameter]);
    }),
    ("circulant", || {
        let blocks = CirculantBlocks {
            inputs: 3,
            outputs: 3,
            size: 256,
        };
        blocks.apply(
            &filled(ROWS * WIDTH),
            &filled(9 * 256),
            &mut zeros(ROWS * WIDTH),
        );
    }),
    ("block_diagonal", || {
        let shape = BlockDiagonal {
            blocks: WIDTH / 32,
            size: 32,
        };
        shape.apply(
            &filled(ROWS * WIDTH),
            &filled(WIDTH * 32),
            &mut zeros(ROWS * WIDTH),
        );
    }),
    ("matmul_nt", || {
        let (x, w) = (filled(ROWS * WIDTH), filled(128 * WIDTH));
        let (x, w) = (Mat::new(&x, ROWS, WIDTH), Mat::new(&w, 128, WIDTH).t());
        matmul((&mut zeros(ROWS * 128), 128), Onto::Nothing, x, w, 1.0);
    }),
];

fn main() {
    limit_isa(Isa::Avx2);
    let asked = std::env::args().nth(1).unwrap_or_default();
    if asked == "list" {
        KERNELS.iter().for_each(|(name, _)| println!("{name}"));
    }
    if let Some((_, kernel)) = KERNELS.iter().find(|(name, _)| *name == asked) {
        kernel();
    }
}

fn zeros(len: usize) -> Vec<f32> {
    vec![0.0; len]
}

/// One number everywhere: the kernels have no branches on values, and filling must not be counted
/// beside them.
fn filled(len: usize) -> Vec<f32> {
    vec![0.375; len]
}
