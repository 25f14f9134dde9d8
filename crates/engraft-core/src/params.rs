//! Parameters by path: listing, freezing and replacing them.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Int, Tensor, TensorData};

/// A parameter as found in a module.
#[derive(Debug, Clone)]
pub struct Found {
    /// Path in the module's record.
    pub path: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Whether it receives gradients.
    pub trained: bool,
}

/// The parameters of a module in record order. The module is looked at in training state, because
/// a module in validation has no gradients to show.
pub fn list<M: Module>(module: &M) -> Vec<Found> {
    list_present(&module.clone().train())
}

/// The parameters of a module in record order, in the state that it is in.
pub(crate) fn list_present<M: Module>(module: &M) -> Vec<Found> {
    struct List {
        path: Vec<String>,
        found: Vec<Found>,
    }
    impl ModuleVisitor for List {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.base();
            self.found.push(Found {
                path: self.path.join("."),
                shape: tensor.dims().to_vec(),
                trained: tensor.is_require_grad(),
            });
        }
        fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
            self.found.push(Found {
                path: self.path.join("."),
                shape: param.base().dims().to_vec(),
                trained: false,
            });
        }
    }
    let mut list = List {
        path: Vec::new(),
        found: Vec::new(),
    };
    module.visit(&mut list);
    list.found
}

/// The values of the parameters whose path `wanted` accepts.
pub fn read<M: Module>(module: &M, wanted: impl Fn(&str) -> bool) -> BTreeMap<String, TensorData> {
    struct Read<F> {
        path: Vec<String>,
        wanted: F,
        values: BTreeMap<String, TensorData>,
    }
    impl<F: Fn(&str) -> bool> Read<F> {
        fn keep(&mut self, data: impl FnOnce() -> TensorData) {
            let path = self.path.join(".");
            if (self.wanted)(&path) {
                self.values.insert(path, data());
            }
        }
    }
    impl<F: Fn(&str) -> bool> ModuleVisitor for Read<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.keep(|| param.base().to_data());
        }
        fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
            self.keep(|| param.base().to_data());
        }
    }
    let mut read = Read {
        path: Vec::new(),
        wanted,
        values: BTreeMap::new(),
    };
    module.visit(&mut read);
    read.values
}

/// The module with the given values in place of its own, where a path is given. Trainability,
/// precision and device stay those of the module; the caller has checked the shapes.
pub fn write<M: Module>(module: M, values: BTreeMap<String, TensorData>) -> M {
    struct Write {
        path: Vec<String>,
        values: BTreeMap<String, TensorData>,
    }
    impl ModuleMapper for Write {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match self.values.remove(&self.path.join(".")) {
                None => param,
                Some(data) => param.map(|old| {
                    let dtype = old.dtype();
                    Tensor::from_data(data.convert_dtype(dtype), (&old.device(), dtype))
                        .set_require_grad(old.is_require_grad())
                }),
            }
        }
        fn map_int<const D: usize>(
            &mut self,
            param: Param<Tensor<D, Int>>,
        ) -> Param<Tensor<D, Int>> {
            match self.values.remove(&self.path.join(".")) {
                None => param,
                Some(data) => param.map(|old| {
                    let dtype = old.dtype();
                    Tensor::from_data(data.convert_dtype(dtype), (&old.device(), dtype))
                }),
            }
        }
    }
    module.map(&mut Write {
        path: Vec::new(),
        values,
    })
}

/// The module with exactly the float parameters trained whose path `trained` accepts; `None`
/// leaves a parameter as it is.
pub fn set_trained<M: Module>(module: M, trained: impl Fn(&str) -> Option<bool>) -> M {
    struct Set<F> {
        path: Vec<String>,
        trained: F,
    }
    impl<F: Fn(&str) -> Option<bool>> ModuleMapper for Set<F> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match (self.trained)(&self.path.join(".")) {
                Some(trained) => param.set_require_grad(trained),
                None => param,
            }
        }
    }
    module.map(&mut Set {
        path: Vec::new(),
        trained,
    })
}
