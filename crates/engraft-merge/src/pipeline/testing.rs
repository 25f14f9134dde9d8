//! Updates to test with.

use engraft_linalg::gaussian;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Pipeline, Survey, Task};
use crate::update::{Dense, Factors, Sparse, Update};

/// L R.
pub(super) fn low_rank(rows: usize, columns: usize, rank: usize, seed: u64) -> Update {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let left = gaussian(rows, rank, &mut rng);
    Update::low_rank(Factors::new(left, gaussian(rank, columns, &mut rng)).unwrap())
}

/// D.
pub(super) fn dense(rows: usize, columns: usize, seed: u64) -> Update {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let numbers = gaussian(rows, columns, &mut rng).to_f32();
    Update::dense(Dense::new(rows, columns, numbers).unwrap())
}

/// Some of the parts that an update can have, at least one, and maybe a bias.
pub(super) fn update(rows: usize, columns: usize, seed: u64) -> Update {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let parts = rng.random_range(1u32..16);
    let has = |part: u32| parts & 1 << part != 0;
    let mut update = Update::zero(rows, columns);
    if has(0) {
        update.low_rank = low_rank(rows, columns, 2, rng.next_u64()).low_rank;
    }
    if has(1) {
        let places = (rows * columns) as u64;
        let entries = (0..places / 3).map(|_| (rng.random_range(0..places), 1.5));
        update.sparse = Some(Sparse::new(entries.collect()));
    }
    if has(2) {
        update.dense = dense(rows, columns, rng.next_u64()).dense;
    }
    if has(3) {
        update.rows = Some(gaussian(1, rows, &mut rng).into_vec());
        update.columns = Some(gaussian(1, columns, &mut rng).into_vec());
    }
    if rng.random() {
        update.bias = Some(gaussian(1, rows, &mut rng).into_vec());
    }
    update
}

/// Tasks named 0, 1, ... with weights and a base.
pub(super) fn merged(
    pipeline: &Pipeline,
    updates: &[Update],
    weights: &[f64],
    base: &[f32],
) -> crate::Result<Update> {
    let names: Vec<String> = (0..updates.len()).map(|at| at.to_string()).collect();
    let tasks = updates.iter().zip(weights).zip(&names);
    let tasks: Vec<Task> = tasks
        .map(|((update, weight), name)| Task {
            base: Some(base),
            ..Task::new(name, *weight, update)
        })
        .collect();
    pipeline.merge("m", &tasks, &Survey::default())
}

/// A method with options.
pub(super) fn method(name: &str, options: serde_json::Value) -> Pipeline {
    let options = options.as_object().cloned().unwrap_or_default();
    Pipeline::named(name, &options).unwrap()
}

/// Equal to a fraction of the largest number.
#[track_caller]
pub(super) fn close(found: &[f32], expected: &[f32], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
    let bound = tolerance * f64::from(largest.max(1e-3));
    for (at, (a, b)) in found.iter().zip(expected).enumerate() {
        let difference = (f64::from(*a) - f64::from(*b)).abs();
        assert!(
            difference <= bound,
            "{at}: {a} and {b} differ by more than {bound:e}"
        );
    }
}
