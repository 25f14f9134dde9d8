//! How far the factor-wise form of a sum is from the exact one.

use std::fmt;

use engraft_linalg::{Matrix, qr};

use super::{Form, Operand};
use crate::error::Result;
use crate::update::{Factors, Update};

/// Norms of one module.
#[derive(Debug, Clone, PartialEq)]
pub struct ModuleDifference {
    /// Its path.
    pub module: String,
    /// ||dW_factor-wise - dW_exact||_F.
    pub difference: f64,
    /// ||dW_exact||_F; of the scaling where the update is one.
    pub exact: f64,
}

impl ModuleDifference {
    /// difference / exact; 0 where both are 0.
    #[must_use]
    pub fn relative(&self) -> f64 {
        relative(self.difference, self.exact)
    }
}

/// The factor-wise form of a sum against the exact one, by module and in total. It prints as a table.
#[derive(Debug, Clone, PartialEq)]
pub struct Difference {
    /// The sum.
    pub sum: String,
    /// Its modules.
    pub modules: Vec<ModuleDifference>,
}

impl Difference {
    /// Compares both forms of sum_i c_i theta_i.
    ///
    /// # Errors
    /// As [`Operand::combination`] in the factor-wise form.
    pub fn of(terms: &[(f64, &Operand)]) -> Result<Self> {
        let factor_wise = Operand::combination(Form::FactorWise, terms)?;
        let exact = Operand::combination(Form::Exact, terms)?;
        let modules = factor_wise.modules.iter().map(|(module, found)| {
            let expected = &exact.modules[module];
            let (difference, exact) = match (&found.low_rank, &expected.low_rank) {
                (Some(found), Some(expected)) => {
                    let apart = found.beside(&expected.scaled(-1.0))?;
                    (norm(&apart)?, norm(expected)?)
                }
                _ => (0.0, scaling_norm(expected)),
            };
            Ok(ModuleDifference {
                module: module.clone(),
                difference,
                exact,
            })
        });
        Ok(Self {
            sum: exact.name.clone(),
            modules: modules.collect::<Result<_>>()?,
        })
    }

    /// Relative Frobenius norm of the difference of all modules.
    #[must_use]
    pub fn total(&self) -> f64 {
        let root = |of: fn(&ModuleDifference) -> f64| {
            let squares = self.modules.iter().map(|module| of(module).powi(2));
            squares.sum::<f64>().sqrt()
        };
        relative(
            root(|module| module.difference),
            root(|module| module.exact),
        )
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.modules.iter().map(|module| module.module.len());
        let width = names.max().unwrap_or(0).max("in total".len());
        writeln!(
            formatter,
            "{}: |factor-wise - exact| / |exact|, Frobenius",
            self.sum
        )?;
        for module in &self.modules {
            let relative = module.relative();
            writeln!(formatter, "{:width$}  {relative:.3e}", module.module)?;
        }
        write!(formatter, "{:width$}  {:.3e}", "in total", self.total())
    }
}

fn relative(difference: f64, exact: f64) -> f64 {
    match difference == 0.0 {
        true => 0.0,
        false => difference / exact,
    }
}

/// ||L R||_F = ||R_L R_R^T||_F for L = Q_L R_L and R^T = Q_R R_R. The squares of Gram matrices would
/// lose half of the digits where factors cancel.
fn norm(factors: &Factors) -> Result<f64> {
    if factors.rank() == 0 {
        return Ok(0.0);
    }
    let upper = |m: &Matrix| -> Result<Matrix> {
        match m.rows() > m.cols() {
            true => Ok(qr(m)?.r),
            false => Ok(m.clone()),
        }
    };
    let left = upper(&factors.left)?;
    let right = upper(&factors.right.transpose())?;
    Ok(left.matmul(&right.transpose())?.frobenius_norm())
}

fn scaling_norm(update: &Update) -> f64 {
    let parts = [&update.rows, &update.columns, &update.bias_scale];
    let squares = parts.into_iter().flatten().flatten().map(|x| x * x);
    squares.sum::<f64>().sqrt()
}
