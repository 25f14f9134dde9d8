//! Which sublayers of a transformer block an adapter goes to.

use crate::shape::SiteShape;
use serde::{Deserialize, Serialize};

/// Sublayers by the last component of their path: `attention` is attention, any other is feed-forward.
/// Explicit targets take the place of this choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sublayers {
    /// Attention and feed-forward.
    #[default]
    Both,
    /// Attention only.
    Attention,
    /// Feed-forward only.
    FeedForward,
}

impl Sublayers {
    /// Whether the sublayer is among them.
    pub fn include(self, site: &SiteShape) -> bool {
        let attention = site
            .path
            .rsplit('.')
            .next()
            .is_some_and(|last| last.contains("attention"));
        match self {
            Self::Both => true,
            Self::Attention => attention,
            Self::FeedForward => !attention,
        }
    }
}
