//! Adapting a model on disk to data on disk: train, evaluate, save, predict, merge.
//!
//! ```text
//! model directory + data file -> subject, Data -> learn -> evaluate -> adapter directory
//! adapter directory + input -> predict;  adapter directory + model directory -> merge_into
//! ```
//!
//! An adapter directory has PEFT's two files where PEFT knows the method, Engraft's one file
//! otherwise, and a [`Card`] that says what the adapter was trained for.

mod adapters;
mod card;
mod data;
mod evaluate;
mod examples;
mod generated;
mod guess;
mod judge;
mod learn;
mod merge_into;
mod objective;
mod pictures;
mod predict;
mod quantised;
mod source;
mod subject;
mod summary;

use std::path::PathBuf;

use engraft_core::Targets;
use engraft_data::Task;
use engraft_data::glue::GlueTask;
use engraft_data::read::BadRows;
use engraft_kernels::Quantisation;
use serde_json::Value;

pub(crate) use adapters::{OWN_FILE, beside, check_free, place};
pub use adapters::{Written, check_writable};
pub use card::{CARD, Card};
pub use evaluate::Scores;
pub use generated::Answers;
pub(crate) use judge::Judge;
pub use judge::Sample;
pub use learn::{Progress, Training, adapt};
pub(crate) use merge_into::Loaded;
pub use merge_into::{Merged, merge_into};
pub use predict::{Prediction, Requests, predict};
pub use summary::Summary;

/// Name that adapters are attached under; PEFT's own default.
pub const ADAPTER: &str = "default";

/// What is adapted to what, and how.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The model: its directory, or its id on the Hugging Face hub.
    pub model: PathBuf,
    /// What is learned: a file of text, the directory of a task of GLUE or of images.
    pub data: PathBuf,
    /// The task of GLUE that `data` is, if its name does not say so.
    pub glue: Option<GlueTask>,
    /// A file or directory for evaluation; otherwise the parts of GLUE, or a share of the data.
    pub evaluation: Option<PathBuf>,
    /// That share.
    pub hold_out: f64,
    /// Id and configuration of the method.
    pub method: (String, Value),
    /// How the model's weights are quantised; in f32 if absent.
    pub base: Option<Quantisation>,
    /// Layers and sites; the method's own choice if absent.
    pub targets: Option<Targets>,
    /// What is learned; what the columns suggest if absent.
    pub task: Option<Task>,
    /// Most tokens of a text; 128 if absent, or fewer where the model has fewer positions.
    pub max_length: Option<usize>,
    /// Unusable rows that are left out and reported rather than an error.
    pub bad_rows: BadRows,
    /// How it is trained.
    pub training: Training,
    /// How much is generated for evaluation.
    pub answers: Answers,
    /// Seed of starting values, batches, dropout and the division of the data.
    pub seed: u64,
    /// Device.
    pub device: String,
    /// Where the adapter goes: a directory that is not there yet, or empty.
    pub out: PathBuf,
}
