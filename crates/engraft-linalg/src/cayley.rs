//! Cayley transform between skew-symmetric and orthogonal matrices.

use crate::error::{LinalgError, Result};
use crate::matrix::Matrix;
use crate::qr::solve;

/// Deviation from orthogonality up to which a matrix counts as a rotation: what single precision
/// leaves of one.
const ORTHOGONAL: f64 = 1e-5;

/// Number of free entries of a skew-symmetric matrix of order `n`, n (n - 1) / 2.
pub fn packed_len(n: usize) -> usize {
    n * n.saturating_sub(1) / 2
}

/// Skew-symmetric matrix Q = U - U^T of order `n`, where the strictly upper triangular U holds
/// `packed` row by row: (0, 1), (0, 2), ..., (1, 2), ...
///
/// Errors: another number of entries than [`packed_len`], NaN or infinite entries.
pub fn skew(packed: &[f64], n: usize) -> Result<Matrix> {
    if packed.len() != packed_len(n) {
        return Err(LinalgError::Length {
            what: "packed skew-symmetric matrix",
            found: packed.len(),
            expected: packed_len(n),
        });
    }
    let mut q = Matrix::zeros(n, n);
    let upper = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j)));
    for ((i, j), &entry) in upper.zip(packed) {
        q.set(i, j, entry);
        q.set(j, i, -entry);
    }
    q.check_finite("skew")?;
    Ok(q)
}

/// The strictly upper triangular entries of a skew-symmetric matrix, row by row; undoes [`skew`].
///
/// Errors: a matrix that is not square and skew-symmetric, NaN or infinite entries.
pub fn pack_skew(q: &Matrix) -> Result<Vec<f64>> {
    let n = check_skew("pack_skew", q)?;
    Ok((0..n)
        .flat_map(|i| q.row(i)[i + 1..].iter().copied())
        .collect())
}

/// Cayley transform R = (I - Q)(I + Q)^-1 of a skew-symmetric Q, an orthogonal matrix with
/// determinant 1 and without the eigenvalue -1. The transform of -Q is the inverse rotation.
///
/// Errors: a matrix that is not square and skew-symmetric, NaN or infinite entries.
pub fn cayley(q: &Matrix) -> Result<Matrix> {
    let identity = Matrix::identity(check_skew("cayley", q)?);
    // Both factors are functions of Q and commute; I + Q is never singular.
    solve(&identity.add(q)?, &identity.sub(q)?)
}

/// Inverse Cayley transform Q = (I + R)^-1 (I - R) of a rotation R, a skew-symmetric matrix.
///
/// Errors: a matrix that is not orthogonal (to 1e-5, what single precision leaves), one with the
/// eigenvalue -1, where no Q exists, NaN or infinite entries.
pub fn inverse_cayley(r: &Matrix) -> Result<Matrix> {
    let identity = Matrix::identity(check_orthogonal("inverse_cayley", r)?);
    let q = solve(&identity.add(r)?, &identity.sub(r)?)?;
    // Exactly skew, whatever the rounding.
    Ok(q.sub(&q.transpose())?.scale(0.5))
}

/// Truncated Neumann form of the Cayley transform, N = (I + Q)(I + Q + ... + Q^degree).
///
/// N approximates (I + Q)(I - Q)^-1, the transform of -Q and thus the inverse rotation of
/// [`cayley`]. Multiplied out it is I + 2 Q + ... + 2 Q^degree + Q^(degree + 1): the last term has
/// weight one. The error is R^T Q^(degree + 1) with R = `cayley(q)`, of spectral norm
/// ||Q||^(degree + 1), so N is of use for ||Q|| < 1 only and is not exactly orthogonal.
///
/// Errors: a matrix that is not square and skew-symmetric, NaN or infinite entries.
pub fn cayley_neumann(q: &Matrix, degree: usize) -> Result<Matrix> {
    let identity = Matrix::identity(check_skew("cayley_neumann", q)?);
    let mut sum = identity.clone();
    for _ in 0..degree {
        sum = identity.add(&q.matmul(&sum)?)?;
    }
    identity.add(q)?.matmul(&sum)
}

fn check_skew(operation: &'static str, q: &Matrix) -> Result<usize> {
    let n = q.check_square(operation)?;
    q.check_finite(operation)?;
    let deviation = q.add(&q.transpose())?.max_abs();
    let tolerance = n as f64 * f64::EPSILON * q.max_abs();
    check_property(operation, "skew-symmetric", deviation, tolerance)?;
    Ok(n)
}

/// Error unless R^T R = I to [`ORTHOGONAL`]; returns the order.
pub(crate) fn check_orthogonal(operation: &'static str, r: &Matrix) -> Result<usize> {
    let n = r.check_square(operation)?;
    r.check_finite(operation)?;
    let deviation = r.transpose_matmul(r)?.max_abs_diff(&Matrix::identity(n))?;
    check_property(operation, "orthogonal", deviation, ORTHOGONAL)?;
    Ok(n)
}

fn check_property(
    operation: &'static str,
    property: &'static str,
    deviation: f64,
    tolerance: f64,
) -> Result<()> {
    if deviation <= tolerance {
        Ok(())
    } else {
        Err(LinalgError::Property {
            operation,
            property,
            deviation,
            tolerance,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::svd;
    use crate::testing::{orthonormality, seeded, unit_tolerance};

    fn skews() -> impl Strategy<Value = Matrix> {
        (1usize..14, any::<u64>(), -3.0..1.5).prop_map(|(n, seed, exponent)| {
            let packed = seeded(1, packed_len(n), seed).scale(10f64.powf(exponent));
            skew(packed.as_slice(), n).unwrap()
        })
    }

    fn spectral_norm(q: &Matrix) -> f64 {
        svd(q).unwrap().s[0]
    }

    #[test]
    fn packing_goes_row_by_row() {
        let q = skew(&[1.0, 2.0, 3.0], 3).unwrap();
        assert_eq!(
            q.as_slice(),
            [0.0, 1.0, 2.0, -1.0, 0.0, 3.0, -2.0, -3.0, 0.0]
        );
        assert_eq!(pack_skew(&q).unwrap(), [1.0, 2.0, 3.0]);
        let error = skew(&[1.0], 3).unwrap_err();
        assert_eq!(
            error.to_string(),
            "packed skew-symmetric matrix: found 1 entries, expected 3"
        );
    }

    #[test]
    fn plane_rotation_has_the_half_angle_tangent() {
        // Q = [[0, t], [-t, 0]] with t = tan(theta / 2) turns by theta.
        let theta = 0.7f64;
        let r = cayley(&skew(&[(theta / 2.0).tan()], 2).unwrap()).unwrap();
        let (c, s) = (theta.cos(), theta.sin());
        let expected = Matrix::from_rows(&[[c, -s], [s, c]]).unwrap();
        assert!(r.max_abs_diff(&expected).unwrap() < 1e-15);
    }

    proptest! {
        #[test]
        fn transform_is_orthogonal_and_satisfies_its_equation(q in skews()) {
            let r = cayley(&q).unwrap();
            let identity = Matrix::identity(q.rows());
            prop_assert!(orthonormality(&r) <= 4.0 * unit_tolerance(&q));
            let difference = r.matmul(&identity.add(&q).unwrap()).unwrap()
                .max_abs_diff(&identity.sub(&q).unwrap()).unwrap();
            prop_assert!(difference <= unit_tolerance(&q) * (1.0 + spectral_norm(&q)));
            // The transform of -Q is the transpose.
            let inverse = cayley(&q.scale(-1.0)).unwrap();
            prop_assert!(inverse.max_abs_diff(&r.transpose()).unwrap() <= 4.0 * unit_tolerance(&q));
        }

        #[test]
        fn inverse_undoes_the_transform(q in skews()) {
            let found = inverse_cayley(&cayley(&q).unwrap()).unwrap();
            // The condition of I + R grows with the square of ||Q||.
            let bound = 4.0 * unit_tolerance(&q) * (1.0 + spectral_norm(&q)).powi(2);
            prop_assert!(found.max_abs_diff(&q).unwrap() <= bound);
        }

        #[test]
        fn neumann_error_is_the_next_power(q in skews(), degree in 0usize..8) {
            let q = q.scale(0.5 / spectral_norm(&q).max(0.5));
            let inverse = cayley(&q).unwrap().transpose();
            let error = cayley_neumann(&q, degree).unwrap().sub(&inverse).unwrap();
            let expected = spectral_norm(&q).powi(degree as i32 + 1);
            prop_assert!((spectral_norm(&error) - expected).abs() <= 4.0 * unit_tolerance(&q));
        }

        #[test]
        fn neumann_multiplied_out(q in skews()) {
            let q = q.scale(1.0 / spectral_norm(&q).max(1.0));
            let (q2, identity) = (q.matmul(&q).unwrap(), Matrix::identity(q.rows()));
            let (q3, q4) = (q2.matmul(&q).unwrap(), q2.matmul(&q2).unwrap());
            let expected = [q.scale(2.0), q2.scale(2.0), q3.scale(2.0), q4].iter()
                .fold(identity, |sum, term| sum.add(term).unwrap());
            let found = cayley_neumann(&q, 3).unwrap();
            prop_assert!(found.max_abs_diff(&expected).unwrap() <= 4.0 * unit_tolerance(&q));
        }
    }

    #[test]
    fn inadmissible_input_is_refused() {
        let identity = Matrix::identity(3);
        assert!(matches!(
            cayley(&identity),
            Err(LinalgError::Property { .. })
        ));
        assert!(matches!(
            inverse_cayley(&identity.scale(2.0)),
            Err(LinalgError::Property { .. })
        ));
        assert!(matches!(
            inverse_cayley(&identity.scale(-1.0)),
            Err(LinalgError::Singular { .. })
        ));
        assert!(cayley(&Matrix::zeros(2, 3)).is_err());
        assert!(cayley_neumann(&Matrix::zeros(2, 3), 2).is_err());
        assert!(skew(&[f64::NAN], 2).is_err());
        assert!(inverse_cayley(&identity.scale(f64::NAN)).is_err());
    }
}
