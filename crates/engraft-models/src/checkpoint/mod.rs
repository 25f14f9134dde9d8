//! Checkpoints in Hugging Face's layout: `config.json` and safetensors.

mod names;

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::DType;

pub(crate) use names::Names;

/// What loading a checkpoint did beyond copying it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Parameters that the checkpoint lacks and that start fresh: a new head.
    pub fresh: Vec<String>,
    /// Tensors of the checkpoint that the model has no use for: another head.
    pub unused: Vec<String>,
}

/// Where a model's parameters come from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    /// The precision of each parameter in its file.
    pub stored: Arc<BTreeMap<String, DType>>,
    /// What loading did.
    pub report: Arc<LoadReport>,
}
