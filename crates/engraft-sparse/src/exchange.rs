//! Dropping small entries of a sparse update and growing others in their place.

use std::collections::BTreeSet;

use crate::top::{bottom, top};

/// The entries that move, each with its new place: the `count` entries of smallest |value| are
/// dropped, and the best `count` of the offered places that no remaining entry holds are grown. A
/// place that is both dropped and grown keeps its entry.
pub(crate) fn exchange(
    values: &[f64],
    positions: &[usize],
    count: usize,
    offered: &[usize],
    scores: &[f64],
) -> Vec<(usize, usize)> {
    let sizes: Vec<f64> = values.iter().map(|value| value.abs()).collect();
    let dropped = bottom(&sizes, count);
    let leaving: BTreeSet<usize> = dropped.iter().map(|&entry| positions[entry]).collect();
    let held: BTreeSet<usize> = positions.iter().copied().collect();
    let (free, rated): (Vec<usize>, Vec<f64>) = offered
        .iter()
        .zip(scores)
        .filter(|(place, _)| !held.contains(place) || leaving.contains(place))
        .unzip();
    let grown: Vec<usize> = top(&rated, dropped.len())
        .into_iter()
        .map(|k| free[k])
        .collect();
    let going = dropped
        .into_iter()
        .filter(|&entry| !grown.contains(&positions[entry]));
    let coming = grown
        .iter()
        .copied()
        .filter(|place| !leaving.contains(place));
    going.zip(coming).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_entries_move_to_the_best_free_places() {
        let values = [0.5, -0.1, 0.2, 3.0];
        let positions = [10, 11, 12, 13];
        // 13 is held by a remaining entry, 12 is dropped and grown again.
        let changes = exchange(
            &values,
            &positions,
            2,
            &[13, 12, 20, 21],
            &[9.0, 8.0, 7.0, 1.0],
        );
        assert_eq!(changes, [(1, 20)]);
        let none = exchange(&values, &positions, 0, &[20], &[1.0]);
        assert!(none.is_empty());
        // Fewer offers than dropped entries: the rest stays.
        assert_eq!(exchange(&values, &positions, 3, &[30], &[1.0]), [(1, 30)]);
    }
}
