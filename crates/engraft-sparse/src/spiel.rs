//! SpIEL: a sparse update that drops and regrows its entries while it trains.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    Adapter, Counts, Ctx, Evolve, Evolving, Family, FrozenBase, Graft, InitContext, LayerShape,
    Method, MethodMeta, Parts, Result, Time,
};
use engraft_tensor::{Init, bridge};
use rand::seq::index;
use serde::{Deserialize, Serialize};

use crate::entries::{Entries, check_density, places, replace, replace_indices, stored, usage};
use crate::exchange::exchange;
use crate::spiel_state::SpielState;

/// What the regrown entries are chosen by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Growth {
    /// The largest accumulated gradient among candidates (SpIEL-AG).
    #[default]
    AccumulatedGradient,
    /// The largest momentum that SM3 estimates from its row and column accumulators (SpIEL-MA).
    Momentum,
}

/// How the share of dropped entries falls to zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fall {
    /// In proportion to the updates left.
    #[default]
    Linear,
    /// Along half a cosine.
    Cosine,
}

/// Configuration of [`Spiel`]. Defaults: the authors' code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SpielConfig {
    /// Share of the weight's entries that is trained.
    pub density: f64,
    /// `accumulated-gradient` or `momentum`.
    pub growth: Growth,
    /// Updates between reselections.
    pub period: u64,
    /// Updates whose gradients are accumulated before a reselection.
    pub accumulation: u64,
    /// Candidates of an accumulation for each trained entry.
    pub candidates: usize,
    /// Share of the entries that is dropped, at the start of training.
    pub rate: f64,
    /// `linear` or `cosine`.
    pub fall: Fall,
}

impl Default for SpielConfig {
    fn default() -> Self {
        Self {
            density: 0.01,
            growth: Growth::AccumulatedGradient,
            period: 100,
            accumulation: 5,
            candidates: 5,
            rate: 0.2,
            fall: Fall::Linear,
        }
    }
}

impl SpielConfig {
    /// n.
    fn entries(&self, d_in: usize, d_out: usize) -> usize {
        ((self.density * (d_in * d_out) as f64) as usize).max(1)
    }

    /// Whether gradients are accumulated at this step.
    fn accumulates(&self, step: u64) -> bool {
        self.growth == Growth::AccumulatedGradient && step % self.period < self.accumulation
    }

    /// The share of the entries that is exchanged after this step: all of the random first ones,
    /// then p (1 - t / T) or its cosine. Only after the last step of an accumulation.
    fn share(&self, time: Time) -> Option<f64> {
        let step = time.step;
        if step % self.period + 1 != self.accumulation {
            return None;
        }
        if step < self.period {
            return Some(1.0);
        }
        let gone = (step + 1) as f64 / time.total.max(1) as f64;
        Some(match self.fall {
            Fall::Linear => self.rate * (1.0 - gone).max(0.0),
            Fall::Cosine => self.rate * 0.5 * (1.0 + (std::f64::consts::PI * gone.min(1.0)).cos()),
        })
    }
}

/// W' = W + S, S zero but for n places that move.
///
/// | symbol | shape | |
/// |---|---|---|
/// | phi (`values`) | `[n]` | trained entries of S, zero at first; n = floor(density d_in d_out) |
/// | eta (`positions`) | `[n]` | place i d_out + j of each, in the adapter file |
///
/// Ansell et al., Scaling Sparse Fine-Tuning to Large Language Models, arXiv 2401.16405, sections
/// 3.2 and 3.3; authors' code peft/tuners/sft/trainer.py, which is followed. Every `period` updates
/// the share p of the entries with the smallest |phi| is dropped and as many are grown, at zero.
/// AG: the places of largest |gradient| at the first update of an accumulation are candidates, and
/// those of largest |sum| after `accumulation` updates are grown. MA: the gradients of phi feed
/// SM3's accumulators v_ij <- min(r_i, c_j) + g_ij^2, r_i and c_j <- their maxima, and the places of
/// largest r_i c_j are grown; no gradient of the full weight is needed. The first reselection
/// replaces all random first entries. A place that would be dropped and grown stays as it is. New
/// entries start with zero moments; the code's first moments from the candidates' gradients are left
/// out.
///
/// Activation form: n values added into a copy of W, see [`Shira`](crate::Shira).
#[derive(Module, Debug)]
pub struct Spiel {
    /// phi, `[n]`.
    pub values: Param<Tensor<1>>,
    /// eta, `[n]`.
    pub positions: Param<Tensor<1, Int>>,
    /// What the next reselection is decided by.
    pub state: SpielState,
}

impl Spiel {
    fn entries(&self) -> Entries {
        Entries::new(self.positions.val(), self.values.val())
    }
}

impl Adapter for Spiel {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        Ok(self.entries().added(base))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        self.entries().forward(x, base)
    }
}

impl Graft for SpielConfig {
    type Adapter = Spiel;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let entries = self.entries(layer.d_in, layer.d_out);
        Counts::with_frozen(entries, entries)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Spiel> {
        let (d_in, d_out) = (base.d_in(), base.d_out());
        let entries = self.entries(d_in, d_out);
        let mut rng = ctx.key.child("positions").rng();
        let mut positions = index::sample(&mut rng, d_in * d_out, entries).into_vec();
        positions.sort_unstable();
        let frozen = |count: usize| {
            Param::from_tensor(ctx.tensor(Init::ZEROS, [count], "state")).set_require_grad(false)
        };
        let gradient = self.growth == Growth::AccumulatedGradient;
        let candidates = (self.candidates * entries).min(d_in * d_out);
        let all: Vec<usize> = (0..candidates).collect();
        Ok(Spiel {
            values: Param::from_tensor(ctx.tensor(Init::ZEROS, [entries], "values")),
            positions: stored(&positions, &ctx.device),
            state: SpielState {
                candidates: gradient.then(|| stored(&all, &ctx.device)),
                sums: gradient.then(|| frozen(candidates)),
                rows: (!gradient).then(|| frozen(d_in)),
                columns: (!gradient).then(|| frozen(d_out)),
            },
        })
    }
}

impl Evolve for SpielConfig {
    fn wants(&self, time: Time, _: usize, _: usize) -> bool {
        self.accumulates(time.step)
    }

    fn evolve(&self, time: Time, layers: &mut [Evolving<'_, Spiel>]) -> Result<()> {
        for layer in layers {
            let d_out = layer.base.d_out();
            let own = layer.gradient("values").map(bridge::values);
            let dense = layer.weight_gradient.clone();
            let adapter = layer.adapter_mut();
            let mut positions = places(&adapter.positions.val());
            if let (Growth::Momentum, Some(own)) = (self.growth, own) {
                adapter.state.feed(&own, &positions, d_out);
            }
            if let (true, Some(dense)) = (self.accumulates(time.step), dense) {
                adapter
                    .state
                    .accumulate(&dense, time.step.is_multiple_of(self.period));
            }
            let Some(share) = self.share(time) else {
                continue;
            };
            let mut values = bridge::values(&adapter.values.val());
            let count = (share * values.len() as f64) as usize;
            let (offered, scores) = adapter.state.offers();
            let changes = exchange(&values, &positions, count, &offered, &scores);
            for &(entry, place) in &changes {
                positions[entry] = place;
                values[entry] = 0.0;
            }
            replace(&mut adapter.values, values);
            replace_indices(&mut adapter.positions, &positions);
            let entries = changes.into_iter().map(|(entry, _)| entry).collect();
            layer.reset("values", Some(entries));
        }
        Ok(())
    }

    fn report(&self, adapter: &Spiel) -> Vec<(&'static str, f64)> {
        usage(&adapter.values)
    }
}

impl Method for SpielConfig {
    const META: MethodMeta = MethodMeta::graft(
        "spiel",
        "SpIEL",
        Family::Sparse,
        "2401.16405",
        "W' = W + S, S zero but for n places that are dropped and regrown",
    );

    fn parts(&self) -> Parts {
        Parts::evolving(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        check_density(self.density)?;
        if !(0.0..=1.0).contains(&self.rate) {
            return Err(format!("rate {}: expected 0 to 1", self.rate));
        }
        if self.accumulation == 0 || self.accumulation > self.period || self.candidates == 0 {
            return Err(format!(
                "accumulation {}, period {}, candidates {}: expected 1 <= accumulation <= period and at least 1 candidate",
                self.accumulation, self.period, self.candidates
            ));
        }
        Ok(())
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        vec![
            Self {
                density: 0.2,
                ..Self::default()
            },
            Self {
                density: 0.1,
                growth: Growth::Momentum,
                fall: Fall::Cosine,
                ..Self::default()
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::top;
    use crate::training::{Run, field, run};

    fn small(growth: Growth) -> SpielConfig {
        SpielConfig {
            density: 0.1,
            growth,
            period: 4,
            accumulation: 2,
            candidates: 3,
            rate: 0.5,
            fall: Fall::Linear,
        }
    }

    #[test]
    fn the_share_falls_to_zero_and_only_ends_of_accumulations_exchange() {
        let config = small(Growth::AccumulatedGradient);
        let shares = |config: &SpielConfig| -> Vec<Option<f64>> {
            (0..12)
                .map(|step| config.share(Time { step, total: 12 }))
                .collect()
        };
        let linear = shares(&config);
        let when: Vec<usize> = (0..12).filter(|&step| linear[step].is_some()).collect();
        assert_eq!(when, [1, 5, 9]);
        assert_eq!([linear[1], linear[5]], [Some(1.0), Some(0.25)]);
        assert!((linear[9].unwrap() - 0.5 / 6.0).abs() < 1e-15);
        let cosine = shares(&SpielConfig {
            fall: Fall::Cosine,
            ..config.clone()
        });
        assert!((cosine[5].unwrap() - 0.25).abs() < 1e-15);
        let accumulating: Vec<u64> = (0..8).filter(|&step| config.accumulates(step)).collect();
        assert_eq!(accumulating, [0, 1, 4, 5]);
    }

    #[test]
    fn accumulated_gradients_decide_what_grows_and_the_budget_is_kept() {
        let config = small(Growth::AccumulatedGradient);
        let (mut candidates, mut sums) = (Vec::new(), Vec::new());
        let mut before: Vec<usize> = Vec::new();
        run(
            &config,
            10,
            |Run {
                 step,
                 adapter,
                 gradient,
                 ..
             }| {
                let now = places(&adapter.positions.val());
                let distinct: std::collections::BTreeSet<usize> = now.iter().copied().collect();
                assert_eq!((now.len(), distinct.len()), (12, 12));
                match step % 4 {
                    0 => {
                        let gradient = gradient.unwrap();
                        let sizes: Vec<f64> = gradient.iter().map(|g| g.abs()).collect();
                        candidates = top(&sizes, 36);
                        sums = candidates.iter().map(|&place| gradient[place]).collect();
                    }
                    1 => {
                        let gradient = gradient.unwrap();
                        for (sum, &place) in sums.iter_mut().zip(&candidates) {
                            *sum += gradient[place];
                        }
                        let sizes: Vec<f64> = sums.iter().map(|g| g.abs()).collect();
                        if step == 1 {
                            let best = top(&sizes, 12).into_iter().map(|k| candidates[k]);
                            assert_eq!(distinct, best.collect());
                        } else {
                            let grown: Vec<&usize> =
                                now.iter().filter(|place| !before.contains(place)).collect();
                            assert!(
                                grown.len() <= 6 && grown.iter().all(|p| candidates.contains(p))
                            );
                            let values = bridge::values(&adapter.values.val());
                            for (place, value) in now.iter().zip(values) {
                                assert_eq!(before.contains(place), value != 0.0);
                            }
                        }
                    }
                    _ => {
                        assert!(gradient.is_none());
                        assert_eq!(now, before);
                    }
                }
                before = now;
            },
        );
    }

    #[test]
    fn momenta_grow_without_gradients_of_the_weight() {
        let config = small(Growth::Momentum);
        let mut before = Vec::new();
        let mut moved = 0;
        run(
            &config,
            10,
            |Run {
                 step,
                 adapter,
                 gradient,
                 gradients,
                 ..
             }| {
                assert!(gradient.is_none() && gradients.get(&field("values")).is_some());
                let now = places(&adapter.positions.val());
                let changed = now != before;
                assert!(!changed || step == 0 || config.share(Time { step, total: 10 }).is_some());
                moved += usize::from(changed && step > 0);
                before = now;
            },
        );
        assert!(moved >= 2);
    }
}
