//! What steps need to know of all modules before any of them is merged.

use std::collections::{BTreeMap, HashMap};

use super::prepare::Prepared;
use super::select::Cut;
use super::task::{self, Biases, Task};
use super::{Pipeline, Prepare};
use crate::error::{Error, Result};

/// Where the model-wide steps of a pipeline cut, per adapter and module. Empty for pipelines without such
/// steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Survey {
    cuts: HashMap<(usize, String, String), [Cut; 2]>,
}

impl Survey {
    pub(super) fn cuts(&self, step: usize, adapter: &str, module: &str) -> Result<[Cut; 2]> {
        let key = (step, adapter.to_owned(), module.to_owned());
        self.cuts.get(&key).copied().ok_or_else(|| {
            let reason = "scope = \"model\" ranks all modules together, and this one was not seen: survey the \
                          same modules that are merged, or take scope = \"tensor\"";
            Error::module(adapter, module, reason)
        })
    }
}

impl Pipeline {
    /// Whether [`survey`](Self::survey) looks at modules at all.
    #[must_use]
    pub fn needs_survey(&self) -> bool {
        self.prepare.iter().any(Prepare::is_model_wide)
    }

    /// Looks at all modules for the steps whose scope is the model. `visit` calls what it is given with the
    /// tasks of every module, one after another, in the same order each time; it is called at most three
    /// times for each such step, and not at all without one. Modules need not stay in memory.
    ///
    /// # Errors
    /// As [`merge`](Self::merge), and those of `visit`.
    pub fn survey(
        &self,
        mut visit: impl FnMut(&mut dyn FnMut(&str, &[Task]) -> Result<()>) -> Result<()>,
    ) -> Result<Survey> {
        self.check()?;
        let mut survey = Survey::default();
        let steps = self.prepare.iter().enumerate();
        for (at, step) in steps.filter(|(_, step)| step.is_model_wide()) {
            let mut selections = BTreeMap::new();
            let mut seen = Vec::new();
            loop {
                seen.clear();
                let mut observe = |module: &str, tasks: &[Task]| -> Result<()> {
                    for rows in Prepared::all(&self.prepare[..at], module, tasks, &survey)? {
                        let adapter = rows.task.adapter.to_owned();
                        seen.push((adapter.clone(), module.to_owned()));
                        let selection = selections
                            .entry(adapter)
                            .or_insert_with(|| step.selection());
                        selection.observe(module, &rows)?;
                    }
                    Ok(())
                };
                visit(&mut |module, tasks| {
                    task::check(module, tasks)?;
                    if task::change_weight(tasks) {
                        observe(module, tasks)?;
                    }
                    match Biases::new(module, tasks)? {
                        Some(biases) => observe(&biases.module, &biases.tasks(tasks)),
                        None => Ok(()),
                    }
                })?;
                let again = selections
                    .values_mut()
                    .filter_map(|selection| selection.advance().then_some(()));
                if again.count() == 0 {
                    break;
                }
            }
            for (adapter, module) in seen {
                let cuts = selections[&adapter].cuts(&module);
                survey.cuts.insert((at, adapter, module), cuts);
            }
        }
        Ok(survey)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::pipeline::testing::{dense, method, update};
    use crate::update::{Dense, Update};

    const BASE: [f32; 24] = [1.0; 24];

    /// Merges the modules 0, 1, ..., of one adapter each a vector of updates.
    fn merged(pipeline: &Pipeline, adapters: &[Vec<Update>]) -> Result<Vec<Update>> {
        let names = ["a", "b", "c"];
        let tasks = |module: usize| -> Vec<Task> {
            let each = adapters.iter().zip(names);
            each.map(|(updates, name)| Task {
                base: Some(&BASE),
                ..Task::new(name, 1.0, &updates[module])
            })
            .collect()
        };
        let modules = 0..adapters[0].len();
        let survey = pipeline.survey(|see| {
            modules
                .clone()
                .try_for_each(|at| see(&at.to_string(), &tasks(at)))
        })?;
        modules
            .clone()
            .map(|at| pipeline.merge(&at.to_string(), &tasks(at), &survey))
            .collect()
    }

    fn count(update: &Update) -> usize {
        let data = update.to_dense(None).unwrap().data;
        data.iter().filter(|x| **x != 0.0).count()
    }

    fn whole(update: &Update) -> Dense {
        update.to_dense(Some(&BASE)).unwrap()
    }

    fn scoped(name: &str, scope: &str, options: Value) -> Pipeline {
        let mut options = options;
        options["scope"] = json!(scope);
        method(name, options)
    }

    proptest! {
        #[test]
        fn trimming_keeps_exactly_so_many_and_the_largest(seed: u64, density in 0.0..1.3) {
            let given = vec![dense(4, 6, seed), dense(4, 6, seed ^ 1)];
            let k = |n: usize| ((density * n as f64) as usize).min(n);
            let kept_are_largest = |given: &[Dense], kept: &[Dense]| {
                let pairs = || given.iter().zip(kept).flat_map(|(a, b)| a.data.iter().zip(&b.data));
                let smallest = pairs().filter(|(_, y)| **y != 0.0).map(|(x, _)| x.abs()).fold(f32::INFINITY, f32::min);
                pairs().all(|(x, y)| if *y == 0.0 { x.abs() <= smallest } else { x == y })
            };
            let adapters = [given.clone()];
            let given: Vec<Dense> = given.iter().map(whole).collect();
            let found = merged(&scoped("magnitude-prune", "tensor", json!({"density": density})), &adapters).unwrap();
            for at in 0..2 {
                prop_assert_eq!(count(&found[at]), k(24));
                prop_assert!(kept_are_largest(&given[at..=at], &[whole(&found[at])]));
            }
            let found = merged(&scoped("magnitude-prune", "model", json!({"density": density})), &adapters).unwrap();
            prop_assert_eq!(found.iter().map(count).sum::<usize>(), k(48));
            prop_assert!(kept_are_largest(&given, &found.iter().map(whole).collect::<Vec<_>>()));
        }

        #[test]
        fn one_module_is_the_model(seed: u64, density in 0.0..1.0, which in 0usize..4) {
            let name = ["magnitude-prune", "ties", "breadcrumbs", "breadcrumbs-ties"][which];
            let adapters = [0, 1, 2].map(|at| vec![Update { bias: None, ..update(4, 6, seed ^ at) }]);
            let merge = |scope| merged(&scoped(name, scope, json!({"density": density})), &adapters).unwrap();
            prop_assert_eq!(merge("tensor"), merge("model"));
        }

        #[test]
        fn breadcrumbs_drop_both_ends(seed: u64, density in 0.0..1.0, gamma in 0.0..1.0) {
            let given = dense(4, 6, seed);
            let pipeline = method("breadcrumbs", json!({"density": density, "gamma": gamma}));
            let found = merged(&pipeline, &[vec![given.clone()]]).unwrap();
            let kept = (density * 24.0) as usize;
            let outliers = ((gamma * 24.0) as usize).min(24 - kept);
            let mut order = whole(&given).data;
            order.sort_by(|a, b| b.abs().total_cmp(&a.abs()));
            let mut expected = order[outliers..outliers + kept].to_vec();
            let mut left: Vec<f32> = whole(&found[0]).data.into_iter().filter(|x| *x != 0.0).collect();
            expected.sort_by(f32::total_cmp);
            left.sort_by(f32::total_cmp);
            prop_assert_eq!(left, expected);
        }

        #[test]
        fn steps_before_are_seen(seed: u64) {
            // Trimmed to half within each tensor, then to a quarter of all.
            let pipeline = Pipeline {
                prepare: toml::from_str::<Pipeline>(
                    "prepare = [{magnitude = {density = 0.5}}, {magnitude = {density = 0.25, scope = \"model\"}}]",
                ).unwrap().prepare,
                ..Pipeline::default()
            };
            let found = merged(&pipeline, &[vec![dense(4, 6, seed), dense(4, 6, seed ^ 1).scaled(100.0)]]).unwrap();
            prop_assert_eq!((count(&found[0]), count(&found[1])), (0, 12));
        }
    }

    #[test]
    fn modules_that_were_not_seen_are_refused() {
        let pipeline = scoped("ties", "model", json!({}));
        assert!(pipeline.needs_survey());
        let update = dense(4, 6, 1);
        let tasks = [Task::new("a", 1.0, &update)];
        let error = pipeline
            .merge("m", &tasks, &Survey::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("adapter `a`, module `m`") && error.contains("tensor"),
            "{error}"
        );
        let tensor = scoped("ties", "tensor", json!({}));
        let survey = tensor.survey(|_| Err(Error::input("not called")));
        assert_eq!(survey.unwrap(), Survey::default());
    }
}
