//! Parameter counts from shapes alone.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

use serde::Serialize;

/// How many values a method trains and stores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Trained values of adapters and selections, without `shared`, `norms` and `head`.
    pub trainable: usize,
    /// Trained values shared between layers (banks).
    pub shared: usize,
    /// Trained values of normalisation layers.
    pub norms: usize,
    /// Trained values of the task head.
    pub head: usize,
    /// Values in the adapter file, frozen ones included (indices count as values).
    pub stored: usize,
}

impl Counts {
    /// `trained` values that are also all that is stored.
    pub fn trained(trained: usize) -> Self {
        Self {
            trainable: trained,
            stored: trained,
            ..Self::default()
        }
    }

    /// `trained` values, and `frozen` ones stored beside them.
    pub fn with_frozen(trained: usize, frozen: usize) -> Self {
        Self {
            trainable: trained,
            stored: trained + frozen,
            ..Self::default()
        }
    }

    /// Every value that receives a gradient.
    pub fn all_trained(&self) -> usize {
        self.trainable + self.shared + self.norms + self.head
    }

    /// Every value that receives a gradient, the task head aside.
    pub fn without_head(&self) -> usize {
        self.all_trained() - self.head
    }
}

impl Add for Counts {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            trainable: self.trainable + other.trainable,
            shared: self.shared + other.shared,
            norms: self.norms + other.norms,
            head: self.head + other.head,
            stored: self.stored + other.stored,
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for Counts {
    fn sum<I: Iterator<Item = Self>>(counts: I) -> Self {
        counts.fold(Self::default(), Add::add)
    }
}
