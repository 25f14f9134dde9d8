//! How strongly a low-rank update is scaled.

use serde::{Deserialize, Serialize};

/// The factor s of an update s A B of rank r.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scaling {
    /// s = alpha / r (LoRA, arXiv 2106.09685, section 4.1).
    #[default]
    Classic,
    /// s = alpha / sqrt(r) (rsLoRA, arXiv 2312.03732): the update keeps its size as the rank grows.
    RankStabilised,
}

impl Scaling {
    /// s for this alpha and rank.
    pub fn factor(self, alpha: f64, rank: usize) -> f64 {
        match self {
            Self::Classic => alpha / rank as f64,
            Self::RankStabilised => alpha / (rank as f64).sqrt(),
        }
    }
}

/// Whether a rank is between 1 and `max`: the reason if not.
///
/// # Errors
/// The sentence for [`crate::Graft::admits`].
pub fn admit_rank(rank: usize, max: usize) -> Result<(), String> {
    match rank {
        0 => Err("rank 0: expected at least 1".to_owned()),
        rank if rank > max => Err(format!(
            "rank {rank}: expected at most min(d_in, d_out) = {max}"
        )),
        _ => Ok(()),
    }
}

/// Whether a rank is at least 1: the reason if not.
///
/// # Errors
/// The sentence for [`crate::Method::validate`].
pub fn positive_rank(rank: usize) -> Result<(), String> {
    admit_rank(rank, usize::MAX)
}
