//! MSPLoRA: low-rank pairs shared by all layers, by groups of layers, and private ones.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, AnyAdapter, BankSpec, Counts, Ctx, Family, FrozenBase, InitContext, Kind, LayerShape,
    Method, MethodMeta, ModelGraft, Parts, Result, Scaling, check_dropout, positive_rank,
    refuse_dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

/// Configuration of [`Msplora`]. The authors' `llama_finetune.py`: alpha 16 at every level, dropout
/// 0.05; rank 8 on GLUE, 64 on LLaMA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MsploraConfig {
    /// Rank r of the pair that all layers share; groups have r / 2, each layer r / 4, rounded down.
    pub rank: usize,
    /// alpha of every level; see [`Scaling`].
    pub alpha: f64,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input in training.
    pub dropout: f64,
    /// Groups of layers at the middle level.
    pub groups: usize,
}

impl Default for MsploraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            scaling: Scaling::Classic,
            dropout: 0.05,
            groups: 3,
        }
    }
}

/// y = x W + b + sum_l s_l x A_l B_l over the levels l = all layers, group, layer.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A_0, B_0 | [d_in, r], [r, d_out] | bank; all layers of a module type |
/// | A_1, B_1 | [d_in, r / 2], [r / 2, d_out] | bank; one of `groups` equal runs of layers |
/// | A_2, B_2 | [d_in, r / 4], [r / 4, d_out] | this layer's own |
/// | s_l | | alpha / r_l, or alpha / sqrt(r_l) |
///
/// All are trained, A random and B zero at first. Zhao et al., MSPLoRA: A Multi-Scale Pyramid
/// Low-Rank Adaptation for Efficient Model Fine-Tuning, arXiv 2503.21838, and the authors' code
/// (peft-0.5.0/src/peft/tuners/msplora.py): pairs are shared between layers of the same module type
/// (all query projections, say), here the layers whose paths differ in numbers only and whose
/// shapes agree; layer i of L belongs to group floor(i groups / L). A level whose rank rounds down
/// to zero is left out. Their optional training of one level at a time is not reproduced. The
/// activation form costs a LoRA of rank r_0 + r_1 + r_2.
#[derive(Module, Debug)]
pub struct Msplora {
    /// This layer's A, [d_in, r / 4].
    pub a: Option<Param<Tensor<2>>>,
    /// This layer's B, [r / 4, d_out].
    pub b: Option<Param<Tensor<2>>>,
    /// s of the layer's own pair.
    pub scaling: f64,
    /// Dropout probability on the inputs.
    pub dropout: f64,
    /// Bank names of A and B of the shared levels, and their s.
    #[module(skip)]
    shared: Vec<(String, String, f64)>,
}

impl Msplora {
    /// All levels side by side, [d_in, sum r_l] and [sum r_l, d_out], with s_l in A.
    fn pair(&self, ctx: &Ctx) -> (Tensor<2>, Tensor<2>) {
        let shared = self
            .shared
            .iter()
            .map(|(a, b, scaling)| (ctx.shared(a) * *scaling, ctx.shared(b)));
        let own = self.a.iter().zip(&self.b);
        let own = own.map(|(a, b)| (a.val() * self.scaling, b.val()));
        let (a, b) = shared.chain(own).unzip();
        (Tensor::cat(a, 1), Tensor::cat(b, 0))
    }
}

impl Adapter for Msplora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("msplora", self.dropout, ctx)?;
        Ok(base.with_low_rank(self.pair(ctx), 1.0))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        base.low_rank(x, self.pair(ctx), 1.0, self.dropout, ctx)
    }
}

/// The module type of a layer as a bank name: its path with numbers left out, and its shape.
fn module_type(layer: &LayerShape) -> String {
    let named: Vec<&str> = layer
        .path
        .split('.')
        .map(|part| {
            if part.parse::<usize>().is_ok() {
                "n"
            } else {
                part
            }
        })
        .collect();
    format!("{}-{}x{}", named.join("-"), layer.d_in, layer.d_out)
}

impl MsploraConfig {
    /// Ranks of the three levels.
    fn ranks(&self) -> [usize; 3] {
        [self.rank, self.rank / 2, self.rank / 4]
    }

    /// The shared pairs of each layer: the bank's entry without `.a` and `.b`, and the rank.
    fn shared(&self, layers: &[LayerShape]) -> Vec<Vec<(String, usize)>> {
        let mut members: BTreeMap<String, usize> = BTreeMap::new();
        let mut place = Vec::with_capacity(layers.len());
        for layer in layers {
            let count = members.entry(module_type(layer)).or_default();
            place.push(*count);
            *count += 1;
        }
        let [all, group, _] = self.ranks();
        let of = |(layer, index): (&LayerShape, usize)| {
            let kind = module_type(layer);
            let number = index * self.groups / members[&kind];
            [
                (format!("{kind}-all"), all),
                (format!("{kind}-group{number}"), group),
            ]
            .into_iter()
            .filter(|(_, rank)| *rank > 0)
            .collect()
        };
        layers.iter().zip(place).map(of).collect()
    }
}

impl ModelGraft for MsploraConfig {
    fn admits(&self, _: &[LayerShape]) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layers: &[LayerShape]) -> Counts {
        let [_, _, own] = self.ranks();
        Counts::trained(
            layers
                .iter()
                .map(|layer| own * (layer.d_in + layer.d_out))
                .sum(),
        )
    }

    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        let mut pairs = BTreeMap::new();
        for (layer, shared) in layers.iter().zip(self.shared(layers)) {
            for (name, rank) in shared {
                pairs.insert(name, (layer.d_in, rank, layer.d_out));
            }
        }
        pairs
            .into_iter()
            .flat_map(|(name, (d_in, rank, d_out))| {
                let kaiming = Init::KaimingUniform { fan_in: d_in };
                [
                    BankSpec::trained(format!("{name}-a"), [d_in, rank], kaiming),
                    BankSpec::trained(format!("{name}-b"), [rank, d_out], Init::ZEROS),
                ]
            })
            .collect()
    }

    fn graft(
        &self,
        layers: &[(LayerShape, FrozenBase)],
        ctx: &InitContext,
    ) -> Result<Vec<AnyAdapter>> {
        let shapes: Vec<LayerShape> = layers.iter().map(|(layer, _)| layer.clone()).collect();
        let [_, _, own] = self.ranks();
        let factor = |rank| self.scaling.factor(self.alpha, rank);
        let made = self.shared(&shapes).into_iter().zip(&shapes);
        Ok(made
            .map(|(shared, layer)| {
                let key = ctx.key.child(&layer.path);
                let param = |init: Init, shape: [usize; 2], role| {
                    let drawn = init.tensor(shape, &key.child(role), &ctx.device, ctx.dtype);
                    (own > 0).then(|| Param::from_tensor(drawn))
                };
                let kaiming = Init::KaimingUniform { fan_in: layer.d_in };
                AnyAdapter::new(Msplora {
                    a: param(kaiming, [layer.d_in, own], "a"),
                    b: param(Init::ZEROS, [own, layer.d_out], "b"),
                    scaling: factor(own.max(1)),
                    dropout: self.dropout,
                    shared: shared
                        .into_iter()
                        .map(|(name, rank)| {
                            let entry = |side| ctx.shared_name(&format!("{name}-{side}"));
                            (entry("a"), entry("b"), factor(rank))
                        })
                        .collect(),
                })
            })
            .collect())
    }
}

impl Method for MsploraConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::ModelGraft],
        ..MethodMeta::graft(
            "msplora",
            "MSPLoRA",
            Family::Lowrank,
            "2503.21838",
            "y = x W + b + sum_l s_l x A_l B_l, l = all layers, group of layers, layer",
        )
    };

    fn parts(&self) -> Parts {
        Parts::model(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        if self.groups == 0 {
            return Err("groups 0: expected at least 1".to_owned());
        }
        Ok(())
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 4,
            alpha: 3.0,
            dropout: 0.0,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                rank: 2,
                scaling: Scaling::RankStabilised,
                groups: 1,
                ..small.clone()
            },
            Self {
                rank: 1,
                dropout: 0.1,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::{AnyMethod, Injection, ModelShapes, Part, Plan};

    use super::*;

    /// q and v of `depth` layers of width d.
    fn transformer(depth: usize, d: usize) -> ModelShapes {
        let mut shapes = ModelShapes::default();
        for layer in 0..depth {
            for name in ["q", "v"] {
                let path = format!("layers.{layer}.attention.{name}");
                shapes.push_linear(&path, d, d, false, Part::Body);
            }
        }
        shapes
    }

    #[test]
    fn counts_are_those_of_the_code() {
        for (rank, depth, width, expected) in [(8, 12, 768, 135_168), (64, 32, 4096, 11_010_048)] {
            let config = MsploraConfig {
                rank,
                ..MsploraConfig::default()
            };
            let shapes = transformer(depth, width);
            let method = AnyMethod::new(&config).unwrap();
            let plan = Plan::new(&method, &shapes, &Injection::default()).unwrap();
            assert_eq!(plan.counts().all_trained(), expected);
        }
    }

    #[test]
    fn layers_of_a_type_share_and_groups_are_equal_runs() {
        let layers = transformer(7, 4).layers;
        let config = MsploraConfig::default();
        let shared = config.shared(&layers);
        let of = |layer: usize, level: usize| shared[2 * layer][level].0.as_str();
        assert!((0..7).all(|layer| of(layer, 0) == of(0, 0)));
        assert_ne!(
            shared[0][0].0, shared[1][0].0,
            "q and v have pairs of their own"
        );
        let groups: Vec<char> = (0..7)
            .map(|layer| of(layer, 1).chars().last().unwrap())
            .collect();
        assert_eq!(groups, ['0', '0', '0', '1', '1', '2', '2']);
        // A single layer has one group.
        assert_eq!(config.banks(&layers[..1]).len(), 4);
    }
}
