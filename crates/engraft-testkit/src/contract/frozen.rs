//! Five steps of AdamW with weight decay: what is frozen stays bit by bit, what is trained moves.

use super::case::{Case, parameters};
use super::{Outcome, ensure};

pub(super) fn check(case: &Case) -> Outcome {
    let trained: Vec<String> = case
        .moved
        .trainable()
        .into_iter()
        .map(|found| found.path)
        .collect();
    let before = parameters(&case.moved);
    let after = parameters(&case.train(case.moved.clone(), 5));
    ensure(before.keys().eq(after.keys()), || {
        "training changed which parameters there are".to_owned()
    })?;
    for (path, data) in &before {
        let same = data.as_bytes() == after[path].as_bytes();
        match trained.contains(path) {
            true => ensure(!same || data.num_elements() == 0, || {
                format!("{path} is trained, but did not move")
            })?,
            false => ensure(same, || format!("{path} is frozen, but moved"))?,
        }
    }
    Ok(())
}
