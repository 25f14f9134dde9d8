//! The low-rank update of a linear layer.

use burn::tensor::Tensor;
use engraft_kernels::{
    Mat, Onto, Real, column_sums, low_rank_updated, matmul as product, multiplied,
};

use super::fused::{Input, Kernel, Operand, Returned, fused};
use super::linear::{biased, frozen};

/// x W + b + s (x A) B; inputs x, W, A, B and, perhaps, b. Keeps x A.
#[derive(Debug, Clone)]
struct LowRank {
    scaling: f64,
}

impl Kernel for LowRank {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        vec![shapes[0][0], shapes[1][1]]
    }

    fn takes_transposed(&self, input: usize) -> bool {
        input < 4
    }

    fn keeps(&self, input: usize, wanted: &[bool]) -> bool {
        match input {
            0 => wanted[1] || wanted[2],
            1 => wanted[0],
            2 => wanted[0],
            3 => wanted[0] || wanted[2],
            _ => false,
        }
    }

    fn start<T: Real>(&self, x: &[Input<'_, T>], len: usize) -> Vec<T> {
        biased(x.get(4).map(|bias| bias.data), len)
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], wanted: &[bool]) -> Vec<Vec<T>> {
        let [tokens, _] = x[0].dims();
        let [rank, d_out] = x[3].dims();
        frozen(x[0].mat(), x[1].mat(), x.get(4).map(|bias| bias.data), y);
        let narrow = multiplied(x[0].mat(), x[2].mat(), T::from_f64(self.scaling));
        let update = Mat::new(&narrow, tokens, rank);
        product((y, d_out), Onto::Present, update, x[3].mat(), T::ONE);
        if wanted[3] { vec![narrow] } else { Vec::new() }
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        saved: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let ([tokens, d_in], [rank, d_out]) = (x[0].dims(), x[3].dims());
        let gy = Mat::new(gy, tokens, d_out);
        let scaling = T::from_f64(self.scaling);
        let g_narrow = (wanted[0] || wanted[2]).then(|| multiplied(gy, x[3].mat().t(), scaling));
        let g_narrow = g_narrow.as_ref().map(|g| Mat::new(g, tokens, rank));
        let gx = wanted[0].then(|| {
            let mut gx = multiplied(gy, x[1].mat().t(), T::ONE);
            if let Some(g_narrow) = g_narrow {
                product(
                    (&mut gx, d_in),
                    Onto::Present,
                    g_narrow,
                    x[2].mat().t(),
                    T::ONE,
                );
            }
            gx
        });
        let gw = wanted[1].then(|| multiplied(x[0].mat().t(), gy, T::ONE));
        let ga = g_narrow
            .filter(|_| wanted[2])
            .map(|g_narrow| multiplied(x[0].mat().t(), g_narrow, T::ONE));
        let gb = wanted[3].then(|| multiplied(Mat::new(&saved[0], tokens, rank).t(), gy, T::ONE));
        let mut gradients = vec![gx, gw, ga, gb];
        if let Some(wanted) = wanted.get(4) {
            gradients.push(wanted.then(|| column_sums(gy.data, d_out)));
        }
        gradients
    }
}

/// y = x W + b + s (x A) B for tokens x: [tokens, d_in], W: [d_in, d_out], b: `[d_out]`, A: [d_in, r],
/// B: [r, d_out]. Hu et al., arXiv 2106.09685, section 4.1.
///
/// On flex the update is added to the frozen product in place, and only x and s x A, [tokens, r],
/// are kept; backward, g B^T serves both A and x, and no gradient of a frozen W is formed. Beyond
/// the frozen layer: 4 tokens r (d_in + d_out) flops forward and twice that backward.
pub fn low_rank(
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    a: Tensor<2>,
    b: Tensor<2>,
    scaling: f64,
) -> Tensor<2> {
    let mut inputs: Vec<Operand> = vec![x.into(), weight.into(), a.into(), b.into()];
    inputs.extend(bias.map(Operand::from));
    fused(LowRank { scaling }, inputs).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        let [x, weight, a, b] = std::array::from_fn(|_| inputs.next());
        composed(x, weight, inputs.optional(), a, b, scaling)
    })
}

fn composed(
    x: Tensor<2>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    a: Tensor<2>,
    b: Tensor<2>,
    scaling: f64,
) -> Tensor<2> {
    let y = x.clone().matmul(weight);
    let y = match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    };
    y + (x.matmul(a) * scaling).matmul(b)
}

/// W + s A B; inputs W, A, B.
#[derive(Debug, Clone)]
struct Update {
    scaling: f64,
}

impl Kernel for Update {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn keeps(&self, input: usize, wanted: &[bool]) -> bool {
        match input {
            1 => wanted[2],
            2 => wanted[1],
            _ => false,
        }
    }

    fn start<T: Real>(&self, x: &[Input<'_, T>], _: usize) -> Vec<T> {
        let ([rows, columns], [_, rank]) = (x[0].dims(), x[1].dims());
        let scaling = T::from_f64(self.scaling);
        low_rank_updated(
            x[0].data,
            [rows, rank, columns],
            x[1].data,
            x[2].data,
            scaling,
        )
    }

    /// [`start`](Kernel::start) did it.
    fn forward<T: Real>(&self, _: &[Input<'_, T>], _: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let [d_in, d_out] = x[0].dims();
        let gy = Mat::new(gy, d_in, d_out);
        let scaling = T::from_f64(self.scaling);
        vec![
            wanted[0].then(|| gy.data.to_vec()),
            wanted[1].then(|| multiplied(gy, x[2].mat().t(), scaling)),
            wanted[2].then(|| multiplied(x[1].mat().t(), gy, scaling)),
        ]
    }
}

/// W + s A B for W: [d_in, d_out], A: [d_in, r], B: [r, d_out]: up to rank 32 one pass that reads W
/// and writes the sum.
pub fn low_rank_update(weight: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scaling: f64) -> Tensor<2> {
    fused(Update { scaling }, vec![weight.into(), a.into(), b.into()]).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        inputs.next::<2>() + inputs.next::<2>().matmul(inputs.next()) * scaling
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    const SHAPES: [[usize; 4]; 3] = [[1, 1, 1, 1], [7, 5, 2, 3], [33, 40, 8, 17]];

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for [tokens, d_in, rank, d_out] in SHAPES {
            let shapes: [&[usize]; 5] = [
                &[tokens, d_in],
                &[d_in, d_out],
                &[d_in, rank],
                &[rank, d_out],
                &[d_out],
            ];
            agree(&shapes, d_in * rank + tokens, |x, fast| {
                let f = if fast { low_rank } else { composed };
                let bias = Some(x[4].vector());
                f(
                    x[0].matrix(),
                    x[1].matrix(),
                    bias,
                    x[2].matrix(),
                    x[3].matrix(),
                    0.7,
                )
            });
        }
    }

    #[test]
    fn factors_may_be_stored_transposed_and_the_bias_absent() {
        agree(&[&[9, 6], &[4, 6], &[3, 6], &[4, 3]], 40, |x, fast| {
            let f = if fast { low_rank } else { composed };
            let turned = |at: usize| x[at].matrix().transpose();
            f(x[0].matrix(), turned(1), None, turned(2), turned(3), -1.5)
        });
    }

    #[test]
    fn the_updated_weight_equals_the_composition() {
        for [_, d_in, rank, d_out] in SHAPES {
            agree(
                &[&[d_in, d_out], &[d_in, rank], &[rank, d_out]],
                d_in + d_out,
                |x, fast| {
                    let [w, a, b] = [x[0].matrix(), x[1].matrix(), x[2].matrix()];
                    if fast {
                        low_rank_update(w, a, b, 0.3)
                    } else {
                        w + a.matmul(b) * 0.3
                    }
                },
            );
        }
    }
}
