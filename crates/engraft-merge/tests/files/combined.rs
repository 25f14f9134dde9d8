//! Combinations of updates, on the adapters of PEFT's `add_weighted_adapter`.

use engraft_linalg::Matrix;
use engraft_merge::adapter::Adapter;
use engraft_merge::update::Update;
use tempfile::TempDir;

use crate::case::{Case, index};

/// The adapters of a case in directories, with their weights.
fn adapters(case: &Case) -> (TempDir, Vec<(Adapter, f64)>) {
    let root = tempfile::tempdir().unwrap();
    let names = case.json["adapters"].as_array().unwrap();
    let weights = case.json["weights"].as_array().unwrap();
    let opened = names.iter().zip(weights).map(|(name, weight)| {
        let name = name.as_str().unwrap();
        let at = root.path().join(name);
        case.adapter(
            &at,
            &format!("adapter.{name}."),
            &case.json["adapter_config"][name],
        );
        (Adapter::open(name, &at).unwrap(), weight.as_f64().unwrap())
    });
    let opened = opened.collect();
    (root, opened)
}

/// The exact mode on the same adapters: the sum in factored form against the sum of dense products,
/// relative error in the Frobenius norm at most 1e-6.
#[test]
fn exact_sums_are_the_dense_sums() {
    for entry in index().iter().filter(|entry| entry["kind"] == "weighted") {
        let case = Case::read(entry);
        let (_root, adapters) = adapters(&case);
        let modules: std::collections::BTreeSet<_> = adapters
            .iter()
            .flat_map(|(a, _)| a.modules().keys())
            .collect();
        for module in modules {
            let present = adapters
                .iter()
                .filter(|(a, _)| a.modules().contains_key(module));
            let updates: Vec<(f64, Update)> = present
                .map(|(adapter, weight)| (*weight, adapter.update(module, None).unwrap()))
                .collect();
            let merged = Update::combination(updates.iter().map(|(w, u)| (*w, u))).unwrap();
            let Some(factors) = &merged.low_rank else {
                assert!(merged.needs_base(), "IA3's changes add up as vectors");
                continue;
            };
            assert!(merged.is_low_rank());
            let found = merged.to_dense(None).unwrap().to_matrix().unwrap();
            let mut dense = Matrix::zeros(factors.left.rows(), factors.right.cols());
            for (weight, update) in &updates {
                let part = update.low_rank.as_ref().unwrap().product().unwrap();
                dense = dense.add(&part.scale(*weight)).unwrap();
            }
            let error = found.sub(&dense).unwrap().frobenius_norm() / dense.frobenius_norm();
            assert!(error <= 1e-6, "{}: {module}: {error}", case.id);
        }
    }
}
