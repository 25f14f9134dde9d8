//! Inverses of small matrices, on the device.

use burn::tensor::Tensor;

/// M^-1 of matrices [n, b, b] whose symmetric part is positive definite (Gram matrices, I + Q with
/// a skew-symmetric Q), differentiable: the inverse Z is computed outside the gradient and refined
/// by a Newton step 2 Z - Z M Z, whose derivative -Z dM Z at Z = M^-1 is that of the inverse. The
/// tape holds two products, whatever the size.
pub fn inverse(m: Tensor<3>) -> Tensor<3> {
    let z = by_halves(m.clone().detach());
    z.clone() * 2.0 - z.clone().matmul(m).matmul(z)
}

/// Inverse by halves through the Schur complement. No pivoting is needed: leading blocks and Schur
/// complements of a matrix with a positive definite symmetric part have one too.
fn by_halves(m: Tensor<3>) -> Tensor<3> {
    let size = m.dims()[1];
    if size == 1 {
        return m.recip();
    }
    let half = size / 2;
    let part = |row: usize, rows: usize, col: usize, cols: usize| {
        m.clone().narrow(1, row, rows).narrow(2, col, cols)
    };
    let rest = size - half;
    let (b, c, d) = (
        part(0, half, half, rest),
        part(half, rest, 0, half),
        part(half, rest, half, rest),
    );
    let a_inv = by_halves(part(0, half, 0, half));
    let (ab, ca) = (a_inv.clone().matmul(b), c.clone().matmul(a_inv.clone()));
    let s_inv = by_halves(d - c.matmul(ab.clone()));
    let abs = ab.matmul(s_inv.clone());
    let upper = Tensor::cat(vec![a_inv + abs.clone().matmul(ca.clone()), abs.neg()], 2);
    let lower = Tensor::cat(vec![s_inv.clone().matmul(ca).neg(), s_inv], 2);
    Tensor::cat(vec![upper, lower], 1)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::{Init, Key, bridge};

    #[test]
    fn gram_matrices_and_shifted_skew_matrices_are_inverted() {
        for size in [1usize, 2, 5, 16] {
            let draw: Tensor<3> = Init::Normal { std: 1.0 }.tensor(
                [3, size, size],
                &Key::new(size as u64),
                &Device::default(),
                DType::F64,
            );
            let identity = bridge::tensor::<3>(
                (0..size * size)
                    .map(|at| f64::from(u8::from(at / size == at % size)))
                    .collect(),
                [1, size, size],
                &Device::default(),
                DType::F64,
            );
            let turned = draw.clone().swap_dims(1, 2);
            let gram = draw.clone().matmul(turned.clone()) + identity.clone() * 0.1;
            let skew = draw - turned + identity.clone();
            for m in [gram, skew] {
                let distance = inverse(m.clone()).matmul(m) - identity.clone();
                assert!(
                    bridge::values(&distance)
                        .iter()
                        .all(|distance| distance.abs() < 1e-11)
                );
            }
        }
    }
}
