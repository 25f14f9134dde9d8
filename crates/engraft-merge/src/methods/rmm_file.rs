//! The file of a reversible merge: safetensors with the bases of every module.
//!
//! `MODULE.left.basis`, `MODULE.left.coefficients`, and the same of `right`, as of
//! [`Basis`](super::Basis), in single precision. The metadata has `engraft` = `rmm`, `version` = 1,
//! the names of the tasks, and of every module the shape, the size of the basis and the errors.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::rmm::{Basis, Rmm};
use crate::error::{Error, Result};
use crate::file::{HostTensor, TensorFiles, TensorSpool};

const VERSION: &str = "1";

/// A reversible merge of adapters.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RmmFile {
    /// Names of the tasks, in the order of the coefficients.
    pub tasks: Vec<String>,
    /// The bases, by module.
    pub modules: BTreeMap<String, Rmm>,
}

/// The file while it is written, module by module.
#[derive(Debug)]
pub struct RmmWriter {
    path: PathBuf,
    spool: TensorSpool,
    tasks: Vec<String>,
    layouts: BTreeMap<String, Layout>,
}

impl RmmWriter {
    /// Begins a file.
    ///
    /// # Errors
    /// A directory that cannot be written.
    pub fn create(path: &Path, tasks: &[String]) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            spool: TensorSpool::create(path)?,
            tasks: tasks.to_vec(),
            layouts: BTreeMap::new(),
        })
    }

    /// Adds the bases of a module.
    ///
    /// # Errors
    /// Another number of tasks, a disk that is full.
    pub fn push(&mut self, module: &str, rmm: &Rmm) -> Result<()> {
        if rmm.tasks() != self.tasks.len() {
            let reason = format!(
                "module `{module}` has {} tasks, the file {}",
                rmm.tasks(),
                self.tasks.len()
            );
            return Err(Error::file(&self.path, reason));
        }
        let layout = Layout {
            rows: [rmm.left.rows, rmm.right.rows],
            sizes: [rmm.left.size, rmm.right.size],
            errors: rmm.errors.clone(),
        };
        self.layouts.insert(module.to_owned(), layout);
        for (side, basis) in [("left", &rmm.left), ("right", &rmm.right)] {
            let parts = [
                ("basis", &basis.vectors),
                ("coefficients", &basis.coefficients),
            ];
            for (part, matrix) in parts {
                let name = format!("{module}.{side}.{part}");
                let tensor = HostTensor::from_matrix(matrix);
                self.spool.push(&name, Dtype::F32, &tensor)?;
            }
        }
        Ok(())
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// A disk that is full.
    pub fn finish(self) -> Result<()> {
        let path = self.path;
        let text = |value: serde_json::Result<String>| value.map_err(|e| Error::file(&path, e));
        let metadata = HashMap::from([
            ("engraft".to_owned(), "rmm".to_owned()),
            ("version".to_owned(), VERSION.to_owned()),
            (
                "tasks".to_owned(),
                text(serde_json::to_string(&self.tasks))?,
            ),
            (
                "modules".to_owned(),
                text(serde_json::to_string(&self.layouts))?,
            ),
        ]);
        self.spool.finish(&metadata)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Layout {
    rows: [usize; 2],
    sizes: [usize; 2],
    errors: Vec<f64>,
}

impl RmmFile {
    /// Where a task is.
    ///
    /// # Errors
    /// A task that is not there: the nearest names are in the message.
    pub fn task(&self, name: &str) -> Result<usize> {
        let place = self.tasks.iter().position(|task| task == name);
        place.ok_or_else(|| {
            let near = crate::error::nearest(name, self.tasks.iter().map(String::as_str));
            let known = self.tasks.join("`, `");
            let near = match near.first() {
                Some(near) => format!("did you mean `{near}`? "),
                None => String::new(),
            };
            Error::input(format!("no task `{name}`: {near}there are `{known}`"))
        })
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// A module with another number of tasks, a directory that cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut writer = RmmWriter::create(path, &self.tasks)?;
        for (module, rmm) in &self.modules {
            writer.push(module, rmm)?;
        }
        writer.finish()
    }

    /// Reads the file.
    ///
    /// # Errors
    /// A file that is missing, truncated, of another kind, or whose tensors do not fit.
    pub fn load(path: &Path) -> Result<Self> {
        let files = TensorFiles::open(path)?;
        let entry = |key: &str| {
            let found = files.metadata().get(key);
            found.ok_or_else(|| {
                Error::file(
                    path,
                    format!("no reversible merge: its metadata has no `{key}`"),
                )
            })
        };
        let (kind, version) = (entry("engraft")?, entry("version")?);
        if kind != "rmm" || version != VERSION {
            let reason = format!("`{kind}` of version {version}, expected `rmm` of {VERSION}");
            return Err(Error::file(path, reason));
        }
        let broken = |error: serde_json::Error| Error::file(path, error);
        let tasks: Vec<String> = serde_json::from_str(entry("tasks")?).map_err(broken)?;
        let layouts: BTreeMap<String, Layout> =
            serde_json::from_str(entry("modules")?).map_err(broken)?;
        let mut modules = BTreeMap::new();
        for (module, layout) in layouts {
            let basis = |at: usize, side: &str| -> Result<Basis> {
                let read = |part: &str| {
                    let tensor: HostTensor = files.read(&format!("{module}.{side}.{part}"))?;
                    tensor.matrix()
                };
                let basis = Basis {
                    vectors: read("basis")?,
                    coefficients: read("coefficients")?,
                    size: layout.sizes[at],
                    rows: layout.rows[at],
                };
                match basis.fits(tasks.len()) {
                    true => Ok(basis),
                    false => Err(Error::file(
                        path,
                        format!(
                            "the {side} basis of module `{module}` has tensors that do not fit"
                        ),
                    )),
                }
            };
            let rmm = Rmm {
                left: basis(0, "left")?,
                right: basis(1, "right")?,
                errors: layout.errors,
            };
            modules.insert(module, rmm);
        }
        Ok(Self { tasks, modules })
    }
}

impl Basis {
    fn fits(&self, tasks: usize) -> bool {
        let (all, length) = self.vectors.shape();
        self.size > 0
            && self.rows > 0
            && all.is_multiple_of(self.size)
            && (all / self.size * length).is_multiple_of(self.rows)
            && self.coefficients.shape() == (tasks, all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::TensorWriter;
    use crate::methods::Vectors;
    use crate::spectral::testing::{distance, factors};
    use crate::update::Factors;

    #[test]
    fn a_file_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("merge.safetensors");
        let tasks: Vec<Factors> = (0..3).map(|i| factors(4, 5, 2, i)).collect();
        let all: Vec<&Factors> = tasks.iter().collect();
        let mut file = RmmFile {
            tasks: ["sum", "sort", "copy"].map(str::to_owned).to_vec(),
            ..RmmFile::default()
        };
        let whole = Rmm::new(&all, 2, Vectors::Whole).unwrap();
        file.modules.insert("b".into(), whole);
        let each = Rmm::new(&all, 3, Vectors::Positions).unwrap();
        file.modules.insert("a".into(), each);
        file.save(&path).unwrap();
        let again = RmmFile::load(&path).unwrap();
        assert_eq!(again.tasks, file.tasks);
        for (module, rmm) in &file.modules {
            let read = &again.modules[module];
            assert_eq!(read.errors, rmm.errors);
            for task in 0..3 {
                let expected = rmm.revert(task).unwrap().product().unwrap();
                let found = read.revert(task).unwrap().product().unwrap();
                assert!(distance(&found, &expected) < 1e-6);
            }
        }
        assert_eq!(again.task("sort").unwrap(), 1);
        let error = again.task("sorts").unwrap_err().to_string();
        assert!(error.contains("did you mean `sort`"), "{error}");
        file.tasks.pop();
        assert!(file.save(&path).is_err());
    }

    #[test]
    fn other_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("other.safetensors");
        let writer = TensorWriter::create(&path, vec![], &HashMap::new()).unwrap();
        writer.finish().unwrap();
        let error = RmmFile::load(&path).unwrap_err().to_string();
        assert!(error.contains("no reversible merge"), "{error}");
    }
}
