//! LT-SFT: a full fine-tuning finds the entries, and a second run from the start trains them.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    Adapter, Counts, Ctx, Evolve, Evolving, Family, FrozenBase, Graft, InitContext, LayerShape,
    Method, MethodMeta, Parts, Result, Time,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::entries::{Entries, check_density, clear, replace_indices, stored};
use crate::scores::magnitudes;
use crate::top::top;

/// Decay of Adam's averages and its epsilon in the dense phase.
const BETAS: [f64; 2] = [0.9, 0.999];
const EPSILON: f64 = 1e-8;

/// Configuration of [`LtSft`]. Defaults: 8% of the entries, about the paper's 14 million of
/// multilingual BERT; phases of equal length; learning rate 5e-5 in the first one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LtSftConfig {
    /// Share of the weight's entries that is trained in the second phase.
    pub density: f64,
    /// Share of the updates that the first phase takes.
    pub dense: f64,
    /// Learning rate of the first phase, of Adam without weight decay.
    pub learning_rate: f64,
}

impl Default for LtSftConfig {
    fn default() -> Self {
        Self {
            density: 0.08,
            dense: 0.5,
            learning_rate: 5e-5,
        }
    }
}

impl LtSftConfig {
    /// K.
    fn entries(&self, d_in: usize, d_out: usize) -> usize {
        ((self.density * (d_in * d_out) as f64) as usize).max(1)
    }

    /// Updates of the first phase.
    fn dense_steps(&self, total: u64) -> u64 {
        ((self.dense * total as f64).round() as u64).max(1)
    }
}

/// W' = W + phi, phi zero but at the K entries that full fine-tuning moves most.
///
/// | symbol | shape | |
/// |---|---|---|
/// | phi (`values`) | `[K]` | trained in the second phase, zero at first; K = floor(density d_in d_out) |
/// | `positions` | `[K]` | place i d_out + j of each, in the adapter file |
/// | theta1 - theta0 (`state`) | [d_in, d_out] | the dense update of the first phase; not in the file |
///
/// Ansell et al., Composable Sparse Fine-Tuning for Cross-Lingual Transfer, arXiv 2110.07560,
/// section 3. First phase: the whole weight is trained. Then the K entries of largest |theta1 - theta0|
/// become the mask, the weight goes back to theta0, and phi alone is trained. Sparse updates of a
/// task and of a language compose by addition, theta0 + phi_task + phi_lang.
///
/// The first phase is an optimizer of its own (Adam, `learning-rate`) on the gradient of the full
/// weight, so that the trained parameters are phi throughout: the counts are the paper's K. Learning
/// rate schedules of the training loop run over both phases. The paper ranks all weights of the
/// model together; here each layer has its own share, so that counts and files follow from shapes
/// alone. Its optional L1 distance to theta0 is left out.
///
/// Activation form: K values added into copies of panels of W, see [`Shira`](crate::Shira).
#[derive(Module, Debug)]
pub struct LtSft {
    /// phi, `[K]`.
    pub values: Param<Tensor<1>>,
    /// Positions i d_out + j, `[K]`.
    pub positions: Param<Tensor<1, Int>>,
    /// The first phase.
    pub state: LtSftState,
}

/// The dense update of [`LtSft`]'s first phase, with Adam's averages; all zero in the second.
#[derive(Module, Debug)]
pub struct LtSftState {
    /// theta1 - theta0, [d_in, d_out].
    pub delta: Param<Tensor<2>>,
    /// Average gradient, [d_in, d_out].
    pub mean: Param<Tensor<2>>,
    /// Average squared gradient, [d_in, d_out].
    pub square: Param<Tensor<2>>,
}

impl LtSftState {
    /// One update of Adam, the `count`-th.
    fn update(&mut self, gradient: Tensor<2>, learning_rate: f64, count: u64) {
        let [beta1, beta2] = BETAS;
        let old = |param: &Param<Tensor<2>>| param.val().to_device(&gradient.device());
        let mean = old(&self.mean) * beta1 + gradient.clone() * (1.0 - beta1);
        let square =
            old(&self.square) * beta2 + gradient.clone() * gradient.clone() * (1.0 - beta2);
        let unbiased =
            |average: &Tensor<2>, beta: f64| average.clone() / (1.0 - beta.powf(count as f64));
        let step = unbiased(&mean, beta1) / (unbiased(&square, beta2).sqrt() + EPSILON);
        let delta = old(&self.delta) - step * learning_rate;
        for (param, new) in [
            (&mut self.delta, delta),
            (&mut self.mean, mean),
            (&mut self.square, square),
        ] {
            *param = param.clone().map(|old| new.to_device(&old.device()));
        }
    }
}

impl LtSft {
    /// theta1, while it is found.
    fn dense(&self, base: &FrozenBase) -> FrozenBase {
        base.with_weight(base.weight() + self.state.delta.val())
    }

    fn entries(&self) -> Entries {
        Entries::new(self.positions.val(), self.values.val())
    }
}

impl Adapter for LtSft {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        Ok(self.entries().added(&self.dense(base)))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        self.entries().forward(x, &self.dense(base))
    }
}

impl Graft for LtSftConfig {
    type Adapter = LtSft;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let entries = self.entries(layer.d_in, layer.d_out);
        Counts::with_frozen(entries, entries)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<LtSft> {
        let shape = [base.d_in(), base.d_out()];
        let entries = self.entries(shape[0], shape[1]);
        // Anywhere: phi is zero until the mask is found.
        let positions: Vec<usize> = (0..entries).collect();
        let frozen =
            || Param::from_tensor(ctx.tensor(Init::ZEROS, shape, "state")).set_require_grad(false);
        Ok(LtSft {
            values: Param::from_tensor(ctx.tensor(Init::ZEROS, [entries], "values")),
            positions: stored(&positions, &ctx.device),
            state: LtSftState {
                delta: frozen(),
                mean: frozen(),
                square: frozen(),
            },
        })
    }
}

impl Evolve for LtSftConfig {
    fn wants(&self, time: Time, _: usize, _: usize) -> bool {
        time.step < self.dense_steps(time.total)
    }

    fn evolve(&self, time: Time, layers: &mut [Evolving<'_, LtSft>]) -> Result<()> {
        let dense = self.dense_steps(time.total);
        if time.step >= dense {
            return Ok(());
        }
        for layer in layers {
            let gradient = layer.weight_gradient.clone();
            layer.reset("values", None);
            let adapter = layer.adapter_mut();
            clear(&mut adapter.values);
            if let Some(gradient) = gradient {
                adapter
                    .state
                    .update(gradient, self.learning_rate, time.step + 1);
            }
            if time.step + 1 == dense {
                let moved = magnitudes(&adapter.state.delta.val());
                let mut mask = top(&moved, adapter.positions.val().dims()[0]);
                mask.sort_unstable();
                replace_indices(&mut adapter.positions, &mask);
                let LtSftState {
                    delta,
                    mean,
                    square,
                } = &mut adapter.state;
                [delta, mean, square].into_iter().for_each(clear);
            }
        }
        Ok(())
    }

    fn report(&self, adapter: &LtSft) -> Vec<(&'static str, f64)> {
        let largest = magnitudes(&adapter.state.delta.val())
            .into_iter()
            .fold(0.0, f64::max);
        vec![
            ("entries", adapter.values.val().dims()[0] as f64),
            ("largest dense change", largest),
        ]
    }
}

impl Method for LtSftConfig {
    const META: MethodMeta = MethodMeta::graft(
        "lt-sft",
        "LT-SFT",
        Family::Sparse,
        "2110.07560",
        "W' = W + phi, phi zero but where full fine-tuning moves W most",
    );

    fn parts(&self) -> Parts {
        Parts::evolving(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        check_density(self.density)?;
        if !(self.dense > 0.0 && self.dense < 1.0) {
            return Err(format!("dense {}: expected 0 < dense < 1", self.dense));
        }
        if self.learning_rate > 0.0 {
            Ok(())
        } else {
            Err(format!(
                "learning-rate {}: expected more than 0",
                self.learning_rate
            ))
        }
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let half = Self {
            density: 0.5,
            ..Self::default()
        };
        vec![Self::default(), half]
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge;

    use super::*;
    use crate::entries::places;
    use crate::entries::testing::{attached, change, layer, normal};
    use crate::training::{Run, run};

    #[test]
    fn the_weight_is_rewound_and_the_entries_that_moved_most_are_trained() {
        let config = LtSftConfig {
            density: 0.1,
            dense: 0.5,
            learning_rate: 0.05,
        };
        // Adam again, entry by entry.
        let (mut m, mut v, mut delta) = (vec![0.0; 120], vec![0.0; 120], vec![0.0; 120]);
        let mut mask = Vec::new();
        run(
            &config,
            6,
            |Run {
                 step,
                 adapter,
                 gradient,
                 ..
             }| {
                let values = bridge::values(&adapter.values.val());
                let dense = bridge::values(&adapter.state.delta.val());
                if step < 3 {
                    let gradient = gradient.unwrap();
                    let t = step as i32 + 1;
                    for k in 0..120 {
                        m[k] = 0.9 * m[k] + 0.1 * gradient[k];
                        v[k] = 0.999 * v[k] + 0.001 * gradient[k] * gradient[k];
                        let (m, v) = (
                            m[k] / (1.0 - 0.9f64.powi(t)),
                            v[k] / (1.0 - 0.999f64.powi(t)),
                        );
                        delta[k] -= 0.05 * m / (v.sqrt() + 1e-8);
                    }
                    assert!(values.iter().all(|value| *value == 0.0));
                } else {
                    assert!(gradient.is_none());
                    assert!(values.iter().all(|value| *value != 0.0));
                }
                if step < 2 {
                    let worst = dense
                        .iter()
                        .zip(&delta)
                        .fold(0.0f64, |worst, (a, b)| worst.max((a - b).abs()));
                    assert!(worst < 1e-12, "step {step}: {worst}");
                } else {
                    assert!(dense.iter().all(|value| *value == 0.0));
                }
                if step == 2 {
                    let sizes: Vec<f64> = delta.iter().map(|d| d.abs()).collect();
                    mask = top(&sizes, 12);
                    mask.sort_unstable();
                }
                if step >= 2 {
                    assert_eq!(places(&adapter.positions.val()), mask);
                }
            },
        );
    }

    #[test]
    fn sparse_updates_compose_by_addition_in_any_order() {
        let base = layer(6, 5);
        let sparse = |role: &str, positions: &[usize]| {
            let config = LtSftConfig {
                density: 0.1,
                ..LtSftConfig::default()
            };
            let mut adapter = attached(&config, &base);
            adapter.values = Param::from_tensor(normal([3], role));
            replace_indices(&mut adapter.positions, positions);
            adapter
        };
        let (task, language) = (sparse("task", &[1, 7, 20]), sparse("language", &[0, 7, 29]));
        let after = |first: &LtSft, second: &LtSft| {
            let ctx = Ctx::default();
            let one = first.effective(&base, &ctx).unwrap();
            bridge::values(&(second.effective(&one, &ctx).unwrap().weight() - base.weight()))
        };
        let separate: Vec<f64> = change(&task, &base)
            .iter()
            .zip(change(&language, &base))
            .map(|(a, b)| a + b)
            .collect();
        for both in [after(&task, &language), after(&language, &task)] {
            assert!(
                both.iter()
                    .zip(&separate)
                    .all(|(a, b)| (a - b).abs() < 1e-14)
            );
            assert_eq!(both.iter().filter(|change| **change != 0.0).count(), 5);
        }
    }
}
