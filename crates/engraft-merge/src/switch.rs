//! Adapters that take turns in the weights themselves.
//!
//! A sparse update overwrites a few numbers and remembers them: taking it out puts them back, bit by
//! bit. A low-rank one is added to the weight and subtracted again, L R never being formed; that rounds
//! twice, by no more than [`residual_bound`](Switch::residual_bound), unless the weights are
//! remembered.

use std::collections::BTreeMap;

use engraft_kernels::{Mat, Onto, matmul};

use crate::error::{Error, Result, nearest};
use crate::update::{Dense, Sparse, Update};

/// The weights of modules: W of `[out, in]`.
pub type Weights = BTreeMap<String, Dense>;

/// The update of one weight, ready to be applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    rows: usize,
    columns: usize,
    sparse: Sparse,
    /// L of `[rows, rank]` and R of `[rank, columns]`.
    left: Vec<f32>,
    right: Vec<f32>,
}

impl Change {
    /// An update of sparse and low-rank parts.
    ///
    /// # Errors
    /// An update with other parts, which is folded into the weights instead.
    pub fn new(update: &Update) -> Result<Self> {
        let (rows, columns) = update.known_shape()?;
        let other = update.dense.is_some() || update.needs_base();
        if other || update.bias.is_some() || update.bias_scale.is_some() {
            return Err(Error::input(
                "the update has dense parts, scalings or a bias: only sparse and low-rank ones are switched; fold the others into the weights",
            ));
        }
        let sparse = update.sparse.clone().unwrap_or_default();
        if sparse
            .places()
            .last()
            .is_some_and(|at| *at >= (rows * columns) as u64)
        {
            let reason = format!("an entry lies outside the weight of {rows}x{columns}");
            return Err(Error::input(reason));
        }
        let factors = update.low_rank.as_ref();
        Ok(Self {
            rows,
            columns,
            sparse,
            left: factors.map_or(Vec::new(), |factors| factors.left.to_f32()),
            right: factors.map_or(Vec::new(), |factors| factors.right.to_f32()),
        })
    }

    fn rank(&self) -> usize {
        self.right.len() / self.columns.max(1)
    }

    /// `weight += sign L R`.
    fn add_product(&self, weight: &mut [f32], sign: f32) {
        let rank = self.rank();
        if rank > 0 {
            let left = Mat::new(&self.left, self.rows, rank);
            let right = Mat::new(&self.right, rank, self.columns);
            matmul((weight, self.columns), Onto::Present, left, right, sign);
        }
    }

    /// Applies it; what [`remove`](Self::remove) needs. `remember`: the whole weight, if it is
    /// changed as a whole.
    ///
    /// # Panics
    /// Unless the weight has the update's shape.
    pub fn apply(&self, weight: &mut [f32], remember: bool) -> Saved {
        assert_eq!(weight.len(), self.rows * self.columns);
        let whole = (remember && self.rank() > 0).then(|| weight.to_vec());
        self.add_product(weight, 1.0);
        let entries = self.sparse.entries();
        let values = entries.map(|(at, value)| {
            let weight = &mut weight[at as usize];
            let before = *weight;
            *weight += value;
            before
        });
        Saved {
            values: values.collect(),
            whole,
        }
    }

    /// Takes it out again.
    ///
    /// # Panics
    /// Unless the weight has the update's shape, and what was saved is this update's.
    pub fn remove(&self, weight: &mut [f32], saved: Saved) {
        assert_eq!(weight.len(), self.rows * self.columns);
        assert_eq!(saved.values.len(), self.sparse.len());
        if let Some(whole) = saved.whole {
            return weight.copy_from_slice(&whole);
        }
        for (at, before) in self.sparse.places().iter().zip(saved.values) {
            weight[*at as usize] = before;
        }
        self.add_product(weight, -1.0);
    }

    /// What applying and removing leaves at most in an entry: 0 without a low-rank part, else
    /// 2 (rank + 2) u (max |W'| + 2 max |l_i| max |r_j|) with u = 2^-24, W' the weight with the update,
    /// l_i the rows of L and r_j the columns of R.
    #[must_use]
    pub fn residual_bound(&self, weight: &[f32]) -> f64 {
        let rank = self.rank();
        if rank == 0 {
            return 0.0;
        }
        let square = |x: &f32| f64::from(*x) * f64::from(*x);
        let rows = self
            .left
            .chunks(rank)
            .map(|row| row.iter().map(square).sum());
        let left = rows.fold(0.0, f64::max).sqrt();
        let mut columns = vec![0.0; self.columns];
        for row in self.right.chunks(self.columns) {
            columns
                .iter_mut()
                .zip(row)
                .for_each(|(sum, x)| *sum += square(x));
        }
        let right = columns.into_iter().fold(0.0, f64::max).sqrt();
        let largest = weight.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        let size = f64::from(largest) + 2.0 * left * right;
        2.0 * (rank + 2) as f64 * 2f64.powi(-24) * size
    }
}

/// What was there before an update.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    values: Vec<f32>,
    whole: Option<Vec<f32>>,
}

/// Adapters by name, of which at most one is in the weights.
#[derive(Debug, Default)]
pub struct Switch {
    adapters: BTreeMap<String, BTreeMap<String, Change>>,
    remember: bool,
    active: Option<(String, BTreeMap<String, Saved>)>,
}

impl Switch {
    /// No adapters. `remember`: whether weights under low-rank updates are kept aside, so that they
    /// come back bit by bit.
    #[must_use]
    pub fn new(remember: bool) -> Self {
        Self {
            remember,
            ..Self::default()
        }
    }

    /// Adds an adapter: the updates of its modules.
    ///
    /// # Errors
    /// A name that is taken, or updates that cannot be switched ([`Change::new`]).
    pub fn add<'a>(
        &mut self,
        name: &str,
        updates: impl IntoIterator<Item = (&'a str, &'a Update)>,
    ) -> Result<()> {
        if self.adapters.contains_key(name) {
            return Err(Error::adapter(name, "there is one of this name already"));
        }
        let changes = updates.into_iter().map(|(module, update)| {
            let change = Change::new(update).map_err(|error| Error::module(name, module, error))?;
            Ok((module.to_owned(), change))
        });
        let changes = changes.collect::<Result<_>>()?;
        self.adapters.insert(name.to_owned(), changes);
        Ok(())
    }

    /// The adapter in the weights.
    #[must_use]
    pub fn active(&self) -> Option<&str> {
        self.active.as_ref().map(|(name, _)| name.as_str())
    }

    /// Puts an adapter into the weights, in place of the one that is there. Nothing is changed on an
    /// error.
    ///
    /// # Errors
    /// An unknown adapter, a weight that is missing or has another shape.
    pub fn apply(&mut self, name: &str, weights: &mut Weights) -> Result<()> {
        let Some(changes) = self.adapters.get(name) else {
            let near = nearest(name, self.adapters.keys().map(String::as_str));
            let near = match near.is_empty() {
                true => String::new(),
                false => format!("; nearest: {}", near.join(", ")),
            };
            return Err(Error::adapter(
                name,
                format!("there is none of this name{near}"),
            ));
        };
        check(name, changes, weights)?;
        self.remove(weights)?;
        let saved = self.adapters[name].iter().map(|(module, change)| {
            let weight = weights.get_mut(module).expect("it was checked");
            (
                module.clone(),
                change.apply(&mut weight.data, self.remember),
            )
        });
        self.active = Some((name.to_owned(), saved.collect()));
        Ok(())
    }

    /// Takes the adapter out of the weights.
    ///
    /// # Errors
    /// Weights that are others than those it was put into.
    pub fn remove(&mut self, weights: &mut Weights) -> Result<()> {
        let Some((name, _)) = &self.active else {
            return Ok(());
        };
        check(name, &self.adapters[name], weights)?;
        if let Some((name, saved)) = self.active.take() {
            for (module, saved) in saved {
                let weight = weights.get_mut(&module).expect("it was checked");
                self.adapters[&name][&module].remove(&mut weight.data, saved);
            }
        }
        Ok(())
    }

    /// What removing the active adapter leaves at most, by module: [`Change::residual_bound`], or 0
    /// where the weight is remembered.
    #[must_use]
    pub fn residual_bound(&self, weights: &Weights) -> BTreeMap<String, f64> {
        let Some((name, saved)) = &self.active else {
            return BTreeMap::new();
        };
        let bounds = saved.iter().filter_map(|(module, saved)| {
            let bound = match saved.whole {
                Some(_) => 0.0,
                None => self.adapters[name][module].residual_bound(&weights.get(module)?.data),
            };
            Some((module.clone(), bound))
        });
        bounds.collect()
    }
}

fn check(name: &str, changes: &BTreeMap<String, Change>, weights: &Weights) -> Result<()> {
    for (module, change) in changes {
        let Some(weight) = weights.get(module) else {
            return Err(Error::module(name, module, "there is no such weight"));
        };
        if (weight.rows, weight.columns) != (change.rows, change.columns) {
            let reason = format!(
                "its update is of {}x{}, the weight of {}x{}",
                change.rows, change.columns, weight.rows, weight.columns
            );
            return Err(Error::module(name, module, reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use engraft_linalg::Matrix;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::update::Factors;

    const SHAPE: [usize; 2] = [7, 9];

    fn sparse() -> impl Strategy<Value = Update> {
        vec((0u64..63, -2.0f32..2.0), 0..30)
            .prop_map(|entries| Update::sparse(SHAPE[0], SHAPE[1], Sparse::new(entries)))
    }

    fn low_rank() -> impl Strategy<Value = Update> {
        (1usize..6, vec(-2.0f64..2.0, 96)).prop_map(|(rank, pool)| {
            let left = Matrix::from_vec(7, rank, pool[..7 * rank].to_vec()).unwrap();
            let right = Matrix::from_vec(rank, 9, pool[40..40 + 9 * rank].to_vec()).unwrap();
            Update::low_rank(Factors::new(left, right).unwrap())
        })
    }

    fn weights() -> impl Strategy<Value = Weights> {
        vec(-4.0f32..4.0, 63).prop_map(|data| {
            Weights::from([(
                "m".to_owned(),
                Dense::new(SHAPE[0], SHAPE[1], data).unwrap(),
            )])
        })
    }

    proptest! {
        #[test]
        fn switching_restores_and_applies(base in weights(), first in sparse(), second in sparse(), third in low_rank()) {
            for remember in [false, true] {
                let mut switch = Switch::new(remember);
                for (name, update) in [("a", &first), ("b", &second), ("c", &third)] {
                    switch.add(name, [("m", update)]).unwrap();
                }
                let mut weights = base.clone();
                for (name, update) in [("a", &first), ("b", &second), ("c", &third), ("c", &third)] {
                    switch.apply(name, &mut weights).unwrap();
                    prop_assert_eq!(switch.active(), Some(name));
                    let delta = update.strip(0..SHAPE[0], None).unwrap();
                    for ((x, w), d) in weights["m"].data.iter().zip(&base["m"].data).zip(&delta) {
                        prop_assert!((x - (w + d)).abs() <= 1e-4);
                    }
                }
                let bound = 2.0 * switch.residual_bound(&weights)["m"];
                switch.remove(&mut weights).unwrap();
                prop_assert_eq!(switch.active(), None);
                for (x, w) in weights["m"].data.iter().zip(&base["m"].data) {
                    prop_assert!(f64::from((x - w).abs()) <= bound);
                }
                prop_assert!(!remember || weights == base);
                // What is sparse leaves nothing.
                let before = weights.clone();
                for name in ["a", "b", "a"] {
                    switch.apply(name, &mut weights).unwrap();
                    prop_assert_eq!(switch.residual_bound(&weights)["m"], 0.0);
                }
                switch.remove(&mut weights).unwrap();
                let bits = |weights: &Weights| weights["m"].data.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(&weights), bits(&before));
            }
        }
    }

    #[test]
    fn what_cannot_be_switched_is_refused() {
        let mut switch = Switch::new(false);
        let update = Update::sparse(2, 2, Sparse::new(vec![(1, 1.0)]));
        switch.add("one", [("m", &update)]).unwrap();
        assert!(switch.add("one", [("m", &update)]).is_err());
        let dense = Update::dense(Dense::new(1, 1, vec![1.0]).unwrap());
        let message = switch
            .add("dense", [("m", &dense)])
            .unwrap_err()
            .to_string();
        assert!(message.contains("only sparse and low-rank"), "{message}");
        let mut weights = Weights::new();
        assert!(switch.apply("one", &mut weights).is_err());
        weights.insert("m".to_owned(), Dense::new(1, 2, vec![0.0; 2]).unwrap());
        let message = switch.apply("one", &mut weights).unwrap_err().to_string();
        assert!(
            message.contains("2x2") && message.contains("1x2"),
            "{message}"
        );
        let message = switch.apply("on", &mut weights).unwrap_err().to_string();
        assert!(message.contains("nearest: one"), "{message}");
    }
}
