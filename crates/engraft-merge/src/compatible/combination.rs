//! The combination types of `add_weighted_adapter`.

use serde::{Deserialize, Serialize};

/// `combination_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combination {
    /// Weighted sum of the updates, truncated.
    #[default]
    Svd,
    /// Weighted sums of the factors.
    Linear,
    /// Factors side by side: exact.
    Cat,
    /// TIES on the factors.
    Ties,
    /// TIES on the updates, truncated.
    TiesSvd,
    /// DARE and TIES on the factors.
    DareTies,
    /// DARE on the factors.
    DareLinear,
    /// DARE and TIES on the updates, truncated.
    DareTiesSvd,
    /// DARE on the updates, truncated.
    DareLinearSvd,
    /// Magnitude pruning of the factors.
    MagnitudePrune,
    /// Magnitude pruning of the updates, truncated.
    MagnitudePruneSvd,
}

/// What a sign is elected by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MajoritySign {
    /// The sum of the values.
    #[default]
    Total,
    /// The number of adapters.
    Frequency,
}

/// The arguments of `add_weighted_adapter`, by their names in PEFT.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// How adapters are combined.
    pub combination_type: Combination,
    /// Rank of the result of a truncation; the largest of the adapters' by default.
    pub svd_rank: Option<usize>,
    /// Quantile of the factors' numbers beyond which they are clamped.
    pub svd_clamp: Option<f64>,
    /// Of no consequence: the factors are truncated to the rank.
    pub svd_full_matrices: Option<bool>,
    /// Fraction of the numbers that is kept.
    pub density: Option<f64>,
    /// What TIES elects signs by.
    pub majority_sign_method: MajoritySign,
}

/// What is done to numbers at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) prune: Option<Prune>,
    /// Whether signs are elected.
    pub(super) elect: bool,
}

/// How numbers are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prune {
    Magnitude,
    Random,
}

impl Combination {
    /// Whether it works on updates, and truncates.
    pub(super) fn truncates(self) -> bool {
        use Combination::{DareLinearSvd, DareTiesSvd, MagnitudePruneSvd, Svd, TiesSvd};
        matches!(
            self,
            Svd | TiesSvd | DareTiesSvd | DareLinearSvd | MagnitudePruneSvd
        )
    }

    pub(super) fn rule(self) -> Rule {
        use Combination::{
            Cat, DareLinear, DareLinearSvd, DareTies, DareTiesSvd, Linear, MagnitudePrune,
            MagnitudePruneSvd, Svd, Ties, TiesSvd,
        };
        let (prune, elect) = match self {
            Svd | Linear | Cat => (None, false),
            Ties | TiesSvd => (Some(Prune::Magnitude), true),
            DareTies | DareTiesSvd => (Some(Prune::Random), true),
            DareLinear | DareLinearSvd => (Some(Prune::Random), false),
            MagnitudePrune | MagnitudePruneSvd => (Some(Prune::Magnitude), false),
        };
        Rule { prune, elect }
    }
}
