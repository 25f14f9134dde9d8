//! What quantising a model's weights costs, in words.

use engraft_core::{Adaptable, Slot, Slots};
use engraft_kernels::Quantisation;
use engraft_models::{Pretrained, QuantisedLayer};
use engraft_tensor::ops::QuantisedWeight;

use super::subject::input;
use crate::Result;

/// What loading a model with weights of few bits did.
pub(super) fn loaded(how: Quantisation, layers: &[QuantisedLayer]) -> String {
    let sum = |of: fn(&QuantisedLayer) -> usize| -> f64 {
        let bytes: usize = layers.iter().map(of).sum();
        bytes as f64 / 1e6
    };
    format!(
        "base in {}: {} weights take {:.1} MB, not {:.1} MB; {} from those of the file",
        name(how),
        layers.len(),
        sum(|layer| layer.bytes),
        sum(|layer| layer.dense_bytes),
        errors(layers)
    )
}

/// What quantising the merged weights again would do.
pub(super) fn merged(how: Quantisation, model: &mut Pretrained) -> Result<String> {
    let (mut layers, mut outcome) = (Vec::new(), Ok(()));
    let mut measure = |path: &str, slot: Slot<'_>| {
        if let Slot::Linear(linear) = slot
            && linear.is_merged()
            && linear.was_quantised()
        {
            let data = linear.base().weight().transpose().to_data();
            match QuantisedWeight::from_stored(&data, how) {
                Ok(weight) => {
                    let [lost, norm] = weight.loss(&data);
                    layers.push(QuantisedLayer {
                        path: path.to_owned(),
                        bytes: weight.bytes(),
                        dense_bytes: data.num_elements() * data.dtype().size(),
                        lost,
                        norm,
                    });
                }
                Err(error) => outcome = Err(input(format!("{path}: {error}"))),
            }
        }
    };
    model.slots(&mut Slots::new(&mut measure));
    outcome?;
    Ok(format!(
        "{} merged weights, written in full; in {} again {} from these",
        layers.len(),
        name(how),
        errors(&layers)
    ))
}

/// Relative errors of all weights and of the worst.
fn errors(layers: &[QuantisedLayer]) -> String {
    let Some(worst) = QuantisedLayer::worst(layers) else {
        return "they differ by nothing".to_owned();
    };
    format!(
        "they differ by {:.3} % (Frobenius norm; at most {:.3} %, {})",
        100.0 * QuantisedLayer::total_error(layers),
        100.0 * worst.error(),
        worst.path
    )
}

fn name(how: Quantisation) -> String {
    let double = if how.double { ", scales in 8 bits" } else { "" };
    format!("{} (blocks of {}{double})", how.format.name(), how.block)
}
