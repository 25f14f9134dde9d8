//! ASLoRA: one A for all layers, and Bs that merge while training.

use burn::module::Module;
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, AnyAdapter, BankSpec, Counts, Ctx, Family, FrozenBase, Grouping, InitContext, Kind,
    LayerShape, Method, MethodMeta, ModelGraft, Parts, Result, Scaling, check_dropout,
    positive_rank, refuse_dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::sharing::Sharing;

/// Configuration of [`AsLora`]. Rank and alpha as for LoRA; the paper's are not known here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AsLoraConfig {
    /// Rank r.
    pub rank: usize,
    /// alpha; see [`Scaling`].
    pub alpha: f64,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Which layers share an A, and may come to share a B.
    pub grouping: Grouping,
    /// Which layers share a B, in the model's order; none: every layer has its own.
    pub sharing: Option<Sharing>,
}

impl Default for AsLoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            scaling: Scaling::Classic,
            dropout: 0.0,
            grouping: Grouping::Name,
            sharing: None,
        }
    }
}

impl AsLoraConfig {
    /// The B of each of `layers` layers.
    fn owners(&self, layers: usize) -> Vec<usize> {
        match &self.sharing {
            Some(sharing) => sharing.owners().to_vec(),
            None => Sharing::separate(layers).owners().to_vec(),
        }
    }
}

/// y = x W + b + s x A B_g: A shared by all layers that play one part, B by the layers of group g.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [d_in, r] | bank, trained, random at first |
/// | B | [r, d_out] | bank, one for each group of layers, trained, zero at first |
/// | s | | alpha / r, or alpha / sqrt(r) |
///
/// Hu et al., ASLoRA: Adaptive Sharing Low-Rank Adaptation Across Layers, arXiv 2412.10135. Every
/// layer starts with a B of its own; while training, the most similar two of a part merge into one,
/// until few are left. When and which is [`MergeSchedule`](crate::MergeSchedule) and
/// [`Sharing`]; an adapter after merging is this one with `sharing` set. The activation form costs
/// O(tokens r (d_in + d_out)).
#[derive(Module, Debug)]
pub struct AsLora {
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of A.
    pub dropout: f64,
    #[module(skip)]
    a: String,
    #[module(skip)]
    b: String,
}

impl AsLora {
    /// A, [d_in, r], and B, [r, d_out].
    fn factors(&self, ctx: &Ctx) -> (Tensor<2>, Tensor<2>) {
        (ctx.shared(&self.a), ctx.shared(&self.b))
    }
}

impl Adapter for AsLora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("aslora", self.dropout, ctx)?;
        Ok(base.with_low_rank(self.factors(ctx), self.scaling))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        base.low_rank(x, self.factors(ctx), self.scaling, self.dropout, ctx)
    }
}

impl ModelGraft for AsLoraConfig {
    fn admits(&self, layers: &[LayerShape]) -> Result<(), String> {
        let Some(sharing) = &self.sharing else {
            return Ok(());
        };
        let owners = sharing.owners();
        if owners.len() != layers.len() {
            return Err(format!(
                "sharing of {} layers: expected {}",
                owners.len(),
                layers.len()
            ));
        }
        let parts = self.grouping.groups(layers);
        let first = |owner| owners.iter().position(|other| *other == owner).unwrap_or(0);
        match (0..layers.len()).find(|layer| parts[*layer] != parts[first(owners[*layer])]) {
            None => Ok(()),
            Some(layer) => Err(format!(
                "{} and {} share a B, but play different parts",
                layers[first(owners[layer])].path,
                layers[layer].path
            )),
        }
    }

    fn count(&self, _: &[LayerShape]) -> Counts {
        Counts::default()
    }

    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        let parts = self.grouping.groups(layers);
        let owners = self.owners(layers.len());
        let mut specs = Vec::new();
        for (layer, (part, owner)) in layers.iter().zip(parts.iter().zip(&owners)) {
            let fan_in = layer.d_in;
            let entries = [
                (
                    format!("a-{part}"),
                    [fan_in, self.rank],
                    Init::KaimingUniform { fan_in },
                ),
                (format!("b-{owner}"), [self.rank, layer.d_out], Init::ZEROS),
            ];
            for (name, shape, init) in entries {
                if !specs.iter().any(|spec: &BankSpec| spec.name == name) {
                    specs.push(BankSpec::trained(name, shape, init));
                }
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
        let parts = self.grouping.groups(&shapes);
        let made = parts
            .iter()
            .zip(self.owners(layers.len()))
            .map(|(part, owner)| {
                AnyAdapter::new(AsLora {
                    scaling: self.scaling.factor(self.alpha, self.rank),
                    dropout: self.dropout,
                    a: ctx.shared_name(&format!("a-{part}")),
                    b: ctx.shared_name(&format!("b-{owner}")),
                })
            });
        Ok(made.collect())
    }
}

impl Method for AsLoraConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::ModelGraft],
        ..MethodMeta::graft(
            "aslora",
            "ASLoRA",
            Family::Lowrank,
            "2412.10135",
            "y = x W + b + s x A B_g, A shared by all layers, B by the layers of group g",
        )
    };

    fn parts(&self) -> Parts {
        Parts::model(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 3,
            ..Self::default()
        };
        vec![
            Self {
                grouping: Grouping::Shape,
                ..small.clone()
            },
            Self {
                scaling: Scaling::RankStabilised,
                dropout: 0.1,
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
    fn merging_saves_a_b() {
        let layers = testing::blocks(4, &[("q", 6, 5), ("v", 6, 3)]);
        let count = |sharing| {
            let config = AsLoraConfig {
                rank: 2,
                sharing,
                ..AsLoraConfig::default()
            };
            testing::counts(&config, &layers).all_trained()
        };
        let whole = Sharing::separate(8);
        assert_eq!(count(None), 2 * (6 + 6) + 4 * 2 * (5 + 3));
        assert_eq!(count(Some(whole.merged(0, 4))), count(None) - 2 * 5);
        let crossed = AsLoraConfig {
            sharing: Some(whole.merged(0, 1)),
            ..AsLoraConfig::default()
        };
        assert!(crossed.admits(&layers).unwrap_err().contains("layers.0.q"));
        assert!(
            crossed
                .admits(&layers[..2])
                .unwrap_err()
                .contains("expected 2")
        );
    }

    #[test]
    fn forms_agree_when_both_layers_share() {
        let config = AsLoraConfig {
            rank: 3,
            grouping: Grouping::Shape,
            sharing: Some(Sharing::separate(2).merged(0, 1)),
            ..AsLoraConfig::default()
        };
        testing::forms_agree(&config, 7, 5).unwrap();
    }
}
