//! What decides where a sparse update regrows its entries.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_tensor::bridge;

use crate::entries::{places, replace, replace_indices};
use crate::scores::magnitudes;
use crate::top::top;

/// What [`Spiel`](crate::Spiel) remembers while it trains.
#[derive(Module, Debug)]
pub struct SpielState {
    /// Candidate places, `[c]` (AG).
    pub candidates: Option<Param<Tensor<1, Int>>>,
    /// Their accumulated gradients, `[c]` (AG).
    pub sums: Option<Param<Tensor<1>>>,
    /// r, `[d_in]` (MA).
    pub rows: Option<Param<Tensor<1>>>,
    /// c, `[d_out]` (MA).
    pub columns: Option<Param<Tensor<1>>>,
}

impl SpielState {
    /// Adds the gradient of the full weight at the candidates, which are chosen anew by it `first`.
    pub(crate) fn accumulate(&mut self, gradient: &Tensor<2>, first: bool) {
        let (Some(candidates), Some(sums)) = (&mut self.candidates, &mut self.sums) else {
            return;
        };
        let dense = bridge::values(gradient);
        let mut found = bridge::values(&sums.val());
        let mut chosen = places(&candidates.val());
        if first {
            chosen = top(&magnitudes(gradient), chosen.len());
            found.fill(0.0);
            replace_indices(candidates, &chosen);
        }
        for (sum, place) in found.iter_mut().zip(chosen) {
            *sum += dense[place];
        }
        replace(sums, found);
    }

    /// Feeds the gradients of the entries at these positions to the accumulators of SM3.
    pub(crate) fn feed(&mut self, gradients: &[f64], positions: &[usize], d_out: usize) {
        let (Some(rows), Some(columns)) = (&mut self.rows, &mut self.columns) else {
            return;
        };
        let (old_r, old_c) = (bridge::values(&rows.val()), bridge::values(&columns.val()));
        let (mut r, mut c) = (old_r.clone(), old_c.clone());
        for (g, place) in gradients.iter().zip(positions) {
            let (i, j) = (place / d_out, place % d_out);
            let v = old_r[i].min(old_c[j]) + g * g;
            r[i] = r[i].max(v);
            c[j] = c[j].max(v);
        }
        replace(rows, r);
        replace(columns, c);
    }

    /// Places that could be grown, with their scores.
    pub(crate) fn offers(&self) -> (Vec<usize>, Vec<f64>) {
        match (&self.candidates, &self.sums, &self.rows, &self.columns) {
            (Some(candidates), Some(sums), _, _) => {
                let sizes = bridge::values(&sums.val()).into_iter().map(f64::abs);
                (places(&candidates.val()), sizes.collect())
            }
            (_, _, Some(rows), Some(columns)) => {
                let columns = bridge::values(&columns.val());
                let scores: Vec<f64> = bridge::values(&rows.val())
                    .iter()
                    .flat_map(|r| columns.iter().map(move |c| r * c))
                    .collect();
                ((0..scores.len()).collect(), scores)
            }
            _ => (Vec::new(), Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::testing::normal;

    #[test]
    fn sm3_accumulates_row_and_column_maxima() {
        let mut state = SpielState {
            candidates: None,
            sums: None,
            rows: Some(Param::from_tensor(normal([2], "r") * 0.0)),
            columns: Some(Param::from_tensor(normal([3], "c") * 0.0)),
        };
        // Places (0, 1) and (1, 1), then (0, 2).
        state.feed(&[2.0, -3.0], &[1, 4], 3);
        state.feed(&[1.0], &[2], 3);
        let values =
            |param: &Option<Param<Tensor<1>>>| bridge::values(&param.as_ref().unwrap().val());
        assert_eq!(values(&state.rows), [4.0, 9.0]);
        assert_eq!(values(&state.columns), [0.0, 9.0, 1.0]);
        assert_eq!(state.offers().1, [0.0, 36.0, 4.0, 0.0, 81.0, 9.0]);
    }
}
