//! Arithmetic of adapters: sums, differences, negations and analogies, in two forms.
//!
//! ```text
//! exact:        dW = sum_i c_i dW_i
//! factor-wise:  L  = sum_i c_i L_i,   R = sum_i |c_i| R_i,   dW = L R          (LoRA)
//!               l  = 1 + sum_i c_i (l_i - 1)                                   ((IA)^3)
//! ```
//!
//! for dW_i = L_i R_i of `[out, in]` = `[out, r]` x `[r, in]`, L = B with its scaling, R = A. The
//! factor-wise form is that of "Composing Parameter-Efficient Modules with Arithmetic Operations"
//! (2306.14870, section 3): addition lambda theta_1 + (1 - lambda) theta_2 of the parameters
//! themselves, negation of B alone, 2 - l for (IA)^3. A sum of factors has products of the B of one
//! adapter with the A of another in it, which the exact form has not; [`Difference`] says how much of
//! the result these are. (IA)^3 has one factor, so that both forms are one.

mod difference;
mod factor_wise;

use std::collections::{BTreeMap, BTreeSet};

pub use difference::{Difference, ModuleDifference};

use crate::error::{Error, Result};
use crate::update::Update;

/// What an adapter changes, by the path of the module.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Operand {
    /// Its name, for messages.
    pub name: String,
    /// dW and db of each module.
    pub modules: BTreeMap<String, Update>,
}

/// What a sum of adapters adds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// dW: a module that an adapter does not change counts as zero.
    Exact,
    /// The factors that make dW: all adapters have the same modules and ranks.
    FactorWise,
}

impl std::fmt::Display for Form {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Exact => "exact",
            Self::FactorWise => "factor-wise",
        })
    }
}

impl Operand {
    /// An adapter of a name.
    #[must_use]
    pub fn new(name: impl Into<String>, modules: BTreeMap<String, Update>) -> Self {
        Self {
            name: name.into(),
            modules,
        }
    }

    /// sum_i c_i theta_i.
    ///
    /// # Errors
    /// No adapters, coefficients that are not finite, weights of different shapes. The factor-wise
    /// form also refuses adapters of different modules or ranks and updates that are neither of low
    /// rank nor scalings.
    pub fn combination(form: Form, terms: &[(f64, &Self)]) -> Result<Self> {
        if terms.is_empty() {
            return Err(Error::input("a sum of no adapters: name at least one"));
        }
        if let Some((c, adapter)) = terms.iter().find(|(c, _)| !c.is_finite()) {
            let reason = format!("its coefficient is {c}, expected a finite number");
            return Err(Error::adapter(&adapter.name, reason));
        }
        let modules: BTreeSet<&String> = terms.iter().flat_map(|(_, a)| a.modules.keys()).collect();
        let combined = modules.into_iter().map(|module| {
            let update = match form {
                Form::Exact => exact(module, terms)?,
                Form::FactorWise => factor_wise::combination(module, terms)?,
            };
            Ok((module.clone(), update))
        });
        Ok(Self::new(label(terms), combined.collect::<Result<_>>()?))
    }

    /// a + b.
    ///
    /// # Errors
    /// As [`combination`](Self::combination).
    pub fn plus(&self, form: Form, other: &Self) -> Result<Self> {
        Self::combination(form, &[(1.0, self), (1.0, other)])
    }

    /// a - b = a + (-b).
    ///
    /// # Errors
    /// As [`combination`](Self::combination).
    pub fn minus(&self, form: Form, other: &Self) -> Result<Self> {
        Self::combination(form, &[(1.0, self), (-1.0, other)])
    }

    /// -a: both forms give the same dW.
    ///
    /// # Errors
    /// As [`combination`](Self::combination).
    pub fn negation(&self, form: Form) -> Result<Self> {
        Self::combination(form, &[(-1.0, self)])
    }

    /// c a: c dW in the exact form, c |c| dW in the factor-wise form of LoRA, which scales both
    /// factors.
    ///
    /// # Errors
    /// As [`combination`](Self::combination).
    pub fn scaled(&self, form: Form, c: f64) -> Result<Self> {
        Self::combination(form, &[(c, self)])
    }

    /// lambda a + (1 - lambda) b.
    ///
    /// # Errors
    /// As [`combination`](Self::combination).
    pub fn interpolation(&self, form: Form, lambda: f64, other: &Self) -> Result<Self> {
        Self::combination(form, &[(lambda, self), (1.0 - lambda, other)])
    }

    /// a - b + c: b is to a as c is to the result.
    ///
    /// # Errors
    /// As [`combination`](Self::combination).
    pub fn analogy(&self, form: Form, b: &Self, c: &Self) -> Result<Self> {
        Self::combination(form, &[(1.0, self), (-1.0, b), (1.0, c)])
    }
}

fn exact(module: &str, terms: &[(f64, &Operand)]) -> Result<Update> {
    let mut changed = terms
        .iter()
        .filter_map(|(c, adapter)| Some((*c, *adapter, adapter.modules.get(module)?)));
    let (c, _, first) = changed.next().expect("the module is of one of them");
    changed.try_fold(first.scaled(c), |sum, (c, adapter, update)| {
        sum.plus(&update.scaled(c))
            .map_err(|error| Error::module(&adapter.name, module, error))
    })
}

/// `0.5 a + 0.5 b`
fn label(terms: &[(f64, &Operand)]) -> String {
    let parts = terms.iter().map(|(c, adapter)| match *c {
        1.0 => adapter.name.clone(),
        -1.0 => format!("-{}", adapter.name),
        c => format!("{c} {}", adapter.name),
    });
    parts.collect::<Vec<_>>().join(" + ").replace("+ -", "- ")
}

#[cfg(test)]
mod tests;
