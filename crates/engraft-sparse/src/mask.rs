//! Which entries of a weight are trained.

use engraft_tensor::Key;
use rand::seq::{SliceRandom, index};
use serde::{Deserialize, Serialize};

use crate::top::top;

/// How the trained entries of a weight are chosen. Every mask has exactly the number of entries
/// that was asked for, so that counts follow from shapes alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mask {
    /// Uniformly at random without replacement (SHiRA-Rand).
    #[default]
    Random,
    /// The entries of largest magnitude (SHiRA-WM); of equal ones the first.
    WeightMagnitude,
    /// The main diagonal, which gives the update a high rank, then whole rows and columns in
    /// random order; the last one is cut where the entries run out (SHiRA-Struct).
    Structured,
}

impl Mask {
    /// `count` distinct positions i d_out + j in a row-major weight [d_in, d_out], ascending;
    /// `count` is at most d_in d_out.
    pub fn positions(self, weight: &[f64], d_out: usize, count: usize, key: &Key) -> Vec<usize> {
        let mut chosen = match self {
            Self::Random => index::sample(&mut key.rng(), weight.len(), count).into_vec(),
            Self::WeightMagnitude => {
                let sizes: Vec<f64> = weight.iter().map(|w| w.abs()).collect();
                top(&sizes, count)
            }
            Self::Structured => structured(weight.len() / d_out, d_out, count, key),
        };
        chosen.sort_unstable();
        chosen
    }
}

fn structured(d_in: usize, d_out: usize, count: usize, key: &Key) -> Vec<usize> {
    let mut lines: Vec<usize> = (0..d_in + d_out).collect();
    lines.shuffle(&mut key.rng());
    // Line i < d_in is row i, line d_in + j is column j.
    let along = lines.into_iter().flat_map(|line| {
        let (length, start, step) = if line < d_in {
            (d_out, line * d_out, 1)
        } else {
            (d_in, line - d_in, d_out)
        };
        (0..length).map(move |k| start + k * step)
    });
    let diagonal = (0..d_in.min(d_out)).map(|k| k * d_out + k);
    let mut taken = vec![false; d_in * d_out];
    diagonal
        .chain(along)
        .filter(|&position| !std::mem::replace(&mut taken[position], true))
        .take(count)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEIGHT: [f64; 12] = [0.1, -9.0, 0.2, 0.3, 5.0, 0.0, 0.0, -6.0, 0.0, 0.0, 7.0, 0.0];

    #[test]
    fn every_mask_has_distinct_entries_of_the_asked_number() {
        for mask in [Mask::Random, Mask::WeightMagnitude, Mask::Structured] {
            for count in 1..=12 {
                let chosen = mask.positions(&WEIGHT, 4, count, &Key::new(count as u64));
                assert_eq!(chosen.len(), count);
                assert!(
                    chosen.windows(2).all(|pair| pair[0] < pair[1]) && chosen[count - 1] < 12,
                    "{mask:?} {chosen:?}"
                );
            }
        }
    }

    #[test]
    fn magnitude_takes_the_largest_and_structure_the_diagonal_first() {
        assert_eq!(
            Mask::WeightMagnitude.positions(&WEIGHT, 4, 4, &Key::new(0)),
            [1, 4, 7, 10]
        );
        assert_eq!(
            Mask::Structured.positions(&WEIGHT, 4, 3, &Key::new(0)),
            [0, 5, 10]
        );
        let more = Mask::Structured.positions(&WEIGHT, 4, 9, &Key::new(5));
        assert!([0, 5, 10].iter().all(|position| more.contains(position)));
    }
}
