//! The singular values of updates, and what they say of their size and rank.
//!
//! ```text
//! Frobenius norm   sqrt(sum s_i^2)        spectral norm   s_1        nuclear norm   sum s_i
//! stable rank      sum s_i^2 / s_1^2      (Rudelson and Vershynin 2007)
//! effective rank   exp(-sum p_i ln p_i),  p_i = s_i / sum s_i     (Roy and Vetterli 2007)
//! ```

use std::collections::BTreeMap;

use engraft_linalg::singular_values;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::factorise::{decomposed, relative};
use crate::update::Update;

/// The spectrum of an update of one module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Spectrum {
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// The singular values, largest first: as many as the factors have columns, or as the
    /// smaller side.
    pub values: Vec<f64>,
    /// How many of them are above rounding.
    pub rank: usize,
    /// |dW| in the Frobenius norm.
    pub norm: f64,
    /// The largest singular value.
    pub spectral: f64,
    /// The sum of the singular values.
    pub nuclear: f64,
    /// |dW|^2 / s_1^2, 0 of an update that is zero.
    pub stable_rank: f64,
    /// exp of the entropy of the singular values, 0 of an update that is zero.
    pub effective_rank: f64,
}

/// The spectra of adapters by module, and their norms over all modules.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Spectra {
    /// One for each adapter.
    pub modules: BTreeMap<String, Vec<Spectrum>>,
}

impl Spectrum {
    /// Of an update. `base`: W, for an update that is relative to it.
    ///
    /// # Errors
    /// A missing base, NaN or infinite numbers.
    pub fn of(update: &Update, base: Option<&[f32]>) -> Result<Self> {
        let (rows, columns) = update.known_shape()?;
        let values = match update.is_low_rank() {
            true => decomposed(update, base)?.s,
            false => singular_values(&update.to_dense(base)?.to_matrix()?)?,
        };
        let norm = values.iter().fold(0.0, |norm: f64, s| norm.hypot(*s));
        let spectral = values.first().copied().unwrap_or(0.0);
        let nuclear: f64 = values.iter().sum();
        let shares = values
            .iter()
            .map(|s| relative(*s, nuclear))
            .filter(|p| *p > 0.0);
        let entropy: f64 = shares.map(|p| -p * p.ln()).sum();
        Ok(Self {
            shape: [rows, columns],
            rank: super::rank(&values, rows.max(columns), update),
            norm,
            spectral,
            nuclear,
            stable_rank: relative(norm, spectral).powi(2),
            effective_rank: match nuclear > 0.0 {
                true => entropy.exp(),
                false => 0.0,
            },
            values,
        })
    }

    /// Fraction of the squared norm in the `k` largest singular values, 1 of an update that is zero.
    #[must_use]
    pub fn energy(&self, k: usize) -> f64 {
        let kept = self.values.iter().take(k);
        let kept = kept.fold(0.0, |norm: f64, s| norm.hypot(*s));
        match self.norm > 0.0 {
            true => (kept / self.norm).powi(2),
            false => 1.0,
        }
    }
}

impl Spectra {
    /// Takes a module in: its update in each adapter, always in the same order.
    ///
    /// # Errors
    /// As [`Spectrum::of`].
    pub fn add(
        &mut self,
        module: impl Into<String>,
        updates: &[&Update],
        base: Option<&[f32]>,
    ) -> Result<()> {
        let spectra = updates.iter().map(|update| Spectrum::of(update, base));
        let spectra = spectra.collect::<Result<_>>()?;
        self.modules.insert(module.into(), spectra);
        Ok(())
    }

    /// |dW| of each adapter over all modules.
    #[must_use]
    pub fn norms(&self) -> Vec<f64> {
        let mut norms: Vec<f64> = Vec::new();
        for spectra in self.modules.values() {
            norms.resize(norms.len().max(spectra.len()), 0.0);
            let both = norms.iter_mut().zip(spectra);
            both.for_each(|(norm, spectrum)| *norm = norm.hypot(spectrum.norm));
        }
        norms
    }
}

#[cfg(test)]
mod tests {
    use engraft_linalg::Matrix;
    use proptest::prelude::*;

    use super::*;
    use crate::spectral::testing::{dense, dense_of, low_rank};
    use crate::update::Factors;

    proptest! {
        #[test]
        fn factors_and_matrices_agree(m in 1usize..9, n in 1usize..9, r in 1usize..9, seed: u64) {
            let update = low_rank(m, n, r, seed);
            let whole = Update::dense(update.to_dense(None).unwrap());
            let (a, b) = (Spectrum::of(&update, None).unwrap(), Spectrum::of(&whole, None).unwrap());
            let near = |x: f64, y: f64| (x - y).abs() < 1e-4 * (1.0 + x.abs());
            prop_assert!(near(a.norm, b.norm) && near(a.spectral, b.spectral) && near(a.nuclear, b.nuclear));
            prop_assert!(near(a.stable_rank, b.stable_rank) && near(a.effective_rank, b.effective_rank));
            prop_assert!(near(a.norm, dense_of(&update).frobenius_norm()));
            prop_assert!(a.rank <= r.min(m).min(n) && a.values.len() == r.min(m).min(n));
            prop_assert!(a.stable_rank <= a.rank as f64 + 1e-9 && a.effective_rank <= a.rank as f64 + 1e-9);
            prop_assert!(a.stable_rank >= 1.0 - 1e-12 && a.effective_rank >= 1.0 - 1e-12);
            prop_assert!((a.energy(a.values.len()) - 1.0).abs() < 1e-12 && a.energy(0) == 0.0);
        }
    }

    #[test]
    fn equal_values_have_the_whole_rank() {
        let identity =
            Update::low_rank(Factors::new(Matrix::identity(4), Matrix::identity(4)).unwrap());
        let found = Spectrum::of(&identity, None).unwrap();
        assert!(
            (found.stable_rank - 4.0).abs() < 1e-12 && (found.effective_rank - 4.0).abs() < 1e-12
        );
        assert_eq!((found.rank, found.spectral, found.nuclear), (4, 1.0, 4.0));
        let zero = Spectrum::of(&Update::zero(2, 3), None).unwrap();
        assert_eq!(
            (zero.rank, zero.norm, zero.effective_rank, zero.energy(1)),
            (0, 0.0, 0.0, 1.0)
        );
    }

    #[test]
    fn norms_over_modules() {
        let (a, b) = (dense(3, 4, 1), dense(3, 4, 2));
        let mut spectra = Spectra::default();
        spectra.add("one", &[&a, &b], None).unwrap();
        spectra.add("two", &[&a, &a], None).unwrap();
        let norms = spectra.norms();
        let (na, nb) = (dense_of(&a).frobenius_norm(), dense_of(&b).frobenius_norm());
        assert!(
            (norms[0] - na * 2f64.sqrt()).abs() < 1e-9 && (norms[1] - na.hypot(nb)).abs() < 1e-9
        );
    }
}
