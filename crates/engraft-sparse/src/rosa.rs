//! RoSA: a low-rank and a sparse update, trained together.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    Adapter, Counts, Ctx, Evolve, Evolving, Family, FrozenBase, Graft, InitContext, LayerShape,
    Method, MethodMeta, Needs, Parts, Result, Scaling, Time, check_dropout, dropout,
    refuse_dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::entries::{Entries, added, clear, forward, replace_indices, stored};
use crate::scores::{gradient, magnitudes, squared_gradient};
use crate::top::top;
use crate::warm_up::{Accumulation, Phase, WarmUp};

/// Configuration of [`Rosa`]. Defaults: the authors' code (r = alpha = 8, d = 0.3%, squared
/// gradients, no warm-up).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RosaConfig {
    /// Rank r; 0 for a sparse update alone (SpA).
    pub rank: usize,
    /// alpha; see [`Scaling`].
    pub alpha: f64,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input of the low-rank part in training.
    pub dropout: f64,
    /// d, the share of the weight's entries that is trained; 0 for a low-rank update alone.
    pub density: f64,
    /// `mean-squared` or `mean`.
    pub accumulation: Accumulation,
    /// Places the entries during training. Without, they come from a calibration pass.
    pub warm_up: Option<WarmUp>,
}

impl Default for RosaConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            scaling: Scaling::Classic,
            dropout: 0.0,
            density: 0.003,
            accumulation: Accumulation::MeanSquared,
            warm_up: None,
        }
    }
}

/// W' = W + s A B + S, S zero but at the entries of largest accumulated gradient.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A, B | [d_in, r], [r, d_out] | trained, B zero at first |
/// | S (`values`) | `[n]` | trained, zero at first; n = floor(d d_in d_out) |
/// | `positions` | `[n]` | place i d_out + j of each, frozen, in the adapter file |
/// | s | | alpha / r, or alpha / sqrt(r) |
///
/// Nikdan et al., RoSA: Accurate Parameter-Efficient Fine-Tuning via Robust Adaptation, arXiv
/// 2401.04679, section 4; authors' code peft/tuners/rosa/scheduler.py. The entries of each weight
/// are those of largest accumulated (squared) gradient. The paper's schedules: with a `warm-up` the
/// low-rank part is trained alone for some updates, the gradients of the weights in some more
/// place the entries, and both are trained from then on; the authors also restart with the mask found
/// in that way, which is a calibration pass on the warmed-up model. Without a warm-up the entries
/// are placed before the first update.
///
/// Activation form: low-rank as in LoRA, O(tokens r (d_in + d_out)), and n values added into a copy
/// of W. While gradients are gathered, their sum is held: one value for each of the weight's.
#[derive(Module, Debug)]
pub struct Rosa {
    /// A, [d_in, r].
    pub a: Option<Param<Tensor<2>>>,
    /// B, [r, d_out].
    pub b: Option<Param<Tensor<2>>>,
    /// Entries of S, `[n]`.
    pub values: Option<Param<Tensor<1>>>,
    /// Positions i d_out + j, `[n]`.
    pub positions: Option<Param<Tensor<1, Int>>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of A.
    pub dropout: f64,
    /// Gradients gathered during the warm-up.
    pub state: Option<RosaState>,
}

/// What [`Rosa`] remembers while it trains.
#[derive(Module, Debug)]
pub struct RosaState {
    /// Sum of (squared) gradients, [d_in, d_out].
    pub gathered: Param<Tensor<2>>,
}

impl Rosa {
    /// S.
    fn entries(&self) -> Option<Entries> {
        let positions = self.positions.as_ref()?.val();
        Some(Entries::new(positions, self.values.as_ref()?.val()))
    }

    fn low_rank(&self) -> Option<(Tensor<2>, Tensor<2>)> {
        Some((self.a.as_ref()?.val(), self.b.as_ref()?.val()))
    }
}

impl Adapter for Rosa {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("rosa", self.dropout, ctx)?;
        let sparse = added(self.entries(), base);
        Ok(match self.low_rank() {
            None => sparse,
            Some((a, b)) => base.with_weight(sparse.weight() + a.matmul(b) * self.scaling),
        })
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let y = forward(self.entries(), x.clone(), base);
        match self.low_rank() {
            None => y,
            Some((a, b)) => y + (dropout(x, self.dropout, ctx).matmul(a) * self.scaling).matmul(b),
        }
    }
}

impl RosaConfig {
    /// n.
    fn entries(&self, d_in: usize, d_out: usize) -> usize {
        (self.density * (d_in * d_out) as f64) as usize
    }
}

impl Graft for RosaConfig {
    type Adapter = Rosa;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        if self.rank == 0 && self.entries(layer.d_in, layer.d_out) == 0 {
            return Err(format!(
                "rank 0, and density {} leaves none of {} entries: expected more",
                self.density,
                layer.d_in * layer.d_out
            ));
        }
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let entries = self.entries(layer.d_in, layer.d_out);
        Counts::with_frozen(self.rank * (layer.d_in + layer.d_out) + entries, entries)
    }

    fn needs(&self) -> Needs {
        let from_data = self.warm_up.is_none() && self.density > 0.0;
        let squared = self.accumulation == Accumulation::MeanSquared;
        Needs {
            gradient: from_data && !squared,
            squared_gradient: from_data && squared,
            ..Needs::default()
        }
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Rosa> {
        let (d_in, d_out) = (base.d_in(), base.d_out());
        let entries = self.entries(d_in, d_out);
        let mut positions = match (self.warm_up, self.accumulation) {
            _ if entries == 0 => Vec::new(),
            (Some(_), _) => (0..entries).collect(),
            (None, Accumulation::MeanSquared) => top(&magnitudes(&squared_gradient(ctx)?), entries),
            (None, Accumulation::Mean) => top(&magnitudes(&gradient(ctx)?), entries),
        };
        positions.sort_unstable();
        let rank = (self.rank > 0).then_some(self.rank);
        let param = |init, shape, role| Param::from_tensor(ctx.tensor(init, shape, role));
        let kaiming = Init::KaimingUniform { fan_in: d_in };
        Ok(Rosa {
            a: rank.map(|rank| param(kaiming, [d_in, rank], "a")),
            b: rank.map(|rank| param(Init::ZEROS, [rank, d_out], "b")),
            values: (entries > 0)
                .then(|| Param::from_tensor(ctx.tensor(Init::ZEROS, [entries], "values"))),
            positions: (entries > 0).then(|| stored(&positions, &ctx.device)),
            scaling: rank.map_or(1.0, |rank| self.scaling.factor(self.alpha, rank)),
            dropout: self.dropout,
            state: (self.warm_up.is_some() && entries > 0).then(|| RosaState {
                gathered: param(Init::ZEROS, [d_in, d_out], "state").set_require_grad(false),
            }),
        })
    }
}

impl Evolve for RosaConfig {
    fn wants(&self, time: Time, _: usize, _: usize) -> bool {
        self.density > 0.0
            && self
                .warm_up
                .is_some_and(|warm_up| matches!(warm_up.phase(time.step), Phase::Gathering { .. }))
    }

    fn evolve(&self, time: Time, layers: &mut [Evolving<'_, Rosa>]) -> Result<()> {
        let phase = match self.warm_up {
            Some(warm_up) if self.density > 0.0 => warm_up.phase(time.step),
            _ => Phase::Joint,
        };
        if phase == Phase::Joint {
            return Ok(());
        }
        for layer in layers {
            let gradient = layer.weight_gradient.clone();
            layer.reset("values", None);
            let adapter = layer.adapter_mut();
            let (Some(values), Some(positions), Some(state)) = (
                &mut adapter.values,
                &mut adapter.positions,
                &mut adapter.state,
            ) else {
                continue;
            };
            clear(values);
            let (Phase::Gathering { last }, Some(gradient)) = (phase, gradient) else {
                continue;
            };
            let term = match self.accumulation {
                Accumulation::MeanSquared => gradient.clone() * gradient,
                Accumulation::Mean => gradient,
            };
            let gathered = state.gathered.val() + term.to_device(&state.gathered.val().device());
            if last {
                let mut places = top(&magnitudes(&gathered), positions.val().dims()[0]);
                places.sort_unstable();
                replace_indices(positions, &places);
                clear(&mut state.gathered);
            } else {
                state.gathered = state.gathered.clone().map(|_| gathered);
            }
        }
        Ok(())
    }

    fn report(&self, adapter: &Rosa) -> Vec<(&'static str, f64)> {
        let entries = adapter.values.as_ref().map_or(0, |v| v.val().dims()[0]);
        vec![("entries", entries as f64)]
    }
}

impl Method for RosaConfig {
    const META: MethodMeta = MethodMeta {
        admits: "a linear layer of which the density leaves an entry; any with a rank",
        ..MethodMeta::graft(
            "rosa",
            "RoSA",
            Family::Sparse,
            "2401.04679",
            "W' = W + s A B + S, S zero but at the largest accumulated gradients",
        )
    };

    fn parts(&self) -> Parts {
        Parts::evolving(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.density) {
            return Err(format!("density {}: expected 0 to 1", self.density));
        }
        if self.rank == 0 && self.density == 0.0 {
            return Err("rank 0 and density 0: expected one of them above 0".to_owned());
        }
        match self.warm_up {
            Some(WarmUp { gradients: 0, .. }) => {
                Err("warm-up.gradients 0: expected at least 1".to_owned())
            }
            _ => check_dropout(self.dropout),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 2,
            alpha: 3.0,
            density: 0.2,
            ..Self::default()
        };
        let warm = Self {
            warm_up: Some(WarmUp {
                steps: 2,
                gradients: 1,
            }),
            dropout: 0.2,
            ..small.clone()
        };
        let sparse = Self {
            rank: 0,
            density: 0.5,
            accumulation: Accumulation::Mean,
            ..small.clone()
        };
        let low_rank = Self {
            density: 0.0,
            scaling: Scaling::RankStabilised,
            ..small.clone()
        };
        [small, warm, sparse, low_rank]
            .into_iter()
            .filter(|config| config.admits(layer).is_ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge;

    use super::*;
    use crate::entries::places;
    use crate::training::{Run, run};

    #[test]
    fn entries_rest_until_gradients_have_placed_them() {
        let config = RosaConfig {
            rank: 1,
            density: 0.1,
            warm_up: Some(WarmUp {
                steps: 1,
                gradients: 2,
            }),
            ..RosaConfig::default()
        };
        let mut gathered = vec![0.0; 12 * 10];
        run::<RosaConfig>(
            &config,
            5,
            |Run {
                 step,
                 adapter,
                 gradient,
                 ..
             }| {
                let values = bridge::values(&adapter.values.as_ref().unwrap().val());
                let moved = values.iter().any(|value| *value != 0.0);
                assert_eq!(moved, step >= 3, "step {step}");
                if let Some(gradient) = gradient {
                    for (sum, g) in gathered.iter_mut().zip(gradient) {
                        *sum += g * g;
                    }
                }
                assert_eq!(
                    config.wants(Time { step, total: 5 }, 0, 2),
                    (1..3).contains(&step)
                );
                if step >= 2 {
                    let mut expected = top(&gathered, 12);
                    expected.sort_unstable();
                    let found = places(&adapter.positions.as_ref().unwrap().val());
                    assert_eq!(found, expected);
                }
            },
        );
    }

    #[test]
    fn counts_are_those_of_the_results_figure() {
        // LLaMA2-7B with embeddings and output layer: rank, density in percent, trained as
        // computed from one pool of entries, millions as printed. Entries of each weight are rounded
        // down, so that up to one is missing for each of the 226 weights.
        let mut layers = vec![(4096, 4096, 4 * 32), (4096, 11008, 3 * 32)];
        layers.push((4096, 32000, 2));
        for (rank, percent, pooled, printed) in [
            (8, 0.30, 40_780_464usize, 40.8),
            (4, 0.45, 40_604_680, 40.6),
            (0, 0.60, 40_428_896, 40.4),
            (32, 0.0, 82_264_064, 82.3),
            (24, 0.30, 81_912_496, 81.9),
            (8, 0.90, 81_209_360, 81.2),
            (0, 1.20, 80_857_792, 80.9),
            (64, 0.0, 164_528_128, 164.5),
            (16, 1.80, 162_418_720, 162.4),
        ] {
            let config = RosaConfig {
                rank,
                density: percent / 100.0,
                ..RosaConfig::default()
            };
            let count: usize = layers
                .iter()
                .map(|&(d_in, d_out, many)| {
                    many * config
                        .count(&LayerShape::linear("w", d_in, d_out, false))
                        .trainable
                })
                .sum();
            assert!((0..=226).contains(&(pooled - count)), "{count} {pooled}");
            assert!((count as f64 / 1e6 - printed).abs() < 0.05);
        }
    }
}
