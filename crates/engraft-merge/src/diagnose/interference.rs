//! Where adapters pull in different directions.
//!
//! For two adapters a and b, over the entries of all their modules,
//!
//! ```text
//! conflicts   #{a b < 0} / #{a b != 0}
//! by mass     sum_{a b < 0} |a b| / sum |a b|,     so that <a, b> = (1 - 2 by mass) sum |a b|
//! ```
//!
//! and for all T together what a sum loses by cancellation, 1 - sum |sum_t a_t| / sum sum_t |a_t|. 0.5
//! is what independent adapters have. The entries run through some rows at a time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Square;
use crate::error::{Error, Result};
use crate::factorise::relative;
use crate::strips::for_each_strip;
use crate::update::Update;

/// Sums over the entries of a module.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Sums {
    /// #{a b < 0} of each two.
    pub conflicts: Square,
    /// #{a b != 0} of each two.
    pub shared: Square,
    /// sum_{a b < 0} |a b| of each two.
    pub conflicting_mass: Square,
    /// sum |a b| of each two.
    pub shared_mass: Square,
    /// sum |sum_t a_t|.
    pub merged: f64,
    /// sum sum_t |a_t|.
    pub apart: f64,
}

/// Sign conflicts of adapters, by module.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Interference {
    /// The sums of each module.
    pub modules: BTreeMap<String, Sums>,
}

/// What the sums say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Conflicts {
    /// Fraction of the entries of each two that have different signs.
    pub count: Square,
    /// The same by their mass |a b|.
    pub mass: Square,
    /// What the sum of all loses by cancellation, from 0 to 1.
    pub cancelled: f64,
}

impl Interference {
    /// Takes a module in: its update in each adapter, always in the same order. `base`: W, for
    /// updates that are relative to it.
    ///
    /// # Errors
    /// Another number of adapters than before, updates of different shapes, a missing base.
    pub fn add(
        &mut self,
        module: impl Into<String>,
        updates: &[&Update],
        base: Option<&[f32]>,
    ) -> Result<()> {
        let module = module.into();
        let other = self.modules.first_key_value();
        if let Some((other, sums)) = other.filter(|(_, sums)| sums.shared.len() != updates.len()) {
            return Err(Error::input(format!(
                "module `{module}` of {} adapters, `{other}` of {}",
                updates.len(),
                sums.shared.len()
            )));
        }
        let mut sums = Sums::of(updates.len());
        for_each_strip(updates, base, |_, strips| {
            sums.entries(strips);
            Ok(())
        })?;
        sums.mirror();
        self.modules.insert(module, sums);
        Ok(())
    }

    /// The conflicts of one module; nothing for one that is not there.
    #[must_use]
    pub fn module(&self, module: &str) -> Option<Conflicts> {
        self.modules.get(module).map(Sums::conflicts)
    }

    /// The conflicts over all modules.
    #[must_use]
    pub fn total(&self) -> Conflicts {
        let count = self
            .modules
            .values()
            .next()
            .map_or(0, |sums| sums.shared.len());
        let mut total = Sums::of(count);
        for sums in self.modules.values() {
            let pairs = [
                (&mut total.conflicts, &sums.conflicts),
                (&mut total.shared, &sums.shared),
                (&mut total.conflicting_mass, &sums.conflicting_mass),
                (&mut total.shared_mass, &sums.shared_mass),
            ];
            for (to, from) in pairs {
                let both = to.iter_mut().flatten().zip(from.iter().flatten());
                both.for_each(|(to, from)| *to += from);
            }
            total.merged += sums.merged;
            total.apart += sums.apart;
        }
        total.conflicts()
    }
}

impl Sums {
    fn of(count: usize) -> Self {
        let zeros = || vec![vec![0.0; count]; count];
        Self {
            conflicts: zeros(),
            shared: zeros(),
            conflicting_mass: zeros(),
            shared_mass: zeros(),
            ..Self::default()
        }
    }

    /// Takes rows of all updates in: the lower triangle.
    fn entries(&mut self, strips: &[Vec<f32>]) {
        for (i, a) in strips.iter().enumerate() {
            for (j, b) in strips[..=i].iter().enumerate() {
                let (mut conflicts, mut shared) = (0u64, 0u64);
                let (mut conflicting, mut mass) = (0.0, 0.0);
                for (a, b) in a.iter().zip(b) {
                    let product = f64::from(*a) * f64::from(*b);
                    shared += u64::from(product != 0.0);
                    conflicts += u64::from(product < 0.0);
                    mass += product.abs();
                    conflicting += (-product).max(0.0);
                }
                self.conflicts[i][j] += conflicts as f64;
                self.shared[i][j] += shared as f64;
                self.conflicting_mass[i][j] += conflicting;
                self.shared_mass[i][j] += mass;
            }
        }
        for at in 0..strips.first().map_or(0, Vec::len) {
            let values = strips.iter().map(|strip| f64::from(strip[at]));
            self.merged += values.clone().sum::<f64>().abs();
            self.apart += values.map(f64::abs).sum::<f64>();
        }
    }

    fn mirror(&mut self) {
        let all = [
            &mut self.conflicts,
            &mut self.shared,
            &mut self.conflicting_mass,
            &mut self.shared_mass,
        ];
        all.into_iter().for_each(super::mirror);
    }

    fn conflicts(&self) -> Conflicts {
        let ratio = |part: &Square, whole: &Square| {
            let rows = part.iter().zip(whole);
            let row = |part: &Vec<f64>, whole: &Vec<f64>| {
                let both = part.iter().zip(whole);
                both.map(|(part, whole)| relative(*part, *whole)).collect()
            };
            rows.map(|(part, whole)| row(part, whole)).collect()
        };
        Conflicts {
            count: ratio(&self.conflicts, &self.shared),
            mass: ratio(&self.conflicting_mass, &self.shared_mass),
            cancelled: relative(self.apart - self.merged, self.apart),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::diagnose::inner_products;
    use crate::spectral::testing::{dense, low_rank, refs};
    use crate::update::Sparse;

    proptest! {
        #[test]
        fn conflicts_are_counted(m in 1usize..9, n in 1usize..9, seed: u64) {
            let sparse = Update::sparse(m, n, Sparse::new(vec![(0, 1.5), ((m * n - 1) as u64, -2.0)]));
            let updates = [low_rank(m, n, 2, seed), dense(m, n, seed), sparse];
            let mut interference = Interference::default();
            interference.add("one", &refs(&updates), None).unwrap();
            interference.add("two", &refs(&updates), None).unwrap();
            let (found, total) = (interference.module("one").unwrap(), interference.total());
            let products = inner_products(&refs(&updates), None).unwrap();
            let sums = &interference.modules["one"];
            for i in 0..3 {
                for j in 0..3 {
                    let (a, b) = (updates[i].to_dense(None).unwrap().data, updates[j].to_dense(None).unwrap().data);
                    let signs: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a.signum() * b.signum() * f32::from(u8::from(*a != 0.0 && *b != 0.0))).collect();
                    let count = |sign: f32| signs.iter().filter(|s| **s == sign).count() as f64;
                    let expected = relative(count(-1.0), count(-1.0) + count(1.0));
                    prop_assert!((found.count[i][j] - expected).abs() < 1e-12);
                    prop_assert!((total.count[i][j] - expected).abs() < 1e-12);
                    // <a, b> = (1 - 2 by mass) sum |a b|.
                    let product = (1.0 - 2.0 * found.mass[i][j]) * sums.shared_mass[i][j];
                    prop_assert!((product - products[i][j]).abs() < 1e-4 * (1.0 + sums.shared_mass[i][j]));
                    prop_assert!((total.mass[i][j] - found.mass[i][j]).abs() < 1e-12);
                }
                prop_assert_eq!(found.count[i][i], 0.0);
            }
            prop_assert!((0.0..=1.0).contains(&found.cancelled));
        }
    }

    #[test]
    fn negation_cancels() {
        let task = low_rank(4, 5, 2, 1);
        let mut interference = Interference::default();
        interference
            .add("m", &[&task, &task.scaled(-1.0)], None)
            .unwrap();
        let total = interference.total();
        assert_eq!((total.count[0][1], total.mass[1][0]), (1.0, 1.0));
        assert!(total.cancelled > 1.0 - 1e-12);
        assert!(interference.add("n", &[&task], None).is_err());
        assert_eq!(Interference::default().total(), Conflicts::default());
    }
}
