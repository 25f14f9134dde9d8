//! The file of task masks: safetensors with one bit for each entry and task.
//!
//! `MODULE`: U8 `[tasks, ceil(out in / 8)]`, the bits of a row of the mask after row, eight to a byte with
//! the least significant first. The metadata has `engraft` = `task-masks`, `version` = 1, the names of the
//! tasks, `lambda`, and the shape of every module.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::Dtype;

use super::masks::{Mask, TaskMasks};
use crate::error::{Error, Result};
use crate::file::{TensorFiles, TensorSpool};

const VERSION: &str = "1";

/// Task masks in a file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MaskFile {
    /// Names of the tasks, in the order of the masks.
    pub tasks: Vec<String>,
    /// lambda of the masks.
    pub lambda: f64,
    /// Shape and masks, by module.
    pub modules: BTreeMap<String, ([usize; 2], TaskMasks)>,
}

/// The file while it is written.
#[derive(Debug)]
pub struct MaskWriter {
    spool: TensorSpool,
    tasks: Vec<String>,
    lambda: f64,
    shapes: BTreeMap<String, [usize; 2]>,
    bytes: u64,
}

impl MaskWriter {
    /// Begins a file.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub fn create(path: &Path, tasks: &[String], lambda: f64) -> Result<Self> {
        Ok(Self {
            spool: TensorSpool::create(path)?,
            tasks: tasks.to_vec(),
            lambda,
            shapes: BTreeMap::new(),
            bytes: 0,
        })
    }

    /// Adds the masks of a module.
    ///
    /// # Errors
    /// Another number of masks than of tasks, masks of another size, a disk that is full.
    pub fn push(&mut self, module: &str, shape: [usize; 2], masks: &TaskMasks) -> Result<()> {
        let len = shape[0] * shape[1];
        let fits = masks.masks.iter().all(|mask| mask.len() == len);
        if masks.masks.len() != self.tasks.len() || !fits {
            return Err(Error::input(format!(
                "module `{module}`: {} masks for {} tasks, each of {len} entries",
                masks.masks.len(),
                self.tasks.len()
            )));
        }
        let bytes: Vec<u8> = masks.masks.iter().flat_map(Mask::to_bytes).collect();
        self.bytes += bytes.len() as u64;
        self.shapes.insert(module.to_owned(), shape);
        let shape = vec![self.tasks.len(), len.div_ceil(8)];
        self.spool.bytes(module, Dtype::U8, shape, &bytes)
    }

    /// Bytes of the masks so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// A disk that is full.
    pub fn finish(self) -> Result<()> {
        let text = |value: serde_json::Result<String>| value.map_err(Error::input);
        let metadata = HashMap::from([
            ("engraft".to_owned(), "task-masks".to_owned()),
            ("version".to_owned(), VERSION.to_owned()),
            ("lambda".to_owned(), self.lambda.to_string()),
            (
                "tasks".to_owned(),
                text(serde_json::to_string(&self.tasks))?,
            ),
            (
                "modules".to_owned(),
                text(serde_json::to_string(&self.shapes))?,
            ),
        ]);
        self.spool.finish(&metadata)
    }
}

impl MaskFile {
    /// Reads the file.
    ///
    /// # Errors
    /// A file that is missing, truncated, of another kind, or whose masks do not fit.
    pub fn load(path: &Path) -> Result<Self> {
        let files = TensorFiles::open(path)?;
        let entry = |key: &str| {
            let found = files.metadata().get(key);
            found.ok_or_else(|| {
                Error::file(path, format!("no task masks: its metadata has no `{key}`"))
            })
        };
        let (kind, version) = (entry("engraft")?, entry("version")?);
        if kind != "task-masks" || version != VERSION {
            let reason =
                format!("`{kind}` of version {version}, expected `task-masks` of {VERSION}");
            return Err(Error::file(path, reason));
        }
        let broken = |error: serde_json::Error| Error::file(path, error);
        let tasks: Vec<String> = serde_json::from_str(entry("tasks")?).map_err(broken)?;
        let shapes: BTreeMap<String, [usize; 2]> =
            serde_json::from_str(entry("modules")?).map_err(broken)?;
        let lambda = serde_json::from_str(entry("lambda")?).map_err(broken)?;
        let mut modules = BTreeMap::new();
        for (module, shape) in shapes {
            let len = shape[0] * shape[1];
            let each = len.div_ceil(8);
            let bytes = files.bytes(&module)?;
            if bytes.len() != tasks.len() * each {
                let reason = format!("module `{module}` has {} bytes of masks", bytes.len());
                return Err(Error::file(path, reason));
            }
            let masks = (0..tasks.len()).map(|task| {
                Mask::from_bytes(len, &bytes[task * each..][..each])
                    .map_err(|error| Error::file(path, format!("module `{module}`: {error}")))
            });
            let masks = TaskMasks {
                masks: masks.collect::<Result<_>>()?,
            };
            modules.insert(module, (shape, masks));
        }
        Ok(Self {
            tasks,
            lambda,
            modules,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("masks.safetensors");
        let tasks = ["sum", "sort"].map(str::to_owned);
        let masks = |seed: usize| TaskMasks {
            masks: (0..2)
                .map(|task| {
                    (0..15)
                        .map(|at| (at * seed + task).is_multiple_of(3))
                        .collect()
                })
                .collect(),
        };
        let mut writer = MaskWriter::create(&path, &tasks, 0.25).unwrap();
        writer.push("a", [3, 5], &masks(1)).unwrap();
        writer.push("b", [5, 3], &masks(2)).unwrap();
        assert!(writer.push("c", [5, 4], &masks(2)).is_err());
        assert_eq!(writer.bytes(), 8);
        writer.finish().unwrap();
        let file = MaskFile::load(&path).unwrap();
        assert_eq!((file.tasks, file.lambda), (tasks.to_vec(), 0.25));
        assert_eq!(file.modules["a"], ([3, 5], masks(1)));
        assert_eq!(file.modules["b"], ([5, 3], masks(2)));
    }

    #[test]
    fn other_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other.safetensors");
        let spool = TensorSpool::create(&path).unwrap();
        spool.finish(&HashMap::new()).unwrap();
        let error = MaskFile::load(&path).unwrap_err().to_string();
        assert!(error.contains("no task masks"), "{error}");
    }
}
