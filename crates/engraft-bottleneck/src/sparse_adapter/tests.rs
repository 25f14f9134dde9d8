//! Tests of SparseAdapter.

use engraft_core::{Bank, Calibration, FrozenBase, Statistics};

use super::*;
use crate::testing::{apart, at_sublayer, draw, entries, init, site};

fn config(pruner: Pruner) -> SparseAdapterConfig {
    SparseAdapterConfig {
        width: 4,
        pruner,
        ..SparseAdapterConfig::default()
    }
}

fn places(adapter: &SparseAdapter) -> Vec<usize> {
    let data = adapter.places().to_data().convert::<i64>();
    let places: Vec<i64> = data.try_to_vec().unwrap();
    places.into_iter().map(|place| place as usize).collect()
}

#[test]
fn every_pruner_keeps_the_stated_number_and_the_rest_is_zero() {
    for pruner in [Pruner::Magnitude, Pruner::Random, Pruner::ErdosRenyi] {
        let adapter = init(&config(pruner), 7);
        // A fifth of 56, rounded.
        assert_eq!(places(&adapter).len(), 11);
        assert!(places(&adapter).windows(2).all(|pair| pair[0] < pair[1]));
        let [down, up] = adapter.matrices();
        let filled = |matrix| entries(matrix).iter().filter(|v| **v != 0.0).count();
        assert_eq!(filled(&down) + filled(&up), 11);
        if pruner == Pruner::ErdosRenyi {
            assert_eq!((filled(&down), filled(&up)), (6, 5));
        }
    }
    let all = init(
        &SparseAdapterConfig {
            sparsity: 0.0,
            ..config(Pruner::Magnitude)
        },
        7,
    );
    let [down, up] = all.matrices();
    let mut magnitudes: Vec<f64> = entries(&down).into_iter().chain(entries(&up)).collect();
    magnitudes.sort_by(|a, b| b.abs().total_cmp(&a.abs()));
    let mut kept = entries(&init(&config(Pruner::Magnitude), 7).values.val());
    kept.sort_by(|a, b| b.abs().total_cmp(&a.abs()));
    assert_eq!(kept, magnitudes[..11]);
}

#[test]
fn snip_keeps_what_the_loss_feels_most() {
    let (base, bank) = (FrozenBase::new(draw([2, 2], "base"), None), Bank::default());
    let place = site(3);
    let ctx = InitContext::new(7, &place.path, "default", &base, &bank);
    let error = config(Pruner::Snip).init(&place, &ctx).unwrap_err();
    assert!(error.to_string().contains("calibrate"), "{error}");
    let gradient = draw([1, 24], "gradient").reshape([24]);
    let mut calibration = Calibration::default();
    let mut statistics = Statistics::default();
    statistics.own.insert("values".to_owned(), gradient.clone());
    calibration.insert(&place.path, statistics);
    let ctx = ctx.with_calibration(&calibration);
    let adapter = config(Pruner::Snip).init(&place, &ctx).unwrap();
    let whole = SparseAdapterConfig {
        sparsity: 0.0,
        ..config(Pruner::Snip)
    };
    let first = entries(&whole.init(&place, &ctx).unwrap().values.val());
    let scores: Vec<f64> = first
        .iter()
        .zip(entries(&gradient))
        .map(|(v, g)| (v * g).abs())
        .collect();
    let kept = places(&adapter);
    assert_eq!(kept.len(), 5);
    let least = kept
        .iter()
        .map(|&place| scores[place])
        .fold(f64::MAX, f64::min);
    let beaten = (0..24).filter(|place| !kept.contains(place));
    assert!(beaten.into_iter().all(|place| scores[place] <= least));
}

#[test]
fn it_is_the_masked_bottleneck() {
    let adapter = init(&config(Pruner::Random), 5);
    let [stream, input, output] = ["s", "i", "o"].map(|role| draw([3, 5], role));
    let [down, up] = adapter.matrices();
    let expected = output.clone() + output.clone().matmul(down).clamp_min(0.0).matmul(up);
    let found = at_sublayer(&adapter, [&stream, &input, &output]);
    assert!(apart(&found, &expected) < 1e-14);
}

#[test]
fn large_sparse_keeps_as_many_as_the_dense_bottleneck_has() {
    let large = SparseAdapterConfig {
        width: 256,
        dense_width: Some(64),
        pruner: Pruner::Random,
        bias: false,
        ..SparseAdapterConfig::default()
    };
    let counts = large.count(&site(768));
    assert_eq!(counts.trainable, 2 * 768 * 64);
    assert_eq!(counts.stored, counts.trainable);
    let snip = SparseAdapterConfig {
        pruner: Pruner::Snip,
        ..large
    };
    assert_eq!(snip.count(&site(768)).stored, 2 * counts.trainable);
}
