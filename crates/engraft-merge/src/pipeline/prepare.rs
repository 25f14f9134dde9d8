//! The steps before the merge, applied to the updates of the tasks.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::rows::{OnBase, Rows};
use super::rule::{Draws, Rule};
use super::select::{Selection, cuts};
use super::sparsify::{Breadcrumbs, Della, Magnitude, Random, Scope};
use super::survey::Survey;
use super::task::Task;
use crate::error::{Error, Result};

/// A step that changes the update of each task before they are merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prepare {
    /// Keeps the largest.
    Magnitude(Magnitude),
    /// Keeps some at random: DARE.
    Random(Random),
    /// Keeps some at random, the larger the likelier: DELLA.
    Della(Della),
    /// Keeps the large but for outliers: Model Breadcrumbs.
    Breadcrumbs(Breadcrumbs),
}

impl Prepare {
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Magnitude(step) => step.check(),
            Self::Random(step) => step.check(),
            Self::Della(step) => step.check(),
            Self::Breadcrumbs(step) => step.check(),
        }
    }

    /// Whether it leaves every update as it is.
    pub(super) fn keeps_all(&self) -> bool {
        match self {
            Self::Magnitude(Magnitude { density, .. })
            | Self::Random(Random { density, .. })
            | Self::Della(Della { density, .. })
            | Self::Breadcrumbs(Breadcrumbs { density, .. }) => *density >= 1.0,
        }
    }

    /// Whether what it keeps of one module depends on all others.
    pub(super) fn is_model_wide(&self) -> bool {
        let scope = match self {
            Self::Magnitude(step) => step.scope,
            Self::Breadcrumbs(step) => step.scope,
            Self::Random(_) | Self::Della(_) => Scope::Tensor,
        };
        scope == Scope::Model && !self.keeps_all()
    }

    /// Of n entries, how many go as outliers, and how many are left above those that go as small.
    fn wanted(&self, n: u64) -> [u64; 2] {
        match self {
            Self::Magnitude(step) => step.wanted(n),
            Self::Breadcrumbs(step) => step.wanted(n),
            Self::Random(_) | Self::Della(_) => [0, n],
        }
    }

    /// For a survey of all modules.
    pub(super) fn selection(&self) -> Selection<impl Fn(u64) -> [u64; 2]> {
        let step = self.clone();
        Selection::new(move |n| step.wanted(n))
    }

    /// What the step at an index does to an update.
    fn rule(&self, at: usize, rows: &Prepared, survey: &Survey) -> Result<Rule> {
        let (adapter, module) = (rows.task.adapter, rows.module);
        let draws = |seed| Draws::new(seed, at, adapter, module);
        Ok(match self {
            Self::Random(of) => Rule::Random {
                draws: draws(of.seed),
                of: *of,
            },
            Self::Della(of) => Rule::Della {
                draws: draws(of.seed),
                of: *of,
            },
            Self::Magnitude(_) | Self::Breadcrumbs(_) => {
                let [outliers, kept] = match self.is_model_wide() {
                    true => survey.cuts(at, adapter, module)?,
                    false => cuts(rows, |n| self.wanted(n))?,
                };
                Rule::Band { outliers, kept }
            }
        })
    }
}

/// The update of a task after some steps.
#[derive(Debug)]
pub(super) struct Prepared<'a> {
    pub(super) task: Task<'a>,
    module: &'a str,
    rows: OnBase<'a>,
    rules: Vec<Rule>,
}

impl<'a> Prepared<'a> {
    fn new(module: &'a str, task: Task<'a>) -> Result<Self> {
        let rows =
            OnBase::new(task.update, task.base).map_err(|error| task.error(module, error))?;
        Ok(Self {
            task,
            module,
            rows,
            rules: Vec::new(),
        })
    }

    /// Every task after the steps, the first of which has the index 0.
    pub(super) fn all(
        steps: &[Prepare],
        module: &'a str,
        tasks: &[Task<'a>],
        survey: &Survey,
    ) -> Result<Vec<Self>> {
        let each = tasks.iter().map(|task| {
            let mut rows = Self::new(module, *task)?;
            for (at, step) in steps.iter().enumerate().filter(|(_, s)| !s.keeps_all()) {
                let rule = step.rule(at, &rows, survey)?;
                rows.rules.push(rule);
            }
            Ok(rows)
        });
        each.collect()
    }

    /// The update, where the steps left it as it was.
    pub(super) fn exact(&self) -> Option<&OnBase<'a>> {
        self.rules.is_empty().then_some(&self.rows)
    }

    /// <dW, dW'>, from the factors where there are such.
    pub(super) fn dot(&self, other: &Self) -> Result<f64> {
        match (self.exact(), other.exact()) {
            (Some(own), Some(other)) => own.dot(other),
            _ => super::rows::dot(self, other),
        }
    }

    /// An error about this update.
    pub(super) fn error(&self, reason: impl std::fmt::Display) -> Error {
        self.task.error(self.module, reason)
    }
}

impl Rows for Prepared<'_> {
    fn shape(&self) -> (usize, usize) {
        self.rows.shape()
    }

    fn strip(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        let (start, columns) = (rows.start, self.shape().1);
        let strip = self.rows.strip(rows);
        let mut strip = strip.map_err(|error| self.error(error))?;
        if let Some(at) = strip.iter().position(|x| !x.is_finite()) {
            let (row, column) = (start + at / columns, at % columns);
            return Err(self.error(format!(
                "entry ({row}, {column}) of the update is {}, expected finite numbers",
                strip[at]
            )));
        }
        for rule in &self.rules {
            rule.apply((start * columns) as u64, columns, &mut strip);
        }
        Ok(strip)
    }
}
