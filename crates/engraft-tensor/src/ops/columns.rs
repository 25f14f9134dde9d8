//! Scaling of columns.

use burn::tensor::Tensor;
use engraft_kernels::{
    Real, column_sums, low_rank_column_norms, scale_columns, scale_columns_backward,
};

use super::fused::{Input, Kernel, Operand, Returned, fused};
use super::linear::with_bias;

/// x diag(g) + b; inputs x, g and, perhaps, b.
#[derive(Debug, Clone)]
struct Scaled;

impl Kernel for Scaled {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn keeps(&self, input: usize, wanted: &[bool]) -> bool {
        match input {
            0 => wanted[1],
            1 => wanted[0],
            _ => false,
        }
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        scale_columns(x[0].data, x[1].data, x.get(2).map(|bias| bias.data), y);
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let mut gx = wanted[0].then(|| vec![T::ZERO; gy.len()]);
        let width = x[1].shape[0];
        let (g_gain, g_bias) = if wanted[1] && wanted[0] {
            scale_columns_backward(x[0].data, x[1].data, gy, gx.as_deref_mut())
        } else if wanted[1] {
            // The gain is not kept: nothing but its length is read.
            scale_columns_backward(x[0].data, &vec![T::ZERO; width], gy, None)
        } else {
            if let Some(gx) = &mut gx {
                scale_columns(gy, x[1].data, None, gx);
            }
            let bias = wanted.get(2) == Some(&true);
            (
                Vec::new(),
                if bias {
                    column_sums(gy, width)
                } else {
                    Vec::new()
                },
            )
        };
        let mut gradients = vec![gx, wanted[1].then_some(g_gain)];
        if let Some(wanted) = wanted.get(2) {
            gradients.push(wanted.then_some(g_bias));
        }
        gradients
    }
}

/// y = x diag(g) + b for x: [rows, width], g and b: `[width]`.
///
/// On flex one pass forward and one backward, which gives all gradients.
pub fn scaled_columns(x: Tensor<2>, gain: Tensor<1>, bias: Option<Tensor<1>>) -> Tensor<2> {
    let mut inputs: Vec<Operand> = vec![x.into(), gain.into()];
    inputs.extend(bias.map(Operand::from));
    fused(Scaled, inputs).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        composed(inputs.next(), inputs.next(), inputs.optional())
    })
}

fn composed(x: Tensor<2>, gain: Tensor<1>, bias: Option<Tensor<1>>) -> Tensor<2> {
    with_bias(x * gain.unsqueeze(), bias)
}

/// |W + s A B| by column; inputs W, A, B, all constants.
#[derive(Debug, Clone)]
struct Norms {
    scaling: f64,
}

impl Kernel for Norms {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        vec![shapes[0][1]]
    }

    fn keeps(&self, _: usize, _: &[bool]) -> bool {
        false
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        let scaling = T::from_f64(self.scaling);
        low_rank_column_norms(x[0].data, x[1].data, x[2].data, x[1].shape[1], scaling, y);
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        _: &[T],
        _: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        vec![None; x.len()]
    }
}

/// The norms of the columns of W + s A B, `[d_out]`, for W: [d_in, d_out], A: [d_in, r], B: [r, d_out],
/// as constants of the gradient.
///
/// On flex one pass over W, of which a strip of rows is changed at a time: 2 (r + 1) d_in d_out flops
/// and no matrix of W's size.
pub fn column_norms(weight: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scaling: f64) -> Tensor<1> {
    let inputs = [weight, a, b].map(|input| input.detach().into());
    fused(Norms { scaling }, inputs.into()).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        composed_norms(inputs.next(), inputs.next(), inputs.next(), scaling)
    })
}

fn composed_norms(weight: Tensor<2>, a: Tensor<2>, b: Tensor<2>, scaling: f64) -> Tensor<1> {
    let changed = weight + a.matmul(b) * scaling;
    (changed.clone() * changed)
        .sum_dim(0)
        .squeeze_dim::<1>(0)
        .sqrt()
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for [rows, width] in [[1, 1], [7, 5], [40, 33]] {
            agree(&[&[rows, width], &[width], &[width]], rows, |x, fast| {
                let f = if fast { scaled_columns } else { composed };
                f(x[0].matrix(), x[1].vector(), Some(x[2].vector()))
            });
            agree(&[&[rows, width], &[width]], rows, |x, fast| {
                let f = if fast { scaled_columns } else { composed };
                f(x[0].matrix(), x[1].vector(), None)
            });
        }
    }

    #[test]
    fn norms_equal_the_composition_and_are_constants() {
        for [rows, width, rank] in [[1, 1, 1], [40, 33, 3]] {
            agree(
                &[&[rows, width], &[rows, rank], &[rank, width]],
                rows * rank,
                |x, fast| {
                    let [w, a, b] = [0, 1, 2].map(|at| x[at].matrix());
                    let used = w.clone().sum() + a.clone().sum() + b.clone().sum();
                    let norms = if fast {
                        column_norms(w, a, b, 0.7)
                    } else {
                        composed_norms(w, a, b, 0.7).detach()
                    };
                    norms + used
                },
            );
        }
    }
}
