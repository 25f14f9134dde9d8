//! Adapter files: the adapter alone, as safetensors.
//!
//! A file holds every parameter of the adapter (trained ones, and frozen ones that were derived
//! from the base, such as singular vectors), its trained or given bank entries and the parameters
//! of the model that it selected (heads). Frozen random state is not in it: it grows again from the seed
//! in the metadata. The metadata key `engraft` holds the [`Attachment`] as JSON.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, TensorData};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};

use crate::adaptable::{Adaptable, Slot};
use crate::adapted::{Adapted, Attachment, Injection};
use crate::error::{Error, Result};
use crate::method::AnyMethod;
use crate::params;

/// Metadata key of the attachment.
const MANIFEST: &str = "engraft";

/// Where the bank keeps frozen entries whose values were given.
const GIVEN: &str = "bank.given.";

/// The field of an adapter with what its method remembers while it trains: not in adapter files.
const TRAINING_STATE: &str = "state.";

/// Tensors by key, and the metadata, of a safetensors file.
pub type Contents = (BTreeMap<String, TensorData>, HashMap<String, String>);

pub(crate) fn file_error(path: &Path, reason: impl ToString) -> Error {
    Error::File {
        path: path.to_owned(),
        reason: reason.to_string(),
    }
}

/// Writes a file whole or not at all: to a temporary name in the same directory, then renamed.
///
/// # Errors
/// When the directory cannot be written or the disk is full; an existing file is then untouched.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        // A file as any other is created: tempfile's own would be readable by its owner alone.
        let mut file =
            tempfile::Builder::new().make_in(directory, |path| std::fs::File::create_new(path))?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|error| file_error(path, format!("cannot be written: {error}")))
}

/// Writes tensors as safetensors.
///
/// # Errors
/// A precision that safetensors lacks, or a file that cannot be written.
pub fn write_tensors(
    path: &Path,
    tensors: &BTreeMap<String, TensorData>,
    metadata: HashMap<String, String>,
) -> Result<()> {
    let mut views = Vec::with_capacity(tensors.len());
    for (key, data) in tensors {
        let dtype = to_safetensors(data.dtype()).ok_or_else(|| {
            file_error(
                path,
                format!("{key}: safetensors has no {:?}", data.dtype()),
            )
        })?;
        let view = TensorView::new(dtype, data.shape().to_vec(), data.as_bytes())
            .map_err(|error| file_error(path, error))?;
        views.push((key.as_str(), view));
    }
    let bytes =
        safetensors::serialize(views, Some(metadata)).map_err(|error| file_error(path, error))?;
    write_atomically(path, &bytes)
}

/// Reads a safetensors file.
///
/// # Errors
/// A missing, truncated or corrupted file, or a precision that Engraft does not read.
pub fn read_tensors(path: &Path) -> Result<Contents> {
    let bytes = std::fs::read(path)
        .map_err(|error| file_error(path, format!("cannot be read: {error}")))?;
    parse_tensors(path, &bytes)
}

/// Reads safetensors from memory; `path` is for messages.
///
/// # Errors
/// As [`read_tensors`].
pub fn parse_tensors(path: &Path, bytes: &[u8]) -> Result<Contents> {
    let broken = |error: safetensors::SafeTensorError| {
        file_error(path, format!("truncated or corrupted: {error}"))
    };
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
    let file = SafeTensors::deserialize(bytes).map_err(broken)?;
    let mut tensors = BTreeMap::new();
    for (key, view) in file.tensors() {
        let dtype = from_safetensors(view.dtype()).ok_or_else(|| {
            file_error(
                path,
                format!("{key}: precision {:?} is not read", view.dtype()),
            )
        })?;
        tensors.insert(
            key,
            TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype),
        );
    }
    Ok((tensors, header.metadata().clone().unwrap_or_default()))
}

fn to_safetensors(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::U8 => Dtype::U8,
        _ => return None,
    })
}

fn from_safetensors(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::U8 => DType::U8,
        _ => return None,
    })
}

impl<M: Adaptable> Adapted<M> {
    /// Saves one adapter alone, its trained heads included.
    ///
    /// # Errors
    /// If there is no adapter of that name, or the file cannot be written.
    pub fn save_adapter(&self, name: &str, path: &Path) -> Result<()> {
        let attachment = &self.held[self.index(name)?].attachment;
        let tensors = self.adapter_tensors(name)?;
        let manifest = serde_json::to_string(attachment).expect("plain data");
        write_tensors(
            path,
            &tensors,
            HashMap::from([(MANIFEST.to_owned(), manifest)]),
        )
    }

    /// Attaches the adapter of a file under the name it was saved with. `method` makes a method
    /// from its id and configuration: the registry's function.
    ///
    /// # Errors
    /// A broken file; tensors that are missing, unexpected or of another shape. Then the model is
    /// as it was before: a file is never partly applied.
    pub fn load_adapter(
        &mut self,
        path: &Path,
        method: impl Fn(&str, &serde_json::Value) -> Result<AnyMethod>,
    ) -> Result<()> {
        let (tensors, metadata) = read_tensors(path)?;
        let manifest = metadata.get(MANIFEST).ok_or_else(|| {
            file_error(
                path,
                "not an Engraft adapter: its metadata has no `engraft` entry",
            )
        })?;
        let attachment: Attachment = serde_json::from_str(manifest).map_err(|error| {
            file_error(path, format!("its `engraft` entry is malformed: {error}"))
        })?;
        let method = method(&attachment.method, &attachment.config)?;
        self.restore(&attachment.name, &method, &attachment.injection, &tensors)
            .map_err(|error| match error {
                Error::BadConfig { reason, .. } => file_error(path, reason),
                other => other,
            })
    }

    /// Attaches a method and gives its parameters these values, keyed as in an adapter file
    /// (`model.<layer>.adapters.<name>.<field>`, `bank.trained.<name>/<entry>`, `model.<parameter>`).
    /// `bank.given.<name>/<entry>` replaces a frozen entry that would otherwise grow from the seed.
    ///
    /// # Errors
    /// As [`attach`](Self::attach), and for tensors that are missing, unexpected or of another
    /// shape. On error nothing was attached.
    pub fn restore(
        &mut self,
        name: &str,
        method: &AnyMethod,
        injection: &Injection,
        tensors: &BTreeMap<String, TensorData>,
    ) -> Result<()> {
        let calibration = self.placeholder(method, injection)?;
        let before = self.activity();
        self.attach_as_told(name, method, injection, &calibration)?;
        if let Err(reason) = self.with_aside(Some(name), |alone| alone.fill(name, tensors)) {
            self.undo(name, before);
            return Err(Error::BadConfig {
                what: format!("tensors of adapter `{name}`"),
                reason,
            });
        }
        self.each_slot(|_, slot| {
            if let Slot::Linear(linear) = slot {
                linear.refresh(name);
            }
        });
        Ok(())
    }

    /// Gives the parameters of an adapter these values, or says what does not fit.
    fn fill(
        &mut self,
        name: &str,
        tensors: &BTreeMap<String, TensorData>,
    ) -> std::result::Result<(), String> {
        let mut expected = self
            .adapter_tensors(name)
            .map_err(|error| error.to_string())?;
        let given = strip(GIVEN, tensors);
        for entry in given.keys() {
            if let Some(shape) = self.bank.frozen_shape(entry) {
                expected.insert(
                    format!("{GIVEN}{entry}"),
                    TensorData::zeros::<f32, _>(shape),
                );
            }
        }
        compare(&expected, tensors)?;
        for (entry, value) in given {
            self.bank.give(&entry, value);
        }
        self.model = params::write(self.model.clone(), strip("model.", tensors));
        let shared = strip("bank.", tensors);
        if !shared.is_empty() {
            self.bank = params::write(self.bank.clone(), shared);
        }
        Ok(())
    }

    /// The tensors that an adapter's file holds.
    ///
    /// # Errors
    /// If there is no adapter of that name.
    pub fn adapter_tensors(&self, name: &str) -> Result<BTreeMap<String, TensorData>> {
        let index = self.index(name)?;
        let held = &self.held[index];
        let inside = format!(".adapters.{name}.");
        let bank = [format!("bank.trained.{name}/"), format!("{GIVEN}{name}/")];
        let mut tensors = params::read(self, |path| {
            path.split_once(&inside)
                .is_some_and(|(_, field)| !field.starts_with(TRAINING_STATE))
                || bank.iter().any(|entries| path.starts_with(entries))
        });
        let mut selected = held.parked.clone();
        if self.live.contains(&index) {
            selected.extend(self.values_in_model(index));
        }
        tensors.extend(
            selected
                .into_iter()
                .map(|(path, data)| (format!("model.{path}"), data)),
        );
        Ok(tensors)
    }
}

fn compare(
    expected: &BTreeMap<String, TensorData>,
    found: &BTreeMap<String, TensorData>,
) -> Result<(), String> {
    let absent = |keys: Vec<&String>| {
        keys.iter()
            .map(|key| key.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let missing: Vec<&String> = expected
        .keys()
        .filter(|key| !found.contains_key(*key))
        .collect();
    let unexpected: Vec<&String> = found
        .keys()
        .filter(|key| !expected.contains_key(*key))
        .collect();
    if !missing.is_empty() || !unexpected.is_empty() {
        return Err(format!(
            "tensors missing: [{}]; unexpected: [{}]",
            absent(missing),
            absent(unexpected)
        ));
    }
    match expected
        .iter()
        .find(|(key, data)| found[*key].shape() != data.shape())
    {
        Some((key, data)) => Err(format!(
            "{key}: found shape {:?}, expected {:?}",
            found[key].shape(),
            data.shape()
        )),
        None => Ok(()),
    }
}

fn strip(prefix: &str, tensors: &BTreeMap<String, TensorData>) -> BTreeMap<String, TensorData> {
    tensors
        .iter()
        .filter_map(|(key, data)| Some((key.strip_prefix(prefix)?.to_owned(), data.clone())))
        .collect()
}

/// Writes all parameters of a module as safetensors under their record paths.
///
/// # Errors
/// As [`write_tensors`].
pub fn save_module<M: Module>(
    module: &M,
    path: &Path,
    metadata: HashMap<String, String>,
) -> Result<()> {
    write_tensors(path, &params::read(module, |_| true), metadata)
}

/// The module with the values of a safetensors file under its record paths.
///
/// # Errors
/// A broken file; tensors that are missing, unexpected or of another shape, all of them named.
pub fn load_module<M: Module>(module: M, path: &Path, contents: Contents) -> Result<M> {
    let (tensors, _) = contents;
    let expected: BTreeMap<String, Vec<usize>> = params::list(&module)
        .into_iter()
        .map(|found| (found.path, found.shape))
        .collect();
    let mut wrong: Vec<String> = expected
        .keys()
        .filter(|key| !tensors.contains_key(*key))
        .map(|key| format!("{key} is missing"))
        .collect();
    for (key, data) in &tensors {
        match expected.get(key) {
            None => wrong.push(format!("{key} is unexpected")),
            Some(shape) if *shape != data.shape().to_vec() => wrong.push(format!(
                "{key} has shape {:?}, expected {shape:?}",
                data.shape().to_vec()
            )),
            Some(_) => {}
        }
    }
    if !wrong.is_empty() {
        return Err(file_error(path, wrong.join("; ")));
    }
    Ok(params::write(module, tensors))
}
