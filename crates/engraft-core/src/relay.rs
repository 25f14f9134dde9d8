//! What adapters hand on to each other within one forward pass.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Values that an adapter at one site leaves for itself at the next, by name. A model makes one for
/// each forward pass, or for all passes that share a cache, and puts it into its context.
#[derive(Debug, Default)]
pub struct Relay {
    held: Mutex<BTreeMap<String, Box<dyn Any + Send>>>,
}

impl Relay {
    /// Leaves a value in the place of what is held under this name.
    pub fn put<T: Any + Send>(&self, name: &str, value: T) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.insert(name.to_owned(), Box::new(value));
    }

    /// Takes the value of this name, if there is one of this type.
    pub fn take<T: Any + Send>(&self, name: &str) -> Option<T> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let value = held.remove(name)?.downcast().ok()?;
        Some(*value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_taken_once_and_by_its_type() {
        let relay = Relay::default();
        relay.put("a", 3_usize);
        assert_eq!(relay.take::<usize>("a"), Some(3));
        assert_eq!(relay.take::<usize>("a"), None);
        relay.put("a", 3_usize);
        assert_eq!(relay.take::<String>("a"), None);
    }
}
