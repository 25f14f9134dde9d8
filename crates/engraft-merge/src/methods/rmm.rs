//! Reversible model merging: a compact basis, from which each task comes back (Alipour and Amiri 2025,
//! arXiv:2510.14163, section 4).
//!
//! The factors of T tasks, B_t `[out, r]` and A_t `[r, in]`, are cut into vectors: one of length r
//! for each row of B and each column of A ([`Vectors::Positions`], the paper's), or the whole factor
//! as one ([`Vectors::Whole`]). For each, with the tasks' vectors as rows of X `[T, length]`,
//!
//! ```text
//! X = U S V^T,     basis W = V_p^T `[p, length]`,     coefficients C = X W^T = U_p S_p `[T, p]`
//! ```
//!
//! minimise |X - C W| over all bases of p vectors (Eckart and Young 1936): task t reverts to row t of
//! C W. Exact once p reaches the rank of X, at most min(T, length). Stored are p (length + T) numbers
//! instead of T length, 80 of 256 for p = 2, T = 8, r = 32: the 69% that the paper saves. Tasks of
//! lower rank have columns of zeros added.

use engraft_linalg::{Matrix, svd};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::factorise::relative;
use crate::update::Factors;

/// What one vector of a factor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Vectors {
    /// A row of B, a column of A.
    #[default]
    Positions,
    /// All of B, all of A.
    Whole,
}

/// The basis of one factor of all tasks.
#[derive(Debug, Clone, PartialEq)]
pub struct Basis {
    /// W of each position below each other: `[positions p, length]`.
    pub vectors: Matrix,
    /// C of each position side by side: `[T, positions p]`.
    pub coefficients: Matrix,
    /// p.
    pub size: usize,
    /// Rows of the factor as it was cut.
    pub rows: usize,
}

/// The bases of one module.
#[derive(Debug, Clone, PartialEq)]
pub struct Rmm {
    /// That of B, cut along its rows.
    pub left: Basis,
    /// That of A, transposed.
    pub right: Basis,
    /// |B_t A_t - what comes back| / |B_t A_t| of each task.
    pub errors: Vec<f64>,
}

impl Rmm {
    /// Bases of `size` vectors for the factors of one module, or as many as are independent.
    ///
    /// # Errors
    /// No tasks, tasks of different shapes, no vectors, NaN or infinite numbers.
    pub fn new(tasks: &[&Factors], size: usize, vectors: Vectors) -> Result<Self> {
        let Some(first) = tasks.first() else {
            return Err(Error::input("RMM of no tasks: give at least one"));
        };
        if size == 0 {
            return Err(Error::input(
                "an RMM basis of no vectors: choose at least 1",
            ));
        }
        let shape = |factors: &Factors| (factors.left.rows(), factors.right.cols());
        let rank = tasks
            .iter()
            .map(|factors| factors.rank())
            .max()
            .unwrap_or(0);
        if rank == 0 {
            return Err(Error::input(
                "RMM of tasks of rank 0: there is nothing to keep",
            ));
        }
        for (at, factors) in tasks.iter().enumerate() {
            let (own, of_first) = (shape(factors), shape(first));
            if own != of_first {
                return Err(Error::input(format!(
                    "RMM of weights of shapes {of_first:?} and {own:?} (task {at}): all must be alike"
                )));
            }
        }
        let lefts: Vec<Matrix> = tasks.iter().map(|task| padded(&task.left, rank)).collect();
        let rights = tasks
            .iter()
            .map(|task| padded(&task.right.transpose(), rank));
        let rights: Vec<Matrix> = rights.collect();
        let mut rmm = Self {
            left: Basis::new(&lefts, size, vectors)?,
            right: Basis::new(&rights, size, vectors)?,
            errors: Vec::new(),
        };
        for (task, factors) in tasks.iter().enumerate() {
            let difference = factors.beside(&rmm.revert(task)?.scaled(-1.0))?;
            let norm =
                |factors: &Factors| -> Result<f64> { Ok(factors.svd()?.truncation_error(0)?) };
            let error = match factors.rank() {
                0 => 0.0,
                _ => relative(norm(&difference)?, norm(factors)?),
            };
            rmm.errors.push(error);
        }
        Ok(rmm)
    }

    /// How many tasks.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.left.coefficients.rows()
    }

    /// The factors of one task.
    ///
    /// # Errors
    /// A task that is not there.
    pub fn revert(&self, task: usize) -> Result<Factors> {
        Factors::new(
            self.left.factor(task)?,
            self.right.factor(task)?.transpose(),
        )
    }

    /// How many numbers are stored.
    #[must_use]
    pub fn numbers(&self) -> usize {
        let of =
            |basis: &Basis| basis.vectors.as_slice().len() + basis.coefficients.as_slice().len();
        of(&self.left) + of(&self.right)
    }
}

impl Basis {
    fn new(factors: &[Matrix], size: usize, vectors: Vectors) -> Result<Self> {
        let (rows, rank) = factors[0].shape();
        let (positions, length) = match vectors {
            Vectors::Positions => (rows, rank),
            Vectors::Whole => (1, rows * rank),
        };
        let tasks = factors.len();
        let size = size.min(tasks).min(length);
        let parts = (0..positions).into_par_iter().map(|position| {
            let x = Matrix::from_fn(tasks, length, |task, j| {
                factors[task].as_slice()[position * length + j]
            });
            let kept = svd(&x)?.truncated(size)?;
            Ok((kept.u.scale_columns(&kept.s)?, kept.vt.into_vec()))
        });
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let coefficients = Matrix::from_fn(tasks, positions * size, |task, k| {
            parts[k / size].0.get(task, k % size)
        });
        let data = parts.into_iter().flat_map(|(_, vectors)| vectors).collect();
        Ok(Self {
            vectors: Matrix::from_vec(positions * size, length, data)?,
            coefficients,
            size,
            rows,
        })
    }

    /// The factor of one task: C_t W of each position.
    fn factor(&self, task: usize) -> Result<Matrix> {
        if task >= self.coefficients.rows() {
            return Err(Error::input(format!(
                "task {task} of {}: count from 0",
                self.coefficients.rows()
            )));
        }
        let (size, length) = (self.size.max(1), self.vectors.cols());
        let coefficients = self.coefficients.row(task);
        let mut data = vec![0.0; self.vectors.rows() / size * length];
        for (k, coefficient) in coefficients.iter().enumerate() {
            let to = &mut data[k / size * length..][..length];
            let both = to.iter_mut().zip(self.vectors.row(k));
            both.for_each(|(x, w)| *x += coefficient * w);
        }
        let rank = data.len() / self.rows.max(1);
        Ok(Matrix::from_vec(self.rows, rank, data)?)
    }
}

/// With columns of zeros up to a rank.
fn padded(matrix: &Matrix, rank: usize) -> Matrix {
    Matrix::from_fn(matrix.rows(), rank, |i, j| match j < matrix.cols() {
        true => matrix.get(i, j),
        false => 0.0,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spectral::testing::{distance, factors};

    proptest! {
        #[test]
        fn a_full_basis_is_exact(m in 1usize..8, n in 1usize..8, ranks in prop::collection::vec(1usize..4, 1..5), seed: u64) {
            let tasks: Vec<Factors> = ranks.iter().enumerate().map(|(i, r)| factors(m, n, *r, seed ^ i as u64)).collect();
            let all: Vec<&Factors> = tasks.iter().collect();
            for vectors in [Vectors::Positions, Vectors::Whole] {
                let mut last = f64::INFINITY;
                for size in 1..=tasks.len() {
                    let rmm = Rmm::new(&all, size, vectors).unwrap();
                    let squares = |task: usize| {
                        let back = rmm.revert(task).unwrap();
                        let left = back.left.sub(&padded(&tasks[task].left, back.rank())).unwrap();
                        left.frobenius_norm().powi(2)
                    };
                    let total: f64 = (0..tasks.len()).map(squares).sum();
                    prop_assert!(total <= last + 1e-12);
                    last = total;
                    for (task, error) in rmm.errors.iter().enumerate() {
                        let back = rmm.revert(task).unwrap().product().unwrap();
                        let found = distance(&back, &tasks[task].product().unwrap());
                        prop_assert!((found - error).abs() < 1e-7 * (1.0 + error));
                    }
                }
                let rmm = Rmm::new(&all, tasks.len(), vectors).unwrap();
                for (task, expected) in tasks.iter().enumerate() {
                    let back = rmm.revert(task).unwrap().product().unwrap();
                    prop_assert!(distance(&back, &expected.product().unwrap()) < 1e-12);
                }
            }
        }

        #[test]
        fn tasks_of_one_direction_need_one_vector(seed: u64, c in -3.0..3.0f64) {
            let task = factors(5, 6, 2, seed);
            let other = Factors::new(task.left.scale(c), task.right.scale(2.0)).unwrap();
            let rmm = Rmm::new(&[&task, &other], 1, Vectors::Whole).unwrap();
            prop_assert!(rmm.errors.iter().all(|error| *error < 1e-10));
        }
    }

    #[test]
    fn what_is_stored() {
        let tasks: Vec<Factors> = (0..8).map(|i| factors(10, 12, 32, i)).collect();
        let all: Vec<&Factors> = tasks.iter().collect();
        let rmm = Rmm::new(&all, 2, Vectors::Positions).unwrap();
        assert_eq!(rmm.numbers(), (10 + 12) * 80);
        assert_eq!(rmm.tasks(), 8);
        assert!(rmm.revert(8).is_err());
    }

    #[test]
    fn inadmissible() {
        let (a, b) = (factors(3, 4, 2, 1), factors(4, 4, 2, 1));
        assert!(Rmm::new(&[], 1, Vectors::Whole).is_err());
        assert!(Rmm::new(&[&a], 0, Vectors::Whole).is_err());
        assert!(Rmm::new(&[&a, &b], 1, Vectors::Whole).is_err());
    }
}
