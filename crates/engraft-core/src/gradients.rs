//! Gradients by parameter path.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;
use engraft_tensor::ops;

/// The gradients of a module's trained parameters, flattened, by path. Parameters that the loss
/// does not depend on have none.
#[derive(Debug, Clone, Default)]
pub struct Gradients(BTreeMap<String, Tensor<1>>);

impl Gradients {
    /// Runs the backward pass of a scalar `loss` of `model`.
    ///
    /// # Panics
    /// If the loss does not depend on any trained parameter.
    pub fn backward<M: Module>(loss: &Tensor<1>, model: &M) -> Self {
        struct Collect {
            path: Vec<String>,
            tape: burn::tensor::Gradients,
            found: BTreeMap<String, Tensor<1>>,
        }
        impl ModuleVisitor for Collect {
            fn enter_module(&mut self, name: &str, _: &str) {
                self.path.push(name.to_owned());
            }
            fn exit_module(&mut self, _: &str, _: &str) {
                self.path.pop();
            }
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                if let Some(gradient) = param.base().grad_remove(&mut self.tape) {
                    self.found
                        .insert(self.path.join("."), gradient.flatten(0, D - 1));
                }
            }
        }
        let mut collect = Collect {
            path: Vec::new(),
            tape: loss.backward(),
            found: BTreeMap::new(),
        };
        model.visit(&mut collect);
        Self(collect.found)
    }

    /// The gradient of the parameter at `path`, flattened.
    pub fn get(&self, path: &str) -> Option<&Tensor<1>> {
        self.0.get(path)
    }

    /// Paths that have a gradient, in alphabetical order.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Takes out the gradients of these paths.
    pub fn split_off(&mut self, paths: &[String]) -> Self {
        let taken = paths.iter().filter_map(|path| self.0.remove_entry(path));
        Self(taken.collect())
    }

    /// Takes over the gradients of others, instead of one's own where both have one.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Adds others to these, parameter by parameter.
    pub fn add(&mut self, others: Self) {
        for (path, other) in others.0 {
            let sum = match self.0.remove(&path) {
                Some(gradient) => gradient + other,
                None => other,
            };
            self.0.insert(path, sum);
        }
    }

    /// Multiplies all by a number.
    pub fn scale(&mut self, factor: f64) {
        for gradient in self.0.values_mut() {
            *gradient = gradient.clone() * factor;
        }
    }

    /// Sets the gradient of the parameter at `path`, flattened.
    pub fn insert(&mut self, path: impl Into<String>, gradient: Tensor<1>) {
        self.0.insert(path.into(), gradient);
    }

    /// Scales all gradients by min(1, max / (norm + 1e-6)), where norm is the Euclidean norm of
    /// all gradients together, as PyTorch's `clip_grad_norm_` does. Returns the norm before
    /// clipping, `[1]`, or nothing if there is no gradient: [`ops::clip_norm`].
    pub fn clip(&mut self, max: f64) -> Option<Tensor<1>> {
        ops::clip_norm(self.0.values_mut(), max)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_tensor::bridge::{tensor, values};

    use super::*;

    fn gradients() -> Gradients {
        let mut gradients = Gradients::default();
        for (path, entries) in [("a", vec![3.0, 0.0]), ("b", vec![-4.0, 0.0, 12.0])] {
            let len = entries.len();
            gradients.insert(path, tensor(entries, [len], &Device::default(), DType::F64));
        }
        gradients
    }

    #[test]
    fn the_norm_is_that_of_all_gradients_together() {
        let mut clipped = gradients();
        assert_eq!(values(&clipped.clip(1.0).unwrap()), [13.0]);
        let scale = 1.0 / (13.0 + 1e-6);
        let expected = [-4.0 * scale, 0.0, 12.0 * scale];
        assert!(
            values(clipped.get("b").unwrap())
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-15)
        );
    }

    #[test]
    fn small_gradients_stay_as_they_are() {
        let mut clipped = gradients();
        clipped.clip(13.5);
        assert_eq!(values(clipped.get("a").unwrap()), [3.0, 0.0]);
        assert!(Gradients::default().clip(1.0).is_none());
    }

    #[test]
    fn sums_are_taken_by_path() {
        let mut sum = gradients();
        let mut other = gradients();
        other.0.remove("a");
        other.insert("c", Tensor::ones([1], (&Device::default(), DType::F64)));
        sum.add(other);
        sum.scale(0.5);
        assert_eq!(values(sum.get("a").unwrap()), [1.5, 0.0]);
        assert_eq!(values(sum.get("b").unwrap()), [-4.0, 0.0, 12.0]);
        assert_eq!(values(sum.get("c").unwrap()), [0.5]);
    }
}
