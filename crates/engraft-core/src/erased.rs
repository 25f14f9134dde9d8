//! A module whose type has been forgotten.
//!
//! Models hold adapters of any method, the user's own included, so a slot's field cannot name the
//! type, and Burn's `Module` is not object-safe because `visit` and `map` are generic. This file
//! carries a parameter of any rank across an object-safe boundary as `dyn Any` and restores its
//! type on the other side; everything else of `Module` forwards. [`Erased`] adds a table of
//! operations (`Ops`): the adapter's or the site adapter's own functions.

use std::any::Any;
use std::fmt::Debug;

use burn::module::{
    Content, Devices, Flag, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper,
    ModuleVisitor, Param,
};
use burn::tensor::{Bool, Device, Int, Tensor};

/// Dispatches on the rank of a parameter. Burn tensors of higher rank than 8 do not occur in models.
macro_rules! with_rank {
    ($rank:expr, $D:ident => $body:expr) => {
        match $rank {
            1 => {
                const $D: usize = 1;
                $body
            }
            2 => {
                const $D: usize = 2;
                $body
            }
            3 => {
                const $D: usize = 3;
                $body
            }
            4 => {
                const $D: usize = 4;
                $body
            }
            5 => {
                const $D: usize = 5;
                $body
            }
            6 => {
                const $D: usize = 6;
                $body
            }
            7 => {
                const $D: usize = 7;
                $body
            }
            8 => {
                const $D: usize = 8;
                $body
            }
            rank => unreachable!("a parameter of rank {rank}: Burn modules hold ranks 1 to 8"),
        }
    };
}

/// The object-safe image of `ModuleVisitor`.
trait DynVisitor {
    fn float(&mut self, rank: usize, param: &dyn Any);
    fn int(&mut self, rank: usize, param: &dyn Any);
    fn bool(&mut self, rank: usize, param: &dyn Any);
    fn flag(&mut self, flag: &Param<Flag>);
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// The object-safe image of `ModuleMapper`.
trait DynMapper {
    fn float(&mut self, rank: usize, param: Box<dyn Any>) -> Box<dyn Any>;
    fn int(&mut self, rank: usize, param: Box<dyn Any>) -> Box<dyn Any>;
    fn bool(&mut self, rank: usize, param: Box<dyn Any>) -> Box<dyn Any>;
    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag>;
    fn enter(&mut self, name: &str, container: &str);
    fn exit(&mut self, name: &str, container: &str);
}

/// Near side: a typed visitor or mapper seen as an object.
struct Near<'a, V>(&'a mut V);

/// Far side: the object seen as a typed visitor or mapper again.
struct Far<'a, V: ?Sized>(&'a mut V);

fn typed<T: 'static>(param: &dyn Any) -> &T {
    param
        .downcast_ref()
        .expect("the rank travels with the parameter")
}

fn unboxed<T: 'static>(param: Box<dyn Any>) -> T {
    *param
        .downcast()
        .expect("the rank travels with the parameter")
}

impl<V: ModuleVisitor> DynVisitor for Near<'_, V> {
    fn float(&mut self, rank: usize, param: &dyn Any) {
        with_rank!(rank, D => self.0.visit_float(typed::<Param<Tensor<D>>>(param)))
    }
    fn int(&mut self, rank: usize, param: &dyn Any) {
        with_rank!(rank, D => self.0.visit_int(typed::<Param<Tensor<D, Int>>>(param)))
    }
    fn bool(&mut self, rank: usize, param: &dyn Any) {
        with_rank!(rank, D => self.0.visit_bool(typed::<Param<Tensor<D, Bool>>>(param)))
    }
    fn flag(&mut self, flag: &Param<Flag>) {
        self.0.visit_flag(flag)
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container)
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container)
    }
}

impl ModuleVisitor for Far<'_, dyn DynVisitor + '_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.float(D, param)
    }
    fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
        self.0.int(D, param)
    }
    fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
        self.0.bool(D, param)
    }
    fn visit_flag(&mut self, flag: &Param<Flag>) {
        self.0.flag(flag)
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container)
    }
    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container)
    }
}

impl<M: ModuleMapper> DynMapper for Near<'_, M> {
    fn float(&mut self, rank: usize, param: Box<dyn Any>) -> Box<dyn Any> {
        with_rank!(rank, D => Box::new(self.0.map_float(unboxed::<Param<Tensor<D>>>(param))))
    }
    fn int(&mut self, rank: usize, param: Box<dyn Any>) -> Box<dyn Any> {
        with_rank!(rank, D => Box::new(self.0.map_int(unboxed::<Param<Tensor<D, Int>>>(param))))
    }
    fn bool(&mut self, rank: usize, param: Box<dyn Any>) -> Box<dyn Any> {
        with_rank!(rank, D => Box::new(self.0.map_bool(unboxed::<Param<Tensor<D, Bool>>>(param))))
    }
    fn flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.map_flag(flag)
    }
    fn enter(&mut self, name: &str, container: &str) {
        self.0.enter_module(name, container)
    }
    fn exit(&mut self, name: &str, container: &str) {
        self.0.exit_module(name, container)
    }
}

impl ModuleMapper for Far<'_, dyn DynMapper + '_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        unboxed(self.0.float(D, Box::new(param)))
    }
    fn map_int<const D: usize>(&mut self, param: Param<Tensor<D, Int>>) -> Param<Tensor<D, Int>> {
        unboxed(self.0.int(D, Box::new(param)))
    }
    fn map_bool<const D: usize>(
        &mut self,
        param: Param<Tensor<D, Bool>>,
    ) -> Param<Tensor<D, Bool>> {
        unboxed(self.0.bool(D, Box::new(param)))
    }
    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        self.0.flag(flag)
    }
    fn enter_module(&mut self, name: &str, container: &str) {
        self.0.enter(name, container)
    }
    fn exit_module(&mut self, name: &str, container: &str) {
        self.0.exit(name, container)
    }
}

/// The object-safe image of `Module`.
trait DynModule: Debug + Send + Sync {
    fn clone_dyn(&self) -> Box<dyn DynModule>;
    fn collect_devices_dyn(&self, devices: Devices) -> Devices;
    fn fork_dyn(self: Box<Self>, device: &Device) -> Box<dyn DynModule>;
    fn to_device_dyn(self: Box<Self>, device: &Device) -> Box<dyn DynModule>;
    fn train_dyn(self: Box<Self>) -> Box<dyn DynModule>;
    fn valid_dyn(&self) -> Box<dyn DynModule>;
    fn materialize_dyn(self: Box<Self>) -> Box<dyn DynModule>;
    fn visit_dyn(&self, visitor: &mut dyn DynVisitor);
    fn map_dyn(self: Box<Self>, mapper: &mut dyn DynMapper) -> Box<dyn DynModule>;
    fn content_dyn(&self, content: Content) -> Option<Content>;
    fn as_any(&self) -> &dyn Any;
}

impl<T: Module + ModuleDisplay + Sync + 'static> DynModule for T {
    fn clone_dyn(&self) -> Box<dyn DynModule> {
        Box::new(self.clone())
    }
    fn collect_devices_dyn(&self, devices: Devices) -> Devices {
        self.collect_devices(devices)
    }
    fn fork_dyn(self: Box<Self>, device: &Device) -> Box<dyn DynModule> {
        Box::new((*self).fork(device))
    }
    fn to_device_dyn(self: Box<Self>, device: &Device) -> Box<dyn DynModule> {
        Box::new((*self).to_device(device))
    }
    fn train_dyn(self: Box<Self>) -> Box<dyn DynModule> {
        Box::new((*self).train())
    }
    fn valid_dyn(&self) -> Box<dyn DynModule> {
        Box::new(self.valid())
    }
    fn materialize_dyn(self: Box<Self>) -> Box<dyn DynModule> {
        Box::new((*self).materialize())
    }
    fn visit_dyn(&self, visitor: &mut dyn DynVisitor) {
        self.visit(&mut Far(visitor))
    }
    fn map_dyn(self: Box<Self>, mapper: &mut dyn DynMapper) -> Box<dyn DynModule> {
        Box::new((*self).map(&mut Far(mapper)))
    }
    fn content_dyn(&self, content: Content) -> Option<Content> {
        self.content(content)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A module of any type, with the operations `Ops` of its kind.
#[derive(Debug)]
pub struct Erased<Ops: 'static> {
    module: Box<dyn DynModule>,
    ops: &'static Ops,
}

impl<Ops: 'static> Erased<Ops> {
    /// Forgets the type of `module`; `ops` were made for that type.
    pub(crate) fn from_parts<T: Module + ModuleDisplay + Sync + 'static>(
        module: T,
        ops: &'static Ops,
    ) -> Self {
        Self {
            module: Box::new(module),
            ops,
        }
    }

    /// The module, if it is a `T`.
    pub fn downcast_ref<T: 'static>(&self) -> Option<&T> {
        self.module.as_any().downcast_ref()
    }

    pub(crate) fn ops(&self) -> &'static Ops {
        self.ops
    }

    pub(crate) fn any(&self) -> &dyn Any {
        self.module.as_any()
    }

    fn with(self, change: impl FnOnce(Box<dyn DynModule>) -> Box<dyn DynModule>) -> Self {
        Self {
            module: change(self.module),
            ops: self.ops,
        }
    }
}

impl<Ops> Clone for Erased<Ops> {
    fn clone(&self) -> Self {
        // `(*self.module)`: the box itself would satisfy a blanket implementation one day.
        Self {
            module: (*self.module).clone_dyn(),
            ops: self.ops,
        }
    }
}

impl<Ops: Debug + Sync> Module for Erased<Ops> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.module.collect_devices_dyn(devices)
    }
    fn fork(self, device: &Device) -> Self {
        self.with(|module| module.fork_dyn(device))
    }
    fn to_device(self, device: &Device) -> Self {
        self.with(|module| module.to_device_dyn(device))
    }
    fn train(self) -> Self {
        self.with(|module| module.train_dyn())
    }
    fn valid(&self) -> Self {
        Self {
            module: self.module.valid_dyn(),
            ops: self.ops,
        }
    }
    fn materialize(self) -> Self {
        self.with(|module| module.materialize_dyn())
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        self.module.visit_dyn(&mut Near(visitor))
    }
    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        self.with(|module| module.map_dyn(&mut Near(mapper)))
    }
}

impl<Ops> ModuleDisplayDefault for Erased<Ops> {
    fn content(&self, content: Content) -> Option<Content> {
        self.module.content_dyn(content)
    }
}

impl<Ops> ModuleDisplay for Erased<Ops> {}
