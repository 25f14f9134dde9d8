//! Trained parameters out of their module and back.

use std::iter::Peekable;
use std::vec::IntoIter;

use burn::module::{ModuleMapper, Param};
use burn::tensor::{GradientCheckpointingStrategy, Shape, Tensor};
use engraft_core::Gradients;

/// Takes every parameter that has a gradient out of a module, which keeps an empty one.
pub(crate) struct Taking<'a> {
    path: Vec<String>,
    index: usize,
    gradients: &'a Gradients,
    pub taken: Vec<Taken>,
}

/// A parameter out of its module, flattened, without autodiff.
pub(crate) struct Taken {
    pub path: String,
    pub values: Tensor<1>,
    pub gradient: Tensor<1>,
    pub place: Place,
}

/// Where a parameter was and how it looked.
pub(crate) struct Place {
    /// Among all float parameters, in the module's order.
    index: usize,
    shape: Shape,
    strategy: Option<GradientCheckpointingStrategy>,
}

impl<'a> Taking<'a> {
    pub(crate) fn new(gradients: &'a Gradients) -> Self {
        Self {
            path: Vec::new(),
            index: 0,
            gradients,
            taken: Vec::new(),
        }
    }
}

impl ModuleMapper for Taking<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }
    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let index = self.index;
        self.index += 1;
        if !param.is_require_grad() {
            return param;
        }
        let path = self.path.join(".");
        let Some(gradient) = self.gradients.get(&path) else {
            return param;
        };
        param.map(|old| {
            let left = Tensor::empty([0; D], (&old.device(), old.dtype()));
            let place = Place {
                index,
                shape: old.shape(),
                strategy: old.gradient_checkpointing_strategy(),
            };
            self.taken.push(Taken {
                path,
                values: old.inner().flatten(0, D - 1),
                gradient: gradient.clone(),
                place,
            });
            left
        })
    }
}

/// Puts parameters back into the module from which [`Taking`] took them, trained as before.
pub(crate) struct Putting {
    index: usize,
    values: Peekable<IntoIter<(Place, Tensor<1>)>>,
}

impl Putting {
    /// In the order in which they were taken.
    pub(crate) fn new(values: Vec<(Place, Tensor<1>)>) -> Self {
        Self {
            index: 0,
            values: values.into_iter().peekable(),
        }
    }
}

impl ModuleMapper for Putting {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let index = self.index;
        self.index += 1;
        let Some((place, value)) = self.values.next_if(|(place, _)| place.index == index) else {
            return param;
        };
        param.map(|_| {
            let value = Tensor::from_inner(value.reshape(place.shape));
            let value = match place.strategy {
                Some(strategy) => value.with_gradient_checkpointing_strategy(strategy),
                None => value,
            };
            value.require_grad()
        })
    }
}
