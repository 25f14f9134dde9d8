//! The safetensors files of a directory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::DType;
use engraft_core::{Error, Result};
use engraft_kernels::{MappedFile, Region};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::Deserialize;

/// The weights of a checkpoint in one file.
pub(super) const SINGLE: &str = "model.safetensors";

/// Which file has which tensor, where there are several.
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Where a tensor is.
#[derive(Debug, Clone)]
pub(super) struct Place {
    file: usize,
    /// Its first byte in the file.
    pub start: u64,
    /// Its precision.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// The tensors of a directory, by name.
#[derive(Debug)]
pub(super) struct Files {
    files: Vec<MappedFile>,
    /// Where each tensor is.
    pub tensors: BTreeMap<String, Place>,
}

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

pub(super) fn file_error(path: &Path, reason: impl Into<String>) -> Error {
    Error::File {
        path: path.to_owned(),
        reason: reason.into(),
    }
}

/// The files of a directory that have its weights.
struct Listed {
    paths: Vec<PathBuf>,
    /// The tensors that an index promises; empty without one.
    promised: Vec<String>,
}

impl Listed {
    fn of(directory: &Path) -> Result<Self> {
        let (single, index) = (directory.join(SINGLE), directory.join(INDEX));
        if single.exists() {
            return Ok(Self {
                paths: vec![single],
                promised: Vec::new(),
            });
        }
        if index.exists() {
            return Self::by_index(directory, &index);
        }
        let pickled = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
        let hint = match pickled.iter().find(|name| directory.join(name).exists()) {
            Some(name) => format!("; {name} is not read: save it as safetensors"),
            None => String::new(),
        };
        Err(file_error(
            directory,
            format!("found neither {SINGLE} nor {INDEX}{hint}"),
        ))
    }

    fn by_index(directory: &Path, path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| file_error(path, format!("cannot be read: {error}")))?;
        let index: Index =
            serde_json::from_str(&text).map_err(|error| file_error(path, error.to_string()))?;
        let names: BTreeSet<&String> = index.weight_map.values().collect();
        if names.is_empty() {
            return Err(file_error(path, "found no file in its weight_map"));
        }
        let file = |name: &String| {
            if Path::new(name).file_name() != Some(name.as_ref()) {
                return Err(file_error(
                    path,
                    format!("found file `{name}`, expected a name in the same directory"),
                ));
            }
            let file = directory.join(name);
            match file.exists() {
                true => Ok(file),
                false => Err(file_error(
                    &file,
                    format!("missing, though {INDEX} names it"),
                )),
            }
        };
        Ok(Self {
            paths: names.into_iter().map(file).collect::<Result<_>>()?,
            promised: index.weight_map.into_keys().collect(),
        })
    }
}

/// The files with the weights of a checkpoint: `model.safetensors`, or those that
/// `model.safetensors.index.json` names.
///
/// # Errors
/// Files that are missing, or an index that is malformed or names files elsewhere.
pub fn weight_files(directory: &Path) -> Result<Vec<PathBuf>> {
    Ok(Listed::of(directory)?.paths)
}

impl Files {
    /// Opens `model.safetensors`, or the files that `model.safetensors.index.json` names.
    ///
    /// # Errors
    /// Files that are missing, truncated or corrupted, or that lack a tensor that the index names.
    pub fn open(directory: &Path) -> Result<Self> {
        let mut opened = Self {
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        let listed = Listed::of(directory)?;
        for path in &listed.paths {
            opened.add(path)?;
        }
        let absent: Vec<&str> = listed
            .promised
            .iter()
            .filter(|name| !opened.tensors.contains_key(*name))
            .map(String::as_str)
            .collect();
        match absent.is_empty() {
            true => Ok(opened),
            false => Err(file_error(
                &directory.join(INDEX),
                format!("names tensors that no file has: {}", super::listed(&absent)),
            )),
        }
    }

    /// The bytes of a tensor from its byte `offset`.
    pub fn bytes(&self, place: &Place, offset: usize, len: usize) -> std::io::Result<Region> {
        self.files[place.file].region(place.start + offset as u64, len)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let broken = |reason: String| file_error(path, reason);
        let file =
            MappedFile::open(path).map_err(|error| broken(format!("cannot be read: {error}")))?;
        let length = file.len();
        let whole = usize::try_from(length)
            .map_err(|error| error.to_string())
            .and_then(|len| file.region(0, len).map_err(|error| error.to_string()))
            .map_err(|error| broken(format!("cannot be read: {error}")))?;
        let (header, metadata) = SafeTensors::read_metadata(&whole).map_err(|error| {
            broken(format!(
                "truncated, or with a header that is broken or describes other data than the file's \
                 {length} bytes: {error}"
            ))
        })?;
        drop(whole);
        for (name, info) in metadata.tensors() {
            let dtype = read(info.dtype).ok_or_else(|| {
                broken(format!(
                    "{name}: found precision {:?}, expected F32, F16, BF16, F64 or an integer",
                    info.dtype
                ))
            })?;
            let place = Place {
                file: self.files.len(),
                start: (8 + header + info.data_offsets.0) as u64,
                dtype,
                shape: info.shape.clone(),
            };
            if self.tensors.insert(name.clone(), place).is_some() {
                return Err(broken(format!("{name}: found in two files")));
            }
        }
        self.files.push(file);
        Ok(())
    }
}

/// The precision of a tensor; those of buffers are known, though they are not read.
fn read(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U64 => DType::U64,
        Dtype::U32 => DType::U32,
        Dtype::U16 => DType::U16,
        Dtype::U8 | Dtype::BOOL => DType::U8,
        _ => return None,
    })
}

/// What safetensors calls a precision.
pub(super) fn written(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        _ => return None,
    })
}

/// The directory of a checkpoint and its `config.json`.
///
/// # Errors
/// A directory or file that is missing, or text that is not JSON.
pub(super) fn config(directory: &Path) -> Result<(PathBuf, serde_json::Value)> {
    if !directory.is_dir() {
        return Err(file_error(
            directory,
            "found no such directory, expected one with config.json and model.safetensors",
        ));
    }
    let path = directory.join("config.json");
    if !path.exists() && directory.join("adapter_config.json").exists() {
        return Err(file_error(
            directory,
            "found an adapter (adapter_config.json), expected a model with config.json",
        ));
    }
    let text = std::fs::read_to_string(&path)
        .map_err(|error| file_error(&path, format!("cannot be read: {error}")))?;
    let json = serde_json::from_str(&text)
        .map_err(|error| file_error(&path, format!("not JSON: {error}")))?;
    Ok((path, json))
}
