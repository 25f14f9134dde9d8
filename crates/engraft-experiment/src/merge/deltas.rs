//! Adapters of any mergeable method as deltas of their model's weights.
//!
//! A directory of two files:
//!
//! ```text
//! engraft_delta.json    format, method and its configuration, base, modules (name and layout in a
//!                       checkpoint, shapes of what changes), parameters that are whole
//! delta.safetensors     <module>.weight: dW [out, in], <module>.bias: db, in f32
//!                       <parameter>:saved: a parameter that is whole, as a checkpoint has it
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use engraft_core::Adaptable as _;
use engraft_merge::file::{Planned, TensorWriter, write_atomically};
use safetensors::Dtype;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::changes::Changes;
use crate::adapt::{Loaded, beside, check_free, place};
use crate::{Error, Result};

/// Name of the file that makes a directory one of deltas.
pub const DELTA_CONFIG: &str = "engraft_delta.json";
/// Name of the deltas' file.
pub const DELTA_FILE: &str = "delta.safetensors";

/// Version of the format.
const FORMAT: u64 = 1;
/// Behind the name of a parameter that is whole.
const SAVED: &str = ":saved";

/// What was exported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exported {
    /// Id of the method.
    pub method: String,
    /// Modules that change.
    pub modules: Vec<String>,
    /// Parameters that were written whole: trained ones that the base lacks.
    pub saved: Vec<String>,
    /// Bytes of the tensors' file.
    pub bytes: u64,
    /// What a user should know of the adapter.
    pub warnings: Vec<String>,
}

/// Writes what an adapter changes in the weights of a model: dW = W_effective - W of every module, one
/// after the other. PEFT's adapters and Engraft's are read; `base` is the model's directory, or its id
/// on the hub.
///
/// # Errors
/// A model or an adapter that cannot be read, an adapter for another model, an `out` that is not empty,
/// a method without a weight form: adapter, method and module are named. Nothing was written then.
pub fn export_deltas(base: &Path, adapter: &Path, out: &Path) -> Result<Exported> {
    check_free(out)?;
    let loaded = Loaded::new(base, adapter)?;
    let name = adapter.file_name().unwrap_or(adapter.as_os_str());
    let name = name.to_string_lossy().into_owned();
    let attachment = loaded.adapted.attachments().last().cloned();
    let attachment = attachment
        .ok_or_else(|| Error::Input(format!("adapter `{name}`: its files attach nothing")))?;
    let shapes = loaded.adapted.model.shapes();
    let summary = json!({
        "name": base.to_string_lossy(),
        "model_type": loaded.adapted.model.config_json()["model_type"],
        "parameters": shapes.total(),
        "quantised": loaded.base,
        "sha256": digest(&loaded.model)?,
    });
    let mut changes = Changes::new(&name, loaded.adapted, &attachment)?;
    let folder = beside(out)?;
    let file = folder.path().join(DELTA_FILE);
    write_tensors(&mut changes, &file)?;
    let text = json!({
        "format": FORMAT,
        "version": env!("CARGO_PKG_VERSION"),
        "adapter": name,
        "method": attachment.method,
        "config": attachment.config,
        "base": summary,
        "modules": changes.modules,
        "saved": changes.whole,
    });
    let text = serde_json::to_string_pretty(&text).expect("plain data");
    write_atomically(&folder.path().join(DELTA_CONFIG), text.as_bytes()).map_err(input)?;
    let bytes = file
        .metadata()
        .map_err(|error| Error::io("read", &file, &error))?
        .len();
    place(folder, out)?;
    Ok(Exported {
        method: attachment.method,
        modules: changes.modules.into_keys().collect(),
        saved: changes.whole,
        bytes,
        warnings: loaded.warnings,
    })
}

fn write_tensors(changes: &mut Changes, file: &Path) -> Result<()> {
    let planned = |name: String, shape: Vec<usize>| Planned {
        name,
        dtype: Dtype::F32,
        shape,
    };
    let mut tensors = BTreeMap::new();
    let mut plan = Vec::new();
    for (module, change) in &changes.modules {
        let fields = [
            ("weight", change.weight.clone()),
            ("bias", change.bias.map(|len| vec![len])),
        ];
        for (field, shape) in fields {
            if let Some(shape) = shape {
                let name = format!("{module}.{field}");
                tensors.insert(name.clone(), (module.clone(), field));
                plan.push(planned(name, shape));
            }
        }
    }
    for param in &changes.whole {
        let (shape, _) = changes.whole(param)?;
        plan.push(planned(format!("{param}{SAVED}"), shape));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut writer = TensorWriter::create(file, plan, &metadata).map_err(input)?;
    for tensor in writer.order() {
        let values = match tensors.get(&tensor.name) {
            Some((module, field)) => changes.values(module, field)?,
            None => changes.whole(tensor.name.trim_end_matches(SAVED))?.1,
        };
        writer.numbers(Dtype::F32, &values).map_err(input)?;
    }
    writer.finish().map_err(input)
}

/// SHA-256 of the weights' files, in order.
fn digest(model: &Path) -> Result<Value> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    for path in engraft_models::weight_files(model).map_err(input)? {
        let failed = |error| Error::io("read", &path, &error);
        let mut file = File::open(&path).map_err(failed)?;
        loop {
            let read = file.read(&mut buffer).map_err(failed)?;
            match read {
                0 => break,
                read => hash.update(&buffer[..read]),
            }
        }
    }
    let digits = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    Ok(digits.into())
}

fn input(error: impl std::fmt::Display) -> Error {
    Error::Input(error.to_string())
}
