//! Orthogonal matrices as products of Householder reflections.

use crate::cayley::check_orthogonal;
use crate::error::{LinalgError, Result};
use crate::matrix::Matrix;

/// Reflection I - 2 v v^T at the hyperplane normal to the unit vector v.
#[derive(Debug, Clone, PartialEq)]
pub struct Householder {
    normal: Vec<f64>,
}

impl Householder {
    /// The reflection at the hyperplane normal to `normal`, which need not have unit length.
    ///
    /// Errors: a vector of length zero, NaN or infinite entries.
    pub fn new(normal: &[f64]) -> Result<Self> {
        let largest = normal.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        if !(largest > 0.0 && normal.iter().all(|x| x.is_finite())) {
            return Err(LinalgError::Index {
                operation: "householder reflection",
                found: format!("a normal {normal:?}"),
                expected: "finite numbers, not all zero".to_owned(),
            });
        }
        // Scaled first, so that no square over- or underflows.
        let length = normal
            .iter()
            .map(|x| (x / largest).powi(2))
            .sum::<f64>()
            .sqrt();
        Ok(Self {
            normal: normal.iter().map(|x| x / largest / length).collect(),
        })
    }

    /// The unit vector v.
    pub fn normal(&self) -> &[f64] {
        &self.normal
    }

    /// A <- H A.
    ///
    /// Errors: another number of rows than v has entries.
    pub fn apply(&self, a: &mut Matrix) -> Result<()> {
        let fits = a.rows() == self.normal.len();
        if !fits {
            return Err(LinalgError::Index {
                operation: "householder reflection",
                found: format!("{} rows", a.rows()),
                expected: format!("{}", self.normal.len()),
            });
        }
        let mut along = vec![0.0; a.cols()];
        for (i, v) in self.normal.iter().enumerate() {
            along
                .iter_mut()
                .zip(a.row(i))
                .for_each(|(sum, x)| *sum += v * x);
        }
        for (i, v) in self.normal.iter().enumerate() {
            let row = a.row_mut(i);
            row.iter_mut()
                .zip(&along)
                .for_each(|(x, sum)| *x -= 2.0 * v * sum);
        }
        Ok(())
    }
}

/// Factorisation Q = H_1 H_2 ... H_k of an orthogonal matrix of order n.
#[derive(Debug, Clone, PartialEq)]
pub struct HouseholderFactors {
    /// Order n of the matrix.
    pub order: usize,
    /// H_1, ..., H_k, at most n; their number is even just if Q is a rotation.
    pub reflections: Vec<Householder>,
}

/// Householder reflections whose product is the orthogonal matrix Q: H_k exchanges the k-th column
/// of what the earlier ones left with e_k (Cartan and Dieudonne; Golub and Van Loan 2013, section
/// 5.1.2). A column that is in its place already needs none, so that the identity has no factors.
///
/// Errors: a matrix that is not orthogonal (to 1e-5, what single precision leaves), NaN or
/// infinite entries.
pub fn householder_factorize(q: &Matrix) -> Result<HouseholderFactors> {
    let order = check_orthogonal("householder_factorize", q)?;
    let mut rest = q.clone();
    let mut reflections = Vec::new();
    for k in 0..order {
        // x - e_k, zero above k.
        let mut normal: Vec<f64> = (0..order)
            .map(|i| if i < k { 0.0 } else { rest.get(i, k) })
            .collect();
        let below: f64 = normal[k + 1..].iter().map(|x| x * x).sum();
        let length = (normal[k] * normal[k] + below).sqrt();
        normal[k] = if normal[k] > 0.0 {
            // x_k - |x| without cancellation (Parlett).
            -below / (normal[k] + length)
        } else {
            normal[k] - length
        };
        if normal.iter().all(|x| *x == 0.0) {
            continue;
        }
        let reflection = Householder::new(&normal)?;
        reflection.apply(&mut rest)?;
        reflections.push(reflection);
    }
    Ok(HouseholderFactors { order, reflections })
}

impl HouseholderFactors {
    /// The product H_1 ... H_k.
    ///
    /// Errors: a reflection of another order.
    pub fn reconstruct(&self) -> Result<Matrix> {
        let mut q = Matrix::identity(self.order);
        self.reflections
            .iter()
            .rev()
            .try_for_each(|reflection| reflection.apply(&mut q))?;
        Ok(q)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{orthogonal, orthonormality, seeded, unit_tolerance};

    proptest! {
        #[test]
        fn product_of_the_factors_is_the_matrix(n in 1usize..16, seed: u64, mirror: bool) {
            let mut q = orthogonal(n, seed);
            if mirror {
                q.row_mut(0).iter_mut().for_each(|x| *x = -*x);
            }
            let factors = householder_factorize(&q).unwrap();
            prop_assert!(factors.reflections.len() <= n);
            let difference = factors.reconstruct().unwrap().max_abs_diff(&q).unwrap();
            prop_assert!(difference <= 2.0 * unit_tolerance(&q), "{difference:e}");
        }

        #[test]
        fn matrices_near_the_identity_are_as_exact(n in 2usize..12, seed: u64, exponent in 0..16i32) {
            // Two reflections at nearly the same hyperplane.
            let first = seeded(n, 1, seed);
            let moved = first.add(&seeded(n, 1, seed ^ 1).scale(10f64.powi(-exponent))).unwrap();
            let mut q = Matrix::identity(n);
            for normal in [first, moved] {
                let normal: Vec<f64> = (0..n).map(|i| normal.get(i, 0)).collect();
                Householder::new(&normal).unwrap().apply(&mut q).unwrap();
            }
            let found = householder_factorize(&q).unwrap().reconstruct().unwrap();
            prop_assert!(found.max_abs_diff(&q).unwrap() <= 2.0 * unit_tolerance(&q));
        }

        #[test]
        fn reflection_is_an_involution_that_turns_its_normal(n in 1usize..10, seed: u64) {
            let normal = seeded(n, 1, seed);
            let values: Vec<f64> = (0..n).map(|i| normal.get(i, 0)).collect();
            let reflection = Householder::new(&values).unwrap();
            let mut turned = normal.clone();
            reflection.apply(&mut turned).unwrap();
            prop_assert!(turned.add(&normal).unwrap().max_abs() <= 1e-14 * normal.max_abs() * n as f64);
            let mut a = seeded(n, n, seed ^ 2);
            let before = a.clone();
            reflection.apply(&mut a).unwrap();
            reflection.apply(&mut a).unwrap();
            prop_assert!(a.max_abs_diff(&before).unwrap() <= 1e-14 * before.max_abs() * n as f64);
        }
    }

    #[test]
    fn special_matrices() {
        let exchange = Matrix::from_fn(4, 4, |i, j| f64::from(u8::from((i + 1) % 4 == j)));
        for (q, count) in [
            (Matrix::identity(4), 0),
            (Matrix::identity(3).scale(-1.0), 3),
            (exchange, 3),
        ] {
            let factors = householder_factorize(&q).unwrap();
            assert_eq!(factors.reflections.len(), count, "{q:?}");
            let found = factors.reconstruct().unwrap();
            assert!(found.max_abs_diff(&q).unwrap() <= unit_tolerance(&q));
            assert!(orthonormality(&found) <= unit_tolerance(&q));
        }
    }

    #[test]
    fn inadmissible_input_is_refused() {
        assert!(householder_factorize(&Matrix::zeros(2, 3)).is_err());
        assert!(householder_factorize(&Matrix::identity(2).scale(1.1)).is_err());
        assert!(householder_factorize(&Matrix::identity(2).scale(f64::NAN)).is_err());
        assert!(Householder::new(&[]).is_err());
        assert!(Householder::new(&[0.0, 0.0]).is_err());
        assert!(Householder::new(&[1.0, f64::INFINITY]).is_err());
        let tiny = Householder::new(&[3e-300, 4e-300]).unwrap();
        assert!((tiny.normal()[0] - 0.6).abs() < 1e-15 && (tiny.normal()[1] - 0.8).abs() < 1e-15);
        assert!(tiny.apply(&mut Matrix::identity(3)).is_err());
    }
}
