//! What a model offers to be adapted.

use burn::module::{Module, ModuleDisplay};

use crate::linear::Linear;
use crate::shape::ModelShapes;
use crate::site::Site;

/// A model written with slots and sites.
///
/// A model lists its own: Burn's module traversal sees parameters, not layers. The paths it lists
/// are those of its record, so that targets, counts, records and files speak one language.
pub trait Adaptable: Module + ModuleDisplay {
    /// The model as shapes, computed from its configuration alone.
    fn shapes(&self) -> ModelShapes;

    /// Shows every slot and site, in forward order.
    fn slots(&mut self, slots: &mut Slots<'_>);

    /// Gives layers that share a weight one each where merged adapters made them differ. It is called
    /// before merged layers become the only ones.
    fn untie(&mut self) {}
}

/// A slot or a site of a model.
#[derive(Debug)]
pub enum Slot<'a> {
    /// A linear layer.
    Linear(&'a mut Linear),
    /// A place where hidden states can be changed.
    Site(&'a mut Site),
}

/// Walks a model's slots and sites with their paths.
pub struct Slots<'f> {
    prefix: String,
    visit: &'f mut dyn FnMut(&str, Slot<'_>),
}

impl<'f> Slots<'f> {
    /// A walk that calls `visit` with the path of every slot.
    pub fn new(visit: &'f mut dyn FnMut(&str, Slot<'_>)) -> Self {
        Self {
            prefix: String::new(),
            visit,
        }
    }

    /// Shows a linear layer held in the field `name`.
    pub fn linear(&mut self, name: &str, linear: &mut Linear) -> &mut Self {
        let path = self.path(name);
        (self.visit)(&path, Slot::Linear(linear));
        self
    }

    /// Shows a site held in the field `name`.
    pub fn site(&mut self, name: &str, site: &mut Site) -> &mut Self {
        let path = self.path(name);
        (self.visit)(&path, Slot::Site(site));
        self
    }

    /// Shows the slots of the submodule held in the field `name`.
    pub fn within(&mut self, name: &str, inside: impl FnOnce(&mut Slots<'_>)) -> &mut Self {
        let prefix = self.path(name);
        inside(&mut Slots {
            prefix,
            visit: self.visit,
        });
        self
    }

    fn path(&self, name: &str) -> String {
        if self.prefix.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.prefix)
        }
    }
}
