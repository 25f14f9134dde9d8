//! S2FT: chosen channels of coupled layers are trained as dense slices.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    Adapter, AnyAdapter, Counts, Ctx, Family, FrozenBase, InitContext, Kind, LayerShape, Method,
    MethodMeta, ModelGraft, Parts, Result,
};
use engraft_tensor::Init;
use rand::seq::index;
use serde::{Deserialize, Serialize};

use crate::coupling::{Coupling, Group, Member, Side};
use crate::entries::{add_columns, add_rows, stored};

/// Configuration of [`S2ft`]. Defaults: the two couplings of a LLaMA, heads of width 128 between
/// `v_proj` and `o_proj` and channels between `up_proj` and `down_proj`. With `down_proj` alone as
/// target and a ratio of 0.03 this is the released recipe for Llama-3-8B.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct S2ftConfig {
    /// Layers whose channels are chosen together.
    pub couplings: Vec<Coupling>,
    /// Share of the inputs that is trained in layers that no coupling names.
    pub ratio: f64,
}

impl Default for S2ftConfig {
    fn default() -> Self {
        let coupling = |outputs: &str, inputs: &str, unit| Coupling {
            outputs: vec![outputs.to_owned()],
            inputs: vec![inputs.to_owned()],
            unit,
            ratio: 0.03,
        };
        Self {
            couplings: vec![
                coupling("v_proj", "o_proj", 128),
                coupling("up_proj", "down_proj", 1),
            ],
            ratio: 0.03,
        }
    }
}

/// y = x W + b + x_I D on a layer whose inputs I are chosen, y_J += x D on one whose outputs J are.
///
/// | symbol | shape | |
/// |---|---|---|
/// | D (`delta`) | [n, d_out] or [d_in, n] | trained, zero at first |
/// | I or J (`channels`) | `[n]` | frozen, in the adapter file |
///
/// S2FT: Efficient, Scalable and Generalizable LLM Fine-tuning by Structured Sparsity, arXiv
/// 2412.06289. Heads and feed-forward channels are chosen at random over all blocks together
/// (authors' code, s2ft/s2.py), so that blocks have different shares; a chosen channel is chosen in
/// every layer of its block that touches it. Sorting the chosen channels to the front permutes the
/// columns of one layer and the rows of the next alike, which leaves the model's function as it is
/// and makes the trained part a contiguous slice ([`S2ft::permutation`]). Here the base keeps its
/// order and the slice is gathered, so that nothing has to be permuted back in order to merge. Blocks
/// of different shapes are drawn from separately, so that counts follow from shapes alone.
///
/// Activation form: O(tokens n d_out), or O(tokens d_in n), beside the frozen product; for chosen
/// inputs the backward pass keeps n activations of each token.
#[derive(Module, Debug)]
pub struct S2ft {
    /// D; none where no channel of the layer was drawn.
    pub delta: Option<Param<Tensor<2>>>,
    /// I or J, ascending.
    pub channels: Option<Param<Tensor<1, Int>>>,
    #[module(skip)]
    side: Side,
}

impl S2ft {
    /// The order of `width` channels that has the chosen ones first and leaves the rest as it is.
    pub fn permutation(chosen: &[usize], width: usize) -> Vec<usize> {
        let rest = (0..width).filter(|channel| !chosen.contains(channel));
        chosen.iter().copied().chain(rest).collect()
    }

    fn parts(&self) -> Option<(Tensor<2>, Tensor<1, Int>)> {
        Some((self.delta.as_ref()?.val(), self.channels.as_ref()?.val()))
    }
}

impl Adapter for S2ft {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let weight = base.weight();
        Ok(base.with_weight(match (self.parts(), self.side) {
            (None, _) => weight,
            (Some((delta, channels)), Side::Inputs) => add_rows(weight, channels, delta),
            (Some((delta, channels)), Side::Outputs) => add_columns(weight, channels, delta),
        }))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let y = base.forward(x.clone());
        match (self.parts(), self.side) {
            (None, _) => y,
            (Some((delta, channels)), Side::Inputs) => y + x.select(1, channels).matmul(delta),
            (Some((delta, channels)), Side::Outputs) => add_columns(y, channels, x.matmul(delta)),
        }
    }
}

impl S2ftConfig {
    /// One adapter per layer.
    fn draw(&self, layers: &[LayerShape], ctx: &InitContext) -> Result<Vec<S2ft>, String> {
        let mut adapters = BTreeMap::new();
        for (pool, (drawn, groups)) in self.pools(layers)?.into_iter().enumerate() {
            let units = groups[0].units;
            let key = ctx.key.child("s2ft").child(&pool.to_string());
            let mut chosen = index::sample(&mut key.rng(), groups.len() * units, drawn).into_vec();
            chosen.sort_unstable();
            for (k, group) in groups.iter().enumerate() {
                let own: Vec<usize> = chosen
                    .iter()
                    .filter(|&&place| place / units == k)
                    .map(|place| place % units)
                    .collect();
                for member in &group.members {
                    adapters.insert(member.layer, member.adapter(&own, units, ctx));
                }
            }
        }
        Ok(adapters.into_values().collect())
    }
}

impl ModelGraft for S2ftConfig {
    fn admits(&self, layers: &[LayerShape]) -> Result<(), String> {
        self.groups(layers).map(drop)
    }

    fn count(&self, layers: &[LayerShape]) -> Counts {
        let pools = self.pools(layers).unwrap_or_default();
        let of = |(drawn, groups): &(usize, Vec<Group>)| -> Counts {
            let count = |member: &Member| {
                let channels = drawn * member.width / groups[0].units;
                Counts::with_frozen(channels * member.other, channels)
            };
            groups[0].members.iter().map(count).sum()
        };
        pools.iter().map(of).sum()
    }

    fn graft(
        &self,
        layers: &[(LayerShape, FrozenBase)],
        ctx: &InitContext,
    ) -> Result<Vec<AnyAdapter>> {
        let shapes: Vec<LayerShape> = layers.iter().map(|(shape, _)| shape.clone()).collect();
        let adapters = self
            .draw(&shapes, ctx)
            .map_err(|reason| ctx.numeric(reason))?;
        Ok(adapters.into_iter().map(AnyAdapter::new).collect())
    }
}

impl Member {
    /// The adapter that trains these units of the layer.
    fn adapter(&self, chosen: &[usize], units: usize, ctx: &InitContext) -> S2ft {
        let width = self.width / units;
        let channels: Vec<usize> = chosen
            .iter()
            .flat_map(|unit| unit * width..(unit + 1) * width)
            .collect();
        let shape = match self.side {
            Side::Inputs => [channels.len(), self.other],
            Side::Outputs => [self.other, channels.len()],
        };
        let any = !channels.is_empty();
        S2ft {
            delta: any.then(|| Param::from_tensor(ctx.tensor(Init::ZEROS, shape, "delta"))),
            channels: any.then(|| stored(&channels, &ctx.device)),
            side: self.side,
        }
    }
}

impl Method for S2ftConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::ModelGraft],
        admits: "linear layers; coupled ones of widths that hold whole units",
        ..MethodMeta::graft(
            "s2ft",
            "S2FT",
            Family::Sparse,
            "2412.06289",
            "y = x W + b + x_I D, or y_J += x D: channels of coupled layers",
        )
    };

    fn parts(&self) -> Parts {
        Parts::model(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        let ratios = self.couplings.iter().map(|coupling| coupling.ratio);
        if let Some(ratio) = ratios
            .chain([self.ratio])
            .find(|ratio| !(*ratio > 0.0 && *ratio <= 1.0))
        {
            return Err(format!("ratio {ratio}: expected 0 < ratio <= 1"));
        }
        match self.couplings.iter().find(|coupling| coupling.unit == 0) {
            Some(_) => Err("unit 0: expected at least 1".to_owned()),
            None => Ok(()),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let names = |name: &str| vec![name.to_owned()];
        let coupled = |unit, ratio| Self {
            couplings: vec![Coupling {
                outputs: names("fc1"),
                inputs: names("fc2"),
                unit,
                ratio,
            }],
            ratio: 0.5,
        };
        let plain = Self {
            couplings: Vec::new(),
            ratio: 0.3,
        };
        let block = ["fc1", "fc2"].map(|name| LayerShape {
            path: format!("block.{name}"),
            ..layer.clone()
        });
        [plain, coupled(1, 0.4), coupled(4, 0.5)]
            .into_iter()
            .filter(|config| config.admits(&block).is_ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::Bank;
    use engraft_tensor::bridge;

    use super::*;
    use crate::entries::indices;
    use crate::entries::places;
    use crate::entries::testing::{layer, normal};

    fn drawn(config: &S2ftConfig, layers: &[(LayerShape, FrozenBase)]) -> Vec<S2ft> {
        let bank = Bank::default();
        let ctx = InitContext::new(3, "", "default", &layers[0].1, &bank);
        let shapes: Vec<LayerShape> = layers.iter().map(|(shape, _)| shape.clone()).collect();
        config.draw(&shapes, &ctx).unwrap()
    }

    fn blocks(count: usize, sizes: [(&str, usize, usize); 2]) -> Vec<(LayerShape, FrozenBase)> {
        (0..count)
            .flat_map(|block| {
                sizes.map(|(name, d_in, d_out)| {
                    let path = format!("blocks.{block}.{name}");
                    (
                        LayerShape::linear(path, d_in, d_out, false),
                        layer(d_in, d_out),
                    )
                })
            })
            .collect()
    }

    fn one_coupling(outputs: &str, inputs: &str, unit: usize, ratio: f64) -> S2ftConfig {
        S2ftConfig {
            couplings: vec![Coupling {
                outputs: vec![outputs.to_owned()],
                inputs: vec![inputs.to_owned()],
                unit,
                ratio,
            }],
            ratio: 0.5,
        }
    }

    #[test]
    fn coupled_layers_share_whole_units_and_the_budget_spans_all_blocks() {
        // Two heads of keys and values, each used by three heads of queries.
        let layers = blocks(3, [("v", 8, 4), ("o", 12, 8)]);
        let config = one_coupling("v", "o", 2, 0.5);
        let shapes: Vec<LayerShape> = layers.iter().map(|(shape, _)| shape.clone()).collect();
        let adapters = drawn(&config, &layers);
        let (mut trained, mut heads) = (0, 0);
        for block in 0..3 {
            let [v, o] = [&adapters[2 * block], &adapters[2 * block + 1]]
                .map(|adapter| adapter.channels.as_ref().map(|p| places(&p.val())));
            let (v, o) = (v.unwrap_or_default(), o.unwrap_or_default());
            let units: Vec<usize> = v.chunks(2).map(|unit| unit[0] / 2).collect();
            let expected: Vec<usize> = units
                .iter()
                .flat_map(|unit| unit * 6..(unit + 1) * 6)
                .collect();
            assert_eq!(o, expected);
            heads += units.len();
            trained += 8 * (v.len() + o.len());
        }
        assert_eq!(heads, 3);
        assert_eq!(config.count(&shapes).trainable, trained);
        let reason = config
            .admits(&[LayerShape::linear("b.v", 8, 5, false)])
            .unwrap_err();
        assert!(reason.contains("b.v of b has 5 channels"), "{reason}");
    }

    #[test]
    fn permuting_the_coupled_weights_makes_the_trained_part_contiguous() {
        let mut layers = blocks(1, [("up", 5, 9), ("down", 9, 4)]);
        layers[1].1 = FrozenBase::new(normal([9, 4], "down"), None);
        let config = one_coupling("up", "down", 1, 0.4);
        let adapters = drawn(&config, &layers);
        let moved = |k: usize, shape| {
            let mut adapter = adapters[k].clone();
            adapter.delta = Some(Param::from_tensor(normal(shape, "delta")));
            adapter
        };
        let (up, down) = (moved(0, [5, 3]), moved(1, [3, 4]));
        let chosen = places(&up.channels.as_ref().unwrap().val());
        assert_eq!(chosen.len(), 3);
        let ctx = Ctx::default();
        let x = normal([6, 5], "x");
        let hidden = up.forward(x.clone(), &layers[0].1, &ctx).tanh();
        let y = down.forward(hidden, &layers[1].1, &ctx);

        // The same with permuted weights, whose first three channels take the slices as they are.
        let order = indices(&S2ft::permutation(&chosen, 9), &x.device());
        let first = layers[0].1.weight().select(1, order.clone());
        let second = layers[1].1.weight().select(0, order);
        let front = |side: [usize; 2], weight: Tensor<2>, delta: Tensor<2>| {
            let old = weight.clone().slice([0..side[0], 0..side[1]]);
            weight.slice_assign([0..side[0], 0..side[1]], old + delta)
        };
        let first = front([5, 3], first, up.delta.as_ref().unwrap().val());
        let second = front([3, 4], second, down.delta.as_ref().unwrap().val());
        let permuted = x.matmul(first).tanh().matmul(second);
        let distance = bridge::values(&(y - permuted))
            .iter()
            .fold(0.0f64, |largest, x| largest.max(x.abs()));
        assert!(distance < 1e-12, "{distance}");
    }

    #[test]
    fn counts_are_those_of_the_released_recipe() {
        // Llama-3-8B, down_proj alone, 0.03: 0.70% of 8,030,261,248.
        let layers = |name: &str, d_in, d_out| -> Vec<LayerShape> {
            (0..32)
                .map(|k| LayerShape::linear(format!("layers.{k}.{name}"), d_in, d_out, false))
                .collect()
        };
        let config = S2ftConfig::default();
        let down = config.count(&layers("mlp.down_proj", 14336, 4096));
        assert_eq!(down.trainable, 56_369_152);
        // LLaMA-2-7B, heads of o_proj at 0.052 and channels of down_proj at 0.02. The table's 0.81%
        // is 0.84% of the model by these settings.
        let mut config = S2ftConfig::default();
        config.couplings[0].ratio = 0.052;
        config.couplings[1].ratio = 0.02;
        let mut both = layers("self_attn.o_proj", 4096, 4096);
        both.extend(layers("mlp.down_proj", 11008, 4096));
        assert_eq!(config.count(&both).trainable, 56_643_584);
    }
}
