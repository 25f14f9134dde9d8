//! Training: what happens between a model with something to train and a trained one.
//!
//! - [`Gradients`] by parameter path, clipped by their global norm;
//! - [`Optimizer`]: AdamW and SGD as PyTorch defines them, with state by parameter path and
//!   [`LearningRates`] by pattern;
//! - [`Schedule`]: constant, linear and cosine with warm-up, as `transformers` defines them;
//! - [`Trainer`]: the loop, with curves, evaluation, early stopping, and checkpoints from which
//!   the next update is bit-identical;
//! - [`pretrain_digits_vit`]: the model that ships with Engraft.

#[cfg(test)]
mod accumulating;
mod adamw;
mod batcher;
#[cfg(test)]
mod changing;
mod checkpoint;
mod curves;
mod early_stop;
mod error;
mod learning_rates;
pub mod loss;
pub mod metrics;
mod optimizer;
mod parts;
mod pretrain;
mod recompute;
mod schedule;
mod sgd;
mod taking;
#[cfg(test)]
mod testing;
mod train_config;
mod trainer;
mod windowed;

pub use adamw::AdamW;
pub use batcher::{Batcher, Batches, Labelled};
pub use curves::{Curves, Point};
pub use early_stop::EarlyStop;
pub use engraft_core::Gradients;
pub use engraft_tensor::ops::mean_squared_error;
pub use error::{Error, Result};
pub use learning_rates::{LearningRates, RatePattern};
pub use loss::{CrossEntropy, IntoLoss, Loss, cross_entropy};
pub use metrics::{Predictions, accuracy, correct};
pub use optimizer::{Optimizer, OptimizerConfig};
pub use pretrain::{DIGITS_VIT_STEPS, Pretrained, Provenance, pretrain_digits_vit};
pub use recompute::recomputing;
pub use schedule::{Decay, Schedule};
pub use sgd::Sgd;
pub use train_config::TrainConfig;
pub use trainer::Trainer;
pub use windowed::Windowed;
