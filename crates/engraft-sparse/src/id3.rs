//! ID3: entries are released one after another while the model trains.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    Adapter, Counts, Ctx, Evolve, Evolving, Family, FrozenBase, Graft, InitContext, LayerShape,
    Method, MethodMeta, Parts, Result, Time,
};
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

use crate::entries::{Entries, check_density, places, replace, replace_indices, stored, usage};
use crate::top::top;

/// Configuration of [`Id3`]. Defaults: epsilon = 1 and exponent 1; the density is a choice of the
/// experiment, here 1%.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Id3Config {
    /// Share of the weight's entries that is trained in the end.
    pub density: f64,
    /// epsilon, added to the size of a weight.
    pub epsilon: f64,
    /// The power of a weight's size.
    pub exponent: f64,
}

impl Default for Id3Config {
    fn default() -> Self {
        Self {
            density: 0.01,
            epsilon: 1.0,
            exponent: 1.0,
        }
    }
}

impl Id3Config {
    /// B.
    fn entries(&self, d_in: usize, d_out: usize) -> usize {
        ((self.density * (d_in * d_out) as f64) as usize).max(1)
    }

    /// Entries released after this step, of `budget`: B (t + 1) / T rounded up, so that the first
    /// are released at once and all of them in the last step.
    fn released(budget: usize, time: Time) -> usize {
        let total = u128::from(time.total.max(1));
        let step = u128::from(time.step + 1).min(total);
        (budget as u128 * step).div_ceil(total) as usize
    }

    /// H = |g| / (|w| + epsilon)^exponent.
    fn heuristic(&self, gradient: f64, weight: f64) -> f64 {
        gradient.abs() / (weight.abs() + self.epsilon).powf(self.exponent)
    }
}

/// W' = W + S, S zero but for up to B places, a few more after each update.
///
/// | symbol | shape | |
/// |---|---|---|
/// | S (`values`) | `[B]` | trained, zero at first; B = floor(density d_in d_out) |
/// | `positions` | `[B]` | place i d_out + j of each, in the adapter file |
///
/// Step-by-Step Unmasking for Parameter-Efficient Fine-tuning of Large Language Models, arXiv
/// 2408.14470, and authors' code: after each of T updates the B / T entries of largest
/// H = |g| / (|w| + epsilon)^exponent among those still masked are released, so that large gradients
/// and small weights come first and the choice follows the training; all in all half of the updates
/// of a mask that is fixed from the start are made. The paper spends one budget over all layers;
/// here each layer has its own share, so that counts and files follow from shapes alone. Entries
/// that are not released are held at zero.
///
/// Activation form: B values added into a copy of W. Every update needs the gradient of the full
/// weight.
#[derive(Module, Debug)]
pub struct Id3 {
    /// Entries of S, `[B]`, in order of release.
    pub values: Param<Tensor<1>>,
    /// Positions i d_out + j, `[B]`.
    pub positions: Param<Tensor<1, Int>>,
}

impl Id3 {
    fn entries(&self) -> Entries {
        Entries::new(self.positions.val(), self.values.val())
    }
}

impl Adapter for Id3 {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        Ok(self.entries().added(base))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        self.entries().forward(x, base)
    }
}

impl Graft for Id3Config {
    type Adapter = Id3;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let entries = self.entries(layer.d_in, layer.d_out);
        Counts::with_frozen(entries, entries)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Id3> {
        let entries = self.entries(base.d_in(), base.d_out());
        // Anywhere: entries that are not released are zero.
        let positions: Vec<usize> = (0..entries).collect();
        Ok(Id3 {
            values: Param::from_tensor(ctx.tensor(Init::ZEROS, [entries], "values")),
            positions: stored(&positions, &ctx.device),
        })
    }
}

impl Evolve for Id3Config {
    fn wants(&self, _: Time, _: usize, _: usize) -> bool {
        true
    }

    fn evolve(&self, time: Time, layers: &mut [Evolving<'_, Id3>]) -> Result<()> {
        for layer in layers {
            let Some(gradient) = layer.weight_gradient.as_ref().map(bridge::values) else {
                continue;
            };
            let mut weight = bridge::values(&layer.base.weight());
            let adapter = layer.adapter_mut();
            let mut values = bridge::values(&adapter.values.val());
            let mut positions = places(&adapter.positions.val());
            let budget = values.len();
            let before = match time.step {
                0 => 0,
                step => Self::released(
                    budget,
                    Time {
                        step: step - 1,
                        ..time
                    },
                ),
            };
            let after = Self::released(budget, time);
            for (value, place) in values[..before].iter().zip(&positions) {
                weight[*place] += value;
            }
            let mut scores: Vec<f64> = gradient
                .iter()
                .zip(&weight)
                .map(|(gradient, weight)| self.heuristic(*gradient, *weight))
                .collect();
            for &place in &positions[..before] {
                scores[place] = f64::NEG_INFINITY;
            }
            for (entry, place) in (before..after).zip(top(&scores, after - before)) {
                positions[entry] = place;
            }
            values[before..].fill(0.0);
            replace(&mut adapter.values, values);
            replace_indices(&mut adapter.positions, &positions);
            layer.reset("values", Some((before..budget).collect()));
        }
        Ok(())
    }

    fn report(&self, adapter: &Id3) -> Vec<(&'static str, f64)> {
        usage(&adapter.values)
    }
}

impl Method for Id3Config {
    const META: MethodMeta = MethodMeta::graft(
        "id3",
        "ID3",
        Family::Sparse,
        "2408.14470",
        "W' = W + S, S zero but for places released by |g| / (|w| + epsilon)^exponent",
    );

    fn parts(&self) -> Parts {
        Parts::evolving(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        check_density(self.density)?;
        if self.epsilon > 0.0 && self.exponent >= 0.0 {
            return Ok(());
        }
        Err(format!(
            "epsilon {} and exponent {}: expected more than 0 and at least 0",
            self.epsilon, self.exponent
        ))
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let dense = Self {
            density: 0.4,
            epsilon: 0.1,
            exponent: 2.0,
        };
        vec![Self::default(), dense]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::{Run, run};

    #[test]
    fn the_budget_is_spent_evenly_and_whole() {
        let released = |budget, total| -> Vec<usize> {
            (0..total)
                .map(|step| Id3Config::released(budget, Time { step, total }))
                .collect()
        };
        assert_eq!(released(10, 5), [2, 4, 6, 8, 10]);
        assert_eq!(released(2, 5), [1, 1, 2, 2, 2]);
        assert_eq!(released(7, 3), [3, 5, 7]);
    }

    #[test]
    fn entries_of_largest_heuristic_are_released_and_stay() {
        let config = Id3Config {
            density: 0.1,
            epsilon: 0.2,
            exponent: 1.5,
        };
        let mut before: Vec<usize> = Vec::new();
        let mut values_before: Vec<f64> = Vec::new();
        run(
            &config,
            6,
            |Run {
                 step,
                 adapter,
                 base,
                 gradient,
                 ..
             }| {
                let now = places(&adapter.positions.val())[..2 * (step as usize + 1)].to_vec();
                let values = bridge::values(&adapter.values.val());
                assert_eq!(now[..before.len()], before);
                assert_eq!(values.len(), 12);
                assert!(values[before.len()..].iter().all(|value| *value == 0.0));
                if step > 0 {
                    assert!(values[..before.len()].iter().all(|value| *value != 0.0));
                    assert_ne!(values, values_before);
                }
                let mut weight = bridge::values(&base.weight());
                for (value, place) in values.iter().zip(&before) {
                    weight[*place] += value;
                }
                let mut scores: Vec<f64> = gradient
                    .unwrap()
                    .iter()
                    .zip(weight)
                    .map(|(g, w)| g.abs() / (w.abs() + 0.2).powf(1.5))
                    .collect();
                before.iter().for_each(|place| scores[*place] = -1.0);
                assert_eq!(now[before.len()..], top(&scores, 2));
                (before, values_before) = (now, values);
            },
        );
        assert_eq!(before.len(), 12);
    }
}
