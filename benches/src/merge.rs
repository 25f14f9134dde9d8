//! Folding an adapter into a large weight.

use burn::tensor::{DType, Device};
use engraft_core::{Adapted, Error, Injection, Result};
use engraft_models::{Mlp, MlpConfig};
use engraft_tensor::Key;

use crate::shapes::Shapes;

/// One layer [size, size] with an adapter, and a copy of its weight on the host.
#[derive(Debug)]
pub struct Merge {
    model: Adapted<Mlp>,
    weight: Vec<f32>,
}

impl Merge {
    /// A layer of this size with the method called `method`.
    ///
    /// # Errors
    /// An unknown name, or a method that the layer does not admit.
    ///
    /// # Panics
    /// Never: the weight is made in f32.
    pub fn new(method: &str, size: usize) -> Result<Self> {
        let shapes = Shapes::load();
        let found = shapes.method(method);
        let method = found
            .ok_or_else(|| Error::Unsupported(format!("no method called {method}")))?
            .registered()?;
        let config = MlpConfig::new(&[size, size]);
        let mlp = Mlp::new(&config, &Key::new(0), &Device::default(), DType::F32)?;
        let weight = mlp.layer("fc1").expect("the only layer").base().weight();
        let mut model = Adapted::new(mlp);
        model.attach("bench", &method, &Injection::new(0))?;
        Ok(Self {
            model,
            weight: weight.into_data().try_to_vec().expect("made in f32"),
        })
    }

    /// Folds the adapter into the weight and takes it out again.
    ///
    /// # Errors
    /// A method without a weight form.
    pub fn run(&mut self) -> Result<()> {
        self.model.merge()?;
        self.model.unmerge();
        Ok(())
    }

    /// What a merge is measured by: the weight copied into fresh memory.
    pub fn copy(&self) -> Vec<f32> {
        self.weight.clone()
    }
}
