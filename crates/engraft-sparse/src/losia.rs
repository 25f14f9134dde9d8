//! LoSiA: a dense sub-matrix of the weight is trained, and moves.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    Adapter, Counts, Ctx, Evolve, Evolving, Family, FrozenBase, Graft, InitContext, LayerShape,
    Method, MethodMeta, Parts, Result, Time,
};
use engraft_tensor::{Init, bridge};
use rand::seq::index;
use serde::{Deserialize, Serialize};

use crate::entries::{add_columns, add_rows, clear, places, replace_indices, stored};
use crate::localise::localise;
use crate::losia_state::{LosiaState, Taylor};

/// Which layers choose their sub-matrix anew, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Turns {
    /// One layer in each period, in turn.
    #[default]
    Asynchronous,
    /// All layers in one period of as many as there are layers.
    Synchronous,
}

/// Configuration of [`Losia`]. Defaults: the authors' scripts. For an output layer the paper chooses
/// outputs alone: `inputs` = 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LosiaConfig {
    /// Share of the inputs that is trained.
    pub inputs: f64,
    /// Share of the outputs that is trained.
    pub outputs: f64,
    /// T, updates in a period.
    pub period: u64,
    /// `asynchronous` or `synchronous`.
    pub turns: Turns,
    /// `first`, `second` or `mixed`.
    pub taylor: Taylor,
    /// Decay of the averages of importance and of uncertainty.
    pub beta: f64,
}

impl Default for LosiaConfig {
    fn default() -> Self {
        Self {
            inputs: 0.125,
            outputs: 0.125,
            period: 50,
            turns: Turns::Asynchronous,
            taylor: Taylor::Mixed,
            beta: 0.85,
        }
    }
}

impl LosiaConfig {
    /// Numbers of chosen inputs and outputs.
    fn chosen(&self, d_in: usize, d_out: usize) -> [usize; 2] {
        let part = |share: f64, width: usize| ((share * width as f64) as usize).max(1);
        [part(self.inputs, d_in), part(self.outputs, d_out)]
    }

    /// Whether the layer `index` of `layers` measures its weights at this step.
    fn measures(&self, step: u64, index: usize, layers: usize) -> bool {
        let turn = (step / self.period) as usize % layers.max(1);
        turn == match self.turns {
            Turns::Asynchronous => index,
            Turns::Synchronous => 0,
        }
    }

    /// Whether a layer that measures chooses anew after this step.
    fn chooses(&self, step: u64) -> bool {
        (step + 1).is_multiple_of(self.period)
    }
}

/// W' = W + C + D at the chosen inputs I and outputs J, C holding what earlier choices learned.
///
/// | symbol | shape | |
/// |---|---|---|
/// | D (`delta`) | [p, q] | trained, zero at first; p = floor(d_in / 8), q = floor(d_out / 8) |
/// | I, J (`inputs`, `outputs`) | `[p]`, `[q]` | random at first, in the adapter file |
/// | C (`settled`) | [d_in, d_out] | frozen, zero at first, in the adapter file |
///
/// LoSiA: Efficient High-Rank Fine-Tuning via Subnet Localization and Optimization, arXiv
/// 2507.04487; authors' code losia_torch/{adamw,losia_projector_cuda,strategy}.py. In its turn a
/// layer averages, over one period of T updates, the importance of each weight (from w g) and its
/// uncertainty |importance - average|; their product scores the weights, I and J are found by three
/// greedy rules of which the one that captures most is taken, D joins C and starts again at zero,
/// and the optimizer forgets D's moments. The authors' code also warms the layer's learning rate up
/// again; an adapter has no say in that. It trains the weight in place; here the sum of earlier
/// choices is a matrix of the weight's size in the adapter file, and merging adds it.
///
/// Activation form: O(tokens p q) beside the product with W + C; the backward pass keeps p
/// activations of each token, and all of them only in the layer whose turn it is.
#[derive(Module, Debug)]
pub struct Losia {
    /// D, [p, q].
    pub delta: Param<Tensor<2>>,
    /// I, `[p]`.
    pub inputs: Param<Tensor<1, Int>>,
    /// J, `[q]`.
    pub outputs: Param<Tensor<1, Int>>,
    /// C, [d_in, d_out].
    pub settled: Param<Tensor<2>>,
    /// Averages of the present turn.
    pub state: LosiaState,
}

impl Losia {
    /// C with D added at I and J.
    fn change(&self) -> Tensor<2> {
        let settled = self.settled.val();
        let wide = Tensor::zeros(
            [self.inputs.val().dims()[0], settled.dims()[1]],
            (&settled.device(), settled.dtype()),
        );
        let wide = add_columns(wide, self.outputs.val(), self.delta.val());
        add_rows(settled, self.inputs.val(), wide)
    }
}

impl Adapter for Losia {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        Ok(base.with_weight(base.weight() + self.change()))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let chosen = x.clone().select(1, self.inputs.val());
        let y = base
            .with_weight(base.weight() + self.settled.val())
            .forward(x);
        add_columns(y, self.outputs.val(), chosen.matmul(self.delta.val()))
    }
}

impl Graft for LosiaConfig {
    type Adapter = Losia;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let [p, q] = self.chosen(layer.d_in, layer.d_out);
        Counts::with_frozen(p * q, p + q + layer.d_in * layer.d_out)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Losia> {
        let shape = [base.d_in(), base.d_out()];
        let [p, q] = self.chosen(shape[0], shape[1]);
        let choice = |role: &str, width: usize, count: usize| {
            let mut chosen = index::sample(&mut ctx.key.child(role).rng(), width, count).into_vec();
            chosen.sort_unstable();
            stored(&chosen, &ctx.device)
        };
        let frozen = || {
            Param::from_tensor(ctx.tensor(Init::ZEROS, shape, "settled")).set_require_grad(false)
        };
        Ok(Losia {
            delta: Param::from_tensor(ctx.tensor(Init::ZEROS, [p, q], "delta")),
            inputs: choice("inputs", shape[0], p),
            outputs: choice("outputs", shape[1], q),
            settled: frozen(),
            state: LosiaState {
                importance: frozen(),
                uncertainty: frozen(),
            },
        })
    }
}

impl Evolve for LosiaConfig {
    fn wants(&self, time: Time, index: usize, layers: usize) -> bool {
        self.measures(time.step, index, layers)
    }

    fn evolve(&self, time: Time, layers: &mut [Evolving<'_, Losia>]) -> Result<()> {
        let count = layers.len();
        for (index, layer) in layers.iter_mut().enumerate() {
            let turn = self.measures(time.step, index, count);
            let (true, Some(gradient)) = (turn, layer.weight_gradient.clone()) else {
                continue;
            };
            let shape = [layer.base.d_in(), layer.base.d_out()];
            let base = layer.base.weight();
            let adapter = layer.adapter_mut();
            let change = adapter.change().detach();
            let weight = base.to_device(&change.device()) + change.clone();
            adapter
                .state
                .measure(self.taylor, self.beta, weight, gradient);
            if !self.chooses(time.step) {
                continue;
            }
            let state = &mut adapter.state;
            let scores = bridge::values(&(state.importance.val() * state.uncertainty.val()));
            let [inputs, outputs] = localise(&scores, shape, self.chosen(shape[0], shape[1]));
            clear(&mut state.importance);
            clear(&mut state.uncertainty);
            adapter.settled = adapter.settled.clone().map(|_| change);
            clear(&mut adapter.delta);
            replace_indices(&mut adapter.inputs, &inputs);
            replace_indices(&mut adapter.outputs, &outputs);
            layer.reset("delta", None);
        }
        Ok(())
    }

    fn report(&self, adapter: &Losia) -> Vec<(&'static str, f64)> {
        let first = |tensor: &Param<Tensor<1, Int>>| {
            places(&tensor.val()).first().copied().unwrap_or(0) as f64
        };
        vec![
            ("first input", first(&adapter.inputs)),
            ("first output", first(&adapter.outputs)),
        ]
    }
}

impl Method for LosiaConfig {
    const META: MethodMeta = MethodMeta::graft(
        "losia",
        "LoSiA",
        Family::Sparse,
        "2507.04487",
        "W' = W + C + D at chosen inputs and outputs, C what earlier choices learned",
    );

    fn parts(&self) -> Parts {
        Parts::evolving(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        for (name, share) in [("inputs", self.inputs), ("outputs", self.outputs)] {
            if !(share > 0.0 && share <= 1.0) {
                return Err(format!("{name} {share}: expected 0 < {name} <= 1"));
            }
        }
        if !(0.0..1.0).contains(&self.beta) {
            return Err(format!("beta {}: expected 0 <= beta < 1", self.beta));
        }
        match self.period {
            0 => Err("period 0: expected at least 1".to_owned()),
            _ => Ok(()),
        }
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let half = Self {
            inputs: 0.5,
            outputs: 0.3,
            turns: Turns::Synchronous,
            taylor: Taylor::First,
            ..Self::default()
        };
        let outputs = Self {
            inputs: 1.0,
            taylor: Taylor::Second,
            ..Self::default()
        };
        vec![Self::default(), half, outputs]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::testing::{assert_forms_agree, attached, change, layer, normal};
    use crate::training::{Run, run};

    fn small(turns: Turns) -> LosiaConfig {
        LosiaConfig {
            inputs: 0.3,
            outputs: 0.3,
            period: 3,
            turns,
            ..LosiaConfig::default()
        }
    }

    #[test]
    fn layers_take_turns() {
        let turns = |config: &LosiaConfig| -> Vec<[bool; 2]> {
            (0..12)
                .map(|step| [0, 1].map(|index| config.measures(step, index, 2)))
                .collect()
        };
        let asynchronous = turns(&small(Turns::Asynchronous));
        for (step, turn) in asynchronous.iter().enumerate() {
            assert_eq!(*turn, [step / 3 % 2 == 0, step / 3 % 2 == 1]);
        }
        let config = small(Turns::Synchronous);
        assert!((0..12).all(|step| config.measures(step, 0, 2) == (step / 3 % 2 == 0)));
        let choosing: Vec<u64> = (0..9).filter(|step| config.chooses(*step)).collect();
        assert_eq!(choosing, [2, 5, 8]);
    }

    #[test]
    fn only_the_chosen_sub_matrix_moves_and_what_it_learned_stays() {
        let mut before: Option<(Vec<usize>, Vec<usize>, Vec<f64>)> = None;
        let mut choices = 0;
        run(
            &small(Turns::Asynchronous),
            9,
            |Run {
                 step,
                 adapter,
                 gradient,
                 ..
             }| {
                assert_eq!(gradient.is_some(), step / 3 % 2 == 0);
                let now = (
                    places(&adapter.inputs.val()),
                    places(&adapter.outputs.val()),
                    bridge::values(&adapter.change()),
                );
                assert_eq!([now.0.len(), now.1.len()], [3, 3]);
                if let Some((inputs, outputs, change)) = &before {
                    for (place, (new, old)) in now.2.iter().zip(change).enumerate() {
                        let inside =
                            inputs.contains(&(place / 10)) && outputs.contains(&(place % 10));
                        assert!(inside || new == old, "step {step}, place {place}");
                    }
                    choices += usize::from(now.0 != *inputs || now.1 != *outputs);
                    let zero = bridge::values(&adapter.delta.val())
                        .iter()
                        .all(|d| *d == 0.0);
                    assert_eq!(zero, step == 2 || step == 8, "step {step}");
                }
                before = Some(now);
            },
        );
        assert!(choices >= 1);
    }

    #[test]
    fn the_update_is_the_sub_matrix_and_what_has_settled() {
        let base = layer(8, 6);
        let mut adapter = attached(&small(Turns::Asynchronous), &base);
        adapter.delta = Param::from_tensor(normal([2, 1], "delta"));
        assert_forms_agree(&adapter, &base);
        let moved = change(&adapter, &base);
        assert_eq!(moved.iter().filter(|change| **change != 0.0).count(), 2);
    }

    #[test]
    fn counts_are_those_of_the_authors_code() {
        // LLaMA-2-7B, all seven linear layers at 1/8, and the output layer by outputs alone.
        let config = LosiaConfig::default();
        let count = |config: &LosiaConfig, d_in, d_out| {
            config
                .count(&LayerShape::linear("w", d_in, d_out, false))
                .trainable
        };
        let block = 4 * count(&config, 4096, 4096)
            + 2 * count(&config, 4096, 11008)
            + count(&config, 11008, 4096);
        assert_eq!(32 * block, 101_187_584);
        let head = LosiaConfig {
            inputs: 1.0,
            ..config
        };
        assert_eq!(count(&head, 4096, 32000), 16_384_000);
    }
}
