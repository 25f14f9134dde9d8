//! Tests of methods whose structure changes while they train.

use std::collections::BTreeMap;

use engraft_core::{Adapted, AnyMethod};
use engraft_lowrank::{
    AdaloraConfig, BudgetSchedule, GrowthSchedule, IncreloraConfig, TriadaptloraConfig,
};
use engraft_models::Mlp;

use crate::testing::{Problem, config};
use crate::train_config::TrainConfig;
use crate::trainer::Trainer;

const STEPS: u64 = 10;

type Run = Trainer<Adapted<Mlp>>;

fn settings() -> TrainConfig {
    TrainConfig {
        steps: STEPS,
        ..config()
    }
}

fn train(trainer: &mut Run, problem: &Problem, steps: u64) {
    let mut batcher = problem.batcher();
    for _ in 0..steps {
        let rows = batcher.batch(trainer.steps_done()).to_vec();
        trainer
            .step(|model, mode| problem.loss(model, &rows, mode))
            .unwrap();
    }
}

/// Rank by layer.
fn ranks(trainer: &Run) -> BTreeMap<String, usize> {
    let structure = trainer.model().clone().structure("test").unwrap();
    let rank = |report: Vec<(&str, f64)>| report[0].1 as usize;
    structure
        .into_iter()
        .map(|(path, report)| (path, rank(report)))
        .collect()
}

/// The ranks of all layers together after each step; a run that is interrupted goes on with the
/// same structure and values.
fn totals(method: &AnyMethod) -> Vec<usize> {
    let problem = Problem::new();
    let mut whole = Trainer::new(settings(), problem.adapted_with(method)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("checkpoint.safetensors");
    let mut totals = Vec::new();
    for step in 1..=STEPS {
        train(&mut whole, &problem, 1);
        totals.push(ranks(&whole).values().sum());
        if step == STEPS / 2 {
            whole.save(&path).unwrap();
        }
    }
    let mut resumed = Trainer::resume(settings(), problem.adapted_with(method), &path).unwrap();
    train(&mut resumed, &problem, STEPS - STEPS / 2);
    assert_eq!(ranks(&resumed), ranks(&whole));
    assert_eq!(resumed.trained_values(), whole.trained_values());
    totals
}

#[test]
fn adalora_shrinks_to_its_budget() {
    let config = AdaloraConfig {
        rank: 4,
        target_rank: 2,
        schedule: BudgetSchedule {
            warmup: 2,
            settle: 3,
            ..BudgetSchedule::default()
        },
        ..AdaloraConfig::default()
    };
    let found = totals(&AnyMethod::new(&config).unwrap());
    let layers = found[0] / 4;
    let budget = |step| config.schedule.budget(step, STEPS, 4 * layers, 2 * layers);
    assert_eq!(found, (1..=STEPS).map(budget).collect::<Vec<_>>());
    assert!(layers > 1 && found[9] == 2 * layers);
}

#[test]
fn increlora_grows_to_its_target() {
    for advance in [true, false] {
        let config = IncreloraConfig {
            target_rank: 3,
            max_rank: 6,
            growth: 1,
            top: 1,
            advance,
            schedule: GrowthSchedule {
                warmup: 1,
                interval: 2,
            },
            ..IncreloraConfig::default()
        };
        let found = totals(&AnyMethod::new(&config).unwrap());
        let layers = found[0];
        let expected = (1..=10).map(|step: usize| layers + (step / 2).min(2 * layers));
        assert_eq!(found, expected.collect::<Vec<_>>());
    }
}

#[test]
fn triadaptlora_grows_to_its_target() {
    let config = TriadaptloraConfig {
        target_rank: 3,
        max_growths: 4,
        growth: 1,
        schedule: GrowthSchedule {
            warmup: 0,
            interval: 2,
        },
        ..TriadaptloraConfig::default()
    };
    let found = totals(&AnyMethod::new(&config).unwrap());
    let layers = found[0];
    assert!(found.is_sorted() && found[1] == layers + 1, "{found:?}");
    assert_eq!(*found.last().unwrap(), 3 * layers);
}
