//! Uni-LoRA: every LoRA parameter of the model is an entry of one short vector.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    Adapter, AnyAdapter, AtInit, BankSpec, Counts, Ctx, Family, FrozenBase, InitContext, Kind,
    LayerShape, Method, MethodMeta, ModelGraft, Parts, Result, check_dropout, positive_rank,
    refuse_dropout,
};
use engraft_tensor::{Init, bridge};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::indices;

/// Configuration of [`UniLora`]. Paper and PEFT defaults: rank 4, theta uniform in (-0.02, 0.02); the
/// length of theta is PEFT's 256 (the paper's experiments go up to about half a million).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct UniLoraConfig {
    /// Rank r.
    pub rank: usize,
    /// Length d of theta.
    pub length: usize,
    /// Largest first entry of theta.
    pub bound: f64,
    /// Probability of zeroing an input in training.
    pub dropout: f64,
}

impl Default for UniLoraConfig {
    fn default() -> Self {
        Self {
            rank: 4,
            length: 256,
            bound: 0.02,
            dropout: 0.0,
        }
    }
}

impl UniLoraConfig {
    /// Number D of LoRA parameters on these layers.
    fn places(&self, layers: &[LayerShape]) -> usize {
        let widths: usize = layers.iter().map(|layer| layer.d_in + layer.d_out).sum();
        self.rank * widths
    }

    /// For each of `places` LoRA parameters an entry of theta: each entry occurs floor(D / d) or
    /// ceil(D / d) times, in random order.
    fn assignment(&self, places: usize, ctx: &InitContext) -> Vec<i64> {
        let mut rng = ctx.key.child("assignment").rng();
        let mut entries: Vec<i64> = (0..self.length as i64).collect();
        entries.shuffle(&mut rng);
        let mut assigned: Vec<i64> = (0..places)
            .map(|place| entries[place % self.length])
            .collect();
        assigned.shuffle(&mut rng);
        assigned
    }
}

/// y = x W + b + x A B with A and B read from P theta, where row i of P holds one entry
/// 1 / sqrt(n_j), n_j being how many parameters entry j of theta stands for: P^T P = 1.
///
/// | symbol | shape | |
/// |---|---|---|
/// | theta | [1, d] | bank, trained, shared by all layers |
/// | entries of A | [r, d_in] | stored |
/// | entries of B | [d_out, r] | stored |
/// | norm | `[d]` | 1 / sqrt(n), stored; zero where n is |
///
/// Li et al., Uni-LoRA: One Vector is All You Need, arXiv 2506.00799, section 3: an isometric
/// projection from R^d to the D LoRA parameters of the whole model. The paper draws the entries
/// independently; PEFT makes them balanced, which is followed, because no entry is then unused. The
/// update is small, not zero, at first.
///
/// The activation form gathers A and B, at O(r (d_in + d_out)), and multiplies with them.
#[derive(Module, Debug)]
pub struct UniLora {
    /// Entries of theta that make A^T, [r, d_in].
    pub indices_a: Param<Tensor<2, Int>>,
    /// Entries of theta that make B^T, [d_out, r].
    pub indices_b: Param<Tensor<2, Int>>,
    /// 1 / sqrt(n), `[d]`.
    pub norm: Param<Tensor<1>>,
    /// Dropout probability on the inputs.
    pub dropout: f64,
    #[module(skip)]
    theta: String,
}

impl UniLora {
    /// A, [d_in, r], and B, [r, d_out].
    fn factors(&self, ctx: &Ctx) -> (Tensor<2>, Tensor<2>) {
        let theta: Tensor<1> = ctx.shared(&self.theta).squeeze_dim(0);
        let scaled = theta * self.norm.val();
        let read = |indices: &Param<Tensor<2, Int>>| -> Tensor<2> {
            let indices = indices.val();
            let [rows, cols] = indices.dims();
            let values = scaled.clone().select(0, indices.reshape([rows * cols]));
            values.reshape([rows, cols]).transpose()
        };
        (read(&self.indices_a), read(&self.indices_b))
    }
}

impl Adapter for UniLora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("unilora", self.dropout, ctx)?;
        Ok(base.with_low_rank(self.factors(ctx), 1.0))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        base.low_rank(x, self.factors(ctx), 1.0, self.dropout, ctx)
    }
}

impl ModelGraft for UniLoraConfig {
    fn admits(&self, _: &[LayerShape]) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layers: &[LayerShape]) -> Counts {
        Counts::with_frozen(0, self.places(layers) + layers.len() * self.length)
    }

    fn banks(&self, _: &[LayerShape]) -> Vec<BankSpec> {
        let init = Init::Uniform { bound: self.bound };
        vec![BankSpec::trained("theta", [1, self.length], init)]
    }

    fn graft(
        &self,
        layers: &[(LayerShape, FrozenBase)],
        ctx: &InitContext,
    ) -> Result<Vec<AnyAdapter>> {
        let shapes: Vec<LayerShape> = layers.iter().map(|(layer, _)| layer.clone()).collect();
        let assigned = self.assignment(self.places(&shapes), ctx);
        let mut uses = vec![0usize; self.length];
        for entry in &assigned {
            uses[*entry as usize] += 1;
        }
        let norm: Vec<f64> = uses
            .iter()
            .map(|uses| match uses {
                0 => 0.0,
                uses => (*uses as f64).sqrt().recip(),
            })
            .collect();
        let mut rest = assigned.as_slice();
        let mut next = |shape: [usize; 2]| {
            let (taken, left) = rest.split_at(shape[0] * shape[1]);
            rest = left;
            indices::frozen(taken.to_vec(), shape, &ctx.device)
        };
        let made = shapes.iter().map(|layer| {
            AnyAdapter::new(UniLora {
                indices_a: next([self.rank, layer.d_in]),
                indices_b: next([layer.d_out, self.rank]),
                norm: Param::from_tensor(bridge::tensor(
                    norm.clone(),
                    [self.length],
                    &ctx.device,
                    ctx.dtype,
                ))
                .set_require_grad(false),
                dropout: self.dropout,
                theta: ctx.shared_name("theta"),
            })
        });
        Ok(made.collect())
    }
}

impl Method for UniLoraConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::ModelGraft],
        peft: Some("UNILORA"),
        at_init: AtInit::Bounded(0.02),
        ..MethodMeta::graft(
            "unilora",
            "Uni-LoRA",
            Family::Lowrank,
            "2506.00799",
            "y = x W + b + x A B, (A, B) of all layers = P theta, one entry 1 / sqrt(n_j) a row of P",
        )
    };

    fn parts(&self) -> Parts {
        Parts::model(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        match self.length {
            0 => Err("length 0: expected at least 1".to_owned()),
            _ => Ok(()),
        }
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 2,
            length: 10,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                length: 90,
                dropout: 0.1,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing;

    #[test]
    fn the_count_is_the_published_one() {
        let counts = testing::counts(&UniLoraConfig::default(), &testing::llama_3b_qv());
        assert_eq!(counts.all_trained(), 256);
    }

    #[test]
    fn forms_agree_and_the_projection_is_balanced_and_isometric() {
        let config = UniLoraConfig {
            rank: 3,
            length: 17,
            ..UniLoraConfig::default()
        };
        testing::forms_agree(&config, 7, 5).unwrap();
        let adapted = testing::moved(&config, 7, 5);
        let mut uses = [0.0f64; 17];
        let mut norm = Vec::new();
        for layer in [&adapted.model.block.fc1, &adapted.model.block.fc2] {
            let adapter = layer.adapters.get(testing::NAME).unwrap();
            let adapter: &UniLora = adapter.downcast_ref().unwrap();
            norm = bridge::values(&adapter.norm.val());
            for indices in [&adapter.indices_a, &adapter.indices_b] {
                let indices: Vec<i64> = indices
                    .val()
                    .to_data()
                    .convert::<i64>()
                    .try_to_vec()
                    .unwrap();
                indices
                    .iter()
                    .for_each(|entry| uses[*entry as usize] += 1.0);
            }
        }
        let places = config.places(&testing::blocks(2, &[("fc", 7, 5)])) as f64;
        assert_eq!(uses.iter().sum::<f64>(), places);
        for (uses, norm) in uses.iter().zip(norm) {
            assert!(*uses == (places / 17.0).floor() || *uses == (places / 17.0).ceil());
            assert!((uses * norm * norm - 1.0).abs() < 1e-14);
        }
    }
}
