//! The steps before the merge, applied to the updates of the tasks.

use std::borrow::Cow;
use std::ops::Range;

use engraft_linalg::Matrix;
use serde::{Deserialize, Serialize};

use super::align::{Align, aligned};
use super::consensus::compact;
use super::rows::{OnBase, Rows, by_place};
use super::rule::{Draws, Rule};
use super::select::{Selection, cuts};
use super::sparsify::{Breadcrumbs, Della, Magnitude, Random, Scope};
use super::survey::Survey;
use super::task::Task;
use crate::error::{Error, Result};
use crate::update::Update;

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
    /// Brings all tasks into one basis, for what follows.
    Align(Align),
}

impl Prepare {
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Magnitude(step) => step.check(),
            Self::Random(step) => step.check(),
            Self::Della(step) => step.check(),
            Self::Breadcrumbs(step) => step.check(),
            Self::Align(_) => Ok(()),
        }
    }

    /// Whether it leaves every update as it is.
    pub(super) fn keeps_all(&self) -> bool {
        match self {
            Self::Magnitude(Magnitude { density, .. })
            | Self::Random(Random { density, .. })
            | Self::Della(Della { density, .. })
            | Self::Breadcrumbs(Breadcrumbs { density, .. }) => *density >= 1.0,
            Self::Align(_) => false,
        }
    }

    /// Whether what it keeps of one module depends on all others.
    pub(super) fn is_model_wide(&self) -> bool {
        let scope = match self {
            Self::Magnitude(step) => step.scope,
            Self::Breadcrumbs(step) => step.scope,
            Self::Random(_) | Self::Della(_) | Self::Align(_) => Scope::Tensor,
        };
        scope == Scope::Model && !self.keeps_all()
    }

    /// Of n entries, how many go as outliers, and how many are left above those that go as small.
    fn wanted(&self, n: u64) -> [u64; 2] {
        match self {
            Self::Magnitude(step) => step.wanted(n),
            Self::Breadcrumbs(step) => step.wanted(n),
            Self::Random(_) | Self::Della(_) | Self::Align(_) => [0, n],
        }
    }

    /// For a survey of all modules.
    pub(super) fn selection(&self) -> Selection<impl Fn(u64) -> [u64; 2]> {
        let step = self.clone();
        Selection::new(move |n| step.wanted(n))
    }

    /// Applies the step at an index to the updates of all tasks.
    fn apply<'a>(&self, at: usize, prepared: Tasks<'a>, survey: &Survey) -> Result<Tasks<'a>> {
        let Tasks {
            mut tasks,
            mut bases,
        } = prepared;
        match self {
            Self::Align(step) => {
                let (basis, tasks) = aligned(*step, tasks)?;
                bases.push(basis);
                return Ok(Tasks { tasks, bases });
            }
            Self::Random(of) => tasks.iter_mut().for_each(|task| {
                let draws = task.draws(of.seed, at);
                task.rules.push(Rule::Random { draws, of: *of });
            }),
            Self::Della(of) => tasks.iter_mut().for_each(|task| {
                let draws = task.draws(of.seed, at);
                task.rules.push(Rule::Della { draws, of: *of });
            }),
            Self::Magnitude(_) | Self::Breadcrumbs(_) => {
                for task in &mut tasks {
                    let [outliers, kept] = match self.is_model_wide() {
                        true => survey.cuts(at, task.task.adapter, task.module)?,
                        false => cuts(task, |n| self.wanted(n))?,
                    };
                    task.rules.push(Rule::Band { outliers, kept });
                }
            }
        }
        Ok(Tasks { tasks, bases })
    }
}

/// The tasks of a tensor after some steps.
#[derive(Debug)]
pub(super) struct Tasks<'a> {
    pub(super) tasks: Vec<Prepared<'a>>,
    /// Of the coordinates that the updates are in, the outermost first.
    pub(super) bases: Vec<Matrix>,
}

impl<'a> Tasks<'a> {
    /// After steps with their index in the pipeline.
    pub(super) fn new<'s>(
        steps: impl IntoIterator<Item = (usize, &'s Prepare)>,
        module: &'a str,
        tasks: &[Task<'a>],
        survey: &Survey,
    ) -> Result<Self> {
        let tasks = tasks.iter().map(|task| Prepared::new(module, *task));
        let given = Self {
            tasks: tasks.collect::<Result<_>>()?,
            bases: Vec::new(),
        };
        let steps = steps.into_iter().filter(|(_, step)| !step.keeps_all());
        steps
            .into_iter()
            .try_fold(given, |tasks, (at, step)| step.apply(at, tasks, survey))
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

    /// The same task with another update in the place of its own.
    pub(super) fn moved(&self, update: Update) -> Result<Self> {
        Ok(Self {
            task: self.task,
            module: self.module,
            rows: OnBase::owned(update)?,
            rules: Vec::new(),
        })
    }

    fn draws(&self, seed: u64, step: usize) -> Draws {
        Draws::new(seed, step, self.task.adapter, self.module)
    }

    /// The update after the steps, in a form that needs no base.
    pub(super) fn whole(&self) -> Result<Cow<'_, Update>> {
        match self.exact().map(OnBase::update) {
            Some(update) if !update.needs_base() => Ok(Cow::Borrowed(update)),
            _ => Ok(Cow::Owned(compact(by_place(&[self], |x| f64::from(x[0]))?))),
        }
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
