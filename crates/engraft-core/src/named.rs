//! Modules under names of their own.

use std::collections::HashMap;
use std::ops::{Index, IndexMut};

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::Device;

/// A list of modules whose names, not positions, are their path components:
/// `slot.adapters.french.a` rather than `slot.adapters.0.a`. Finding a name takes the same time
/// among thousands.
#[derive(Debug, Clone)]
pub struct Named<T> {
    entries: Vec<(String, T)>,
    positions: HashMap<String, usize>,
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            positions: HashMap::new(),
        }
    }
}

impl<T> Named<T> {
    /// The entry called `name`.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.get_named(name).map(|(_, value)| value)
    }

    /// The entry called `name` with the name as it is held here.
    pub fn get_named(&self, name: &str) -> Option<(&str, &T)> {
        let (name, value) = &self.entries[self.position(name)?];
        Some((name, value))
    }

    /// The entry called `name`, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut T> {
        let position = self.position(name)?;
        Some(&mut self.entries[position].1)
    }

    /// Where the entry called `name` is in the order of insertion.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }

    /// Adds an entry at the end; the caller has checked that the name is new.
    pub fn push(&mut self, name: impl Into<String>, value: T) {
        let name = name.into();
        self.positions.insert(name.clone(), self.entries.len());
        self.entries.push((name, value));
    }

    /// Takes the entry called `name` out.
    pub fn remove(&mut self, name: &str) -> Option<T> {
        let position = self.positions.remove(name)?;
        let (_, value) = self.entries.remove(position);
        for (behind, _) in &self.entries[position..] {
            if let Some(position) = self.positions.get_mut(behind) {
                *position -= 1;
            }
        }
        Some(value)
    }

    /// Names in order of insertion.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.as_str())
    }

    /// Entries in order of insertion.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.entries
            .iter()
            .map(|(name, value)| (name.as_str(), value))
    }

    /// Entries in order of insertion, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut T)> {
        self.entries
            .iter_mut()
            .map(|(name, value)| (name.as_str(), value))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn each(self, mut change: impl FnMut(&str, T) -> T) -> Self {
        let entries = self
            .entries
            .into_iter()
            .map(|(name, value)| {
                let value = change(&name, value);
                (name, value)
            })
            .collect();
        Self {
            entries,
            positions: self.positions,
        }
    }
}

impl<T> IntoIterator for Named<T> {
    type Item = (String, T);
    type IntoIter = std::vec::IntoIter<(String, T)>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<T> Index<usize> for Named<T> {
    type Output = T;

    fn index(&self, position: usize) -> &T {
        &self.entries[position].1
    }
}

impl<T> IndexMut<usize> for Named<T> {
    fn index_mut(&mut self, position: usize) -> &mut T {
        &mut self.entries[position].1
    }
}

impl<T: Module + ModuleDisplay> Module for Named<T> {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.entries.iter().fold(devices, |devices, (_, value)| {
            value.collect_devices(devices)
        })
    }

    fn fork(self, device: &Device) -> Self {
        self.each(|_, value| value.fork(device))
    }

    fn to_device(self, device: &Device) -> Self {
        self.each(|_, value| value.to_device(device))
    }

    fn train(self) -> Self {
        self.each(|_, value| value.train())
    }

    fn valid(&self) -> Self {
        Self {
            entries: self
                .entries
                .iter()
                .map(|(name, value)| (name.clone(), value.valid()))
                .collect(),
            positions: self.positions.clone(),
        }
    }

    fn materialize(self) -> Self {
        self.each(|_, value| value.materialize())
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        for (name, value) in &self.entries {
            visitor.enter_module(name, "Named");
            value.visit(visitor);
            visitor.exit_module(name, "Named");
        }
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        self.each(|name, value| {
            mapper.enter_module(name, "Named");
            let value = value.map(mapper);
            mapper.exit_module(name, "Named");
            value
        })
    }
}

impl<T: ModuleDisplay> ModuleDisplayDefault for Named<T> {
    fn content(&self, content: Content) -> Option<Content> {
        self.entries
            .iter()
            .fold(
                content.set_top_level_type("Named"),
                |content, (name, value)| content.add(name, value),
            )
            .optional()
    }
}

impl<T: ModuleDisplay> ModuleDisplay for Named<T> {}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::Tensor;

    use super::*;
    use crate::params;

    fn named() -> Named<Param<Tensor<1>>> {
        let mut named = Named::default();
        for (name, value) in [("b", 1.0), ("a", 2.0)] {
            named.push(
                name,
                Param::from_tensor(Tensor::full([1], value, &Device::default())),
            );
        }
        named
    }

    #[test]
    fn names_are_path_components_in_order_of_insertion() {
        let paths: Vec<String> = params::list(&named())
            .into_iter()
            .map(|found| found.path)
            .collect();
        assert_eq!(paths, ["b", "a"]);
    }

    #[test]
    fn an_entry_is_found_changed_and_removed_by_name() {
        let mut named = named();
        *named.get_mut("b").unwrap() =
            Param::from_tensor(Tensor::full([1], 3.0, &Device::default()));
        assert_eq!(named.get("b").unwrap().val().into_scalar::<f64>(), 3.0);
        assert!(named.remove("b").is_some());
        assert!(named.remove("b").is_none() && named.get("b").is_none());
        assert_eq!(named.names().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn a_record_finds_its_entry_by_name() {
        let mut turned = Named::default();
        for name in ["a", "b"] {
            turned.push(
                name,
                Param::from_tensor(Tensor::<1>::zeros([1], &Device::default())),
            );
        }
        let loaded = turned.load_record(named().into_record());
        assert_eq!(loaded.get("a").unwrap().val().into_scalar::<f64>(), 2.0);
    }
}
