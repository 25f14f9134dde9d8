//! Which entries of a weight are trained.

use engraft_core::{FrozenBase, InitContext, Needs, Result};
use engraft_tensor::Key;
use rand::seq::{SliceRandom, index};
use serde::{Deserialize, Serialize};

use crate::scores::{gradient, magnitudes};
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
    /// The entries of largest gradient over the calibration batches (SHiRA-Grad).
    Gradient,
    /// The entries of largest product of weight and gradient (SHiRA-SNIP).
    Snip,
}

impl Mask {
    /// What the choice wants to know from data.
    pub fn needs(self) -> Needs {
        Needs {
            gradient: matches!(self, Self::Gradient | Self::Snip),
            ..Needs::default()
        }
    }

    /// `count` distinct positions i d_out + j in the weight [d_in, d_out] of a layer, ascending;
    /// `count` is at most d_in d_out.
    ///
    /// # Errors
    /// If the choice needs gradients and the model was not calibrated.
    pub fn positions(
        self,
        base: &FrozenBase,
        count: usize,
        ctx: &InitContext,
    ) -> Result<Vec<usize>> {
        let (d_in, d_out) = (base.d_in(), base.d_out());
        let key = ctx.key.child("mask");
        let mut chosen = match self {
            Self::Random => index::sample(&mut key.rng(), d_in * d_out, count).into_vec(),
            Self::WeightMagnitude => top(&magnitudes(&base.weight()), count),
            Self::Structured => structured(d_in, d_out, count, &key),
            Self::Gradient => top(&magnitudes(&gradient(ctx)?), count),
            Self::Snip => {
                let product = gradient(ctx)? * base.weight().detach();
                top(&magnitudes(&product), count)
            }
        };
        chosen.sort_unstable();
        Ok(chosen)
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
    use burn::tensor::{DType, Device, Tensor};
    use engraft_core::{Bank, Calibration, Statistics};
    use engraft_tensor::bridge;

    use super::*;

    const WEIGHT: [f64; 12] = [0.1, -9.0, 0.2, 0.3, 5.0, 0.0, 0.0, -6.0, 0.0, 0.0, 7.0, 0.0];
    const GRADIENT: [f64; 12] = [-8.0, 0.1, 0.0, 9.0, 0.0, 7.0, 0.0, 0.0, 1.0, -6.0, 3.0, 0.0];

    fn positions(mask: Mask, count: usize) -> Vec<usize> {
        let matrix = |values: [f64; 12]| -> Tensor<2> {
            bridge::tensor(values.to_vec(), [3, 4], &Device::default(), DType::F64)
        };
        let base = FrozenBase::new(matrix(WEIGHT), None);
        let bank = Bank::default();
        let mut calibration = Calibration::default();
        calibration.insert(
            "fc",
            Statistics {
                gradient: Some(matrix(GRADIENT)),
                ..Statistics::default()
            },
        );
        let ctx = InitContext::new(count as u64, "fc", "default", &base, &bank);
        mask.positions(&base, count, &ctx.with_calibration(&calibration))
            .unwrap()
    }

    #[test]
    fn every_mask_has_distinct_entries_of_the_asked_number() {
        for mask in [
            Mask::Random,
            Mask::WeightMagnitude,
            Mask::Structured,
            Mask::Gradient,
            Mask::Snip,
        ] {
            for count in 1..=12 {
                let chosen = positions(mask, count);
                assert_eq!(chosen.len(), count);
                assert!(
                    chosen.windows(2).all(|pair| pair[0] < pair[1]) && chosen[count - 1] < 12,
                    "{mask:?} {chosen:?}"
                );
            }
        }
    }

    #[test]
    fn each_mask_takes_what_it_says() {
        assert_eq!(positions(Mask::WeightMagnitude, 4), [1, 4, 7, 10]);
        assert_eq!(positions(Mask::Gradient, 4), [0, 3, 5, 9]);
        // |w g| is 0.8, 0.9, 2.7 and 21 at 0, 1, 3 and 10.
        assert_eq!(positions(Mask::Snip, 3), [1, 3, 10]);
        assert_eq!(positions(Mask::Structured, 3), [0, 5, 10]);
        let more = positions(Mask::Structured, 9);
        assert!([0, 5, 10].iter().all(|position| more.contains(position)));
    }
}
