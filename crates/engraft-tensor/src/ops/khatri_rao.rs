//! Products of the rows of two matrices.

use burn::tensor::Tensor;
use engraft_kernels::{KhatriRao, KhatriRaoGradients, Real};

use super::fused::{Input, Kernel, Operand, Returned, fused};

/// Rows weights[k, i] left[i] . right[k]; inputs left, right and, perhaps, weights.
#[derive(Debug, Clone)]
struct Rows;

fn rows<'a, T: Real>(x: &[Input<'a, T>]) -> KhatriRao<'a, T> {
    KhatriRao {
        left: x[0].data,
        right: x[1].data,
        weights: x.get(2).map(|weights| weights.data),
        width: x[0].shape[1],
    }
}

impl Kernel for Rows {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        vec![shapes[0][0] * shapes[1][0], shapes[0][1]]
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        rows(x).apply(y);
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let KhatriRaoGradients {
            left,
            right,
            weights,
        } = rows(x).backward(gy, wanted[1]);
        let mut gradients = vec![wanted[0].then_some(left), wanted[1].then_some(right)];
        if let Some(wanted) = wanted.get(2) {
            gradients.push(wanted.then_some(weights));
        }
        gradients
    }
}

/// Every row of one matrix times every row of another, entry by entry, for left: [n, width], right:
/// [r, width] and weights: [r, n]: row i r + k of the result, [n r, width], is
/// `weights[k, i] left[i] . right[k]`.
///
/// On flex one pass forward and one backward over the result.
pub fn row_products(left: Tensor<2>, right: Tensor<2>, weights: Option<Tensor<2>>) -> Tensor<2> {
    let mut inputs: Vec<Operand> = vec![left.into(), right.into()];
    inputs.extend(weights.map(Operand::from));
    fused(Rows, inputs).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        composed(inputs.next(), inputs.next(), inputs.optional())
    })
}

fn composed(left: Tensor<2>, right: Tensor<2>, weights: Option<Tensor<2>>) -> Tensor<2> {
    let ([n, width], [r, _]) = (left.dims(), right.dims());
    let products = left.reshape([n, 1, width]) * right.reshape([1, r, width]);
    let products = match weights {
        Some(weights) => products * weights.transpose().reshape([n, r, 1]),
        None => products,
    };
    products.reshape([n * r, width])
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for [n, r, width] in [[1, 1, 1], [3, 5, 7], [4, 2, 50]] {
            agree(
                &[&[n, width], &[r, width], &[r, n]],
                width + n + r,
                |x, fast| {
                    let f = if fast { row_products } else { composed };
                    f(x[0].matrix(), x[1].matrix(), Some(x[2].matrix()))
                },
            );
            agree(&[&[n, width], &[r, width]], width + n + r, |x, fast| {
                let f = if fast { row_products } else { composed };
                f(x[0].matrix(), x[1].matrix(), None)
            });
        }
    }
}
