//! Checkpoints in Hugging Face's layout: `config.json` and safetensors.
//!
//! Weights are read part by part from files in memory, converted to the compute precision and, where
//! PyTorch stores (out, in), transposed once on the way into the model: beside the model itself a few
//! megabytes are held (1.02 times a BERT of 519 MB in float32, from float32 or bfloat16).
//!
//! Transposed once rather than viewed: forward products of 128 and 512 tokens took 0.82 and 16.0 ms
//! with rows in order, 0.99 and 23.9 ms with a view (384 to 1536 and 768 to 3072, two cores); forward and backward
//! together were equal within the noise; a single token was faster with the view (0.40 against
//! 0.82 ms, 768 to 3072). Adapters and merges read rows.

mod convert;
mod files;
mod hub;
mod matching;
mod names;
mod quantised;
mod save;
mod stored;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use burn::tensor::{DType, Device, TensorData};
use engraft_core::{Error, Result};
use engraft_kernels::Quantisation;
use engraft_tensor::Key;
use engraft_tensor::ops::QuantisedWeight;

pub use files::weight_files;
use files::{Files, file_error};
pub use hub::locate;
pub(crate) use names::Names;
pub use quantised::QuantisedLayer;
pub use stored::stored_modules;

use crate::parts::{Builder, Listing, Random, Source, Wanted};
use crate::pretrained::{Config, Pretrained};
use crate::task::Task;

/// How to load a checkpoint.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where the model goes.
    pub device: Device,
    /// The precision to compute in, whatever that of the files.
    pub dtype: DType,
    /// The head to put on the model in place of the one that `config.json` names. What the checkpoint
    /// lacks of it starts fresh.
    pub task: Option<Task>,
    /// Where the fresh parameters of a new head come from.
    pub key: Key,
    /// How the weights of the linear layers inside the blocks are quantised; embeddings, norms,
    /// biases, poolers and heads are not. One tensor is held in full at a time.
    pub quantisation: Option<Quantisation>,
}

impl LoadOptions {
    /// The model that `config.json` describes, complete.
    pub fn new(device: &Device, dtype: DType) -> Self {
        Self {
            device: device.clone(),
            dtype,
            task: None,
            key: Key::new(0),
            quantisation: None,
        }
    }

    /// The same with this head, fresh from the streams of `key` where the checkpoint lacks it.
    pub fn with_task(self, task: Task, key: Key) -> Self {
        Self {
            task: Some(task),
            key,
            ..self
        }
    }

    /// The same with weights of few bits.
    pub fn with_quantisation(self, quantisation: Option<Quantisation>) -> Self {
        Self {
            quantisation,
            ..self
        }
    }
}

/// What loading a checkpoint did beyond copying it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadReport {
    /// Parameters that the checkpoint lacks and that start fresh: a new head.
    pub fresh: Vec<String>,
    /// Tensors of the checkpoint that the model has no use for: another head.
    pub unused: Vec<String>,
    /// Layers whose weights were quantised, in forward order.
    pub quantised: Vec<QuantisedLayer>,
}

/// Where a model's parameters come from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    /// The precision of each parameter in its file.
    pub stored: Arc<BTreeMap<String, DType>>,
    /// What loading did.
    pub report: Arc<LoadReport>,
    /// The ranges of blocks that another model's parameters were repeated in.
    pub replicated: Vec<[usize; 2]>,
}

/// Loads the model of a directory: `config.json` with `model.safetensors`, or with the files that
/// `model.safetensors.index.json` names.
///
/// # Errors
/// Files that are missing, truncated or corrupted; a model that is not implemented; tensors that are
/// missing, unexpected or of another shape, all of them named; weights that are not finite; a
/// quantisation of blocks without entries.
pub fn load(directory: &Path, options: &LoadOptions) -> Result<Pretrained> {
    if !matches!(
        options.dtype,
        DType::F64 | DType::F32 | DType::F16 | DType::BF16
    ) {
        return Err(Error::Unsupported(format!(
            "found compute precision {:?}, expected F32, F64, F16 or BF16",
            options.dtype
        )));
    }
    if let Some(Err(reason)) = options.quantisation.map(|how| how.validate()) {
        return Err(Error::BadConfig {
            what: "quantisation".to_owned(),
            reason,
        });
    }
    let (path, mut json) = files::config(directory)?;
    if let Some(task) = options.task {
        task.describe(&mut json)?;
    }
    let config = Config::new(&json).map_err(|error| match error {
        Error::BadConfig { reason, .. } => file_error(&path, reason),
        other => other,
    })?;
    let files = Files::open(directory)?;
    let names = config.names();
    let matches = matching::matches(
        &config.listed(),
        &files.tensors,
        &names,
        options.task.is_some(),
    )
    .map_err(|reason| file_error(directory, reason))?;

    let mut loader = Loader {
        files: &files,
        found: matches.found,
        fresh: Random(options.key.clone()),
        stored: BTreeMap::new(),
        broken: Vec::new(),
        quantisation: options.quantisation,
        quantised: Vec::new(),
    };
    let mut model = config.build(&mut Builder::new(
        &mut loader,
        &options.device,
        options.dtype,
        config.std(),
    ));
    let Loader {
        stored,
        broken,
        quantised,
        ..
    } = loader;
    if !broken.is_empty() {
        return Err(file_error(
            directory,
            format!("weights that cannot be used: {}", listed(&broken)),
        ));
    }
    model.set_origin(Origin {
        stored: Arc::new(stored),
        report: Arc::new(LoadReport {
            quantised,
            ..matches.report
        }),
        replicated: Vec::new(),
    });
    Ok(model)
}

impl Config {
    /// The parameters of the model, without making it.
    fn listed(&self) -> Vec<Wanted> {
        let mut listing = Listing::default();
        let device = Device::default();
        self.build(&mut Builder::new(
            &mut listing,
            &device,
            DType::F32,
            self.std(),
        ));
        listing.0
    }
}

/// Parameters from files, or fresh where the checkpoint has none.
struct Loader<'a> {
    files: &'a Files,
    found: BTreeMap<String, String>,
    fresh: Random,
    stored: BTreeMap<String, DType>,
    broken: Vec<String>,
    quantisation: Option<Quantisation>,
    quantised: Vec<QuantisedLayer>,
}

impl Source for Loader<'_> {
    fn values(&mut self, wanted: Wanted, dtype: DType) -> TensorData {
        let Some(name) = self.found.get(&wanted.path) else {
            return self.fresh.values(wanted, dtype);
        };
        let place = &self.files.tensors[name];
        self.stored.insert(wanted.path.clone(), place.dtype);
        let empty = vec![0; wanted.shape.len()];
        convert::values(self.files, place, wanted, dtype).unwrap_or_else(|reason| {
            self.broken.push(format!("{name} {reason}"));
            TensorData::new(Vec::<f32>::new(), empty).convert_dtype(dtype)
        })
    }

    fn quantised(&mut self, wanted: &Wanted, dtype: DType) -> Option<QuantisedWeight> {
        let how = self.quantisation?;
        let (layer, _) = quantised::layer_of(&wanted.path)?;
        // The order of PyTorch's linear layers, (out, in), is that of the blocks.
        let data = self.values(
            Wanted {
                shape: wanted.shape.iter().rev().copied().collect(),
                transposed: !wanted.transposed,
                ..wanted.clone()
            },
            dtype,
        );
        match QuantisedWeight::from_stored(&data, how) {
            Ok(weight) => {
                let [lost, norm] = weight.loss(&data);
                self.quantised.push(QuantisedLayer {
                    path: layer.to_owned(),
                    bytes: weight.bytes(),
                    dense_bytes: data.num_elements() * dtype.size(),
                    lost,
                    norm,
                });
                Some(weight)
            }
            Err(error) => {
                self.broken.push(format!("{} {error}", wanted.path));
                None
            }
        }
    }
}

/// The first of a list, and how many follow.
fn listed(list: &[impl Display]) -> String {
    const SHOWN: usize = 40;
    let shown: Vec<String> = list.iter().take(SHOWN).map(ToString::to_string).collect();
    match list.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}
