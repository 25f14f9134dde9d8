//! MoS: low-rank factors put together from shards of global pools.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    Adapter, AnyAdapter, BankSpec, Counts, Ctx, Family, FrozenBase, Grouping, InitContext, Kind,
    LayerShape, Method, MethodMeta, ModelGraft, Parts, Result, Scaling, check_dropout,
    grouping::members, positive_rank, refuse_dropout,
};
use engraft_tensor::{Init, Key};
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::indices;

/// Configuration of [`Mos`]. The settings of the paper's experiments are not recoverable from its
/// text; the defaults spend what LoRA of rank 2 spends on factors of rank 8.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MosConfig {
    /// Rank r of a layer's factors.
    pub rank: usize,
    /// Size e of the pools: as many values as LoRA of rank e has.
    pub budget: usize,
    /// Of e, how much belongs to single layers instead of the common pool.
    pub private: usize,
    /// Number l of shards that make a vector; it divides the widths of all layers.
    pub shards: usize,
    /// alpha; see [`Scaling`].
    pub alpha: f64,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input in training.
    pub dropout: f64,
    /// Which layers draw from one pool.
    pub grouping: Grouping,
}

impl Default for MosConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            budget: 2,
            private: 1,
            shards: 4,
            alpha: 16.0,
            scaling: Scaling::Classic,
            dropout: 0.0,
            grouping: Grouping::Name,
        }
    }
}

impl MosConfig {
    /// Shards in the common pool of `layers` layers.
    fn pool(&self, layers: usize) -> usize {
        layers * (self.budget - self.private) * self.shards
    }

    /// For each place of a layer's vectors that is not its own a shard of the pool, in random order:
    /// no shard occurs twice before every other has occurred.
    fn picks(&self, pool: usize, key: &Key) -> Vec<i64> {
        let mut rng = key.rng();
        let places = (self.rank - self.private) * self.shards;
        let mut picked = Vec::with_capacity(places + pool);
        while picked.len() < places {
            let mut all: Vec<i64> = (0..pool as i64).collect();
            all.shuffle(&mut rng);
            picked.extend(all);
        }
        picked.truncate(places);
        picked.shuffle(&mut rng);
        picked
    }
}

/// y = x W + b + s x A B, every column of A and row of B a concatenation of l shards.
///
/// | symbol | shape | |
/// |---|---|---|
/// | pool of A | [n, d_in / l] | bank of a group of m layers, trained; n = m (e - p) l |
/// | pool of B | [n, d_out / l] | bank, trained, zero at first |
/// | private shards | [p l, d_in / l], [p l, d_out / l] | trained, of one layer |
/// | picks | `[(r - p) l]` each for A and B | random, frozen, grown again from the seed |
/// | s | | alpha / r, or alpha / sqrt(r) |
///
/// Wang et al., MoS: Unleashing Parameter Efficiency of Low-Rank Adaptation with Mixture of Shards,
/// arXiv 2410.00938, section 3. Its four differentiations: a layer picks a subset of the pool; A and
/// B pick from separate pools with separate indices (pair dissociation); a vector is made of l shards
/// (vector sharding); some shards belong to one layer (privatisation). The trained values are those
/// of LoRA of rank e whatever r is. What is read into the text where it leaves room: a pool serves
/// the layers that play one part in every block, private shards make the first p of a layer's
/// vectors, and picks repeat only when the pool is exhausted. The authors' code is not public.
///
/// The activation form gathers A and B, at O(r (d_in + d_out)), and multiplies with them.
#[derive(Module, Debug)]
pub struct Mos {
    /// Shards of A that are the layer's own, [p l, d_in / l].
    pub private_a: Option<Param<Tensor<2>>>,
    /// Shards of B that are the layer's own, [p l, d_out / l].
    pub private_b: Option<Param<Tensor<2>>>,
    picks_a: Tensor<1, Int>,
    picks_b: Tensor<1, Int>,
    rank: usize,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs.
    pub dropout: f64,
    #[module(skip)]
    pool_a: String,
    #[module(skip)]
    pool_b: String,
}

impl Mos {
    /// A^T, [r, d_in], and B, [r, d_out].
    fn factors(&self, base: &FrozenBase, ctx: &Ctx) -> (Tensor<2>, Tensor<2>) {
        let make = |private: &Option<Param<Tensor<2>>>, pool, picks: &Tensor<1, Int>, width| {
            let common = ctx.shared(pool).select(0, picks.clone());
            let shards = match private {
                Some(own) => Tensor::cat(vec![own.val(), common], 0),
                None => common,
            };
            shards.reshape([self.rank, width])
        };
        (
            make(&self.private_a, &self.pool_a, &self.picks_a, base.d_in()),
            make(&self.private_b, &self.pool_b, &self.picks_b, base.d_out()),
        )
    }
}

impl Adapter for Mos {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("mos", self.dropout, ctx)?;
        let (a, b) = self.factors(base, ctx);
        Ok(base.with_low_rank((a.transpose(), b), self.scaling))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let (a, b) = self.factors(base, ctx);
        base.low_rank(x, (a.transpose(), b), self.scaling, self.dropout, ctx)
    }
}

impl ModelGraft for MosConfig {
    fn admits(&self, layers: &[LayerShape]) -> Result<(), String> {
        let fits = |layer: &&LayerShape| {
            layer.d_in.is_multiple_of(self.shards) && layer.d_out.is_multiple_of(self.shards)
        };
        match layers.iter().find(|layer| !fits(layer)) {
            None => Ok(()),
            Some(layer) => Err(format!(
                "{} shards do not divide the widths {} and {} of {}: expected a common divisor",
                self.shards, layer.d_in, layer.d_out, layer.path
            )),
        }
    }

    fn count(&self, layers: &[LayerShape]) -> Counts {
        layers
            .iter()
            .map(|layer| Counts::trained(self.private * (layer.d_in + layer.d_out)))
            .sum()
    }

    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        let groups = members(&self.grouping.groups(layers));
        let specs = groups.iter().enumerate().flat_map(|(group, members)| {
            let first = &layers[members[0]];
            let shape = |width: usize| [self.pool(members.len()), width / self.shards];
            let fan_in = first.d_in;
            [
                BankSpec::trained(
                    format!("a-{group}"),
                    shape(fan_in),
                    Init::KaimingUniform { fan_in },
                ),
                BankSpec::trained(format!("b-{group}"), shape(first.d_out), Init::ZEROS),
            ]
        });
        specs.collect()
    }

    fn graft(
        &self,
        layers: &[(LayerShape, FrozenBase)],
        ctx: &InitContext,
    ) -> Result<Vec<AnyAdapter>> {
        let shapes: Vec<LayerShape> = layers.iter().map(|(layer, _)| layer.clone()).collect();
        let groups = self.grouping.groups(&shapes);
        let members = members(&groups);
        let made = shapes.iter().zip(groups).map(|(layer, group)| {
            let key = ctx.key.child(&layer.path);
            let pool = self.pool(members[group].len());
            let picks = |role: &str| {
                let picks = self.picks(pool, &key.child(role));
                let count = picks.len();
                indices::tensor(picks, [count], &ctx.device)
            };
            let private = |init: Init, width: usize, role: &str| {
                let shape = [self.private * self.shards, width / self.shards];
                (self.private > 0).then(|| {
                    let key = key.child(role);
                    Param::from_tensor(init.tensor(shape, &key, &ctx.device, ctx.dtype))
                })
            };
            let fan_in = layer.d_in;
            AnyAdapter::new(Mos {
                private_a: private(Init::KaimingUniform { fan_in }, fan_in, "private_a"),
                private_b: private(Init::ZEROS, layer.d_out, "private_b"),
                picks_a: picks("picks_a"),
                picks_b: picks("picks_b"),
                rank: self.rank,
                scaling: self.scaling.factor(self.alpha, self.rank),
                dropout: self.dropout,
                pool_a: ctx.shared_name(&format!("a-{group}")),
                pool_b: ctx.shared_name(&format!("b-{group}")),
            })
        });
        Ok(made.collect())
    }
}

impl Method for MosConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::ModelGraft],
        admits: "layers whose widths the number of shards divides",
        ..MethodMeta::graft(
            "mos",
            "MoS",
            Family::Lowrank,
            "2410.00938",
            "y = x W + b + s x A B, columns of A and rows of B concatenated from shards of two pools",
        )
    };

    fn parts(&self) -> Parts {
        Parts::model(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        if self.shards == 0 {
            return Err("shards 0: expected at least 1".to_owned());
        }
        if self.private >= self.budget || self.private >= self.rank {
            return Err(format!(
                "private {}: expected less than the budget {} and the rank {}, or nothing is shared",
                self.private, self.budget, self.rank
            ));
        }
        Ok(())
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let divides = |shards: &usize| {
            layer.d_in.is_multiple_of(*shards) && layer.d_out.is_multiple_of(*shards)
        };
        let shards = [4, 2, 1].into_iter().find(divides).unwrap_or(1);
        let small = Self {
            rank: 4,
            shards,
            ..Self::default()
        };
        vec![
            Self {
                grouping: Grouping::Shape,
                ..small.clone()
            },
            Self {
                private: 0,
                budget: 1,
                shards: 1,
                dropout: 0.1,
                scaling: Scaling::RankStabilised,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn config() -> MosConfig {
        MosConfig {
            rank: 6,
            budget: 3,
            private: 1,
            shards: 2,
            grouping: Grouping::Shape,
            ..MosConfig::default()
        }
    }

    #[test]
    fn the_count_is_that_of_lora_of_the_budget() {
        for (budget, private) in [(2, 0), (4, 3)] {
            let config = MosConfig {
                budget,
                private,
                ..MosConfig::default()
            };
            let counts = testing::counts(&config, &testing::llama_3b_qv());
            assert_eq!(
                counts.all_trained(),
                28 * budget * (3072 + 3072 + 3072 + 1024)
            );
        }
    }

    #[test]
    fn picks_of_a_layer_differ_and_repeat_only_when_the_pool_is_exhausted() {
        let config = config();
        let mut picks = config.picks(10, &Key::new(1).child("a"));
        assert_ne!(picks, config.picks(10, &Key::new(1).child("b")));
        picks.sort_unstable();
        assert_eq!(picks, (0..10).collect::<Vec<_>>());
        let mut picks = config.picks(4, &Key::new(1));
        picks.sort_unstable();
        let uses = |shard| picks.iter().filter(|pick| **pick == shard).count();
        assert!((0..4).all(|shard| uses(shard) == 2 || uses(shard) == 3));
    }

    #[test]
    fn forms_agree() {
        testing::forms_agree(&config(), 6, 10).unwrap();
    }
}
