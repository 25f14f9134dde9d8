//! State shared between layers, held once.
//!
//! Burn parameters cannot be tied by cloning them: each clone takes its own step. What several
//! adapters share (VeRA's projections, pools of vectors) therefore lives in the model's bank and
//! reaches them through [`crate::Ctx`].

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use engraft_tensor::{Init, Key};

use crate::counts::Counts;
use crate::named::Named;

/// What a method asks the bank to hold.
#[derive(Debug, Clone, PartialEq)]
pub struct BankSpec {
    /// Name, unique within the method.
    pub name: String,
    /// [rows, cols].
    pub shape: [usize; 2],
    /// How it starts.
    pub init: Init,
    /// Whether it is trained. A frozen entry is not stored: it grows again from its seed.
    pub trained: bool,
}

impl BankSpec {
    /// A frozen random matrix.
    pub fn frozen(name: impl Into<String>, shape: [usize; 2], init: Init) -> Self {
        Self {
            name: name.into(),
            shape,
            init,
            trained: false,
        }
    }

    /// A trained matrix.
    pub fn trained(name: impl Into<String>, shape: [usize; 2], init: Init) -> Self {
        Self {
            name: name.into(),
            shape,
            init,
            trained: true,
        }
    }

    /// What the entry adds to the counts.
    pub fn count(&self) -> Counts {
        let numel = self.shape[0] * self.shape[1];
        if self.trained {
            Counts {
                shared: numel,
                stored: numel,
                ..Counts::default()
            }
        } else {
            Counts::default()
        }
    }
}

/// The name under which the bank holds the entry `name` of the adapter `scope`.
pub(crate) fn scoped(scope: &str, name: &str) -> String {
    format!("{scope}/{name}")
}

/// The shared state of an adapted model.
#[derive(Module, Debug, Default)]
pub struct Bank {
    trained: Named<Param<Tensor<2>>>,
    // Parameters, so that they move and are visited; excluded from adapter files by their path.
    frozen: Named<Param<Tensor<2>>>,
    // Frozen entries whose values were given rather than grown: stored in adapter files.
    given: Named<Param<Tensor<2>>>,
}

impl Bank {
    /// Adds the entries of the adapter called `scope`, from the streams of `seed`.
    pub fn grow(
        &mut self,
        scope: &str,
        specs: &[BankSpec],
        seed: u64,
        device: &Device,
        dtype: DType,
    ) {
        for spec in specs {
            let key = Key::new(seed).child("bank").child(&spec.name);
            self.insert(
                &scoped(scope, &spec.name),
                spec.init.tensor(spec.shape, &key, device, dtype),
                spec.trained,
            );
        }
    }

    /// Drops the entries of the adapter called `scope`.
    pub fn shrink(&mut self, scope: &str) {
        for entries in [&mut self.trained, &mut self.frozen, &mut self.given] {
            let names: Vec<String> = entries
                .names()
                .filter(|name| {
                    name.split_once('/')
                        .is_some_and(|(owner, _)| owner == scope)
                })
                .map(str::to_owned)
                .collect();
            names.iter().for_each(|name| drop(entries.remove(name)));
        }
    }

    /// Sets an entry.
    pub fn insert(&mut self, name: &str, value: Tensor<2>, trained: bool) {
        let param = Param::from_tensor(value).set_require_grad(trained);
        let entries = if trained {
            &mut self.trained
        } else {
            &mut self.frozen
        };
        match entries.get_mut(name) {
            Some(held) => *held = param,
            None => entries.push(name, param),
        }
    }

    /// The shape of the frozen entry called `name`.
    pub(crate) fn frozen_shape(&self, name: &str) -> Option<[usize; 2]> {
        self.frozen.get(name).map(|param| param.base().dims())
    }

    /// Gives the frozen entry called `name` a value that its seed does not grow (projections read
    /// from another library's file). It is stored in adapter files from now on.
    pub(crate) fn give(&mut self, name: &str, value: TensorData) {
        if let Some(param) = self.frozen.remove(name) {
            let (device, dtype) = (param.base().device(), param.base().dtype());
            let value = Tensor::from_data(value.convert_dtype(dtype), (&device, dtype));
            self.given
                .push(name, Param::from_tensor(value).set_require_grad(false));
        }
    }

    /// The entry called `name`.
    pub fn get(&self, name: &str) -> Option<Tensor<2>> {
        self.trained
            .get(name)
            .or_else(|| self.frozen.get(name))
            .or_else(|| self.given.get(name))
            .map(|param| param.val())
    }
}
