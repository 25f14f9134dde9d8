//! Projections of the outputs onto directions that are learned.

use burn::tensor::Tensor;
use burn::tensor::activation::relu;
use engraft_linalg::{Matrix, Qr, householder_qr, solve};
use engraft_tensor::bridge;
use serde::{Deserialize, Serialize};

/// How the projection Q S^T is made from directions P, [d_out, r].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Projection {
    /// Q = P and S = max(P, 0): no projector, but cheap.
    #[default]
    Relu,
    /// Q = S, the orthonormal factor of P = Q R: the orthogonal projector onto the span of P.
    Qr,
}

impl Projection {
    /// Q and S, each [d_out, r].
    pub(crate) fn factors(self, p: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
        match self {
            Self::Relu => (p.clone(), relu(p)),
            Self::Qr => {
                let q = orthonormal(p);
                (q.clone(), q)
            }
        }
    }
}

/// Q of P = Q R for P [n, r], r <= n, with the signs of LAPACK.
///
/// Q and R are computed on the host in f64. The gradient is exact: Q is continued by its
/// derivative dQ = T - Q (M - L + L^T) with T = dP R^-1, M = Q^T T and L the part of M below its
/// diagonal (the rotation Q^T dQ is skew, and dR R^-1 has nothing there). A P of lower rank has
/// no derivative; its gradient is zero.
fn orthonormal(p: Tensor<2>) -> Tensor<2> {
    let (device, dtype, rank) = (p.device(), p.dtype(), p.dims()[1]);
    let Ok(Qr { q, r }) = householder_qr(&bridge::to_matrix(&p.clone().detach())) else {
        // Not finite, and nor is what follows from it.
        return p * f64::NAN;
    };
    let inverse = solve(&r, &Matrix::identity(rank)).unwrap_or(Matrix::zeros(rank, rank));
    let below = Matrix::from_fn(rank, rank, |i, j| f64::from(u8::from(i > j)));
    let [q, inverse, below] =
        [q, inverse, below].map(|matrix| bridge::from_matrix(&matrix, &device, dtype));

    let t = p.matmul(inverse);
    let m = q.clone().transpose().matmul(t.clone());
    let l = m.clone() * below;
    let linear = t - q.clone().matmul(m - l.clone() + l.transpose());
    // The value is Q exactly, the derivative that of the linear expression.
    q + (linear.clone() - linear.detach())
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_testkit::random;

    use super::*;

    #[test]
    fn the_gradient_of_q_is_its_derivative() {
        let device = Device::default().autodiff();
        let normal = |role: &str| random::normal([6, 3], role, &device, DType::F64);
        let (p, g, direction) = (normal("p"), normal("g"), normal("direction"));
        let loss = |p: Tensor<2>| {
            let (q, _) = Projection::Qr.factors(p);
            (q * g.clone()).sum()
        };
        let tracked = p.clone().require_grad();
        let grads = loss(tracked.clone()).backward();
        let found = (tracked.grad(&grads).unwrap() * direction.clone().inner()).sum();
        let at = |step: f64| bridge::values(&loss(p.clone() + direction.clone() * step))[0];
        let slope = |step: f64| (at(step) - at(-step)) / (2.0 * step);
        let expected = (4.0 * slope(1e-4) - slope(2e-4)) / 3.0;
        assert!((bridge::values(&found)[0] - expected).abs() < 1e-9 * (1.0 + expected.abs()));
    }

    #[test]
    fn q_is_orthonormal_and_spans_p() {
        let p = random::normal([7, 3], "p", &Device::default(), DType::F64);
        let (q, s) = Projection::Qr.factors(p.clone());
        let gram = bridge::to_matrix(&q.clone().transpose().matmul(s.clone()));
        assert!(gram.max_abs_diff(&Matrix::identity(3)).unwrap() < 1e-14);
        let projected = bridge::to_matrix(&q.matmul(s.transpose().matmul(p.clone())));
        assert!(projected.max_abs_diff(&bridge::to_matrix(&p)).unwrap() < 1e-13);
    }
}
