//! Sums of Kronecker products whose factors have one shape.

use burn::tensor::Tensor;

/// x sum_k A_k (x) B_k without any Kronecker product: x [n, ma * mb] to [n, la * lb]. Either factor
/// may come first; the cheaper order is taken, min(ma lb (mb + la), mb la (ma + lb)) n r
/// multiplications.
///
/// # Shapes
/// - `a`: [r, ma, la]
/// - `b`: [r, mb, lb]
pub(crate) fn apply(x: Tensor<2>, a: Tensor<3>, b: Tensor<3>) -> Tensor<2> {
    let ([_, ma, la], [_, mb, lb]) = (a.dims(), b.dims());
    if ma * lb * (mb + la) <= mb * la * (ma + lb) {
        return right_first(x, a, b);
    }
    // A (x) B is B (x) A with the two parts of every row and column index exchanged.
    let n = x.dims()[0];
    let exchanged = x.reshape([n, ma, mb]).swap_dims(1, 2).reshape([n, mb * ma]);
    right_first(exchanged, b, a)
        .reshape([n, lb, la])
        .swap_dims(1, 2)
        .reshape([n, la * lb])
}

fn right_first(x: Tensor<2>, a: Tensor<3>, b: Tensor<3>) -> Tensor<2> {
    let ([r, ma, la], [_, mb, lb]) = (a.dims(), b.dims());
    let n = x.dims()[0];
    let b = b.swap_dims(0, 1).reshape([mb, r * lb]);
    let inner = x.reshape([n * ma, mb]).matmul(b).reshape([n, ma, r, lb]);
    let outer = inner
        .permute([0, 3, 2, 1])
        .reshape([n * lb, r * ma])
        .matmul(a.reshape([r * ma, la]));
    outer
        .reshape([n, lb, la])
        .swap_dims(1, 2)
        .reshape([n, la * lb])
}

/// sum_k A_k (x) B_k, [ma * mb, la * lb], with factors as in [`apply`].
pub(crate) fn matrix(a: Tensor<3>, b: Tensor<3>) -> Tensor<2> {
    let ([r, ma, la], [_, mb, lb]) = (a.dims(), b.dims());
    // In this order of the entries a Kronecker product is an outer product (Van Loan).
    let rearranged = a
        .reshape([r, ma * la])
        .transpose()
        .matmul(b.reshape([r, mb * lb]));
    rearranged
        .reshape([ma, la, mb, lb])
        .swap_dims(1, 2)
        .reshape([ma * mb, la * lb])
}

#[cfg(test)]
mod tests {
    use engraft_tensor::{Init, Key, bridge};

    use super::*;

    #[test]
    fn both_forms_are_the_sum_of_products() {
        let draw = |role: &str, shape| {
            Init::Normal { std: 1.0 }.tensor(
                shape,
                &Key::new(1).child(role),
                &burn::tensor::Device::default(),
                burn::tensor::DType::F64,
            )
        };
        // The second pair is cheaper with A first.
        for (a_shape, b_shape) in [([3, 2, 5], [3, 4, 3]), ([3, 7, 2], [3, 2, 6])] {
            let (a, b) = (draw("a", a_shape), draw("b", b_shape));
            let term = |k: usize| {
                let part = |factor: &Tensor<3>| {
                    bridge::to_matrix(&factor.clone().narrow(0, k, 1).squeeze_dim::<2>(0))
                };
                part(&a).kron(&part(&b))
            };
            let expected = (1..3).fold(term(0), |sum, k| sum.add(&term(k)).unwrap());
            let found = matrix(a.clone(), b.clone());
            let distance = bridge::to_matrix(&found).max_abs_diff(&expected).unwrap();
            assert!(distance < 1e-13, "{distance:e}");

            let width = found.dims()[0];
            let x: Tensor<2> = draw("x", [1, 6, width]).reshape([6, width]);
            let distance = apply(x.clone(), a, b) - x.matmul(found);
            assert!(bridge::to_matrix(&distance).max_abs() < 1e-12);
        }
    }
}
