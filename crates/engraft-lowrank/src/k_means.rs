//! Clusters of the rows of a matrix.

use engraft_linalg::Matrix;
use rand::Rng;
use rand::seq::index::sample;

/// Steps of Lloyd's algorithm.
const STEPS: usize = 10;

/// The rows in each of `count` clusters of at least `smallest` rows, by Lloyd's algorithm from
/// randomly chosen rows; clusters that end up smaller are filled with the nearest rows of larger
/// ones. `count * smallest` is at most the number of rows.
pub(crate) fn clusters(
    points: &Matrix,
    count: usize,
    smallest: usize,
    rng: &mut impl Rng,
) -> Vec<Vec<usize>> {
    let mut chosen = sample(rng, points.rows(), count).into_vec();
    chosen.sort_unstable();
    let mut centres = Matrix::from_fn(count, points.cols(), |i, j| points.get(chosen[i], j));
    let mut owner = vec![0; points.rows()];
    for _ in 0..STEPS {
        for (row, owner) in owner.iter_mut().enumerate() {
            *owner = nearest(&centres, points.row(row));
        }
        for cluster in 0..count {
            move_to_mean(&mut centres, points, &owner, cluster);
        }
    }
    loop {
        let size = |cluster| owner.iter().filter(|owner| **owner == cluster).count();
        let Some(small) = (0..count).find(|cluster| size(*cluster) < smallest) else {
            break;
        };
        let movable = |row: &usize| size(owner[*row]) > smallest;
        let by_distance = |a: &usize, b: &usize| {
            let distance = |row: &usize| squared(centres.row(small), points.row(*row));
            distance(a).total_cmp(&distance(b))
        };
        let Some(row) = (0..points.rows()).filter(movable).min_by(by_distance) else {
            break;
        };
        owner[row] = small;
    }
    let rows_of = |cluster| {
        (0..owner.len())
            .filter(|row| owner[*row] == cluster)
            .collect()
    };
    (0..count).map(rows_of).collect()
}

fn move_to_mean(centres: &mut Matrix, points: &Matrix, owner: &[usize], cluster: usize) {
    let own: Vec<usize> = (0..owner.len())
        .filter(|row| owner[*row] == cluster)
        .collect();
    if own.is_empty() {
        return;
    }
    for (j, centre) in centres.row_mut(cluster).iter_mut().enumerate() {
        *centre = own.iter().map(|row| points.get(*row, j)).sum::<f64>() / own.len() as f64;
    }
}

fn nearest(centres: &Matrix, point: &[f64]) -> usize {
    (0..centres.rows())
        .min_by(|a, b| squared(centres.row(*a), point).total_cmp(&squared(centres.row(*b), point)))
        .unwrap_or(0)
}

fn squared(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use engraft_tensor::Key;

    use super::*;

    #[test]
    fn separate_heaps_are_found() {
        let heap = |i: usize| [0.0, 10.0, 20.0][i % 3];
        let points = Matrix::from_fn(12, 2, |i, j| heap(i) + 0.01 * (i * 2 + j) as f64);
        // Lloyd's algorithm finds a local optimum: some start finds the heaps.
        let found = (0..5).any(|seed| {
            let all = clusters(&points, 3, 1, &mut Key::new(seed).rng());
            all.iter()
                .all(|rows| rows.len() == 4 && rows.iter().all(|row| row % 3 == rows[0] % 3))
        });
        assert!(found);
    }

    #[test]
    fn no_cluster_is_too_small() {
        let points = Matrix::from_fn(7, 1, |i, _| if i == 0 { 100.0 } else { 0.0 });
        let all = clusters(&points, 3, 2, &mut Key::new(1).rng());
        let mut sizes: Vec<usize> = all.iter().map(Vec::len).collect();
        sizes.sort_unstable();
        assert_eq!(sizes.iter().sum::<usize>(), 7);
        assert!(sizes[0] >= 2);
    }
}
