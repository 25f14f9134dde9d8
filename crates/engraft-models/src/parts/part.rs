//! Modules whose paths are not Rust's names.
//!
//! `transformers` calls fields `self`, `LayerNorm` or `layer.0.attention.output`, and puts a whole
//! model under a prefix that depends on its head: a derived `Module` cannot. [`model_part`] implements
//! `Module` for a struct whose fields have the stated names as paths.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::Tensor;
use engraft_core::{Embedding, Linear, Site, Slots, TiedLinear};

/// A piece of a model that shows its slots and sites.
pub(crate) trait Part {
    /// Shows them under `name`; an empty name is no level of the path.
    fn show(&mut self, name: &str, slots: &mut Slots<'_>);
}

impl Part for Linear {
    fn show(&mut self, name: &str, slots: &mut Slots<'_>) {
        slots.linear(name, self);
    }
}

impl Part for Embedding {
    fn show(&mut self, name: &str, slots: &mut Slots<'_>) {
        slots.linear(name, &mut self.linear);
    }
}

impl Part for Site {
    fn show(&mut self, name: &str, slots: &mut Slots<'_>) {
        slots.site(name, self);
    }
}

/// Its model shows it, with the weight that it shares.
impl Part for TiedLinear {
    fn show(&mut self, _: &str, _: &mut Slots<'_>) {}
}

impl<const D: usize> Part for Param<Tensor<D>> {
    fn show(&mut self, _: &str, _: &mut Slots<'_>) {}
}

impl<T: Part> Part for Option<T> {
    fn show(&mut self, name: &str, slots: &mut Slots<'_>) {
        if let Some(part) = self {
            part.show(name, slots);
        }
    }
}

impl<T: Part> Part for Vec<T> {
    fn show(&mut self, name: &str, slots: &mut Slots<'_>) {
        slots.within(name, |slots| {
            for (index, part) in self.iter_mut().enumerate() {
                part.show(&index.to_string(), slots);
            }
        });
    }
}

/// Visits `part` as the field `name` of `owner`.
pub(crate) fn visit<T: Module, V: ModuleVisitor>(
    name: impl AsRef<str>,
    owner: &str,
    part: &T,
    visitor: &mut V,
) {
    let name = name.as_ref();
    if name.is_empty() {
        return part.visit(visitor);
    }
    visitor.enter_module(name, owner);
    part.visit(visitor);
    visitor.exit_module(name, owner);
}

/// Maps `part` as the field `name` of `owner`.
pub(crate) fn map<T: Module, M: ModuleMapper>(
    name: &str,
    owner: &str,
    part: T,
    mapper: &mut M,
) -> T {
    if name.is_empty() {
        return part.map(mapper);
    }
    mapper.enter_module(name, owner);
    let part = part.map(mapper);
    mapper.exit_module(name, owner);
    part
}

/// Implements `Module` and [`Part`] for a struct: fields in forward order with their names, which
/// may be several levels, none (empty), or depend on the struct; then fields that are plain data.
macro_rules! model_part {
    ($type:ident, $this:ident { $($field:ident => $name:expr),* $(,)? } plain { $($plain:ident),* $(,)? }) => {
        impl burn::module::Module for $type {
            fn collect_devices(&self, devices: burn::module::Devices) -> burn::module::Devices {
                $(let devices = self.$field.collect_devices(devices);)*
                devices
            }
            fn fork(self, device: &burn::tensor::Device) -> Self {
                Self { $($field: self.$field.fork(device),)* $($plain: self.$plain,)* }
            }
            fn to_device(self, device: &burn::tensor::Device) -> Self {
                Self { $($field: self.$field.to_device(device),)* $($plain: self.$plain,)* }
            }
            fn train(self) -> Self {
                Self { $($field: self.$field.train(),)* $($plain: self.$plain,)* }
            }
            fn valid(&self) -> Self {
                Self { $($field: self.$field.valid(),)* $($plain: self.$plain.clone(),)* }
            }
            fn materialize(self) -> Self {
                Self { $($field: self.$field.materialize(),)* $($plain: self.$plain,)* }
            }
            fn visit<V: burn::module::ModuleVisitor>(&self, visitor: &mut V) {
                let $this = self;
                $($crate::parts::visit($name, concat!("Struct:", stringify!($type)), &$this.$field, visitor);)*
            }
            fn map<M: burn::module::ModuleMapper>(self, mapper: &mut M) -> Self {
                $(let $field = { let $this = &self; let _ = $this; String::from($name) };)*
                Self {
                    $($field: $crate::parts::map(&$field, concat!("Struct:", stringify!($type)), self.$field, mapper),)*
                    $($plain: self.$plain,)*
                }
            }
        }

        impl burn::module::ModuleDisplayDefault for $type {
            fn content(&self, content: burn::module::Content) -> Option<burn::module::Content> {
                let $this = self;
                content
                    .set_top_level_type(stringify!($type))
                    $(.add(AsRef::<str>::as_ref(&$name), &$this.$field))*
                    .optional()
            }
        }

        impl burn::module::ModuleDisplay for $type {}

        impl $crate::parts::Part for $type {
            fn show(&mut self, name: &str, slots: &mut engraft_core::Slots<'_>) {
                let mut all = |slots: &mut engraft_core::Slots<'_>| {
                    $({
                        let name = { let $this = &*self; let _ = $this; String::from($name) };
                        $crate::parts::Part::show(&mut self.$field, &name, slots);
                    })*
                };
                if name.is_empty() {
                    all(slots);
                } else {
                    slots.within(name, all);
                }
            }
        }
    };
}
pub(crate) use model_part;
