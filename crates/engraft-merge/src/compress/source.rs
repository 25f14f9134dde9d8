//! Where tensors come from and go to: directories and files.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::COMPRESSED;
use crate::adapter::TENSOR_FILE;
use crate::error::{Error, Result};
use crate::file::{HostTensor, Planned, TensorFiles, TensorWriter};

/// Names of an adapter's tensors: those of PEFT, of Engraft, of exported deltas.
const ADAPTERS: [&str; 3] = [TENSOR_FILE, "adapter.safetensors", "delta.safetensors"];

/// Files that hold tensors, whole or in part.
const TENSORS: [&str; 5] = [
    ".safetensors",
    ".safetensors.index.json",
    ".bin",
    ".pt",
    ".pth",
];

/// The tensors of a directory or file, and what lies beside them.
#[derive(Debug)]
pub(super) struct Source {
    pub files: TensorFiles,
    /// What the tensors' file is called; a checkpoint of several becomes one.
    pub name: String,
    /// The directory.
    pub directory: Option<PathBuf>,
}

impl Source {
    /// Opens a file, the adapter of a directory, or its checkpoint.
    pub fn open(path: &Path) -> Result<Self> {
        if path.is_file() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            return Ok(Self {
                files: TensorFiles::open(path)?,
                name: name.into_owned(),
                directory: None,
            });
        }
        let directory = Some(path.to_owned());
        if let Some(name) = ADAPTERS.iter().find(|name| path.join(name).exists()) {
            return Ok(Self {
                files: TensorFiles::open(&path.join(name))?,
                name: (*name).to_owned(),
                directory,
            });
        }
        if path.join(COMPRESSED).exists() {
            let reason = format!("is compressed: it holds {COMPRESSED}; decompress it first");
            return Err(Error::file(path, reason));
        }
        let files = TensorFiles::checkpoint(path).map_err(|error| match path.is_dir() {
            true => error,
            false => Error::file(path, "no such file or directory"),
        })?;
        Ok(Self {
            files,
            name: "model.safetensors".to_owned(),
            directory,
        })
    }

    /// Whether it is an adapter's directory.
    pub fn is_adapter(&self) -> bool {
        ADAPTERS.contains(&self.name.as_str()) && self.directory.is_some()
    }

    /// Bytes of the tensors' files.
    pub fn bytes(&self) -> Result<u64> {
        let each = self.files.paths().map(length);
        each.sum()
    }
}

/// Bytes of a file.
pub(super) fn length(path: &Path) -> Result<u64> {
    let metadata = std::fs::metadata(path);
    metadata
        .map(|metadata| metadata.len())
        .map_err(|error| Error::file(path, format!("cannot be read: {error}")))
}

/// Copies the files of a directory that hold no tensors: configurations, tokenizers, cards.
pub(super) fn copy_beside(from: &Path, to: &Path, but: &[&str]) -> Result<()> {
    let failed = |error: std::io::Error| Error::file(from, format!("cannot be copied: {error}"));
    for entry in std::fs::read_dir(from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let skipped = TENSORS.iter().any(|end| name.ends_with(end)) || but.contains(&name.as_str());
        if entry.path().is_file() && !skipped {
            std::fs::copy(entry.path(), to.join(&name)).map_err(failed)?;
        }
    }
    Ok(())
}

/// A tensor that is to be written.
pub(super) fn planned(name: &str, dtype: Dtype, shape: &[usize]) -> Planned {
    Planned {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
    }
}

/// Whether a tensor is that of a base, byte by byte; the base has to have one of its shape.
pub(super) fn unchanged(files: &TensorFiles, base: &TensorFiles, name: &str) -> Result<bool> {
    let (own, theirs) = (files.info(name)?, base.info(name)?);
    if own.shape != theirs.shape {
        let (own, theirs) = (&own.shape, &theirs.shape);
        let reason = format!("{name} is {theirs:?}, the checkpoint's is {own:?}");
        return Err(Error::file(base.path(), reason));
    }
    Ok(own.dtype == theirs.dtype && *files.bytes(name)? == *base.bytes(name)?)
}

/// A tensor less the base's.
pub(super) fn difference(
    files: &TensorFiles,
    base: &TensorFiles,
    name: &str,
) -> Result<HostTensor> {
    let mut tensor = files.read(name)?;
    let from = base.read(name)?.data;
    tensor
        .data
        .iter_mut()
        .zip(from)
        .for_each(|(x, base)| *x -= base);
    Ok(tensor)
}

/// A directory that gets its name when it is complete.
#[derive(Debug)]
pub(super) struct Staging {
    folder: TempDir,
    out: PathBuf,
}

impl Staging {
    /// A temporary directory beside `out`, which is not there or is empty.
    pub fn new(out: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| unwritable(out, &error);
        if out.exists() {
            let mut entries = std::fs::read_dir(out).map_err(failed)?;
            if entries.next().is_some() {
                return Err(Error::file(out, "is not empty: name another directory"));
            }
        }
        let parent = match out.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(parent).map_err(failed)?;
        let mut builder = tempfile::Builder::new();
        let folder = builder.prefix(".engraft-").tempdir_in(parent);
        Ok(Self {
            folder: folder.map_err(failed)?,
            out: out.to_owned(),
        })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Gives it its name.
    pub fn place(self) -> Result<()> {
        let place = || -> std::io::Result<()> {
            // A directory that is there is empty: it makes room.
            if self.out.exists() {
                std::fs::remove_dir(&self.out)?;
            }
            // Temporary directories are closed to other users; this one stays.
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt;
                let open = std::fs::Permissions::from_mode(0o755);
                std::fs::set_permissions(self.folder.path(), open)?;
            }
            std::fs::rename(self.folder.path(), &self.out)
        };
        place().map_err(|error| unwritable(&self.out, &error))?;
        // Its name is free now: there is nothing to remove.
        let _ = self.folder.keep();
        Ok(())
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Error {
    Error::file(path, format!("cannot be written: {error}"))
}

/// Tensors whose sizes are known only one after the other: kept on disk until all are there.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    file: File,
    tensors: BTreeMap<String, (Planned, u64, usize)>,
    len: u64,
}

impl Scratch {
    pub fn new(staging: &Staging) -> Result<Self> {
        let path = staging.path().to_owned();
        let file = tempfile::tempfile_in(&path).map_err(|error| unwritable(&path, &error))?;
        Ok(Self {
            path,
            file,
            tensors: BTreeMap::new(),
            len: 0,
        })
    }

    pub fn push(&mut self, planned: Planned, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| unwritable(&self.path, &error))?;
        let entry = (planned, self.len, bytes.len());
        self.tensors.insert(entry.0.name.clone(), entry);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Writes the file.
    pub fn finish(mut self, path: &Path, metadata: &HashMap<String, String>) -> Result<()> {
        let planned = self.tensors.values().map(|(planned, ..)| planned.clone());
        let mut writer = TensorWriter::create(path, planned.collect(), metadata)?;
        for planned in writer.order() {
            let (_, at, len) = self.tensors[&planned.name];
            let mut bytes = vec![0; len];
            let mut read = || -> std::io::Result<()> {
                self.file.seek(SeekFrom::Start(at))?;
                self.file.read_exact(&mut bytes)
            };
            read().map_err(|error| unwritable(&self.path, &error))?;
            writer.bytes(&bytes)?;
        }
        writer.finish()
    }
}

/// Names, precisions, shapes and bytes of tensors, whatever their files and order.
#[derive(Debug, Default)]
pub(super) struct Digest(BTreeMap<String, [u8; 32]>);

impl Digest {
    pub fn add(&mut self, name: &str, what: &impl std::fmt::Debug, bytes: &[u8]) {
        let mut hash = Sha256::new();
        hash.update(format!("{what:?}\n"));
        hash.update(bytes);
        self.0.insert(name.to_owned(), hash.finalize().into());
    }

    pub fn hex(&self) -> String {
        let mut hash = Sha256::new();
        for (name, digest) in &self.0 {
            hash.update(format!("{}\n{name}", name.len()));
            hash.update(digest);
        }
        let bytes = hash.finalize();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
