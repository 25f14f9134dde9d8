//! What one adapter brings to the merge of a module.

use std::fmt::Display;

use engraft_linalg::Matrix;

use super::rows::Rows;
use crate::error::{Error, Result};
use crate::update::{Dense, Update};

/// The update of a module by one adapter, its weight in the merge, and what some merges want to know besides.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    /// Name of the adapter.
    pub adapter: &'a str,
    /// w of the merge.
    pub weight: f64,
    /// dW and db.
    pub update: &'a Update,
    /// W, row-major, for updates that are relative to it.
    pub base: Option<&'a [f32]>,
    /// b, of a module that has one.
    pub base_bias: Option<&'a [f32]>,
    /// Diagonal of the Fisher information of W: as large as W, not negative.
    pub fisher: Option<&'a dyn Rows>,
    /// Diagonal of the Fisher information of b.
    pub bias_fisher: Option<&'a [f32]>,
    /// X^T X of the module's inputs X: `[in, in]`.
    pub gram: Option<&'a Matrix>,
}

impl<'a> Task<'a> {
    /// An update with its weight, and nothing else.
    #[must_use]
    pub fn new(adapter: &'a str, weight: f64, update: &'a Update) -> Self {
        Self {
            adapter,
            weight,
            update,
            base: None,
            base_bias: None,
            fisher: None,
            bias_fisher: None,
            gram: None,
        }
    }

    /// An error about a module of this adapter.
    pub(super) fn error(&self, module: &str, reason: impl Display) -> Error {
        Error::module(self.adapter, module, reason)
    }

    /// Whether it changes a weight, not only a bias.
    fn changes_weight(&self) -> bool {
        let update = self.update;
        update.needs_base()
            || update.low_rank.is_some()
            || update.sparse.is_some()
            || update.dense.is_some()
    }
}

impl std::fmt::Debug for Task<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task")
            .field("adapter", &self.adapter)
            .field("weight", &self.weight)
            .field("update", &self.update.shape)
            .finish_non_exhaustive()
    }
}

/// The tasks of one module, checked: at least one, names that differ, weights that are finite.
pub(super) fn check(module: &str, tasks: &[Task]) -> Result<()> {
    if tasks.is_empty() {
        return Err(Error::input(format!(
            "module `{module}`: no tasks to merge"
        )));
    }
    for (at, task) in tasks.iter().enumerate() {
        if !task.weight.is_finite() {
            let reason = format!("its weight is {}, expected a finite number", task.weight);
            return Err(Error::adapter(task.adapter, reason));
        }
        if tasks[..at]
            .iter()
            .any(|other| other.adapter == task.adapter)
        {
            let reason = "it is given twice; to use it twice, give each a name of its own";
            return Err(Error::adapter(task.adapter, reason));
        }
        if !is_finite(task.update) {
            let reason = "its update holds NaN or infinite numbers, expected finite ones";
            return Err(task.error(module, reason));
        }
    }
    Ok(())
}

/// Whether there is a weight to merge, not only biases.
pub(super) fn change_weight(tasks: &[Task]) -> bool {
    tasks.iter().any(Task::changes_weight)
}

/// The shape that all updates have.
pub(super) fn common_shape(module: &str, tasks: &[Task]) -> Result<[Option<usize>; 2]> {
    let mut common = Update::default();
    for task in tasks {
        let shape = common.common_shape(task.update);
        common.shape = shape.map_err(|error| task.error(module, error))?;
    }
    Ok(common.shape)
}

/// Whether all numbers of an update are finite.
fn is_finite(update: &Update) -> bool {
    let all = |data: &[f64]| data.iter().all(|x| x.is_finite());
    let single = |data: &[f32]| data.iter().all(|x| x.is_finite());
    let factors = update.low_rank.iter();
    let vectors = [
        &update.rows,
        &update.columns,
        &update.bias,
        &update.bias_scale,
    ];
    factors
        .flat_map(|part| [&part.left, &part.right])
        .all(|factor| all(factor.as_slice()))
        && update.sparse.iter().all(|part| single(part.values()))
        && update.dense.iter().all(|part| single(&part.data))
        && vectors.into_iter().flatten().all(|vector| all(vector))
}

/// The changes of a module's bias as matrices of one row, so that they take the way of every tensor.
pub(super) struct Biases {
    /// Name of the tensor.
    pub(super) module: String,
    updates: Vec<Update>,
    fisher: Vec<Option<Dense>>,
}

impl Biases {
    /// Nothing where no task changes the bias; a task that does not, while others do, changes it by zero.
    pub(super) fn new(module: &str, tasks: &[Task]) -> Result<Option<Self>> {
        let changes: Vec<Option<Vec<f64>>> = tasks
            .iter()
            .map(|task| task.update.bias_change(task.base_bias))
            .collect();
        let Some(length) = changes.iter().flatten().map(Vec::len).next() else {
            return Ok(None);
        };
        let one_row = |task: &Task, numbers: Vec<f32>, what: &str| {
            let found = numbers.len();
            Dense::new(1, length, numbers).map_err(|_| {
                let reason = format!("{what} of {found} numbers, expected {length} as in others");
                task.error(module, reason)
            })
        };
        let mut updates = Vec::new();
        let mut fisher = Vec::new();
        for (task, change) in tasks.iter().zip(changes) {
            let change = change.unwrap_or_else(|| vec![0.0; length]);
            let change = change.into_iter().map(|x| x as f32).collect();
            updates.push(Update::dense(one_row(task, change, "a bias")?));
            let importance = task
                .bias_fisher
                .map(|numbers| one_row(task, numbers.to_vec(), "Fisher information of a bias"));
            fisher.push(importance.transpose()?);
        }
        Ok(Some(Self {
            module: format!("{module}.bias"),
            updates,
            fisher,
        }))
    }

    /// The tasks for the bias.
    pub(super) fn tasks<'a>(&'a self, tasks: &[Task<'a>]) -> Vec<Task<'a>> {
        let parts = tasks.iter().zip(&self.updates).zip(&self.fisher);
        let each = parts.map(|((task, update), fisher)| Task {
            fisher: fisher.as_ref().map(|fisher| fisher as &dyn Rows),
            ..Task::new(task.adapter, task.weight, update)
        });
        each.collect()
    }
}
