//! A safetensors file written tensor by tensor, whole or not at all.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Map, Value, json};
use tempfile::NamedTempFile;

use super::number::{narrow, size};
use crate::error::{Error, Result};

/// A tensor that is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Its precision.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Planned {
    /// How many bytes it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<usize>() * self.dtype.bitsize() / 8
    }
}

/// Writes a safetensors file under a temporary name in its directory, one tensor after the other in
/// the order of its header, and gives it its name when it is whole.
#[derive(Debug)]
pub struct TensorWriter {
    path: PathBuf,
    file: NamedTempFile<File>,
    planned: Vec<Planned>,
    /// Bytes written of the tensors, and planned.
    written: usize,
    total: usize,
}

impl TensorWriter {
    /// Begins a file of these tensors. They are written in the order that
    /// [`order`](Self::order) gives: wide numbers first, so that all are aligned.
    ///
    /// # Errors
    /// A directory that cannot be written, or two tensors of one name.
    pub fn create(
        path: &Path,
        mut planned: Vec<Planned>,
        metadata: &HashMap<String, String>,
    ) -> Result<Self> {
        planned.sort_by(|a, b| {
            let key = |planned: &Planned| std::cmp::Reverse(planned.dtype.bitsize());
            (key(a), &a.name).cmp(&(key(b), &b.name))
        });
        let header = header(&planned, metadata).map_err(|reason| Error::file(path, reason))?;
        let mut file = temporary(path)?;
        file.write_all(&header)
            .map_err(|error| unwritable(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            written: 0,
            total: planned.iter().map(Planned::bytes).sum(),
            planned,
        })
    }

    /// The tensors in the order in which they are to be written.
    #[must_use]
    pub fn order(&self) -> Vec<Planned> {
        self.planned.clone()
    }

    /// Writes the next bytes of the file's tensors.
    ///
    /// # Errors
    /// A disk that is full; more bytes than were planned.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len();
        if self.written > self.total {
            let reason = format!("{} bytes, {} were planned", self.written, self.total);
            return Err(Error::file(&self.path, reason));
        }
        self.file
            .write_all(bytes)
            .map_err(|error| unwritable(&self.path, &error))
    }

    /// Writes the next numbers of the file's tensors in a precision.
    ///
    /// # Errors
    /// As [`bytes`](Self::bytes).
    pub fn numbers(&mut self, dtype: Dtype, numbers: &[f32]) -> Result<()> {
        let mut bytes = vec![0; numbers.len() * size(dtype)];
        narrow(dtype, numbers, &mut bytes);
        self.bytes(&bytes)
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// A disk that is full; fewer bytes than were planned.
    pub fn finish(self) -> Result<()> {
        if self.written != self.total {
            let reason = format!("{} bytes, {} were planned", self.written, self.total);
            return Err(Error::file(&self.path, reason));
        }
        persist(self.file, &self.path)
    }
}

/// The length and the text of a header.
pub(super) fn header(
    tensors: &[Planned],
    metadata: &HashMap<String, String>,
) -> std::result::Result<Vec<u8>, String> {
    let mut header = Map::new();
    if !metadata.is_empty() {
        header.insert("__metadata__".to_owned(), json!(metadata));
    }
    let mut start = 0;
    for tensor in tensors {
        let end = start + tensor.bytes();
        let entry = json!({
            "dtype": format!("{:?}", tensor.dtype),
            "shape": tensor.shape,
            "data_offsets": [start, end],
        });
        if header.insert(tensor.name.clone(), entry).is_some() {
            return Err(format!("two tensors are called {}", tensor.name));
        }
        start = end;
    }
    let mut text = Value::Object(header).to_string();
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    Ok([&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat())
}

/// A file under a temporary name in the directory of `path`, which is made if need be.
pub(super) fn temporary(path: &Path) -> Result<NamedTempFile<File>> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let make = || -> std::io::Result<NamedTempFile<File>> {
        std::fs::create_dir_all(directory)?;
        // A file as any other is created: tempfile's own would be readable by its owner alone.
        tempfile::Builder::new().make_in(directory, |path| {
            let mut options = File::options();
            options.read(true).write(true).create_new(true).open(path)
        })
    };
    make().map_err(|error| unwritable(path, &error))
}

/// Gives a file that is whole its name.
pub(super) fn persist(file: NamedTempFile<File>, path: &Path) -> Result<()> {
    let persist = || -> std::io::Result<()> {
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    persist().map_err(|error| unwritable(path, &error))
}

pub(super) fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::file(path, format!("cannot be written: {error}"))
}

/// Writes a file whole or not at all: to a temporary name in the same directory, then renamed.
///
/// # Errors
/// A directory that cannot be written, a disk that is full.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = temporary(path)?;
    file.write_all(bytes)
        .map_err(|error| unwritable(path, &error))?;
    persist(file, path)
}

#[cfg(test)]
mod tests {
    use super::super::TensorFiles;
    use super::*;

    fn planned(name: &str, dtype: Dtype, shape: &[usize]) -> Planned {
        Planned {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b.safetensors");
        let tensors = vec![
            planned("z", Dtype::BF16, &[3]),
            planned("a", Dtype::F32, &[2, 2]),
            planned("b", Dtype::F16, &[]),
        ];
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let mut writer = TensorWriter::create(&path, tensors, &metadata).unwrap();
        let names: Vec<String> = writer.order().into_iter().map(|t| t.name).collect();
        assert_eq!(names, ["a", "b", "z"]);
        writer.numbers(Dtype::F32, &[1.0, 2.0, 3.0, 4.0]).unwrap();
        writer.numbers(Dtype::F16, &[0.5]).unwrap();
        assert!(!path.exists());
        writer.numbers(Dtype::BF16, &[1.0, -2.0, 0.25]).unwrap();
        writer.finish().unwrap();
        let files = TensorFiles::open(&path).unwrap();
        assert_eq!(files.metadata(), &metadata);
        assert_eq!(files.read("a").unwrap().data, [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(files.read("b").unwrap().shape, Vec::<usize>::new());
        assert_eq!(files.read("z").unwrap().data, [1.0, -2.0, 0.25]);
        assert_eq!(files.integers("a").unwrap(), [1, 2, 3, 4]);
        assert!(files.integers("b").is_err());
        let message = files.read("c").unwrap_err().to_string();
        assert!(message.contains("has no tensor c"), "{message}");
    }

    #[test]
    fn half_a_file_gets_no_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("half.safetensors");
        let tensors = vec![planned("a", Dtype::F32, &[2])];
        let mut writer = TensorWriter::create(&path, tensors, &HashMap::new()).unwrap();
        writer.numbers(Dtype::F32, &[1.0]).unwrap();
        assert!(writer.finish().is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn two_tensors_of_one_name_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let tensors = vec![planned("a", Dtype::F32, &[2]); 2];
        let path = directory.path().join("two");
        let message = TensorWriter::create(&path, tensors, &HashMap::new()).unwrap_err();
        assert!(message.to_string().contains("two tensors are called a"));
    }
}
