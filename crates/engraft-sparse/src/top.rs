//! The largest of many scores.

use std::cmp::Ordering;

/// The positions of the `count` largest scores, the largest first; of equal ones the first. NaN
/// counts as the smallest. O(n + count log count).
pub(crate) fn top(scores: &[f64], count: usize) -> Vec<usize> {
    best(scores, count, |a, b| b.total_cmp(&a))
}

/// The positions of the `count` smallest scores, the smallest first; of equal ones the first.
pub(crate) fn bottom(scores: &[f64], count: usize) -> Vec<usize> {
    best(scores, count, |a, b| a.total_cmp(&b))
}

fn best(scores: &[f64], count: usize, order: fn(f64, f64) -> Ordering) -> Vec<usize> {
    let by = |&a: &usize, &b: &usize| order(scores[a], scores[b]).then(a.cmp(&b));
    let mut places: Vec<usize> = (0..scores.len()).collect();
    if count < places.len() && count > 0 {
        places.select_nth_unstable_by(count - 1, by);
    }
    places.truncate(count);
    places.sort_unstable_by(by);
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_taken_in_order_and_ties_by_position() {
        let scores = [1.0, 3.0, 2.0, 3.0, 0.0, 1.0];
        assert_eq!(top(&scores, 3), [1, 3, 2]);
        assert_eq!(top(&scores, 1), [1]);
        assert_eq!(bottom(&scores, 2), [4, 0]);
        assert_eq!(top(&scores, 6), [1, 3, 2, 0, 5, 4]);
        assert!(top(&scores, 0).is_empty());
        assert_eq!(bottom(&scores, 9).len(), 6);
    }
}
