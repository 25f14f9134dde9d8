//! How fresh layers start.

use burn::tensor::{DType, Device};
use engraft_core::Linear;
use engraft_tensor::{Init, Key};

/// Where fresh parameters come from and go to.
#[derive(Debug, Clone)]
pub(crate) struct Start<'a> {
    pub key: Key,
    pub device: &'a Device,
    pub dtype: DType,
}

impl Start<'_> {
    /// The start of the submodule `name`.
    pub fn child(&self, name: &str) -> Self {
        Self {
            key: self.key.child(name),
            ..self.clone()
        }
    }

    /// A layer with a bias of zero and weights U(-b, b), b = sqrt(6 / (d_in + d_out)) (Glorot and
    /// Bengio 2010), as the authors' code of ViT (Dosovitskiy et al., arXiv 2010.11929) has it.
    pub fn glorot(&self, name: &str, d_in: usize, d_out: usize) -> Linear {
        let bound = (6.0 / (d_in + d_out) as f64).sqrt();
        self.linear(name, d_in, d_out, Init::Uniform { bound })
    }

    /// A layer with a bias of zero.
    pub fn linear(&self, name: &str, d_in: usize, d_out: usize, init: Init) -> Linear {
        let key = self.key.child(name).child("weight");
        let weight = init.tensor([d_in, d_out], &key, self.device, self.dtype);
        Linear::from_tensors(
            weight,
            Some(Init::ZEROS.tensor([d_out], &key, self.device, self.dtype)),
        )
    }
}
