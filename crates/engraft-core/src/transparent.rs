//! Modules that add no level to the paths of their records.

/// Implements Burn's `Module` for a struct by forwarding to its one module field, so that the
/// struct's record keys are that field's; the other fields are plain data.
macro_rules! transparent {
    ($name:ident { $inner:ident $(, $plain:ident)* }) => {
        impl Module for $name {
            fn collect_devices(&self, devices: burn::module::Devices) -> burn::module::Devices {
                self.$inner.collect_devices(devices)
            }
            fn fork(self, device: &burn::tensor::Device) -> Self {
                Self { $inner: self.$inner.fork(device) $(, $plain: self.$plain)* }
            }
            fn to_device(self, device: &burn::tensor::Device) -> Self {
                Self { $inner: self.$inner.to_device(device) $(, $plain: self.$plain)* }
            }
            fn train(self) -> Self {
                Self { $inner: self.$inner.train() $(, $plain: self.$plain)* }
            }
            fn valid(&self) -> Self {
                Self { $inner: self.$inner.valid() $(, $plain: self.$plain.clone())* }
            }
            fn materialize(self) -> Self {
                Self { $inner: self.$inner.materialize() $(, $plain: self.$plain)* }
            }
            fn visit<V: burn::module::ModuleVisitor>(&self, visitor: &mut V) {
                self.$inner.visit(visitor)
            }
            fn map<M: burn::module::ModuleMapper>(self, mapper: &mut M) -> Self {
                Self { $inner: self.$inner.map(mapper) $(, $plain: self.$plain)* }
            }
        }

        impl burn::module::ModuleDisplayDefault for $name {
            fn content(&self, content: burn::module::Content) -> Option<burn::module::Content> {
                self.$inner.content(content)
            }
        }

        impl burn::module::ModuleDisplay for $name {}
    };
}
pub(crate) use transparent;
