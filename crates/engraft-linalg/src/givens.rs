//! Orthogonal matrices as products of Givens rotations.

use crate::cayley::check_orthogonal;
use crate::error::{LinalgError, Result};
use crate::matrix::Matrix;

/// Rotation in the plane of the coordinates i and j:
/// (x_i, x_j) -> (cos x_i - sin x_j, sin x_i + cos x_j).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Givens {
    /// First coordinate.
    pub i: usize,
    /// Second coordinate, different from the first.
    pub j: usize,
    /// Cosine of the angle.
    pub cos: f64,
    /// Sine of the angle.
    pub sin: f64,
}

impl Givens {
    /// Rotation by `angle` radians, from axis i towards axis j.
    pub fn from_angle(i: usize, j: usize, angle: f64) -> Self {
        Self {
            i,
            j,
            cos: angle.cos(),
            sin: angle.sin(),
        }
    }

    /// Angle in radians, from -pi to pi.
    pub fn angle(&self) -> f64 {
        self.sin.atan2(self.cos)
    }

    /// The inverse rotation, by the opposite angle.
    pub fn inverse(&self) -> Self {
        Self {
            sin: -self.sin,
            ..*self
        }
    }

    /// A <- G A: rotates rows i and j.
    ///
    /// Errors: coordinates that are equal or outside the rows, a cosine or sine that is NaN or
    /// infinite.
    pub fn apply(&self, a: &mut Matrix) -> Result<()> {
        let Self { i, j, cos, sin } = *self;
        if i == j || i.max(j) >= a.rows() || !(cos.is_finite() && sin.is_finite()) {
            return Err(LinalgError::Index {
                operation: "givens rotation",
                found: format!("coordinates {i} and {j} with cosine {cos} and sine {sin}"),
                expected: format!(
                    "two different coordinates below {} and finite numbers",
                    a.rows()
                ),
            });
        }
        self.rotate(a);
        Ok(())
    }

    /// [`Self::apply`] for coordinates known to lie in the matrix.
    pub(crate) fn rotate(&self, a: &mut Matrix) {
        let Self { i, j, cos, sin } = *self;
        for k in 0..a.cols() {
            let (x, y) = (a.get(i, k), a.get(j, k));
            a.set(i, k, cos * x - sin * y);
            a.set(j, k, sin * x + cos * y);
        }
    }
}

/// Factorisation Q = G_1 G_2 ... G_k D of an orthogonal matrix of order n, with
/// D = diag(1, ..., 1, det Q).
#[derive(Debug, Clone, PartialEq)]
pub struct GivensFactors {
    /// Order n of the matrix.
    pub order: usize,
    /// Rotations G_1, ..., G_k, at most n (n - 1) / 2.
    pub rotations: Vec<Givens>,
    /// Determinant, 1 or -1.
    pub determinant: f64,
}

/// Givens rotations whose product is the orthogonal matrix Q: the rotations that reduce Q to
/// upper triangular form, column by column (Golub and Van Loan 2013, section 5.2.5). A triangular
/// orthogonal matrix is diagonal, and the rotations make all but its last entry 1.
///
/// Errors: a matrix that is not orthogonal (to 1e-5, what single precision leaves), NaN or
/// infinite entries.
pub fn givens_factorize(q: &Matrix) -> Result<GivensFactors> {
    let order = check_orthogonal("givens_factorize", q)?;
    let mut rest = q.clone();
    let mut rotations = Vec::new();
    for k in 0..order {
        for j in k + 1..order {
            let (x, y) = (rest.get(k, k), rest.get(j, k));
            if y == 0.0 && x >= 0.0 {
                continue;
            }
            let norm = x.hypot(y);
            let rotation = Givens {
                i: k,
                j,
                cos: x / norm,
                sin: y / norm,
            };
            rotation.inverse().apply(&mut rest)?;
            rotations.push(rotation);
        }
    }
    let determinant = if rest.get(order - 1, order - 1) < 0.0 {
        -1.0
    } else {
        1.0
    };
    Ok(GivensFactors {
        order,
        rotations,
        determinant,
    })
}

impl GivensFactors {
    /// The product G_1 ... G_k D.
    ///
    /// Errors: a rotation outside the order.
    pub fn reconstruct(&self) -> Result<Matrix> {
        let last = self.order.saturating_sub(1);
        let mut q = Matrix::from_fn(self.order, self.order, |i, j| match (i == j, i == last) {
            (false, _) => 0.0,
            (true, false) => 1.0,
            (true, true) => self.determinant,
        });
        self.rotations
            .iter()
            .rev()
            .try_for_each(|rotation| rotation.apply(&mut q))?;
        Ok(q)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::packed_len;
    use crate::testing::{orthogonal, seeded, unit_tolerance};

    proptest! {
        #[test]
        fn product_of_the_factors_is_the_matrix(n in 1usize..16, seed: u64, mirror: bool) {
            let mut q = orthogonal(n, seed);
            if mirror {
                q.row_mut(0).iter_mut().for_each(|x| *x = -*x);
            }
            let factors = givens_factorize(&q).unwrap();
            prop_assert!(factors.rotations.len() <= packed_len(n));
            let difference = factors.reconstruct().unwrap().max_abs_diff(&q).unwrap();
            prop_assert!(difference <= 2.0 * unit_tolerance(&q), "{difference:e}");
        }

        #[test]
        fn rotation_keeps_lengths_and_inverts(angle in -3.0..3.0f64, seed: u64) {
            let a = seeded(5, 3, seed);
            let rotation = Givens::from_angle(3, 1, angle);
            prop_assert!((rotation.angle() - angle).abs() <= 1e-15);
            let mut b = a.clone();
            rotation.apply(&mut b).unwrap();
            prop_assert!((b.frobenius_norm() - a.frobenius_norm()).abs() <= 1e-14 * a.frobenius_norm());
            prop_assert_eq!(b.row(0), a.row(0));
            rotation.inverse().apply(&mut b).unwrap();
            prop_assert!(b.max_abs_diff(&a).unwrap() <= 1e-14 * a.max_abs());
        }
    }

    #[test]
    fn special_matrices() {
        for q in [
            Matrix::identity(4),
            Matrix::identity(3).scale(-1.0),
            Matrix::identity(4).scale(-1.0),
            // Cyclic permutations, even and odd.
            Matrix::from_fn(3, 3, |i, j| f64::from(u8::from((i + 1) % 3 == j))),
            Matrix::from_fn(4, 4, |i, j| f64::from(u8::from((i + 1) % 4 == j))),
        ] {
            let found = givens_factorize(&q).unwrap().reconstruct().unwrap();
            assert!(
                found.max_abs_diff(&q).unwrap() <= unit_tolerance(&q),
                "{q:?}"
            );
        }
        assert!(
            givens_factorize(&Matrix::identity(5))
                .unwrap()
                .rotations
                .is_empty()
        );
    }

    #[test]
    fn direction_is_from_the_first_axis_to_the_second() {
        let mut e = Matrix::from_rows(&[[1.0], [0.0]]).unwrap();
        Givens::from_angle(0, 1, std::f64::consts::FRAC_PI_2)
            .apply(&mut e)
            .unwrap();
        assert!((e.get(1, 0) - 1.0).abs() < 1e-15);
    }

    #[test]
    fn inadmissible_input_is_refused() {
        assert!(givens_factorize(&Matrix::zeros(2, 3)).is_err());
        assert!(givens_factorize(&Matrix::identity(2).scale(1.1)).is_err());
        assert!(givens_factorize(&Matrix::identity(2).scale(f64::NAN)).is_err());
        let mut a = Matrix::identity(2);
        for (i, j, angle) in [(0, 0, 1.0), (0, 2, 1.0), (0, 1, f64::NAN)] {
            assert!(Givens::from_angle(i, j, angle).apply(&mut a).is_err());
        }
        assert_eq!(a, Matrix::identity(2));
    }
}
