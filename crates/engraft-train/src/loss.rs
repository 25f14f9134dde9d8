//! Losses.
//!
//! All are means, computed from logits with the maximum taken out before exponentials, so that none
//! overflows. Labels of [`IGNORED`](engraft_data::text::IGNORED) count for nothing.

mod binary_cross_entropy;
mod cross_entropy;
mod of_batch;
mod tokens;
mod weighted;

pub use binary_cross_entropy::binary_cross_entropy;
pub use cross_entropy::{CrossEntropy, cross_entropy};
pub use of_batch::{sequence_loss, token_loss};
pub use tokens::{next_token, same_token};
pub use weighted::{IntoLoss, Loss};
