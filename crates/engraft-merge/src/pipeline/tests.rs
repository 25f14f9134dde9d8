//! Properties that hold for all methods, or for all of a kind.

use proptest::prelude::*;
use serde_json::json;

use super::testing::{close, dense, low_rank, merged, method, update};
use super::*;
use crate::update::Factors;

const ROWS: usize = 6;
const COLUMNS: usize = 5;

fn base(seed: u64) -> Vec<f32> {
    dense(ROWS, COLUMNS, seed).dense.unwrap().data
}

fn updates(count: u64, seed: u64) -> Vec<Update> {
    (0..count)
        .map(|at| update(ROWS, COLUMNS, seed ^ (at + 1)))
        .collect()
}

/// Methods for any number of tasks that want no statistics.
const ANY: [&str; 12] = [
    "linear",
    "task-arithmetic",
    "average",
    "magnitude-prune",
    "ties",
    "ties-count",
    "dare-linear",
    "dare-ties",
    "della",
    "breadcrumbs",
    "breadcrumbs-ties",
    "model-stock",
];

proptest! {
    #[test]
    fn sums_are_exact_and_linear(seed: u64, weights in prop::collection::vec(-2.0..2.0, 3)) {
        let (updates, base) = (updates(3, seed), base(seed));
        let found = merged(&method("linear", json!({})), &updates, &weights, &base).unwrap();
        let mut expected = vec![0.0f64; ROWS * COLUMNS];
        for (update, weight) in updates.iter().zip(&weights) {
            let dense = update.to_dense(Some(&base)).unwrap();
            expected.iter_mut().zip(dense.data).for_each(|(sum, x)| *sum += weight * f64::from(x));
        }
        let expected: Vec<f32> = expected.into_iter().map(|x| x as f32).collect();
        close(&found.to_dense(Some(&base)).unwrap().data, &expected, 1e-5);
        let scaled: Vec<f64> = weights.iter().map(|w| 3.0 * w).collect();
        let thrice = merged(&method("linear", json!({})), &updates, &scaled, &base).unwrap();
        close(&thrice.to_dense(Some(&base)).unwrap().data, &found.scaled(3.0).to_dense(Some(&base)).unwrap().data, 1e-5);
        let lambda = merged(&method("task-arithmetic", json!({"lambda": 3.0})), &updates, &weights, &base).unwrap();
        prop_assert_eq!(lambda, found.scaled(3.0));
    }

    #[test]
    fn the_order_of_tasks_does_not_matter(seed: u64, which in 0..ANY.len(), weights in prop::collection::vec(0.1..2.0, 3)) {
        let (updates, base) = (updates(3, seed), base(seed));
        let names = ["a", "b", "c"];
        let merge = |order: [usize; 3]| {
            let tasks = order.map(|at| Task { base: Some(&base), ..Task::new(names[at], weights[at], &updates[at]) });
            let options = json!({"density": 0.5});
            let options = options.as_object().cloned().unwrap();
            let pipeline = Pipeline::named(ANY[which], &options).unwrap_or_else(|_| method(ANY[which], json!({})));
            pipeline.merge("m", &tasks, &Survey::default()).unwrap()
        };
        let (one, other) = (merge([0, 1, 2]), merge([2, 0, 1]));
        close(&one.to_dense(Some(&base)).unwrap().data, &other.to_dense(Some(&base)).unwrap().data, 1e-5);
        let single = |update: Update| update.bias.unwrap_or_default().into_iter().map(|x| x as f32).collect::<Vec<_>>();
        close(&single(one), &single(other), 1e-5);
    }

    #[test]
    fn an_update_with_its_negation_is_nothing(seed: u64, subtract: bool) {
        let base = base(seed);
        let update = update(ROWS, COLUMNS, seed);
        let scale = update.to_dense(Some(&base)).unwrap().norm();
        for name in ANY.iter().chain(["slerp"].iter()).filter(|name| !name.starts_with("d")) {
            // The mean divides by the sum of weights.
            let subtract = subtract && !["average", "model-stock", "slerp"].contains(name);
            let (weights, other) = match subtract {
                true => ([1.0, -1.0], update.clone()),
                false => ([1.0, 1.0], update.scaled(-1.0)),
            };
            let found = merged(&method(name, json!({})), &[update.clone(), other], &weights, &base).unwrap();
            let norm = found.to_dense(Some(&base)).unwrap().norm();
            prop_assert!(norm <= 1e-5 * scale, "{name}: {norm}");
            prop_assert!(found.bias.unwrap_or_default().iter().all(|x| x.abs() < 1e-6), "{name}");
        }
    }

    #[test]
    fn equal_tasks_merge_to_themselves(seed: u64, count in 1usize..5) {
        let base = base(seed);
        let updates = vec![update(ROWS, COLUMNS, seed); count];
        let expected = updates[0].to_dense(Some(&base)).unwrap().data;
        let weights = vec![1.0; count];
        for (name, options) in [
            ("average", json!({})),
            ("ties", json!({"density": 1.0})),
            ("ties-count", json!({"density": 1.0})),
            ("ties", json!({"density": 1.0, "divide": "weights", "votes": "weighted"})),
            ("breadcrumbs-ties", json!({"density": 1.0})),
            ("model-stock", json!({})),
        ] {
            let found = merged(&method(name, options), &updates, &weights, &base).unwrap();
            close(&found.to_dense(Some(&base)).unwrap().data, &expected, 1e-5);
        }
        let thrice = merged(&method("ties", json!({"density": 1, "lambda": 3})), &updates, &weights, &base).unwrap();
        close(&thrice.scaled(1.0 / 3.0).to_dense(Some(&base)).unwrap().data, &expected, 1e-5);
    }

    #[test]
    fn norms_match(seed: u64, weights in prop::collection::vec(0.1..2.0, 3)) {
        let (updates, base) = (updates(3, seed), base(seed));
        let norms = updates.iter().map(|update| update.to_dense(Some(&base)).unwrap().norm());
        let mean = norms.zip(&weights).map(|(norm, weight)| norm * weight).sum::<f64>() / weights.iter().sum::<f64>();
        for name in ["linear", "ties"] {
            let pipeline = method(name, json!({"rescale": ["norm-match"]}));
            let found = merged(&pipeline, &updates, &weights, &base).unwrap();
            let norm = found.to_dense(Some(&base)).unwrap().norm();
            prop_assert!((norm - mean).abs() <= 1e-4 * mean, "{norm} {mean}");
        }
    }
}

#[test]
fn low_rank_stays_low_rank_where_that_is_exact() {
    let updates = [low_rank(ROWS, COLUMNS, 2, 1), low_rank(ROWS, COLUMNS, 3, 2)];
    for name in ["linear", "average", "slerp", "model-stock"] {
        let found = merged(&method(name, json!({})), &updates, &[1.0, 1.0], &[]).unwrap();
        assert_eq!(found.low_rank.map(|part| part.rank()), Some(5));
        assert!(found.dense.is_none());
    }
    let one = merged(&method("linear", json!({})), &updates, &[1.0, 0.0], &[]).unwrap();
    assert_eq!(one.low_rank.map(|part| part.rank()), Some(2));
    let kept = method("dare-linear", json!({"density": 1.0}));
    let found = merged(&kept, &updates, &[1.0, 1.0], &[]).unwrap();
    assert_eq!(found.low_rank.map(|part| part.rank()), Some(5));
    let trimmed = merged(
        &method("magnitude-prune", json!({"density": 0.1})),
        &updates,
        &[1.0, 1.0],
        &[],
    )
    .unwrap();
    assert!(trimmed.sparse.is_some_and(|part| part.len() <= 6));
}

#[test]
fn scalings_add_up_without_a_base_and_say_that_others_need_it() {
    let scaling = |x: f64| Update {
        shape: [Some(2), None],
        rows: Some(vec![x, 2.0 * x]),
        bias_scale: Some(vec![x, x]),
        ..Update::default()
    };
    let updates = [scaling(1.0), scaling(3.0)];
    let names = ["first", "second"];
    let tasks = |at: usize| Task::new(names[at], 1.0, &updates[at]);
    let merge =
        |name, tasks: &[Task]| method(name, json!({})).merge("m", tasks, &Survey::default());
    assert_eq!(
        merge("average", &[tasks(0), tasks(1)]).unwrap(),
        scaling(2.0)
    );
    let error = merge("ties", &[tasks(0), tasks(1)])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`first`, module `m`") && error.contains("give `base`"),
        "{error}"
    );
    let (base, bias) = ([1.0, 2.0, 3.0, 4.0], [1.0, -1.0]);
    let based = |at| Task {
        base: Some(&base),
        base_bias: Some(&bias),
        ..tasks(at)
    };
    let pipeline = method("ties", json!({"density": 1.0}));
    let found = pipeline
        .merge("m", &[based(0), based(1)], &Survey::default())
        .unwrap();
    assert_eq!(found.to_dense(None).unwrap().data, [2.0, 4.0, 12.0, 16.0]);
    assert_eq!(found.bias, Some(vec![2.0, -2.0]));
}

#[test]
fn biases_alone_are_merged() {
    let update = |bias: Vec<f64>| Update {
        bias: Some(bias),
        ..Update::default()
    };
    let updates = [update(vec![1.0, -2.0, 0.5]), update(vec![3.0, 4.0, 0.0])];
    for (name, expected) in [
        ("linear", [4.0, 2.0, 0.5]),
        ("ties", [2.0, 4.0, 0.5]),
        ("average", [2.0, 1.0, 0.25]),
    ] {
        let pipeline = match name {
            "ties" => method(name, json!({"density": 1})),
            _ => method(name, json!({})),
        };
        let found = merged(&pipeline, &updates, &[1.0, 1.0], &[]).unwrap();
        assert_eq!(found.bias, Some(expected.to_vec()), "{name}");
    }
    let error = merged(
        &method("ties", json!({})),
        &[updates[0].clone(), update(vec![1.0])],
        &[1.0, 1.0],
        &[],
    );
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("adapter `1`, module `m`: a bias of 1 numbers, expected 3")
    );
}

#[test]
fn what_cannot_be_merged_is_refused_with_adapter_and_module() {
    let update = low_rank(3, 4, 1, 1);
    let error = |pipeline: &Pipeline, updates: &[Update], weights: &[f64]| {
        merged(pipeline, updates, weights, &[])
            .unwrap_err()
            .to_string()
    };
    let two = [update.clone(), update.clone()];
    let (linear, ties) = (method("linear", json!({})), method("ties", json!({})));
    assert!(error(&linear, &two, &[1.0, f64::NAN]).contains("adapter `1`: its weight is NaN"));
    assert!(error(&linear, &[], &[]).contains("no tasks"));
    let other = [update.clone(), low_rank(3, 5, 1, 1)];
    for pipeline in [&linear, &ties] {
        let message = error(pipeline, &other, &[1.0, 1.0]);
        assert!(
            message.contains("adapter `1`, module `m`: updates of weights of shapes 3x4 and 3x5"),
            "{message}"
        );
    }
    let infinite = Factors::new(
        update.low_rank.as_ref().unwrap().left.scale(f64::INFINITY),
        update.low_rank.as_ref().unwrap().right.clone(),
    );
    let infinite = [update.clone(), Update::low_rank(infinite.unwrap())];
    assert!(
        error(&linear, &infinite, &[1.0, 1.0])
            .contains("adapter `1`, module `m`: its update holds NaN")
    );
    assert!(error(&method("average", json!({})), &two, &[1.0, -1.0]).contains("use `sum`"));
    assert!(error(&method("slerp", json!({})), &two[..1], &[1.0]).contains("found 1"));
    for (name, wants) in [("fisher", "Fisher information"), ("regmean", "Gram matrix")] {
        let message = error(&method(name, json!({})), &two, &[1.0, 1.0]);
        assert!(
            message.contains("adapter `0`") && message.contains(wants),
            "{message}"
        );
    }
    let tasks = [Task::new("a", 1.0, &update), Task::new("a", 1.0, &update)];
    let twice = linear
        .merge("m", &tasks, &Survey::default())
        .unwrap_err()
        .to_string();
    assert!(twice.contains("adapter `a`: it is given twice"));
}

#[test]
fn no_number_of_threads_changes_a_merge() {
    let updates: Vec<Update> = (0..2).map(|seed| low_rank(2100, 1000, 3, seed)).collect();
    let in_pool = |threads: usize, name: &str| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            merged(
                &method(name, json!({"rescale": ["norm-match"]})),
                &updates,
                &[1.0, 0.5],
                &[],
            )
            .unwrap()
        })
    };
    for name in ["ties", "dare-ties", "della"] {
        assert_eq!(in_pool(1, name), in_pool(3, name));
    }
}
