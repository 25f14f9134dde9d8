//! A safetensors file of tensors that become known one after the other.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use tempfile::NamedTempFile;

use super::number::{narrow, size};
use super::writer::{header, persist, temporary, unwritable};
use super::{HostTensor, Planned};
use crate::error::{Error, Result};

/// Collects tensors in a temporary file, and writes the file with its header when all are known: the
/// numbers never have to be in memory together.
#[derive(Debug)]
pub struct TensorSpool {
    path: PathBuf,
    numbers: BufWriter<NamedTempFile<File>>,
    tensors: Vec<Planned>,
}

impl TensorSpool {
    /// Begins a file.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub fn create(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            numbers: BufWriter::new(temporary(path)?),
            tensors: Vec::new(),
        })
    }

    /// Adds a tensor in a precision.
    ///
    /// # Errors
    /// A disk that is full; a second tensor of a name.
    pub fn push(&mut self, name: &str, dtype: Dtype, tensor: &HostTensor) -> Result<()> {
        let mut bytes = vec![0; tensor.data.len() * size(dtype)];
        narrow(dtype, &tensor.data, &mut bytes);
        self.bytes(name, dtype, tensor.shape.clone(), &bytes)
    }

    /// Adds a tensor of bytes.
    ///
    /// # Errors
    /// As [`push`](Self::push).
    pub fn bytes(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: Vec<usize>,
        bytes: &[u8],
    ) -> Result<()> {
        self.tensors.push(Planned {
            name: name.to_owned(),
            dtype,
            shape,
        });
        let written = self.numbers.write_all(bytes);
        written.map_err(|error| unwritable(&self.path, &error))
    }

    /// How many tensors there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Writes the file and gives it its name.
    ///
    /// # Errors
    /// A disk that is full; two tensors of one name.
    pub fn finish(self, metadata: &HashMap<String, String>) -> Result<()> {
        let Self {
            path,
            numbers,
            tensors,
        } = self;
        let failed = |error: std::io::Error| unwritable(&path, &error);
        let mut numbers = numbers
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        let header = header(&tensors, metadata).map_err(|reason| Error::file(&path, reason))?;
        let mut file = temporary(&path)?;
        file.write_all(&header).map_err(failed)?;
        numbers.as_file_mut().rewind().map_err(failed)?;
        std::io::copy(numbers.as_file_mut(), file.as_file_mut()).map_err(failed)?;
        persist(file, &path)
    }
}
