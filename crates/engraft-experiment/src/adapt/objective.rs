//! The loss of an output.

use engraft_data::task::Output;
use engraft_data::text::Targets;
use engraft_models::Logits;
use engraft_train::loss::{sequence_loss, token_loss};
use engraft_train::{CrossEntropy, Loss};

/// The mean loss of a batch.
///
/// # Errors
/// Targets that are not those of the output.
pub fn objective(output: Output, logits: Logits, targets: &Targets) -> engraft_train::Result<Loss> {
    let settings = CrossEntropy::default();
    match logits {
        Logits::Sequence(logits) => sequence_loss(&settings, output, logits, targets),
        Logits::Tokens(logits) => token_loss(&settings, output, logits, targets),
    }
}
