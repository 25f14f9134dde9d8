//! The adapters of one slot or site: several by name, some of them active.

use std::sync::Arc;

use burn::module::Module;
use burn::module::ModuleDisplay;
use engraft_tensor::suggestion;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::named::Named;
use crate::setup::Setup;

/// How several active adapters act together; [`Setup`] has more ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Composition {
    /// Their changes to the output add: y + sum_i (y_i - y).
    #[default]
    Sum,
    /// Each acts on the layer that the one before it made.
    Stack,
}

/// Which of a set's adapters act.
#[derive(Debug, Clone, PartialEq)]
pub struct Switch {
    /// Which act, and how they act together.
    pub setup: Arc<Setup>,
    /// Whether all are off.
    pub disabled: bool,
}

impl Default for Switch {
    fn default() -> Self {
        Self {
            setup: Arc::new(Setup::Sum(Vec::new())),
            disabled: false,
        }
    }
}

/// Named adapters of one slot, and which of them are active.
#[derive(Debug, Clone)]
pub struct AdapterSet<T> {
    named: Named<T>,
    switch: Switch,
}

impl<T> Default for AdapterSet<T> {
    fn default() -> Self {
        Self {
            named: Named::default(),
            switch: Switch::default(),
        }
    }
}

impl<T> AdapterSet<T> {
    /// Adds an adapter and makes it the active one.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn add(&mut self, path: &str, name: &str, adapter: T) -> Result<()> {
        if self.named.get(name).is_some() {
            return Err(Error::AlreadyAdapted {
                path: path.to_owned(),
                name: name.to_owned(),
            });
        }
        self.named.push(name, adapter);
        self.switch.setup = Arc::new(Setup::from(name));
        Ok(())
    }

    /// Takes an adapter out.
    pub fn remove(&mut self, name: &str) -> Option<T> {
        self.named.remove(name)
    }

    /// Makes exactly the adapters of `setup` active. Names that this slot lacks change nothing here,
    /// because a model's adapters may target different layers.
    pub fn activate(&mut self, setup: Arc<Setup>) {
        self.switch.setup = setup;
    }

    /// Turns all adapters off, or on again.
    pub fn disable(&mut self, disabled: bool) {
        self.switch.disabled = disabled;
    }

    /// The adapters that act now, with their names, in order.
    pub fn active(&self) -> Vec<(&str, &T)> {
        let names = self.switch.setup.names().into_iter();
        names.filter_map(|name| self.acting(name)).collect()
    }

    /// Whether an adapter of this composition is attached here.
    pub(crate) fn holds(&self, setup: &Setup) -> bool {
        let names = setup.names();
        names.into_iter().any(|name| self.named.get(name).is_some())
    }

    /// Whether an adapter of this part of the composition acts here.
    pub(crate) fn acts(&self, setup: &Setup) -> bool {
        let names = setup.names();
        names.into_iter().any(|name| self.acting(name).is_some())
    }

    /// The adapter called `name`, if there is one and the set is not disabled.
    pub fn acting(&self, name: &str) -> Option<(&str, &T)> {
        if self.switch.disabled {
            None
        } else {
            self.named.get_named(name)
        }
    }

    /// Which act, and how they act together.
    pub fn setup(&self) -> &Setup {
        &self.switch.setup
    }

    /// The adapter called `name`.
    ///
    /// # Errors
    /// If there is none: the message names those there are.
    pub fn get(&self, name: &str) -> Result<&T> {
        self.named
            .get(name)
            .ok_or_else(|| unknown_adapter(name, self.named.names()))
    }

    /// The adapters with their names, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.named.iter()
    }

    /// Which adapters act.
    pub(crate) fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Makes those act that acted when `switch` was taken.
    pub(crate) fn restore(&mut self, switch: Switch) {
        self.switch = switch;
    }

    /// Puts another adapter in the place of the one called `name`.
    pub(crate) fn replace(&mut self, name: &str, adapter: T) {
        if let Some(held) = self.named.get_mut(name) {
            *held = adapter;
        }
    }

    /// Takes all adapters out but the one attached last, if it is called `kept`.
    pub(crate) fn set_aside(&mut self, kept: Option<&str>) -> Named<T> {
        let mut aside = std::mem::take(&mut self.named);
        if let Some((name, adapter)) = kept.and_then(|name| Some((name, aside.remove(name)?))) {
            self.named.push(name, adapter);
        }
        aside
    }

    /// Puts the adapters back that were [set aside](Self::set_aside), before what is here now.
    pub(crate) fn put_back(&mut self, aside: Named<T>) {
        let kept = std::mem::replace(&mut self.named, aside);
        for (name, adapter) in kept {
            self.named.push(name, adapter);
        }
    }

    /// Replaces every adapter.
    pub(crate) fn change(&mut self, mut with: impl FnMut(&str, &T) -> T) {
        for (name, value) in self.named.iter_mut() {
            *value = with(name, value);
        }
    }

    /// Whether nothing is attached.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// The names attached, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.names()
    }
}

/// The error for an adapter name that is not attached.
pub(crate) fn unknown_adapter<'a>(found: &str, known: impl Iterator<Item = &'a str>) -> Error {
    let known: Vec<&str> = known.collect();
    Error::UnknownAdapter {
        found: found.to_owned(),
        suggestion: suggestion(found, known.iter().copied()),
        known: if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        },
    }
}

// Forwards to the named modules so that the set adds no level of its own to parameter paths.
mod module {
    use burn::module::{Content, Devices, ModuleDisplayDefault, ModuleMapper, ModuleVisitor};
    use burn::tensor::Device;

    use super::{AdapterSet, Module, ModuleDisplay, Named};

    impl<T> AdapterSet<T> {
        fn with(self, change: impl FnOnce(Named<T>) -> Named<T>) -> Self {
            Self {
                named: change(self.named),
                switch: self.switch,
            }
        }
    }

    impl<T: Module + ModuleDisplay> Module for AdapterSet<T> {
        fn collect_devices(&self, devices: Devices) -> Devices {
            self.named.collect_devices(devices)
        }
        fn fork(self, device: &Device) -> Self {
            self.with(|named| named.fork(device))
        }
        fn to_device(self, device: &Device) -> Self {
            self.with(|named| named.to_device(device))
        }
        fn train(self) -> Self {
            self.with(Module::train)
        }
        fn valid(&self) -> Self {
            Self {
                named: self.named.valid(),
                switch: self.switch.clone(),
            }
        }
        fn materialize(self) -> Self {
            self.with(Module::materialize)
        }
        fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
            self.named.visit(visitor)
        }
        fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
            self.with(|named| named.map(mapper))
        }
    }

    impl<T: ModuleDisplay> ModuleDisplayDefault for AdapterSet<T> {
        fn content(&self, content: Content) -> Option<Content> {
            self.named.content(content)
        }
    }

    impl<T: ModuleDisplay> ModuleDisplay for AdapterSet<T> {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set() -> AdapterSet<i32> {
        let mut set = AdapterSet::default();
        set.add("fc1", "french", 1).unwrap();
        set.add("fc1", "german", 2).unwrap();
        set
    }

    fn active(set: &AdapterSet<i32>) -> Vec<i32> {
        set.active().into_iter().map(|(_, value)| *value).collect()
    }

    #[test]
    fn the_last_added_is_active_and_a_name_is_taken_once() {
        let mut set = set();
        assert_eq!(active(&set), [2]);
        let error = set.add("fc1", "french", 3).unwrap_err();
        assert!(matches!(error, Error::AlreadyAdapted { .. }), "{error}");
        assert_eq!(active(&set), [2]);
    }

    #[test]
    fn activation_keeps_the_order_given_and_skips_what_the_slot_lacks() {
        let mut set = set();
        let names = ["german", "latin", "french"].map(str::to_owned);
        set.activate(Arc::new(Setup::of_names(&names, Composition::Stack)));
        assert_eq!(active(&set), [2, 1]);
        assert!(set.acts(&Setup::from("french")) && !set.acts(&Setup::from("latin")));
        set.remove("german");
        assert_eq!(active(&set), [1]);
    }

    #[test]
    fn disabled_nothing_acts_and_enabled_what_acted_acts_again() {
        let mut set = set();
        set.disable(true);
        assert!(active(&set).is_empty() && set.acting("french").is_none());
        set.disable(false);
        assert_eq!(active(&set), [2]);
    }

    #[test]
    fn an_unknown_name_shows_what_there_is() {
        let message = set().get("germna").unwrap_err().to_string();
        assert!(
            message.contains("french, german") && message.contains("nearest: german"),
            "{message}"
        );
    }
}
