//! Lily: low-rank experts interconnected across layers.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, AnyAdapter, BankSpec, Counts, Ctx, Error, Family, FrozenBase, Grouping, InitContext,
    Kind, LayerShape, Method, MethodMeta, ModelGraft, Parts, Result, grouping::members,
    positive_rank,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::softmax::softmax;

/// Configuration of [`Lily`]. Defaults of PEFT: rank 32, an A for every layer, two B experts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LilyConfig {
    /// Rank r.
    pub rank: usize,
    /// How many consecutive layers of a group share one A.
    pub stride: usize,
    /// Number of B experts that all layers of a group share.
    pub experts: usize,
    /// s.
    pub scaling: f64,
    /// Which layers make a group.
    pub grouping: Grouping,
}

impl Default for LilyConfig {
    fn default() -> Self {
        Self {
            rank: 32,
            stride: 1,
            experts: 2,
            scaling: 1.0,
            grouping: Grouping::Name,
        }
    }
}

impl LilyConfig {
    /// The name of each layer's A and B in the bank, and whether it is the first layer with them.
    fn shares(&self, layers: &[LayerShape]) -> Vec<Shares> {
        let groups = self.grouping.groups(layers);
        let members = members(&groups);
        groups
            .iter()
            .enumerate()
            .map(|(layer, group)| {
                let place = members[*group]
                    .iter()
                    .position(|member| *member == layer)
                    .expect("every layer is in its group");
                Shares {
                    a: format!("a-{group}-{}", place / self.stride),
                    b: format!("b-{group}"),
                    first_a: place.is_multiple_of(self.stride),
                    first_b: place == 0,
                }
            })
            .collect()
    }
}

struct Shares {
    a: String,
    b: String,
    first_a: bool,
    first_b: bool,
}

/// y = x W + b + s h sum_e p_e B_e with h = x A and p the mean over all tokens of softmax(h R).
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [d_in, r] | bank, trained, shared by `stride` consecutive layers of a group |
/// | B | [e r, d_out] | bank, trained, zero at first: the experts of a group below each other |
/// | R | [r, e] | trained router of the layer |
///
/// A group is what plays the same part in every block (all `q_proj`).
///
/// Zhong et al., Low-Rank Interconnected Adaptation across Layers, arXiv 2407.09946, section 3. The
/// router's weights are averaged over the tokens of the batch, as in the authors' code and PEFT, so
/// that the experts are mixed once for all; outputs therefore depend on the whole batch, and the
/// adapter has no weight form and does not merge. The activation form costs
/// O(tokens r (d_in + d_out) + e r d_out).
#[derive(Module, Debug)]
pub struct Lily {
    /// R, [r, e].
    pub router: Param<Tensor<2>>,
    /// s.
    pub scaling: f64,
    #[module(skip)]
    a: String,
    #[module(skip)]
    b: String,
}

impl Adapter for Lily {
    fn effective(&self, _: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        Err(Error::NoWeightForm {
            method: "lily".to_owned(),
            path: ctx.path().to_owned(),
            reason: "its router mixes the experts by what the batch holds".to_owned(),
        })
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let router = self.router.val();
        let [rank, experts] = router.dims();
        let narrow = x.clone().matmul(ctx.shared(&self.a));
        let share = softmax(narrow.clone().matmul(router), 1).mean_dim(0);
        let stacked = ctx.shared(&self.b).reshape([experts, rank * base.d_out()]);
        let mixed: Tensor<2> = share.matmul(stacked).reshape([rank, base.d_out()]);
        base.forward(x) + (narrow * self.scaling).matmul(mixed)
    }
}

impl ModelGraft for LilyConfig {
    fn admits(&self, _: &[LayerShape]) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layers: &[LayerShape]) -> Counts {
        Counts::trained(layers.len() * self.rank * self.experts)
    }

    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        let mut specs = Vec::new();
        for (layer, shares) in layers.iter().zip(self.shares(layers)) {
            if shares.first_a {
                let fan_in = layer.d_in;
                let init = Init::KaimingUniform { fan_in };
                specs.push(BankSpec::trained(shares.a, [fan_in, self.rank], init));
            }
            if shares.first_b {
                let shape = [self.experts * self.rank, layer.d_out];
                specs.push(BankSpec::trained(shares.b, shape, Init::ZEROS));
            }
        }
        specs
    }

    fn graft(
        &self,
        layers: &[(LayerShape, FrozenBase)],
        ctx: &InitContext,
    ) -> Result<Vec<AnyAdapter>> {
        let shapes: Vec<LayerShape> = layers.iter().map(|(layer, _)| layer.clone()).collect();
        let init = Init::KaimingUniform { fan_in: self.rank };
        let made = shapes
            .iter()
            .zip(self.shares(&shapes))
            .map(|(layer, shares)| {
                let key = ctx.key.child(&layer.path).child("router");
                let shape = [self.rank, self.experts];
                AnyAdapter::new(Lily {
                    router: Param::from_tensor(init.tensor(shape, &key, &ctx.device, ctx.dtype)),
                    scaling: self.scaling,
                    a: ctx.shared_name(&shares.a),
                    b: ctx.shared_name(&shares.b),
                })
            });
        Ok(made.collect())
    }
}

impl Method for LilyConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::ModelGraft],
        peft: Some("LILY"),
        mergeable: false,
        whole_batch: true,
        ..MethodMeta::graft(
            "lily",
            "Lily",
            Family::Lowrank,
            "2407.09946",
            "y = x W + b + s h sum_e p_e B_e, h = x A, p = mean over tokens of softmax(h R)",
        )
    };

    fn parts(&self) -> Parts {
        Parts::model(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        if self.stride == 0 {
            return Err("stride 0: expected at least 1".to_owned());
        }
        if self.experts < 2 {
            return Err(format!(
                "experts {}: expected at least 2, or the router has nothing to choose",
                self.experts
            ));
        }
        Ok(())
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 3,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                stride: 2,
                experts: 3,
                scaling: 2.0,
                grouping: Grouping::Shape,
                ..small.clone()
            },
            Self {
                grouping: Grouping::Suffixes(vec!["fc1".to_owned(), "fc2".to_owned()]),
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn counts_are_the_published_ones() {
        let mlp = testing::blocks(
            28,
            &[
                ("gate_proj", 3072, 8192),
                ("up_proj", 3072, 8192),
                ("down_proj", 8192, 3072),
            ],
        );
        let count = |rank, layers: &[LayerShape]| {
            let config = LilyConfig {
                rank,
                stride: 14,
                ..LilyConfig::default()
            };
            testing::counts(&config, layers).all_trained()
        };
        assert_eq!(count(140, &mlp), 9_485_280);
        assert_eq!(count(896, &testing::llama_3b_qv()), 18_450_432);
    }

    #[test]
    fn consecutive_layers_share_a_and_all_share_b() {
        let config = LilyConfig {
            stride: 2,
            ..LilyConfig::default()
        };
        let layers = testing::blocks(3, &[("q", 4, 4), ("v", 4, 4)]);
        let shares = config.shares(&layers);
        let names: Vec<(&str, &str)> = shares
            .iter()
            .map(|shares| (shares.a.as_str(), shares.b.as_str()))
            .collect();
        assert_eq!(
            names,
            [
                ("a-0-0", "b-0"),
                ("a-1-0", "b-1"),
                ("a-0-0", "b-0"),
                ("a-1-0", "b-1"),
                ("a-0-1", "b-0"),
                ("a-1-1", "b-1")
            ]
        );
    }
}
