//! The checkpoint that adapters were made for.

use std::collections::BTreeMap;
use std::path::Path;

use engraft_linalg::Matrix;

use crate::error::{Error, Result, nearest};
use crate::file::{HostTensor, TensorFiles};

/// How a weight lies in its file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Layout {
    /// `[out, in]`.
    #[default]
    Linear,
    /// `[in, out]`: GPT-2's Conv1D.
    Transposed,
    /// `[tokens, width]`: an embedding is a linear map of one-hot rows, `[in, out]`.
    Embedding,
    /// `[out, in, ...]`, the numbers of one output in a row.
    Convolution {
        /// Sides of the kernel.
        kernel: Vec<usize>,
    },
}

impl Layout {
    /// Whether the file has the transpose of `[out, in]`.
    #[must_use]
    pub fn is_transposed(&self) -> bool {
        matches!(self, Self::Transposed | Self::Embedding)
    }
}

/// A checkpoint and the names its tensors have in it.
#[derive(Debug)]
pub struct Base {
    files: TensorFiles,
    /// Names that modules have in the checkpoint, where they are others than in memory.
    aliases: BTreeMap<String, String>,
}

impl Base {
    /// Opens a directory with `model.safetensors` or its shards, or one file.
    ///
    /// # Errors
    /// As [`TensorFiles::checkpoint`].
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self {
            files: TensorFiles::checkpoint(path)?,
            aliases: BTreeMap::new(),
        })
    }

    /// The same for modules whose tensors are called otherwise in the checkpoint than in memory.
    #[must_use]
    pub fn with_aliases(self, aliases: BTreeMap<String, String>) -> Self {
        Self { aliases, ..self }
    }

    /// Its tensors.
    #[must_use]
    pub fn files(&self) -> &TensorFiles {
        &self.files
    }

    /// The name of a module's tensor in the checkpoint, if it is there: its own, its alias', or the
    /// only one that differs from it by modules around the model (`bert.encoder...` for `encoder...`).
    #[must_use]
    pub fn find(&self, module: &str, field: &str) -> Option<String> {
        let alias = self.aliases.get(module).map(String::as_str);
        let wanted = format!("{}.{field}", alias.unwrap_or(module));
        let infos = self.files.infos();
        if infos.contains_key(&wanted) {
            return Some(wanted);
        }
        let inside = |name: &&String| {
            let outer = name.strip_suffix(wanted.as_str());
            let inner = wanted.strip_suffix(name.as_str());
            [outer, inner]
                .into_iter()
                .flatten()
                .any(|front| front.ends_with('.'))
        };
        let mut found = infos.keys().filter(inside);
        match (found.next(), found.next()) {
            (Some(one), None) => Some(one.clone()),
            _ => None,
        }
    }

    /// The name of a module's weight in the checkpoint.
    ///
    /// # Errors
    /// A module that the checkpoint lacks: the nearest names are in the message.
    pub fn weight_name(&self, module: &str) -> Result<String> {
        self.find(module, "weight").ok_or_else(|| {
            let wanted = format!("{module}.weight");
            let names = self.files.infos().keys();
            let near = nearest(&wanted, names.map(String::as_str));
            let near = match near.is_empty() {
                true => String::new(),
                false => format!("; nearest: {}", near.join(", ")),
            };
            let path = self.files.path().display();
            Error::input(format!("the base {path} has no {wanted}{near}"))
        })
    }

    /// (out, in) of a module's weight; a vector, as norms have it, is one column.
    ///
    /// # Errors
    /// A module that the checkpoint lacks.
    pub fn shape(&self, module: &str, layout: &Layout) -> Result<[usize; 2]> {
        let shape = &self.files.info(&self.weight_name(module)?)?.shape;
        if shape.is_empty() {
            return Err(Error::input(
                "the base's weight is a scalar, expected a matrix",
            ));
        }
        let [rows, columns] = [shape[0], shape[1..].iter().product()];
        Ok(match layout.is_transposed() {
            false => [rows, columns],
            true => [columns, rows],
        })
    }

    /// The weight of a module as `[out, in]`.
    ///
    /// # Errors
    /// A module that the checkpoint lacks, or numbers that are not finite.
    pub fn weight(&self, module: &str, layout: &Layout) -> Result<HostTensor> {
        let [rows, columns] = self.shape(module, layout)?;
        let stored = self.files.read(&self.weight_name(module)?)?;
        match layout.is_transposed() {
            false => Ok(HostTensor::new(vec![rows, columns], stored.data)),
            true => Ok(transposed(&stored)),
        }
    }

    /// The bias of a module, if it has one.
    ///
    /// # Errors
    /// Numbers that are not finite.
    pub fn bias(&self, module: &str) -> Result<Option<Vec<f32>>> {
        match self.find(module, "bias") {
            Some(name) => Ok(Some(self.files.read(&name)?.data)),
            None => Ok(None),
        }
    }
}

/// The transpose of a matrix, a tile at a time.
#[must_use]
pub fn transposed(matrix: &HostTensor) -> HostTensor {
    const TILE: usize = 32;
    let (rows, columns) = (matrix.shape[0], matrix.shape[1]);
    let mut data = vec![0.0; rows * columns];
    for top in (0..rows).step_by(TILE) {
        for left in (0..columns).step_by(TILE) {
            for i in top..rows.min(top + TILE) {
                for j in left..columns.min(left + TILE) {
                    data[j * rows + i] = matrix.data[i * columns + j];
                }
            }
        }
    }
    HostTensor::new(vec![columns, rows], data)
}

/// A X^T for X of many rows in single precision: `[rank, in] [in, out]`.
pub(crate) fn times_transposed(a: &Matrix, weight: &HostTensor) -> Result<Matrix> {
    let view = engraft_linalg::MatrixView::new(weight.shape[0], weight.shape[1], &weight.data)?;
    Ok(engraft_linalg::Operator::times(&view, &a.transpose()).transpose())
}
