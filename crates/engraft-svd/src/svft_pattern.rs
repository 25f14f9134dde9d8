//! Which entries of SVFT's matrix are trained.

use engraft_core::LayerShape;
use engraft_linalg::{LinalgError, Svd};
use engraft_tensor::Key;
use serde::{Deserialize, Serialize};

/// Which entries of M, [n, n], are trained. All but the plain pattern have as many as d
/// off-diagonals on either side of the diagonal: k = n (2 d + 1) - d (d + 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SvftPattern {
    /// The diagonal.
    #[default]
    Plain,
    /// Entries with |i - j| <= d.
    #[serde(rename_all = "kebab-case")]
    Banded {
        /// d.
        off_diagonals: usize,
    },
    /// k entries drawn without replacement (the authors' code draws with replacement, so that
    /// some are counted twice).
    #[serde(rename_all = "kebab-case")]
    Random {
        /// d.
        off_diagonals: usize,
    },
    /// The k pairs of singular vectors with the largest u_i^T v_j. That needs a square layer; on
    /// others, as in the authors' code, the largest entries of the square one of U and V^T, in
    /// their places. (On square layers the code multiplies rows of U where the paper has columns;
    /// the paper is followed.)
    #[serde(rename_all = "kebab-case")]
    TopK {
        /// d.
        off_diagonals: usize,
    },
}

impl SvftPattern {
    /// d.
    fn off_diagonals(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Banded { off_diagonals }
            | Self::Random { off_diagonals }
            | Self::TopK { off_diagonals } => off_diagonals,
        }
    }

    /// Number k of trained entries between n singular triples; `admits` holds.
    pub fn entries(self, n: usize) -> usize {
        let d = self.off_diagonals();
        (n * (2 * d + 1)).saturating_sub(d * (d + 1))
    }

    /// Whether the pattern fits n triples of a layer: the reason if not.
    ///
    /// # Errors
    /// The sentence for [`engraft_core::Graft::admits`].
    pub fn admits(self, n: usize, layer: &LayerShape) -> Result<(), String> {
        let d = self.off_diagonals();
        if d >= n {
            return Err(format!(
                "{d} off-diagonals: expected less than the number of singular triples, {n}"
            ));
        }
        let is_cut_oblong = n < layer.max_rank() && layer.d_in != layer.d_out;
        if matches!(self, Self::TopK { .. }) && is_cut_oblong {
            return Err(format!(
                "top-k on {n} triples of a layer {} x {}: expected a square layer or all triples",
                layer.d_in, layer.d_out
            ));
        }
        Ok(())
    }

    /// The places row * n + column of the entries in increasing order, `[k]`; none for the diagonal.
    pub(crate) fn places(self, triples: &Svd, key: &Key) -> Result<Option<Vec<i64>>, LinalgError> {
        let n = triples.s.len();
        let count = self.entries(n);
        let mut places: Vec<i64> = match self {
            Self::Plain => return Ok(None),
            Self::Banded { off_diagonals } => (0..n * n)
                .filter(|place| (place / n).abs_diff(place % n) <= off_diagonals)
                .map(|place| place as i64)
                .collect(),
            Self::Random { .. } => rand::seq::index::sample(&mut key.rng(), n * n, count)
                .into_iter()
                .map(|place| place as i64)
                .collect(),
            Self::TopK { .. } => {
                let alignment = match (triples.u.rows(), triples.vt.cols()) {
                    (d_in, d_out) if d_in == d_out => {
                        triples.u.transpose_matmul(&triples.vt.transpose())?
                    }
                    (d_in, d_out) if d_in < d_out => triples.u.clone(),
                    _ => triples.vt.clone(),
                };
                let values = alignment.as_slice();
                let mut order: Vec<usize> = (0..n * n).collect();
                order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
                order[..count].iter().map(|place| *place as i64).collect()
            }
        };
        places.sort_unstable();
        Ok(Some(places))
    }
}

#[cfg(test)]
mod tests {
    use engraft_linalg::{Matrix, svd};

    use super::*;

    #[test]
    fn every_pattern_has_as_many_places_as_it_counts_and_all_differ() {
        let matrix =
            |rows, cols| Matrix::from_fn(rows, cols, |i, j| ((3 * i + 7 * j * j) as f64).sin());
        for (rows, cols) in [(7, 7), (5, 9), (9, 5)] {
            let triples = svd(&matrix(rows, cols)).unwrap();
            let n = rows.min(cols);
            for off_diagonals in [0, 1, n - 1] {
                for pattern in [
                    SvftPattern::Banded { off_diagonals },
                    SvftPattern::Random { off_diagonals },
                    SvftPattern::TopK { off_diagonals },
                ] {
                    let mut places = pattern.places(&triples, &Key::new(1)).unwrap().unwrap();
                    places.dedup();
                    assert_eq!(places.len(), pattern.entries(n), "{pattern:?}");
                    assert!(
                        places
                            .iter()
                            .all(|place| (0..(n * n) as i64).contains(place))
                    );
                }
            }
        }
    }

    #[test]
    fn top_k_finds_the_aligned_pairs_of_a_symmetric_matrix() {
        // u_i = v_i for a positive definite matrix.
        let matrix = Matrix::from_diagonal(&[4.0, 3.0, 2.0]);
        let pattern = SvftPattern::TopK { off_diagonals: 0 };
        let places = pattern
            .places(&svd(&matrix).unwrap(), &Key::new(0))
            .unwrap();
        assert_eq!(places, Some(vec![0, 4, 8]));
        let oblong = LayerShape::linear("fc", 9, 5, false);
        assert!(pattern.admits(4, &oblong).unwrap_err().contains("square"));
        assert!(
            SvftPattern::Banded { off_diagonals: 5 }
                .admits(5, &oblong)
                .is_err()
        );
    }
}
