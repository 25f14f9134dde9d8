//! The tensors of one or several safetensors files.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use engraft_kernels::{MappedFile, Region};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::HostTensor;
use super::number::{WEIGHTS, widen};
use crate::error::{Error, Result, nearest};

/// What a file says of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its precision.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
    file: usize,
    start: u64,
    len: usize,
}

impl Info {
    /// How many numbers.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// In which of the files it is.
    pub(crate) fn file(&self) -> usize {
        self.file
    }

    /// How many bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.len
    }
}

/// The tensors of safetensors files by name. Only headers are read until a tensor is asked for, and a
/// tensor counts as memory only while it is held.
#[derive(Debug)]
pub struct TensorFiles {
    path: PathBuf,
    files: Vec<(PathBuf, MappedFile)>,
    infos: BTreeMap<String, Info>,
    metadata: HashMap<String, String>,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl TensorFiles {
    /// Opens one file.
    ///
    /// # Errors
    /// A file that is missing, truncated or not safetensors.
    pub fn open(path: &Path) -> Result<Self> {
        let mut opened = Self {
            path: path.to_owned(),
            files: Vec::new(),
            infos: BTreeMap::new(),
            metadata: HashMap::new(),
        };
        opened.add(path)?;
        Ok(opened)
    }

    /// Opens the checkpoint of a directory: `model.safetensors`, or the shards that
    /// `model.safetensors.index.json` lists. A path to a file opens that file.
    ///
    /// # Errors
    /// As [`open`](Self::open); a shard that is missing, or that lacks a tensor of the list.
    pub fn checkpoint(path: &Path) -> Result<Self> {
        if path.is_file() {
            return Self::open(path);
        }
        let index = path.join("model.safetensors.index.json");
        let single = path.join("model.safetensors");
        if !index.exists() {
            return match single.exists() {
                true => Self::open(&single),
                false => Err(Error::file(
                    path,
                    "has neither model.safetensors nor model.safetensors.index.json",
                )),
            };
        }
        let text = std::fs::read_to_string(&index)
            .map_err(|error| Error::file(&index, format!("cannot be read: {error}")))?;
        let Index { weight_map } = serde_json::from_str(&text)
            .map_err(|error| Error::file(&index, format!("malformed: {error}")))?;
        let mut opened = Self {
            path: path.to_owned(),
            files: Vec::new(),
            infos: BTreeMap::new(),
            metadata: HashMap::new(),
        };
        let mut shards: Vec<&String> = weight_map.values().collect();
        shards.sort();
        shards.dedup();
        for shard in shards {
            opened.add(&path.join(shard))?;
        }
        if let Some(missing) = weight_map
            .keys()
            .find(|name| !opened.infos.contains_key(*name))
        {
            let shard = &weight_map[missing];
            return Err(Error::file(&index, format!("{missing} is not in {shard}")));
        }
        Ok(opened)
    }

    fn add(&mut self, path: &Path) -> Result<()> {
        let failed = |error: std::io::Error| Error::file(path, format!("cannot be read: {error}"));
        let broken = |reason: &dyn ToString| {
            Error::file(
                path,
                format!("truncated or corrupted: {}", reason.to_string()),
            )
        };
        let file = MappedFile::open(path).map_err(failed)?;
        let len = usize::try_from(file.len()).map_err(|error| broken(&error))?;
        let (header_len, header) = {
            // The map is of the whole file; only the pages of the header are touched.
            let whole = file.region(0, len).map_err(failed)?;
            SafeTensors::read_metadata(&whole).map_err(|error| broken(&error))?
        };
        let start = header_len as u64 + 8;
        for (name, info) in header.tensors() {
            let (from, to) = info.data_offsets;
            if start + to as u64 > file.len() {
                return Err(broken(&format!("{name} ends beyond the end of the file")));
            }
            let info = Info {
                dtype: info.dtype,
                shape: info.shape.clone(),
                file: self.files.len(),
                start: start + from as u64,
                len: to - from,
            };
            self.infos.insert(name, info);
        }
        self.metadata
            .extend(header.metadata().clone().unwrap_or_default());
        self.files.push((path.to_owned(), file));
        Ok(())
    }

    /// Where they are.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }

    /// The tensors, by name.
    #[must_use]
    pub fn infos(&self) -> &BTreeMap<String, Info> {
        &self.infos
    }

    /// The metadata of the files.
    #[must_use]
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// What the file says of a tensor.
    ///
    /// # Errors
    /// A tensor that is not there: the nearest names are in the message.
    pub fn info(&self, name: &str) -> Result<&Info> {
        self.infos.get(name).ok_or_else(|| {
            let near = nearest(name, self.infos.keys().map(String::as_str));
            let near = match near.is_empty() {
                true => String::new(),
                false => format!("; nearest: {}", near.join(", ")),
            };
            Error::file(&self.path, format!("has no tensor {name}{near}"))
        })
    }

    /// The bytes of a tensor where the system keeps them.
    ///
    /// # Errors
    /// A tensor that is not there, a file that has become shorter.
    pub fn bytes(&self, name: &str) -> Result<Region> {
        self.part(self.info(name)?, 0, None)
    }

    /// `len` bytes (all that are left by default) of a tensor from `from`.
    pub(crate) fn part(&self, info: &Info, from: usize, len: Option<usize>) -> Result<Region> {
        let (path, file) = &self.files[info.file];
        file.region(info.start + from as u64, len.unwrap_or(info.len - from))
            .map_err(|error| Error::file(path, format!("cannot be read: {error}")))
    }

    /// A weight as `f32`.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), a precision that no weight has, NaN or infinite numbers.
    pub fn read(&self, name: &str) -> Result<HostTensor> {
        let info = self.info(name)?;
        self.check_weight(name, info)?;
        let mut data = vec![0.0; info.count()];
        widen(info.dtype, &self.bytes(name)?, &mut data);
        if let Some(at) = data.iter().position(|x| !x.is_finite()) {
            let reason = format!("{name} has {} at {at}, expected finite numbers", data[at]);
            return Err(Error::file(&self.path, reason));
        }
        Ok(HostTensor::new(info.shape.clone(), data))
    }

    pub(crate) fn check_weight(&self, name: &str, info: &Info) -> Result<()> {
        match WEIGHTS.contains(&info.dtype) {
            true => Ok(()),
            false => Err(Error::file(
                &self.path,
                format!("{name} is {:?}, expected one of {WEIGHTS:?}", info.dtype),
            )),
        }
    }

    /// Whole numbers.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes), and numbers that are not whole.
    pub fn integers(&self, name: &str) -> Result<Vec<i64>> {
        let info = self.info(name)?;
        let bytes = self.bytes(name)?;
        Ok(match info.dtype {
            Dtype::I64 => chunks(&bytes, i64::from_le_bytes),
            Dtype::I32 => chunks(&bytes, |b| i64::from(i32::from_le_bytes(b))),
            Dtype::I16 => chunks(&bytes, |b| i64::from(i16::from_le_bytes(b))),
            Dtype::U8 => chunks(&bytes, |[b]| i64::from(b)),
            other if WEIGHTS.contains(&other) => {
                let values = self.read(name)?.data;
                match values.iter().find(|x| x.fract() != 0.0) {
                    None => values.into_iter().map(|x| x as i64).collect(),
                    Some(x) => {
                        let reason = format!("{name} has {x}, expected whole numbers");
                        return Err(Error::file(&self.path, reason));
                    }
                }
            }
            other => {
                let reason = format!("{name} is {other:?}, expected whole numbers");
                return Err(Error::file(&self.path, reason));
            }
        })
    }
}

fn chunks<const N: usize>(bytes: &[u8], value: impl Fn([u8; N]) -> i64) -> Vec<i64> {
    bytes.as_chunks::<N>().0.iter().map(|b| value(*b)).collect()
}
