//! Host linear algebra for parameter-efficient fine-tuning.
//!
//! Everything works on one small owned type, the row-major `f64` [`Matrix`], and is meant for
//! initialisation, merging and analysis, not for the training step. What needs only products with
//! a large matrix takes any [`Operator`]: a [`MatrixView`] reads a weight where it lies, in its own
//! precision.
//!
//! Three rules hold throughout:
//!
//! - **Errors, not panics.** Wrong shapes, inadmissible ranks and NaN or infinite entries give a
//!   [`LinalgError`]. Only indexing outside a matrix panics, as for slices.
//! - **Determinism.** On one machine a result does not depend on the number of threads: the work
//!   is cut into a fixed number of parts, whatever the size of the thread pool. Different
//!   processors may still round differently.
//! - **Fixed signs.** Singular vectors follow the convention of [`svd()`], QR has a non-negative
//!   diagonal in R, so that methods that depend on a sign reproduce.

mod angles;
mod arithmetic;
mod cayley;
mod error;
mod factored;
mod givens;
mod householder;
mod jacobi;
mod kronecker;
mod krylov;
mod matrix;
mod operator;
mod orthonormal;
mod parallel;
mod polar;
mod qr;
mod randomized;
mod svd;
mod tensor_train;
#[cfg(test)]
mod testing;
mod view;

pub use angles::principal_angles;
pub use cayley::{cayley, cayley_neumann, inverse_cayley, pack_skew, packed_len, skew};
pub use error::{LinalgError, Result};
pub use factored::{product_svd, sum_svd};
pub use givens::{Givens, GivensFactors, givens_factorize};
pub use householder::{Householder, HouseholderFactors, householder_factorize};
pub use kronecker::{KroneckerSvd, kronecker_svd, rearrange, restore};
pub use krylov::leading_svd;
pub use matrix::Matrix;
pub use operator::Operator;
pub use polar::{Polar, polar, procrustes};
pub use qr::{Qr, householder_qr, qr, solve};
pub use randomized::{gaussian, randomized_svd, randomized_svd_with, residual};
pub use svd::{Svd, singular_values, svd};
pub use tensor_train::{TensorTrain, tt_svd};
pub use view::{MatrixView, Real};
