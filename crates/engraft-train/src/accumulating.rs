//! Tests of steps that are computed in parts, and of checkpointed activations.

use burn::tensor::{Device, Tensor};
use engraft_core::{Adapted, AnyMethod, Mode};
use engraft_lowrank::LoraConfig;
use engraft_models::Mlp;

use crate::error::Error;
use crate::loss::Loss;
use crate::testing::{Problem, config};
use crate::train_config::TrainConfig;
use crate::trainer::Trainer;

/// Parameters after a run of 5 steps, in the order of their paths.
fn trained(config: TrainConfig, problem: &Problem) -> (Vec<f32>, Vec<f64>) {
    let method = AnyMethod::new(&LoraConfig {
        rank: 4,
        ..LoraConfig::default()
    })
    .unwrap();
    let mut trainer = Trainer::new(config, problem.adapted_with(&method)).unwrap();
    let mut batcher = problem.batcher();
    let loss = |m: &Adapted<Mlp>, rows: &[usize], mode: Mode| problem.loss(m, rows, mode);
    trainer
        .run(&mut batcher, loss, |_| 0.0, |_| Ok(()))
        .unwrap();
    let values = trainer
        .trained_values()
        .into_values()
        .flat_map(|data| data.try_to_vec::<f32>().unwrap());
    let losses = trainer.curves().loss.iter().map(|point| point.value);
    (values.collect(), losses.collect())
}

fn near(found: &[f32], expected: &[f32]) -> bool {
    let largest = expected
        .iter()
        .fold(0f32, |max, value| max.max(value.abs()));
    let bound = 64.0 * f32::EPSILON * largest.max(1.0);
    found.len() == expected.len()
        && found
            .iter()
            .zip(expected)
            .all(|(a, b)| (a - b).abs() <= bound)
}

#[test]
fn parts_make_the_update_of_the_whole_batch() {
    let problem = Problem::new();
    // Of SGD, whose update is linear in the gradient: AdamW's first one is its sign.
    let sgd = crate::OptimizerConfig::Sgd(crate::Sgd::default());
    let run = |accumulate| {
        let config = TrainConfig {
            steps: 5,
            loss_every: 1,
            optimizer: sgd,
            clip: Some(0.5),
            accumulate,
            ..config()
        };
        trained(config, &problem)
    };
    let (whole, losses) = run(1);
    // 8 rows in parts of 4 and 4, of 3, 3 and 2, and of 1 each.
    for accumulate in [2, 3, 8, 20] {
        let (parts, found) = run(accumulate);
        assert!(
            near(&parts, &whole),
            "{accumulate}: {parts:?} instead of {whole:?}"
        );
        let differ = losses
            .iter()
            .zip(&found)
            .any(|(a, b)| (a - b).abs() > 1e-6 * a.abs());
        assert!(!differ, "{accumulate}: {found:?} instead of {losses:?}");
    }
}

#[test]
fn parts_count_by_their_weight_and_a_failed_one_leaves_the_model() {
    let problem = Problem::new();
    let make = || {
        Trainer::new(
            TrainConfig {
                clip: None,
                loss_every: 1,
                ..config()
            },
            problem.adapted(),
        )
        .unwrap()
    };
    let eval = |m: &Adapted<Mlp>, rows: &[usize]| problem.loss(m, rows, Mode::Eval);
    let mut whole = make();
    whole.step(|m, _| eval(m, &[0, 1, 2])).unwrap();
    let mut parts = make();
    // A part without weight, of whatever loss, changes nothing.
    let rows: [(&[usize], f64); 3] = [(&[0, 1], 2.0), (&[5], 0.0), (&[2], 1.0)];
    parts
        .step_in_parts(3, |m, part, _| {
            Ok(Loss {
                mean: eval(m, rows[part].0),
                weight: rows[part].1,
            })
        })
        .unwrap();
    let value = |trainer: &Trainer<Adapted<Mlp>>| trainer.curves().loss[0].value;
    assert!((value(&parts) - value(&whole)).abs() < 1e-6 * value(&whole));

    let before = parts.trained_values();
    let failed = parts.step_in_parts(2, |m, part, _| match part {
        0 => Ok(Loss {
            mean: eval(m, &[0]),
            weight: 1.0,
        }),
        _ => Err(Error::BadConfig {
            what: "part",
            reason: "found nothing".to_owned(),
        }),
    });
    assert!(failed.is_err());
    assert_eq!((parts.trained_values(), parts.steps_done()), (before, 1));
    parts
        .step(|m, _| Ok::<Tensor<1>, Error>(eval(m, &[0])))
        .unwrap();
    assert_eq!(parts.steps_done(), 2);
}

#[test]
fn checkpointed_activations_give_the_same_run() {
    let config = TrainConfig {
        steps: 5,
        ..config()
    };
    let plain = trained(config.clone(), &Problem::new());
    let device = crate::recomputing(&Device::default());
    let checkpointed = trained(config, &Problem::on(&device));
    assert_eq!(plain, checkpointed);
}
