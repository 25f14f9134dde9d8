//! The two files of a PEFT adapter.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::tensor::TensorData;
use engraft_core::{Adaptable, Adapted, AnyMethod, ModelShapes, file};
use engraft_models::Pretrained;
use serde_json::Value;

use crate::config::{PeftConfig, Reader};
use crate::error::{Error, Result};
use crate::import::{self, Import};
use crate::ties;
use crate::types;

/// Name of the configuration's file.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// Name of the tensors' file.
pub const TENSOR_FILE: &str = "adapter_model.safetensors";

/// An adapter as PEFT stores it: `adapter_config.json` and `adapter_model.safetensors`.
#[derive(Debug, Clone)]
pub struct PeftAdapter {
    pub(crate) config: PeftConfig,
    pub(crate) tensors: BTreeMap<String, TensorData>,
    /// State that PEFT rebuilds instead of saving it.
    pub(crate) frozen: BTreeMap<String, TensorData>,
    pub(crate) residual: bool,
}

impl PeftAdapter {
    /// Reads the two files of a directory.
    ///
    /// # Errors
    /// Files that are missing, truncated or malformed.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(CONFIG_FILE);
        let broken = |reason: String| engraft_core::Error::File {
            path: path.clone(),
            reason,
        };
        let text = std::fs::read_to_string(&path)
            .map_err(|error| broken(format!("cannot be read: {error}")))?;
        let config =
            serde_json::from_str(&text).map_err(|error| broken(format!("malformed: {error}")))?;
        let tensors = directory.join(TENSOR_FILE);
        if !tensors.exists() && directory.join("adapter_model.bin").exists() {
            return Err(Error::Unsupported(format!(
                "{} has only adapter_model.bin, a pickle: save it again with PEFT's `save_pretrained`, which writes {TENSOR_FILE}",
                directory.display()
            )));
        }
        Ok(Self::from_parts(config, file::read_tensors(&tensors)?.0))
    }

    /// An adapter from its configuration and tensors.
    pub fn from_parts(config: PeftConfig, tensors: BTreeMap<String, TensorData>) -> Self {
        Self {
            config,
            tensors,
            frozen: BTreeMap::new(),
            residual: false,
        }
    }

    /// The same with frozen state that PEFT does not save, under the names its modules have for
    /// it: needed where only PEFT can rebuild it (AdaMSS' clusters of rows,
    /// `base_model.model.<layer>.scatter_index`). What the type has no use for is ignored.
    pub fn with_frozen(self, frozen: BTreeMap<String, TensorData>) -> Self {
        Self { frozen, ..self }
    }

    /// The same adapter for a model whose weights are what the adapter's init left of the original
    /// ones: the residual of PiSSA, OLoRA, CorDA, LoRA-GA, LoftQ or KaSA. Without this the model is
    /// taken to have the original weights, and what the file and they do not determine is refused.
    pub fn on_residual(self) -> Self {
        Self {
            residual: true,
            ..self
        }
    }

    /// The same for a task as PEFT names them (`CAUSAL_LM`, `SEQ_CLS`, `TOKEN_CLS`,
    /// `FEATURE_EXTRACTION`): without it PEFT does not put virtual tokens in front of a text.
    pub fn for_task(mut self, task_type: &str) -> Self {
        self.config
            .keys
            .insert("task_type".to_owned(), task_type.into());
        self
    }

    /// The same for a model of this name or in this directory, where PEFT looks for it, and of this
    /// revision if one is named.
    pub fn for_model(mut self, model: &str, revision: Option<&str>) -> Self {
        let keys = &mut self.config.keys;
        keys.insert("base_model_name_or_path".to_owned(), model.into());
        keys.insert("revision".to_owned(), revision.into());
        self
    }

    /// The configuration.
    pub fn config(&self) -> &PeftConfig {
        &self.config
    }

    /// Which layers of its model the adapter repeats: ranges [from, to) of blocks, one after the
    /// other. It fits a model whose layers were repeated like that.
    ///
    /// # Errors
    /// A malformed configuration.
    pub fn layer_replication(&self) -> Result<Option<Vec<[usize; 2]>>> {
        import::replication(&mut Reader::new(&self.config))
    }

    /// The model that the adapter fits, made of the one that it was trained on: with layers repeated
    /// ([`layer_replication`](Self::layer_replication)), and with a weight of its own in an output layer
    /// that shares an embedding's, where the adapter trains one of the two whole.
    ///
    /// # Errors
    /// A malformed configuration, or layers that the model lacks.
    pub fn prepare(&self, model: Pretrained) -> Result<Pretrained> {
        let mut config = Reader::new(&self.config);
        let model = match import::replication(&mut config)? {
            Some(ranges) if ranges != model.shapes().replicated => model.replicated(&ranges)?,
            _ => model,
        };
        Ok(match ties::unties(&mut config, &model.shapes())? {
            true => model.untied(),
            false => model,
        })
    }

    /// The tensors by PEFT's keys.
    pub fn tensors(&self) -> &BTreeMap<String, TensorData> {
        &self.tensors
    }

    /// The adapter in Engraft's terms, for a model of these shapes, to be attached as `name`.
    ///
    /// # Errors
    /// A type or option that is not supported yet, unknown keys with a value, targets that match
    /// nothing, tensors that are missing, unexpected or of another shape (all of them named).
    pub fn import(&self, shapes: &ModelShapes, name: &str) -> Result<Import> {
        import::import(self, shapes, name)
    }

    /// Writes the two files into a directory, which is made if need be. The configuration comes
    /// last, so that an interrupted write leaves no adapter rather than half of one.
    ///
    /// # Errors
    /// When they cannot be written, or would not determine the adapter.
    pub fn write(&self, directory: &Path) -> Result<()> {
        if let Ok(kind) = types::find(self.config.peft_type())
            && !kind.why_unsaved().is_empty()
        {
            return Err(Error::Unsupported(format!(
                "not written as {}: {}",
                kind.name(),
                kind.why_unsaved()
            )));
        }
        let failed = |error: std::io::Error| engraft_core::Error::File {
            path: directory.to_owned(),
            reason: format!("cannot be made: {error}"),
        };
        std::fs::create_dir_all(directory).map_err(failed)?;
        file::write_tensors(
            &directory.join(TENSOR_FILE),
            &self.tensors,
            HashMap::from([("format".to_owned(), "pt".to_owned())]),
        )?;
        let text = serde_json::to_string_pretty(&self.config.to_json()).expect("plain data");
        Ok(file::write_atomically(
            &directory.join(CONFIG_FILE),
            text.as_bytes(),
        )?)
    }
}

/// Attaches the adapter of a directory under `name` and returns the warnings. `method` makes a
/// method from its id and configuration: the registry's function.
///
/// # Errors
/// As [`PeftAdapter::read`], [`PeftAdapter::import`] and [`Import::attach`]. On error the model is
/// as it was before: a file is never partly applied.
pub fn load<M: Adaptable>(
    adapted: &mut Adapted<M>,
    name: &str,
    directory: &Path,
    method: impl Fn(&str, &Value) -> engraft_core::Result<AnyMethod>,
) -> Result<Vec<String>> {
    let import = PeftAdapter::read(directory)?.import(&adapted.model.shapes(), name)?;
    import.attach(adapted, method)?;
    Ok(import.warnings)
}

/// An attached adapter as PEFT stores it. `fan_in_fan_out` says whether PEFT's model stores the
/// adapted layers as (in, out): GPT-2's Conv1D.
///
/// # Errors
/// A method, or settings of it, that PEFT's files cannot express; the message has the reason.
pub fn export<M: Adaptable>(
    adapted: &Adapted<M>,
    name: &str,
    fan_in_fan_out: bool,
) -> Result<PeftAdapter> {
    crate::export::export(adapted, name, fan_in_fan_out)
}

/// Writes an attached adapter into a directory as PEFT stores it, for a model of PyTorch linear
/// layers; see [`export`] for others.
///
/// # Errors
/// As [`export`] and [`PeftAdapter::write`]. Nothing was written when it cannot be expressed.
pub fn save<M: Adaptable>(adapted: &Adapted<M>, name: &str, directory: &Path) -> Result<()> {
    export(adapted, name, false)?.write(directory)
}
