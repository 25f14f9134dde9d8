//! Everything at once.

use serde::{Deserialize, Serialize};

use super::{Interference, Similarity, Spectra, Square, subspaces};
use crate::error::Result;
use crate::update::Update;

/// Leading directions that subspaces are compared in.
const DIRECTIONS: usize = 16;

/// How adapters lie to each other.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Names of the adapters, in the order of all rows and columns.
    pub adapters: Vec<String>,
    /// Cosines.
    pub similarity: Similarity,
    /// Sign conflicts.
    pub interference: Interference,
    /// Singular values.
    pub spectra: Spectra,
    /// Likeness of the spaces of inputs and of outputs that two adapters use, 0 to 1, mean over the
    /// modules.
    pub inputs: Square,
    /// The same of outputs.
    pub outputs: Square,
    modules: usize,
}

impl Diagnosis {
    /// Of adapters of these names.
    #[must_use]
    pub fn new(adapters: Vec<String>) -> Self {
        let zeros = vec![vec![0.0; adapters.len()]; adapters.len()];
        Self {
            inputs: zeros.clone(),
            outputs: zeros,
            adapters,
            ..Self::default()
        }
    }

    /// Takes a module in: its update in each adapter, in their order. `base`: W, for updates that are
    /// relative to it.
    ///
    /// # Errors
    /// Updates of different shapes, a missing base.
    pub fn add(&mut self, module: &str, updates: &[&Update], base: Option<&[f32]>) -> Result<()> {
        self.similarity.add(module, updates, base)?;
        self.interference.add(module, updates, base)?;
        self.spectra.add(module, updates, base)?;
        self.modules += 1;
        let part = 1.0 / self.modules as f64;
        for (i, a) in updates.iter().enumerate() {
            for (j, b) in updates.iter().enumerate() {
                let found = subspaces(a, b, DIRECTIONS, base)?;
                for (mean, space) in [
                    (&mut self.inputs, &found.right),
                    (&mut self.outputs, &found.left),
                ] {
                    mean[i][j] += part * (space.similarity() - mean[i][j]);
                }
            }
        }
        Ok(())
    }
}
