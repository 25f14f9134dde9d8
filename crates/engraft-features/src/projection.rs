//! The subspace that an edit acts in.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::InitContext;
use engraft_linalg::{Householder, Matrix};
use engraft_tensor::{Init, bridge, compact};

/// R^T [d, r], the columns that span the subspace: any, or orthonormal.
///
/// Orthonormal columns are parametrised by r Householder reflections, R^T = H_1 ... H_r E with
/// H_k = I - 2 u_k u_k^T / |u_k|^2 and E the first r columns of I [d, d]. Whatever the trained normals U
/// are, the columns are orthonormal to rounding: nothing is projected after a step, and nothing drifts.
/// In compact form, R^T = E - U (T^T U_r^T) of unit normals and their first r rows U_r, in
/// O(d r^2 + r^3 log r) once a pass; no d x d matrix is formed.
#[derive(Module, Debug)]
pub struct Projection {
    /// The columns themselves, or the normals U of their reflections, [d, r].
    pub columns: Param<Tensor<2>>,
    /// Whether the columns are orthonormal.
    pub orthonormal: bool,
}

impl Projection {
    /// Free columns as PyTorch's `Linear` draws them, or an orthonormal basis of a subspace that is
    /// uniformly distributed: the reflections of a Householder factorisation of Gaussian columns.
    pub(crate) fn random(d: usize, rank: usize, orthonormal: bool, ctx: &InitContext) -> Self {
        let columns = if orthonormal {
            let drawn = Init::Normal { std: 1.0 }.values(d * rank, &ctx.key.child("projection"));
            let normals = normals(Matrix::from_fn(d, rank, |i, j| drawn[i * rank + j]));
            bridge::from_matrix(&normals, &ctx.device, ctx.dtype)
        } else {
            ctx.tensor(Init::KaimingUniform { fan_in: d }, [d, rank], "projection")
        };
        Self {
            columns: Param::from_tensor(columns),
            orthonormal,
        }
    }

    /// R^T, [d, r].
    pub fn transposed(&self) -> Tensor<2> {
        let columns = self.columns.val();
        if !self.orthonormal {
            return columns;
        }
        let [d, r] = columns.dims();
        let length = (columns.clone() * columns.clone()).sum_dim(0).sqrt();
        let units = columns / length;
        let t = compact::product(&units);
        let top = units.clone().narrow(0, 0, r).transpose();
        let identity = Tensor::<2>::eye(r, &units.device()).cast(units.dtype());
        let first = if d == r {
            identity
        } else {
            Tensor::cat(
                vec![identity, units.clone().narrow(0, r, d - r).zeros_like()],
                0,
            )
        };
        first - units.matmul(t.transpose().matmul(top))
    }
}

/// The normals [d, r], as columns, of the reflections that turn A [d, r] into an upper triangle.
fn normals(mut a: Matrix) -> Matrix {
    let (d, r) = a.shape();
    let mut normals = Matrix::zeros(d, r);
    for k in 0..r {
        let mut normal = vec![0.0; d];
        (k..d).for_each(|i| normal[i] = a.get(i, k));
        let length = normal.iter().map(|x| x * x).sum::<f64>().sqrt();
        // Away from zero: without cancellation.
        normal[k] += length.copysign(normal[k]);
        match Householder::new(&normal) {
            Ok(reflection) => {
                let unit = reflection.normal().to_vec();
                (k..d).for_each(|i| normals.set(i, k, unit[i]));
                reflection
                    .apply(&mut a)
                    .expect("the normal has an entry for each row");
            }
            // A column of zeros: any reflection does.
            Err(_) => normals.set(k, k, 1.0),
        }
    }
    normals
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{draw_as, largest};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn columns_are_orthonormal_to_the_precision_whatever_the_parameters(d in 1usize..40, r in 1usize..12, spread in 0.01f64..10.0, seed: u64) {
            let r = r.min(d);
            for (dtype, epsilon) in [(DType::F32, f64::from(f32::EPSILON)), (DType::F64, f64::EPSILON)] {
                let common: Tensor<2> = draw_as([d, 1], seed, "common", dtype);
                let columns = draw_as([d, r], seed, "u", dtype) * spread + common;
                let projection = Projection { columns: Param::from_tensor(columns), orthonormal: true };
                let found = projection.transposed();
                let identity = Tensor::<2>::eye(r, &Device::default()).cast(dtype);
                let apart = largest(found.clone().transpose().matmul(found) - identity);
                prop_assert!(apart < 8.0 * epsilon * (r * r).max(d) as f64, "{apart:e}");
            }
        }

        #[test]
        fn the_first_columns_span_what_was_drawn(d in 1usize..30, r in 1usize..8, seed: u64) {
            let r = r.min(d);
            let drawn: Tensor<2> = draw_as([d, r], seed, "a", DType::F64);
            let columns = normals(bridge::to_matrix(&drawn));
            let projection = Projection {
                columns: Param::from_tensor(bridge::from_matrix(&columns, &Device::default(), DType::F64)),
                orthonormal: true,
            };
            let found = projection.transposed();
            let onto = found.clone().matmul(found.transpose().matmul(drawn.clone()));
            prop_assert!(largest(onto - drawn) < 1e-12 * d as f64);
        }
    }
}
