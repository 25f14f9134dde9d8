//! From an experiment to its runs: learning-rate trials first, then one final run for each
//! method, domain and seed.

use std::collections::BTreeSet;

use crate::{
    error::{Error, Result},
    executor::Executor,
    schema::{Experiment, Method},
    spec::{BASE, FULL, MethodSpec, OptimizerSpec, RunSpec, TaskSpec},
};

/// What the command line changes.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The number of seeds: the first of the list, continued upwards when it is longer.
    pub seeds: Option<usize>,
    /// The device.
    pub device: Option<String>,
    /// Few steps, few seeds, one domain, no trials.
    pub quick: bool,
}

/// A row of the table to be.
#[derive(Debug, Clone)]
pub struct PlannedMethod {
    /// The name of the row.
    pub label: String,
    /// The family.
    pub family: String,
    /// The method with its defaults filled in.
    pub spec: MethodSpec,
    /// The learning rates to choose from.
    pub learning_rates: Vec<f64>,
    /// The accuracy that the paper states, in %.
    pub published: Option<f64>,
    /// Shown and not run.
    pub needs_larger_machine: bool,
}

impl PlannedMethod {
    /// Whether this is the row without adaptation.
    #[must_use]
    pub fn is_base(&self) -> bool {
        self.spec.id == BASE
    }

    /// Whether this is full fine-tuning.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.spec.id == FULL
    }
}

/// All runs of an experiment.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The rows, the base model first.
    pub methods: Vec<PlannedMethod>,
    /// The domains.
    pub domains: Vec<String>,
    /// The seeds of the final runs.
    pub seeds: Vec<u64>,
    trial_seeds: Vec<u64>,
    template: RunSpec,
}

/// The learning rate chosen for a method on a domain; `None` when a trial failed.
pub type Selection = Vec<Vec<Option<f64>>>;

impl Plan {
    /// Expands an experiment and checks every method and domain with the executor.
    ///
    /// # Errors
    /// What the executor refuses, with the line of the file.
    pub fn new(
        experiment: &Experiment,
        options: &Options,
        executor: &dyn Executor,
    ) -> Result<Self> {
        let tables = &experiment.tables;
        let (protocol, quick) = (&tables.protocol, &tables.quick);
        let full_steps = *protocol.steps.get_ref();
        let steps = if options.quick {
            quick.steps.clamp(1, full_steps)
        } else {
            full_steps
        };
        let domains: Vec<_> = if options.quick {
            &tables.task.domains[..1]
        } else {
            &tables.task.domains
        }
        .iter()
        .map(|domain| domain.get_ref().clone())
        .collect();
        let template = RunSpec {
            model: tables.model.clone(),
            task: TaskSpec {
                data: tables.task.data.clone(),
                domain: domains[0].clone(),
                labels_per_class: *tables.task.labels_per_class.get_ref(),
            },
            method: MethodSpec {
                id: BASE.to_owned(),
                config: serde_json::json!({}),
                targets: serde_json::Value::Null,
            },
            optimizer: OptimizerSpec {
                name: protocol.optimizer,
                learning_rate: 0.0,
                weight_decay: protocol.weight_decay,
                batch_size: *protocol.batch_size.get_ref(),
                steps,
                warmup: protocol.warmup * steps / full_steps,
                schedule: protocol.schedule,
                clip_norm: protocol.clip_norm,
            },
            seed: 0,
            device: options
                .device
                .clone()
                .unwrap_or_else(|| tables.device.clone()),
        };
        let count = options.seeds.unwrap_or(if options.quick {
            quick.seeds.max(1)
        } else {
            protocol.seeds.get_ref().len()
        });
        let mut plan = Self {
            methods: Vec::new(),
            domains,
            seeds: seeds(
                protocol.seeds.get_ref(),
                protocol.trial_seeds.get_ref(),
                count,
            ),
            trial_seeds: if options.quick {
                Vec::new()
            } else {
                protocol.trial_seeds.get_ref().clone()
            },
            template,
        };
        plan.add_base(executor)?;
        for method in &tables.methods {
            let planned = plan
                .planned(method, executor, options.quick)
                .map_err(|error| at(experiment, &method.id, error))?;
            plan.methods.push(planned);
        }
        for (index, domain) in tables
            .task
            .domains
            .iter()
            .enumerate()
            .take(plan.domains.len())
        {
            executor
                .validate(&plan.final_run(0, index, 0.0, plan.seeds[0]))
                .map_err(|error| at(experiment, domain, error))?;
        }
        for (index, method) in tables.methods.iter().enumerate() {
            if !method.needs_larger_machine {
                let rate = method.learning_rates.get_ref()[0];
                executor
                    .validate(&plan.final_run(index + 1, 0, rate, plan.seeds[0]))
                    .map_err(|error| at(experiment, &method.id, error))?;
            }
        }
        Ok(plan)
    }

    fn add_base(&mut self, executor: &dyn Executor) -> Result<()> {
        executor.model_info(&self.template.model, &self.template.task.data)?;
        let info = executor.method(&self.template.method)?;
        self.methods.push(PlannedMethod {
            label: "base model".to_owned(),
            family: info.family,
            spec: info.resolved,
            learning_rates: vec![0.0],
            published: None,
            needs_larger_machine: false,
        });
        Ok(())
    }

    fn planned(
        &self,
        method: &Method,
        executor: &dyn Executor,
        quick: bool,
    ) -> Result<PlannedMethod> {
        let info = executor.method(&MethodSpec {
            id: method.id.get_ref().clone(),
            config: method.config.clone().into(),
            targets: method.targets.clone(),
        })?;
        let rates = method.learning_rates.get_ref();
        Ok(PlannedMethod {
            label: method.label().to_owned(),
            family: info.family,
            spec: info.resolved,
            learning_rates: if quick {
                vec![rates[rates.len() / 2]]
            } else {
                rates.clone()
            },
            published: method.published,
            needs_larger_machine: method.needs_larger_machine,
        })
    }

    /// The run of a method on a domain with a learning rate and a seed.
    #[must_use]
    pub fn final_run(
        &self,
        method: usize,
        domain: usize,
        learning_rate: f64,
        seed: u64,
    ) -> RunSpec {
        let mut spec = self.template.clone();
        spec.method = self.methods[method].spec.clone();
        spec.task.domain.clone_from(&self.domains[domain]);
        spec.optimizer.learning_rate = learning_rate;
        spec.seed = seed;
        if self.methods[method].is_base() {
            spec.optimizer.steps = 0;
            spec.optimizer.warmup = 0;
        }
        spec
    }

    /// The learning-rate trials: none for a method with one learning rate.
    #[must_use]
    pub fn trials(&self) -> Vec<RunSpec> {
        let mut runs = Vec::new();
        for (method, planned) in self
            .runnable()
            .filter(|(_, planned)| planned.learning_rates.len() > 1)
        {
            for domain in 0..self.domains.len() {
                for rate in &planned.learning_rates {
                    runs.extend(
                        self.trial_seeds
                            .iter()
                            .map(|seed| self.final_run(method, domain, *rate, *seed)),
                    );
                }
            }
        }
        distinct(runs)
    }

    /// Chooses the learning rate of each method on each domain: the largest validation accuracy,
    /// averaged over the trial seeds; among equals the one listed first.
    pub fn select(&self, validation: impl Fn(&RunSpec) -> Option<f64>) -> Selection {
        let score = |method, domain, rate| -> Option<f64> {
            self.trial_seeds
                .iter()
                .map(|seed| validation(&self.final_run(method, domain, rate, *seed)))
                .sum()
        };
        let choose = |method: usize, domain| match self.methods[method].learning_rates.as_slice() {
            [only] => Some(*only),
            rates => {
                let mut best: Option<(f64, f64)> = None;
                for rate in rates {
                    let score = score(method, domain, *rate)?;
                    if best.is_none_or(|(top, _)| score > top) {
                        best = Some((score, *rate));
                    }
                }
                best.map(|(_, rate)| rate)
            }
        };
        (0..self.methods.len())
            .map(|method| {
                (0..self.domains.len())
                    .map(|domain| choose(method, domain))
                    .collect()
            })
            .collect()
    }

    /// The final runs with the chosen learning rates.
    #[must_use]
    pub fn finals(&self, selection: &Selection) -> Vec<RunSpec> {
        let mut runs = Vec::new();
        for (method, _) in self.runnable() {
            for (domain, rate) in selection[method].iter().enumerate() {
                let Some(rate) = rate else { continue };
                runs.extend(
                    self.seeds
                        .iter()
                        .map(|seed| self.final_run(method, domain, *rate, *seed)),
                );
            }
        }
        distinct(runs)
    }

    /// One run of each trained method whose cost is measured: the first domain and seed.
    #[must_use]
    pub fn measured(&self, selection: &Selection) -> Vec<(usize, RunSpec)> {
        self.runnable()
            .filter(|(_, planned)| !planned.is_base())
            .filter_map(|(method, _)| {
                Some((
                    method,
                    self.final_run(method, 0, selection[method][0]?, self.seeds[0]),
                ))
            })
            .collect()
    }

    /// The number of final runs, whichever learning rates are chosen.
    #[must_use]
    pub fn count_finals(&self) -> usize {
        self.runnable().count() * self.domains.len() * self.seeds.len()
    }

    fn runnable(&self) -> impl Iterator<Item = (usize, &PlannedMethod)> {
        self.methods
            .iter()
            .enumerate()
            .filter(|(_, planned)| !planned.needs_larger_machine)
    }
}

/// Adds the place in the file to what the executor refused.
fn at<T>(experiment: &Experiment, place: &toml::Spanned<T>, error: Error) -> Error {
    experiment.error(place, error)
}

/// The first `count` of `listed`, continued with the integers above its largest that no trial uses.
fn seeds(listed: &[u64], trials: &[u64], count: usize) -> Vec<u64> {
    let next = listed.iter().max().map_or(0, |largest| largest + 1);
    let more = (next..).filter(|seed| !trials.contains(seed));
    listed.iter().copied().chain(more).take(count).collect()
}

fn distinct(runs: Vec<RunSpec>) -> Vec<RunSpec> {
    let mut seen = BTreeSet::new();
    runs.into_iter()
        .filter(|run| seen.insert(run.key()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_seeds_than_listed_continue_past_the_trials() {
        assert_eq!(seeds(&[0, 1, 2], &[3], 2), [0, 1]);
        assert_eq!(seeds(&[0, 1, 2], &[3], 5), [0, 1, 2, 4, 5]);
    }
}
