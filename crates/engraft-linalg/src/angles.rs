//! Principal angles between subspaces.

use crate::error::Result;
use crate::matrix::Matrix;
use crate::svd::svd;

/// Principal angles between the column spaces of A (m x p) and B (m x q), in radians from 0 to
/// pi / 2, in non-decreasing order; as many as the smaller of the two dimensions.
///
/// With orthonormal bases Q_A and Q_B the cosines are the singular values of Q_A^T Q_B and the
/// sines those of (I - Q_A Q_A^T) Q_B; each angle is taken from whichever determines it well
/// (Björck and Golub 1973), so angles down to the rounding error are found. Directions with a
/// singular value below max(m, n) eps times the largest do not count towards a column space; the
/// one of a zero matrix has dimension zero and no angles.
///
/// Errors: different numbers of rows, empty matrices, NaN or infinite entries.
pub fn principal_angles(a: &Matrix, b: &Matrix) -> Result<Vec<f64>> {
    a.check_pair(
        "principal angles",
        b,
        a.rows() == b.rows(),
        "as many rows in both",
    )?;
    let (mut large, mut small) = (range_basis(a)?, range_basis(b)?);
    if large.cols() < small.cols() {
        std::mem::swap(&mut large, &mut small);
    }
    if small.cols() == 0 {
        return Ok(Vec::new());
    }
    let overlap = large.transpose_matmul(&small)?;
    let cosines = svd(&overlap)?.s;
    // The smallest sine belongs to the largest cosine, hence the reversal below.
    let sines = svd(&small.sub(&large.matmul(&overlap)?)?)?.s;
    let angle = |(&cosine, &sine): (&f64, &f64)| {
        if cosine * cosine < 0.5 {
            cosine.acos()
        } else {
            sine.min(1.0).asin()
        }
    };
    Ok(cosines.iter().zip(sines.iter().rev()).map(angle).collect())
}

/// Orthonormal basis of the column space.
fn range_basis(a: &Matrix) -> Result<Matrix> {
    let svd = svd(a)?;
    let threshold = a.rows().max(a.cols()) as f64 * f64::EPSILON * svd.s[0];
    let rank = svd.s.iter().take_while(|&&s| s > threshold).count();
    svd.u.columns(0..rank)
}

#[cfg(test)]
mod tests {
    use std::f64::consts::FRAC_PI_2;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::{orthogonal, seeded, unit_tolerance};

    fn close(found: &[f64], expected: &[f64], tolerance: f64) -> bool {
        found.len() == expected.len()
            && found
                .iter()
                .zip(expected)
                .all(|(x, y)| (x - y).abs() <= tolerance)
    }

    proptest! {
        #[test]
        fn known_angles_are_found(
            mut angles in proptest::collection::vec(
                prop_oneof![0.0..FRAC_PI_2, -12.0..0.0f64].prop_map(|x| if x < 0.0 { 10f64.powf(x) } else { x }),
                1..6,
            ),
            seed: u64,
        ) {
            angles.sort_by(f64::total_cmp);
            let (n, k) = (2 * angles.len() + 1, angles.len());
            let basis = orthogonal(n, seed);
            let tilt = Matrix::from_fn(n, k, |i, j| {
                if i == j { angles[j].cos() } else if i == j + k { angles[j].sin() } else { 0.0 }
            });
            // Another basis of the same space, well conditioned.
            let mix = orthogonal(k, seed ^ 1);
            let a = basis.columns(0..k).unwrap();
            let b = basis.matmul(&tilt).unwrap().matmul(&mix).unwrap();
            let found = principal_angles(&a, &b).unwrap();
            prop_assert!(close(&found, &angles, 4.0 * unit_tolerance(&basis)), "{found:?} {angles:?}");
        }

        #[test]
        fn symmetric_and_zero_for_the_same_space(m in 3usize..15, p in 1usize..4, q in 1usize..4, seed: u64) {
            let (a, b) = (seeded(m, p.min(m), seed), seeded(m, q.min(m), seed ^ 1));
            let tolerance = 64.0 * unit_tolerance(&a);
            let (ab, ba) = (principal_angles(&a, &b).unwrap(), principal_angles(&b, &a).unwrap());
            prop_assert!(close(&ab, &ba, tolerance));
            let same = principal_angles(&a, &a.scale(-3.0)).unwrap();
            prop_assert!(close(&same, &vec![0.0; same.len()], tolerance));
        }
    }

    #[test]
    fn dependent_columns_do_not_count() {
        let a = Matrix::from_rows(&[[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]]).unwrap();
        let b = Matrix::from_rows(&[[0.0], [1.0], [0.0]]).unwrap();
        assert_eq!(principal_angles(&a, &b).unwrap().len(), 1);
        assert!((principal_angles(&a, &b).unwrap()[0] - FRAC_PI_2).abs() < 1e-15);
        assert!(
            principal_angles(&a, &Matrix::zeros(3, 1))
                .unwrap()
                .is_empty()
        );
        assert!(principal_angles(&a, &Matrix::zeros(2, 1)).is_err());
        assert!(principal_angles(&a, &b.scale(f64::NAN)).is_err());
    }
}
