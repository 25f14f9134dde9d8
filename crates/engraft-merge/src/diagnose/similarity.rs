//! How alike adapters are as vectors: cosines between their updates.
//!
//! ```text
//! cos(a, b) = <dW_a, dW_b> / (|dW_a| |dW_b|),     <A, B> = tr(A^T B)
//! ```
//!
//! per module, and over all modules together as of one long vector. Products of updates of low rank
//! are those of their factors, others run over some rows at a time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Square;
use crate::error::{Error, Result};
use crate::strips::{common_shape, for_each_strip};
use crate::update::Update;

/// Inner products of adapters, by module.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Similarity {
    /// <dW_a, dW_b> of each module.
    pub products: BTreeMap<String, Square>,
}

impl Similarity {
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
        let (module, products) = (module.into(), inner_products(updates, base)?);
        if let Some((other, first)) = self.products.first_key_value()
            && first.len() != products.len()
        {
            return Err(Error::input(format!(
                "module `{}` of {} adapters, `{other}` of {}",
                module,
                products.len(),
                first.len()
            )));
        }
        self.products.insert(module, products);
        Ok(())
    }

    /// The cosines of one module; nothing for one that is not there. The cosine with an update
    /// that is zero is zero.
    #[must_use]
    pub fn module(&self, module: &str) -> Option<Square> {
        self.products.get(module).map(cosines)
    }

    /// The cosines over all modules.
    #[must_use]
    pub fn total(&self) -> Square {
        let mut sum = Square::new();
        for products in self.products.values() {
            sum.resize(products.len(), vec![0.0; products.len()]);
            for (sums, products) in sum.iter_mut().zip(products) {
                let both = sums.iter_mut().zip(products);
                both.for_each(|(sum, product)| *sum += product);
            }
        }
        cosines(&sum)
    }

    /// |dW| of each adapter, by module.
    #[must_use]
    pub fn norms(&self) -> BTreeMap<String, Vec<f64>> {
        let norms = |products: &Square| {
            let norm = |i: usize| products[i][i].sqrt();
            (0..products.len()).map(norm).collect()
        };
        let all = self.products.iter();
        all.map(|(module, products)| (module.clone(), norms(products)))
            .collect()
    }
}

/// <dW_a, dW_b> of each two updates of one module.
///
/// # Errors
/// No updates, updates of different shapes, a missing base.
pub fn inner_products(updates: &[&Update], base: Option<&[f32]>) -> Result<Square> {
    common_shape(updates)?;
    let count = updates.len();
    let mut products = vec![vec![0.0; count]; count];
    let thin = |update: &Update| update.is_low_rank();
    for i in 0..count {
        for j in 0..=i {
            if let (true, Some(a), true, Some(b)) = (
                thin(updates[i]),
                &updates[i].low_rank,
                thin(updates[j]),
                &updates[j].low_rank,
            ) {
                products[i][j] = a.dot(b)?;
            }
        }
        // Rounding may leave the square of a sum that cancels below zero.
        products[i][i] = f64::max(products[i][i], 0.0);
    }
    if !updates.iter().all(|update| thin(update)) {
        for_each_strip(updates, base, |_, strips| {
            for i in 0..count {
                for j in 0..=i {
                    if !(thin(updates[i]) && thin(updates[j])) {
                        let both = strips[i].iter().zip(&strips[j]);
                        let part = both.map(|(a, b)| f64::from(*a) * f64::from(*b));
                        products[i][j] += part.sum::<f64>();
                    }
                }
            }
            Ok(())
        })?;
    }
    super::mirror(&mut products);
    Ok(products)
}

fn cosines(products: &Square) -> Square {
    let cosine = |i: usize, j: usize| match (products[i][i] * products[j][j]).sqrt() {
        0.0 => 0.0,
        _ if i == j => 1.0,
        norms => (products[i][j] / norms).clamp(-1.0, 1.0),
    };
    let row = |i: usize| (0..products.len()).map(|j| cosine(i, j)).collect();
    (0..products.len()).map(row).collect()
}

#[cfg(test)]
mod tests {
    use engraft_linalg::Matrix;
    use proptest::prelude::*;

    use super::*;
    use crate::spectral::testing::{dense, dense_of, low_rank, refs};
    use crate::update::Sparse;

    fn dot(a: &Matrix, b: &Matrix) -> f64 {
        a.as_slice()
            .iter()
            .zip(b.as_slice())
            .map(|(a, b)| a * b)
            .sum()
    }

    proptest! {
        #[test]
        fn cosines_are_those_of_matrices(m in 1usize..9, n in 1usize..9, seed: u64) {
            let sparse = Update::sparse(m, n, Sparse::new(vec![(0, 1.5), ((m * n - 1) as u64, -2.0)]));
            let module = |seed: u64| [low_rank(m, n, 2, seed), low_rank(m, n, 1, seed ^ 1), dense(m, n, seed), sparse.clone()];
            let (one, two) = (module(seed), module(!seed));
            let mut similarity = Similarity::default();
            similarity.add("one", &refs(&one), None).unwrap();
            similarity.add("two", &refs(&two), None).unwrap();
            let (total, first) = (similarity.total(), similarity.module("one").unwrap());
            for i in 0..4 {
                for j in 0..4 {
                    let of = |module: &[Update; 4], i: usize, j: usize| dot(&dense_of(&module[i]), &dense_of(&module[j]));
                    let expected = of(&one, i, j) / (of(&one, i, i) * of(&one, j, j)).sqrt();
                    prop_assert!((first[i][j] - expected).abs() < 1e-5);
                    let both = |i, j| of(&one, i, j) + of(&two, i, j);
                    let expected = both(i, j) / (both(i, i) * both(j, j)).sqrt();
                    prop_assert!((total[i][j] - expected).abs() < 1e-5);
                    prop_assert_eq!(total[i][j], total[j][i]);
                }
                let norm = dense_of(&one[i]).frobenius_norm();
                prop_assert!((similarity.norms()["one"][i] - norm).abs() < 1e-5 * norm);
            }
        }
    }

    #[test]
    fn negation_and_nothing() {
        let task = low_rank(4, 5, 2, 1);
        let mut similarity = Similarity::default();
        let updates = [&task, &task.scaled(-2.0), &Update::zero(4, 5)];
        similarity.add("m", &updates, None).unwrap();
        let total = similarity.total();
        assert!((total[0][1] + 1.0).abs() < 1e-12);
        assert_eq!((total[0][0], total[2][2], total[0][2]), (1.0, 0.0, 0.0));
        assert!(similarity.add("n", &updates[..2], None).is_err());
        assert!(similarity.module("n").is_none());
    }
}
