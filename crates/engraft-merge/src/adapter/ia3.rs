//! IA3: W' = diag(l) W and b' = l . b, or W' = W diag(l) in feed-forward layers, whose inputs are
//! scaled (arXiv 2205.05638, section 3.3).

use super::{Form, Parts};
use crate::error::Result;
use crate::update::Update;

pub(super) struct Ia3;

impl Form for Ia3 {
    fn name(&self) -> &'static str {
        "IA3"
    }

    fn fields(&self) -> &'static [&'static str] {
        &["ia3_l"]
    }

    fn update(&self, parts: &Parts<'_>) -> Result<Update> {
        let l = parts.tensor("ia3_l")?;
        let change: Vec<f64> = l.data.iter().map(|l| f64::from(*l) - 1.0).collect();
        let known = parts.shape()?;
        let side = |at: usize| known.map(|shape| shape[at]);
        match l.shape[..] {
            [outputs, 1] => Ok(Update {
                shape: [Some(outputs), side(1)],
                rows: Some(change.clone()),
                bias_scale: Some(change),
                ..Update::default()
            }),
            [1, inputs] => Ok(Update {
                shape: [side(0), Some(inputs)],
                columns: Some(change),
                ..Update::default()
            }),
            _ => Err(parts.error(format!(
                "ia3_l has shape {:?}: only vectors of linear layers have a host form; export its deltas with the base",
                l.shape
            ))),
        }
    }
}
