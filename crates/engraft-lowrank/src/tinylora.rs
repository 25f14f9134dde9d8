//! TinyLoRA: a handful of numbers steer the singular directions of all layers.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, AnyAdapter, BankSpec, Counts, Ctx, Family, FrozenBase, InitContext, Kind, LayerShape,
    Method, MethodMeta, ModelGraft, Parts, Result, check_dropout, positive_rank, refuse_dropout,
};
use engraft_linalg::svd;
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

/// Configuration of [`TinyLora`]. Paper default: rank 2. PEFT's: u = 64, no tying.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TinyLoraConfig {
    /// Number r of singular directions, at most all that a layer has.
    pub rank: usize,
    /// Length u of a trained vector.
    pub length: usize,
    /// Share of the layers that have no vector of their own: 0 gives each layer one, 1 a single
    /// one to all.
    pub tying: f64,
    /// Probability of zeroing an input in training.
    pub dropout: f64,
}

impl Default for TinyLoraConfig {
    fn default() -> Self {
        Self {
            rank: 2,
            length: 64,
            tying: 0.0,
            dropout: 0.0,
        }
    }
}

impl TinyLoraConfig {
    /// Number of vectors for `layers` layers, max(1, round(layers (1 - tying))), a tie rounded to
    /// the even number.
    fn groups(&self, layers: usize) -> usize {
        let asked = (layers as f64 * (1.0 - self.tying)).round_ties_even();
        (asked as usize).max(1)
    }

    /// The vector of the layer at position `index`: runs of consecutive layers of one length, and
    /// what is left over with the last.
    fn group(&self, index: usize, layers: usize) -> usize {
        let groups = self.groups(layers);
        (index / (layers / groups).max(1)).min(groups - 1)
    }

    fn rank_on(&self, layer: &LayerShape) -> usize {
        self.rank.min(layer.max_rank())
    }
}

/// y = x W + b + x A R B with A = U_r S_r^(1/2), B = S_r^(1/2) V_r^T from W = U S V^T and
/// R = sum_i v_i P_i.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [d_in, r] | frozen, stored |
/// | B | [r, d_out] | frozen, stored |
/// | P | [u, r, r] | N(0, 1/r), frozen, stored |
/// | v | `[u]` | bank: a row for each group of tied layers; trained, zero at first |
///
/// Learning to Reason in 13 Parameters, arXiv 2602.04118. The paper does not say how P is
/// distributed, nor how the singular values are shared between A and B; PEFT's choices are
/// followed, and its grouping of tied layers in the model's order. The activation form costs
/// O(tokens r (d_in + d_out) + u r^2).
#[derive(Module, Debug)]
pub struct TinyLora {
    /// A, [d_in, r].
    pub a: Param<Tensor<2>>,
    /// B, [r, d_out].
    pub b: Param<Tensor<2>>,
    /// P, [u, r, r].
    pub p: Param<Tensor<3>>,
    /// Dropout probability on the inputs.
    pub dropout: f64,
    #[module(skip)]
    v: String,
    group: usize,
}

impl TinyLora {
    /// R, [r, r].
    fn mixed(&self, ctx: &Ctx) -> Tensor<2> {
        let p = self.p.val();
        let [length, rank, _] = p.dims();
        let v = ctx.shared(&self.v).narrow(0, self.group, 1);
        v.matmul(p.reshape([length, rank * rank]))
            .reshape([rank, rank])
    }

    /// A, [d_in, r], and R B, [r, d_out].
    fn factors(&self, ctx: &Ctx) -> (Tensor<2>, Tensor<2>) {
        (self.a.val(), self.mixed(ctx).matmul(self.b.val()))
    }
}

impl Adapter for TinyLora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("tinylora", self.dropout, ctx)?;
        Ok(base.with_low_rank(self.factors(ctx), 1.0))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        base.low_rank(x, self.factors(ctx), 1.0, self.dropout, ctx)
    }
}

impl ModelGraft for TinyLoraConfig {
    fn admits(&self, _: &[LayerShape]) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layers: &[LayerShape]) -> Counts {
        let frozen = |layer: &LayerShape| {
            let rank = self.rank_on(layer);
            rank * (layer.d_in + layer.d_out) + self.length * rank * rank
        };
        Counts::with_frozen(0, layers.iter().map(frozen).sum())
    }

    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        let shape = [self.groups(layers.len()), self.length];
        vec![BankSpec::trained("v", shape, Init::ZEROS)]
    }

    fn graft(
        &self,
        layers: &[(LayerShape, FrozenBase)],
        ctx: &InitContext,
    ) -> Result<Vec<AnyAdapter>> {
        let made = layers.iter().enumerate().map(|(index, (layer, base))| {
            let rank = self.rank_on(layer);
            let leading = svd(&bridge::to_matrix(&base.weight()))
                .and_then(|svd| svd.truncated(rank))
                .map_err(|error| ctx.numeric(format!("{}: {error}", layer.path)))?;
            let roots: Vec<f64> = leading.s.iter().map(|s| s.sqrt()).collect();
            let frozen = |matrix: engraft_linalg::Result<engraft_linalg::Matrix>| {
                let matrix = matrix.map_err(|error| ctx.numeric(error))?;
                let tensor = bridge::from_matrix(&matrix, &ctx.device, ctx.dtype);
                Ok(Param::from_tensor(tensor).set_require_grad(false))
            };
            let p = Init::Normal {
                std: (rank as f64).sqrt().recip(),
            };
            let key = ctx.key.child(&layer.path).child("p");
            Ok(AnyAdapter::new(TinyLora {
                a: frozen(leading.u.scale_columns(&roots))?,
                b: frozen(leading.vt.scale_rows(&roots))?,
                p: Param::from_tensor(p.tensor(
                    [self.length, rank, rank],
                    &key,
                    &ctx.device,
                    ctx.dtype,
                ))
                .set_require_grad(false),
                dropout: self.dropout,
                v: ctx.shared_name("v"),
                group: self.group(index, layers.len()),
            }))
        });
        made.collect()
    }
}

impl Method for TinyLoraConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::ModelGraft],
        peft: Some("TINYLORA"),
        ..MethodMeta::graft(
            "tinylora",
            "TinyLoRA",
            Family::Lowrank,
            "2602.04118",
            "y = x W + b + x A R B, A and B from the SVD of W, R = sum_i v_i P_i, v shared by groups",
        )
    };

    fn parts(&self) -> Parts {
        Parts::model(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        if self.length == 0 {
            return Err("length 0: expected at least 1".to_owned());
        }
        if !(0.0..=1.0).contains(&self.tying) {
            return Err(format!("tying {}: expected 0 <= tying <= 1", self.tying));
        }
        Ok(())
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            length: 5,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                rank: 3,
                tying: 1.0,
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
    fn the_count_is_the_published_one() {
        let config = TinyLoraConfig {
            tying: 1.0,
            ..TinyLoraConfig::default()
        };
        let counts = testing::counts(&config, &testing::llama_3b_qv());
        assert_eq!(counts.all_trained(), 64);
    }

    #[test]
    fn tied_layers_are_runs_of_the_models_order() {
        let groups = |tying, layers| {
            let config = TinyLoraConfig {
                tying,
                ..TinyLoraConfig::default()
            };
            (0..layers)
                .map(|index| config.group(index, layers))
                .collect::<Vec<_>>()
        };
        assert_eq!(groups(0.0, 3), [0, 1, 2]);
        assert_eq!(groups(1.0, 3), [0, 0, 0]);
        assert_eq!(groups(0.5, 5), [0, 0, 1, 1, 1]);
        assert_eq!(groups(0.3, 4), [0, 1, 2, 2]);
    }

    #[test]
    fn forms_agree() {
        let config = TinyLoraConfig {
            rank: 3,
            length: 4,
            tying: 0.5,
            dropout: 0.0,
        };
        testing::forms_agree(&config, 7, 5).unwrap();
    }
}
