//! Sums of Kronecker products beside a frozen layer.

use burn::tensor::Tensor;
use engraft_kernels::{Kron, Mat, Real};

use super::fused::Input;
use super::update::{Base, Seen, Update, beside, changed, updated};

/// x sum_k A_k (x) B_k; parameters A [terms, m, n], B [terms, p, q].
#[derive(Debug, Clone)]
struct Kronecker;

/// The kernel for its two parameters.
fn kron<'a, T: Real>(params: &[Input<'a, T>]) -> Kron<'a, T> {
    let [a, b] = [params[0], params[1]];
    Kron {
        a: a.data,
        a_shape: [a.shape[1], a.shape[2]],
        b: b.data,
        b_shape: [b.shape[1], b.shape[2]],
    }
}

impl Update for Kronecker {
    fn params(&self) -> usize {
        2
    }

    fn width(&self, params: &[&[usize]]) -> usize {
        params[0][2] * params[1][2]
    }

    fn add<T: Real>(&self, seen: Seen<'_, T>, y: &mut [T]) -> Vec<Vec<T>> {
        kron(seen.params).add(seen.x.data, y);
        Vec::new()
    }

    fn add_backward<T: Real>(
        &self,
        seen: Seen<'_, T>,
        g: &[T],
        gx: Option<&mut [T]>,
        _: bool,
    ) -> Vec<Vec<T>> {
        let (ga, gb) = kron(seen.params).backward(seen.x.data, g, gx);
        vec![ga, gb]
    }

    fn matrix<T: Real>(&self, w: Input<'_, T>, params: &[Input<'_, T>]) -> Vec<T> {
        let mut y = vec![T::ZERO; w.data.len()];
        kron(params).add_matrix(w.data, &mut y);
        y
    }

    fn matrix_backward<T: Real>(&self, params: &[Input<'_, T>], g: Mat<'_, T>) -> Vec<Vec<T>> {
        let (ga, gb) = kron(params).backward_matrix(g.data);
        vec![ga, gb]
    }
}

/// y = x W + b + x sum_k A_k (x) B_k for tokens x: [tokens, m p], A: [terms, m, n], B: [terms, p, q],
/// y: [tokens, n q]; the base (W, b) may be left out.
///
/// No Kronecker product is formed. On flex a run of tokens passes through both factors of a term
/// while it stays in cache, and only x is kept: 2 tokens terms min(m p q + m n q, m n p + n p q)
/// flops beyond the frozen layer, forward, and 5/2 of that backward.
pub fn kronecker(x: Tensor<2>, base: Option<Base>, a: Tensor<3>, b: Tensor<3>) -> Tensor<2> {
    let params = vec![a.into(), b.into()];
    updated(Kronecker, x, params, base, |x, params, base| {
        let update = composed(x.clone(), params.next(), params.next());
        beside(x, update, base)
    })
}

/// Either factor may come first; the cheaper order is taken.
fn composed(x: Tensor<2>, a: Tensor<3>, b: Tensor<3>) -> Tensor<2> {
    let ([_, m, n], [_, p, q]) = (a.dims(), b.dims());
    if m * q * (p + n) <= p * n * (m + q) {
        return right_first(x, a, b);
    }
    // A (x) B is B (x) A with the two parts of every row and column index exchanged.
    let tokens = x.dims()[0];
    let exchanged = x
        .reshape([tokens, m, p])
        .swap_dims(1, 2)
        .reshape([tokens, p * m]);
    right_first(exchanged, b, a)
        .reshape([tokens, q, n])
        .swap_dims(1, 2)
        .reshape([tokens, n * q])
}

fn right_first(x: Tensor<2>, a: Tensor<3>, b: Tensor<3>) -> Tensor<2> {
    let ([terms, m, n], [_, p, q]) = (a.dims(), b.dims());
    let tokens = x.dims()[0];
    let b = b.swap_dims(0, 1).reshape([p, terms * q]);
    let inner = x
        .reshape([tokens * m, p])
        .matmul(b)
        .reshape([tokens, m, terms, q]);
    let outer = inner
        .permute([0, 3, 2, 1])
        .reshape([tokens * q, terms * m])
        .matmul(a.reshape([terms * m, n]));
    outer
        .reshape([tokens, q, n])
        .swap_dims(1, 2)
        .reshape([tokens, n * q])
}

/// W + sum_k A_k (x) B_k for W: [m p, n q], A: [terms, m, n], B: [terms, p, q]: one pass over W.
pub fn kronecker_update(weight: Tensor<2>, a: Tensor<3>, b: Tensor<3>) -> Tensor<2> {
    changed(Kronecker, weight, vec![a.into(), b.into()], |params| {
        matrix(params.next(), params.next())
    })
}

fn matrix(a: Tensor<3>, b: Tensor<3>) -> Tensor<2> {
    let ([terms, m, n], [_, p, q]) = (a.dims(), b.dims());
    // In this order of the entries a Kronecker product is an outer product (Van Loan).
    let rearranged = a
        .reshape([terms, m * n])
        .transpose()
        .matmul(b.reshape([terms, p * q]));
    rearranged
        .reshape([m, n, p, q])
        .swap_dims(1, 2)
        .reshape([m * p, n * q])
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    /// Terms and factors; the last is cheaper with A first.
    const SHAPES: [(usize, [usize; 4]); 4] = [
        (1, [1, 1, 1, 1]),
        (1, [3, 5, 4, 2]),
        (3, [2, 5, 4, 3]),
        (2, [7, 2, 2, 6]),
    ];

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for (terms, [m, n, p, q]) in SHAPES {
            let (x, a, b) = ([9, m * p], [terms, m, n], [terms, p, q]);
            let (w, bias) = ([m * p, n * q], [n * q]);
            agree(
                &[&x, &a, &b, &w, &bias],
                9 * terms * (m * p + n * q),
                |x, fast| {
                    let [inputs, w, bias] = [0, 3, 4].map(|at| x[at].clone());
                    let (inputs, w, bias) = (inputs.matrix(), w.matrix(), bias.vector());
                    let (a, b) = (x[1].tensor(), x[2].tensor());
                    if fast {
                        return kronecker(inputs, Some((w, Some(bias))), a, b);
                    }
                    inputs.clone().matmul(w) + bias.unsqueeze() + composed(inputs, a, b)
                },
            );
            agree(&[&x, &a, &b], 9 * terms * (m * p + n * q), |x, fast| {
                let (a, b) = (x[1].tensor(), x[2].tensor());
                if fast {
                    kronecker(x[0].matrix(), None, a, b)
                } else {
                    x[0].matrix().matmul(matrix(a, b))
                }
            });
        }
    }

    #[test]
    fn the_updated_weight_equals_the_composition() {
        for (terms, [m, n, p, q]) in SHAPES {
            let shapes: [&[usize]; 3] = [&[m * p, n * q], &[terms, m, n], &[terms, p, q]];
            agree(&shapes, m * n + p * q, |x, fast| {
                let (a, b) = (x[1].tensor(), x[2].tensor());
                if fast {
                    kronecker_update(x[0].matrix(), a, b)
                } else {
                    x[0].matrix() + matrix(a, b)
                }
            });
        }
    }
}
