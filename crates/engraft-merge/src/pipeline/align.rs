//! Steps that bring the updates of all tasks into one basis.

use std::borrow::Cow;

use engraft_linalg::Matrix;
use serde::{Deserialize, Serialize};

use super::prepare::Prepared;
use crate::error::Result;
use crate::spectral::{Aligned, knots};
use crate::update::{Dense, Factors, Update};

/// A basis that is found for all tasks together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Align {
    /// KnOTS: that of [`knots`], of the updates side by side. The steps that follow and the consensus work on
    /// the coordinates S V_i^T, and the merge is U times theirs.
    Knots,
}

/// The coordinates of the tasks, which take the place of their updates, and the basis that brings the merge
/// back: `[out, k]`.
pub fn align(align: Align, updates: &[&Update]) -> Result<(Matrix, Vec<Update>)> {
    match align {
        Align::Knots => {
            let Aligned { basis, tasks, .. } = knots(updates, None)?;
            let coordinates = tasks.iter().map(|task| {
                let (rows, columns) = task.shape();
                Dense::new(rows, columns, task.to_f32()).map(Update::dense)
            });
            Ok((basis, coordinates.collect::<Result<_>>()?))
        }
    }
}

/// The tasks in their coordinates, and the basis.
pub(super) fn aligned<'a>(
    step: Align,
    tasks: Vec<Prepared<'a>>,
) -> Result<(Matrix, Vec<Prepared<'a>>)> {
    let updates: Vec<Cow<Update>> = tasks.iter().map(Prepared::whole).collect::<Result<_>>()?;
    let updates: Vec<&Update> = updates.iter().map(AsRef::as_ref).collect();
    let (basis, coordinates) = align(step, &updates)?;
    let moved = tasks.iter().zip(coordinates);
    let moved = moved.map(|(task, coordinates)| task.moved(coordinates));
    Ok((basis, moved.collect::<Result<_>>()?))
}

/// U M for a merge M of coordinates.
pub(super) fn restored(basis: &Matrix, merged: &Update) -> Result<Update> {
    let factors = match &merged.low_rank {
        Some(factors) if merged.is_low_rank() => {
            Factors::new(basis.matmul(&factors.left)?, factors.right.clone())?
        }
        _ => Factors::new(basis.clone(), merged.to_dense(None)?.to_matrix()?)?,
    };
    Ok(Update::low_rank(factors))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use crate::pipeline::testing::{close, low_rank, merged, method, update};
    use crate::spectral::{iso_c, iso_cts, knots, tsv};
    use crate::update::{Dense, Update};

    fn whole(update: &Update, base: &[f32]) -> Vec<f32> {
        update.to_dense(Some(base)).unwrap().data
    }

    proptest! {
        #[test]
        fn adding_up_in_a_basis_is_adding_up(seed: u64, weights in prop::collection::vec(-2.0..2.0, 3)) {
            let base: Vec<f32> = (0..30).map(|x| (x as f32).cos()).collect();
            let updates: Vec<Update> = (0..3).map(|at| update(5, 6, seed ^ at)).collect();
            let merge = |name| merged(&method(name, json!({})), &updates, &weights, &base).unwrap();
            let (knots, linear) = (merge("knots-linear"), merge("linear"));
            close(&whole(&knots, &base), &whole(&linear, &base), 1e-4);
            let bias = |update: Update| update.bias.unwrap_or_default().iter().map(|x| *x as f32).collect::<Vec<_>>();
            close(&bias(knots), &bias(linear), 1e-5);
        }

        #[test]
        fn elections_are_among_coordinates(seed: u64) {
            let updates = [0, 1, 2].map(|at| low_rank(8, 7, 2, seed ^ at));
            let found = merged(&method("knots-ties", json!({"density": 0.5})), &updates, &[1.0; 3], &[]).unwrap();
            let aligned = knots(&[&updates[0], &updates[1], &updates[2]], None).unwrap();
            let coordinates: Vec<Update> = aligned.tasks.iter().map(|task| {
                Update::dense(Dense::new(task.rows(), task.cols(), task.to_f32()).unwrap())
            }).collect();
            let elected = merged(&method("ties", json!({"density": 0.5})), &coordinates, &[1.0; 3], &[]).unwrap();
            let elected = elected.to_dense(None).unwrap().to_matrix().unwrap();
            let expected = aligned.basis.matmul(&elected).unwrap().to_f32();
            close(&whole(&found, &[]), &expected, 1e-5);
            prop_assert!(found.is_low_rank());
        }

        #[test]
        fn spectral_merges_are_rows_of_the_table(seed: u64) {
            let updates = [0, 1, 2].map(|at| Update { bias: Some(vec![at as f64; 8]), ..low_rank(8, 7, 2, seed ^ at) });
            let tasks: Vec<&Update> = updates.iter().collect();
            for (name, expected) in [
                ("tsv", tsv(&tasks, Default::default(), None).unwrap()),
                ("iso-c", iso_c(&tasks, None).unwrap()),
                ("iso-cts", iso_cts(&tasks, 0.8, None).unwrap()),
            ] {
                let found = merged(&method(name, json!({})), &updates, &[1.0; 3], &[]).unwrap();
                close(&whole(&found, &[]), &whole(&expected, &[]), 1e-5);
                prop_assert!(found.is_low_rank());
                prop_assert_eq!(found.bias, expected.bias, "{}", name);
            }
        }
    }

    #[test]
    fn bases_stack_and_trimmed_updates_align() {
        let updates = [low_rank(6, 7, 2, 1), low_rank(6, 7, 2, 2)];
        let pipeline = |prepare: &str| toml::from_str(&format!("prepare = [{prepare}]")).unwrap();
        let linear = merged(&pipeline(""), &updates, &[1.0, 2.0], &[]).unwrap();
        let twice = merged(
            &pipeline("{align = \"knots\"}, {align = \"knots\"}"),
            &updates,
            &[1.0, 2.0],
            &[],
        );
        close(&whole(&twice.unwrap(), &[]), &whole(&linear, &[]), 1e-5);
        let trim = "{magnitude = {density = 0.3}}";
        let trimmed = merged(&pipeline(trim), &updates, &[1.0, 2.0], &[]).unwrap();
        let aligned = merged(
            &pipeline(&format!("{trim}, {{align = \"knots\"}}")),
            &updates,
            &[1.0, 2.0],
            &[],
        );
        close(&whole(&aligned.unwrap(), &[]), &whole(&trimmed, &[]), 1e-5);
    }
}
