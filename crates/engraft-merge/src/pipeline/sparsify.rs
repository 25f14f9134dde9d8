//! What of an update is kept: options of the ways to drop entries.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Over what the largest magnitudes are ranked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Each tensor alone: every module keeps the same fraction.
    #[default]
    Tensor,
    /// All tensors of an adapter together: modules keep more where their updates are larger.
    Model,
}

/// Trimming: the floor(density n) entries of largest magnitude stay, and of equal ones the first.
///
/// TIES-Merging (2306.01708), section 3.2, step 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Magnitude {
    /// Fraction that is kept; from 1 on everything.
    pub density: f64,
    /// Over what it is a fraction.
    #[serde(default)]
    pub scope: Scope,
}

/// DARE: each entry stays with probability `density`, on its own, and those that stay are divided by it,
/// so that the expectation is what was given.
///
/// 2311.03099, section 3.1. Which entries stay depends on the seed, the name of the adapter, the module and
/// the place alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Random {
    /// Probability that an entry stays; from 1 on everything.
    pub density: f64,
    /// Whether those that stay are divided by the density.
    #[serde(default = "yes")]
    pub rescale: bool,
    /// Seed.
    #[serde(default)]
    pub seed: u64,
}

/// MagPrune of DELLA: entries stay at random, with probabilities that rise with their rank by magnitude
/// within their row from density - window/2 to density + window/2:
///
/// ```text
/// q_i = density - window/2 + window i / (n - 1),   i = 0 for the smallest of n
/// ```
///
/// and those that stay are divided by their probability (2406.11617, section 3.1; the paper writes the
/// probability of dropping, p = 1 - q, and epsilon for the window).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Della {
    /// Mean probability that an entry stays; from 1 on everything.
    pub density: f64,
    /// Between the smallest and the largest of a row, how much the probabilities differ.
    pub window: f64,
    /// Whether those that stay are divided by their probability.
    #[serde(default = "yes")]
    pub rescale: bool,
    /// Seed.
    #[serde(default)]
    pub seed: u64,
}

/// Model Breadcrumbs: the floor(gamma n) entries of largest magnitude go as outliers, the floor(density n)
/// next ones stay, the small rest goes. Fewer outliers go where otherwise too few entries would be left.
///
/// 2312.06795, section 3.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Breadcrumbs {
    /// Fraction that is kept; from 1 on everything.
    pub density: f64,
    /// Fraction of outliers.
    pub gamma: f64,
    /// Over what they are fractions.
    #[serde(default)]
    pub scope: Scope,
}

fn yes() -> bool {
    true
}

impl Magnitude {
    pub(super) fn check(&self) -> Result<()> {
        check_density(self.density)
    }

    /// How many go as outliers, and how many are within the largest that do not go as small ones.
    pub(super) fn wanted(&self, n: u64) -> [u64; 2] {
        [0, part(self.density, n)]
    }
}

impl Random {
    pub(super) fn check(&self) -> Result<()> {
        check_density(self.density)
    }
}

impl Della {
    pub(super) fn check(&self) -> Result<()> {
        check_density(self.density)?;
        let (low, high) = (
            self.density - self.window / 2.0,
            self.density + self.window / 2.0,
        );
        match self.density >= 1.0 || (self.window >= 0.0 && low >= 0.0 && high <= 1.0) {
            true => Ok(()),
            false => Err(Error::input(format!(
                "della: density {} and window {} give probabilities from {low} to {high}, expected them within 0 to 1",
                self.density, self.window
            ))),
        }
    }
}

impl Breadcrumbs {
    pub(super) fn check(&self) -> Result<()> {
        check_density(self.density)?;
        match (0.0..=1.0).contains(&self.gamma) {
            true => Ok(()),
            false => Err(Error::input(format!(
                "breadcrumbs: gamma is {}, expected a fraction from 0 to 1",
                self.gamma
            ))),
        }
    }

    /// As [`Magnitude::wanted`].
    pub(super) fn wanted(&self, n: u64) -> [u64; 2] {
        let kept = part(self.density, n);
        let outliers = part(self.gamma, n).min(n - kept);
        [outliers, outliers + kept]
    }
}

/// floor(fraction n), at most n.
fn part(fraction: f64, n: u64) -> u64 {
    ((fraction * n as f64) as u64).min(n)
}

fn check_density(density: f64) -> Result<()> {
    match density >= 0.0 {
        true => Ok(()),
        false => Err(Error::input(format!(
            "density is {density}, expected a fraction from 0 (nothing stays) to 1 (everything stays)"
        ))),
    }
}
