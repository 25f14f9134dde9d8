//! The model graft: a method coupled across layers.

use std::fmt;

use crate::adapter::{AnyAdapter, InitContext};
use crate::bank::BankSpec;
use crate::base::FrozenBase;
use crate::counts::Counts;
use crate::error::Result;
use crate::shape::LayerShape;
use crate::statistics::Needs;

/// Makes the adapters of all targeted layers together, where one layer's depends on another's
/// (a permutation that couples two projections, a budget shared by all).
pub trait ModelGraft: fmt::Debug + Send + Sync + 'static {
    /// Whether the configuration fits the layers together: the reason if not.
    fn admits(&self, layers: &[LayerShape]) -> Result<(), String>;

    /// Parameters on all targeted layers, the bank aside.
    fn count(&self, layers: &[LayerShape]) -> Counts;

    /// Shared state for all targeted layers.
    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        let _ = layers;
        Vec::new()
    }

    /// What the initialiser wants to know from data; see [`InitContext::statistics_of`].
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// One adapter per layer, in order. The context is that of the whole model: its path is empty,
    /// and a layer's own random streams are those of `ctx.key.child(path)`.
    ///
    /// # Errors
    /// If the layers cannot be coupled.
    fn graft(
        &self,
        layers: &[(LayerShape, FrozenBase)],
        ctx: &InitContext,
    ) -> Result<Vec<AnyAdapter>>;
}
