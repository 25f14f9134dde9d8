//! Products of reflections in compact form.

use burn::tensor::Tensor;

use crate::{bridge, inverse};

/// T, [r, r], of the product R = H_r ... H_2 H_1 = I - U T U^T of the reflections
/// H_k = I - 2 u_k u_k^T at the hyperplanes normal to the unit columns of U [d, r]:
/// T^-1 = I / 2 + the strictly lower triangle of U^T U (Joffrin and Low 2006; it is the compact WY
/// form of Schreiber and Van Loan 1989).
pub fn product(u: &Tensor<2>) -> Tensor<2> {
    let gram = u.clone().transpose().matmul(u.clone());
    let identity = masked(&gram, |row, col| row == col);
    unit_lower_inverse(gram.tril(-1) * 2.0 + identity) * 2.0
}

/// T, [r, r], of R = I - U T U^T = I - 2 Q Q^T, where Q are the columns of U [d, r] made orthonormal:
/// T = 2 (U^T U)^-1, because Q Q^T depends on the span of U alone.
pub fn span(u: &Tensor<2>) -> Tensor<2> {
    let gram = u.clone().transpose().matmul(u.clone());
    let r = gram.dims()[0];
    inverse(gram.reshape([1, r, r])).reshape([r, r]) * 2.0
}

/// M^-1 of a lower triangular M with ones on the diagonal, differentiable: the inverse Z is computed
/// outside the gradient and refined by a Newton step 2 Z - Z M Z, whose derivative at Z = M^-1 is that
/// of the inverse.
fn unit_lower_inverse(m: Tensor<2>) -> Tensor<2> {
    let z = by_doubling(m.clone().detach());
    z.clone() * 2.0 - z.clone().matmul(m).matmul(z)
}

/// Inverse from blocks of 1, 2, 4 ... along the diagonal: where Z inverts the blocks of size s and B
/// is what is below them in those of size 2 s, Z - Z B Z inverts the latter, as (Z B)^2 = 0. As
/// stable as substitution, in log2(r) steps.
fn by_doubling(m: Tensor<2>) -> Tensor<2> {
    let mut z = masked(&m, |row, col| row == col);
    let mut size = 1;
    while size < m.dims()[0] {
        let below = masked(&m, |row, col| {
            row / (2 * size) == col / (2 * size) && row / size > col / size
        });
        z = z.clone() - z.clone().matmul(m.clone() * below).matmul(z);
        size *= 2;
    }
    z
}

/// One where `keeps` holds of (row, column) and zero elsewhere, like the square `m`.
fn masked(m: &Tensor<2>, keeps: impl Fn(usize, usize) -> bool) -> Tensor<2> {
    let r = m.dims()[0];
    let values = (0..r * r)
        .map(|at| f64::from(u8::from(keeps(at / r, at % r))))
        .collect();
    bridge::tensor(values, [r, r], &m.device(), m.dtype())
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use proptest::prelude::*;

    use super::*;
    use crate::{Init, Key};

    fn draw(shape: [usize; 2], seed: u64, role: &str) -> Tensor<2> {
        draw_as(shape, seed, role, DType::F64)
    }

    fn draw_as(shape: [usize; 2], seed: u64, role: &str, dtype: DType) -> Tensor<2> {
        let key = Key::new(seed).child(role);
        Init::Normal { std: 1.0 }.tensor(shape, &key, &Device::default(), dtype)
    }

    fn eye(size: usize, dtype: DType) -> Tensor<2> {
        Tensor::<2>::eye(size, &Device::default()).cast(dtype)
    }

    fn largest(x: Tensor<2>) -> f64 {
        bridge::values(&x)
            .iter()
            .fold(0.0, |largest, value| value.abs().max(largest))
    }

    fn unit(u: Tensor<2>) -> Tensor<2> {
        let norm = (u.clone() * u.clone()).sum_dim(0).sqrt();
        u / norm
    }

    /// I - U T U^T.
    fn matrix(u: &Tensor<2>, t: Tensor<2>) -> Tensor<2> {
        let identity = eye(u.dims()[0], u.dtype());
        identity - u.clone().matmul(t).matmul(u.clone().transpose())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn the_compact_form_is_the_product(d in 2usize..20, r in 1usize..12, seed: u64) {
            let u = unit(draw([d, r], seed, "u"));
            let mut expected = eye(d, DType::F64);
            for k in 0..r {
                let column = u.clone().narrow(1, k, 1);
                expected = expected.clone() - column.clone().matmul(column.transpose().matmul(expected)) * 2.0;
            }
            prop_assert!(largest(matrix(&u, product(&u)) - expected) < 1e-13 * (r * d) as f64);
        }

        #[test]
        fn products_are_orthogonal_to_the_precision_even_of_parallel_normals(d in 4usize..30, r in 2usize..40, spread in 0.0f64..1.0, seed: u64) {
            for (dtype, epsilon) in [(DType::F32, f64::from(f32::EPSILON)), (DType::F64, f64::EPSILON)] {
                let common: Tensor<2> = draw_as([d, 1], seed, "common", dtype);
                let u = unit(draw_as([d, r], seed, "u", dtype) * spread + common);
                let rotation = matrix(&u, product(&u));
                let apart = largest(rotation.clone().matmul(rotation.transpose()) - eye(d, dtype));
                prop_assert!(apart < 8.0 * epsilon * (r * r) as f64, "{apart:e}");
            }
        }

        #[test]
        fn the_span_is_reflected(d in 8usize..30, r in 1usize..8, seed: u64) {
            let u = unit(draw([d, r], seed, "u"));
            let reflection = matrix(&u, span(&u));
            // -1 on the span, an involution, and symmetric.
            prop_assert!(largest(u.clone().transpose().matmul(reflection.clone()) + u.transpose()) < 1e-9);
            prop_assert!(largest(reflection.clone().matmul(reflection.clone()) - eye(d, DType::F64)) < 1e-9);
            prop_assert!(largest(reflection.clone() - reflection.transpose()) < 1e-9);
        }
    }
}
