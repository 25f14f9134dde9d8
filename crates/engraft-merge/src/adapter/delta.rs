//! Deltas: dW and db of every module as they are, exported from a method without a host form, or
//! left by a merge.

use std::path::Path;

use serde_json::{Value, json};

use super::{Config, Form, Layout, Parts, Shapes};
use crate::error::{Error, Result};
use crate::file::TensorFiles;
use crate::update::{Dense, Update};

/// Name of the file that makes a directory one of deltas.
pub const DELTA_CONFIG: &str = "engraft_delta.json";

/// Behind the name of a parameter that is whole.
pub(super) const SAVED: &str = ":saved";

/// Name of the deltas' file.
pub const DELTA_FILE: &str = "delta.safetensors";

pub(super) struct Delta;

/// Opens a directory of deltas.
pub(super) fn open(directory: &Path) -> Result<(Config, TensorFiles)> {
    let path = directory.join(DELTA_CONFIG);
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Error::file(&path, format!("cannot be read: {error}")))?;
    let keys = serde_json::from_str(&text)
        .map_err(|error| Error::file(&path, format!("malformed: {error}")))?;
    let config = Config::new(keys).with([("peft_type", json!("DELTA"))]);
    Ok((config, TensorFiles::open(&directory.join(DELTA_FILE))?))
}

impl Form for Delta {
    fn name(&self) -> &'static str {
        "DELTA"
    }

    fn fields(&self) -> &'static [&'static str] {
        &["weight", "bias"]
    }

    fn layout(&self, config: &Config, module: &str, shapes: &Shapes<'_>) -> Layout {
        let shape = shapes("weight");
        let modules = config.keys().get("modules").unwrap_or(&Value::Null);
        match modules[module]["layout"].as_str() {
            Some("transposed") => Layout::Transposed,
            Some("embedding") => Layout::Embedding,
            _ if shape.len() > 2 => Layout::Convolution {
                kernel: shape[2..].to_vec(),
            },
            _ => Layout::Linear,
        }
    }

    fn update(&self, parts: &Parts<'_>) -> Result<Update> {
        let mut update = match parts.has("weight") {
            true => {
                let weight = parts.tensor("weight")?;
                let matrix = weight.matrix()?;
                let (rows, columns) = matrix.shape();
                Update::dense(Dense::new(rows, columns, weight.data)?)
            }
            false => Update::default(),
        };
        if parts.has("bias") {
            update.bias = Some(parts.vector("bias")?);
        }
        Ok(update)
    }
}
