//! KaSA: knowledge-aware singular-value adaptation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, AtInit, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result, Scaling, admit_rank, check_dropout, dropout, positive_rank,
    refuse_dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::spectrum::{identity, tensor, trailing};

/// Configuration of [`Kasa`]. Rank 8 and alpha 16 as in the authors' GLUE runs, whose weights of
/// the penalties beta and gamma are the defaults too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct KasaConfig {
    /// Rank r, less than min(d_in, d_out).
    pub rank: usize,
    /// alpha; see [`Scaling`].
    pub alpha: f64,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Weight of the penalty on the singular values, see [`Adapter::penalty`].
    pub beta: f64,
    /// Weight of the penalty on the factors' distance from orthogonality.
    pub gamma: f64,
}

impl Default for KasaConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            scaling: Scaling::Classic,
            dropout: 0.0,
            beta: 1e-4,
            gamma: 1e-3,
        }
    }
}

/// y = x W_k + b + s ((x A) . d) B, with W_k the weight without its r smallest singular triples.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A, B | [d_in, r], [r, d_out] | trained, B zero at first |
/// | d | `[r]` | trained singular values of the update, N(0, 1) at first |
/// | s | | alpha / r, or alpha / sqrt(r) |
///
/// Wang et al., KaSA: Knowledge-Aware Singular-Value Adaptation of Large Language Models, arXiv
/// 2412.06071, sections 3.2 and 3.3. Truncating the weight is part of the method, so that the
/// model changes before training. W_k is this adapter's own base ([`Adapter::rebase`]); what is cut
/// off, a whole subspace whatever the signs of its vectors, is computed again from the weight when
/// an adapter is loaded. The activation form costs O(tokens (d_in d_out + r (d_in + d_out))).
#[derive(Module, Debug)]
pub struct Kasa {
    /// A, [d_in, r].
    pub a: Param<Tensor<2>>,
    /// d, `[r]`.
    pub diag: Param<Tensor<1>>,
    /// B, [r, d_out].
    pub b: Param<Tensor<2>>,
    /// Left factor of W - W_k, [d_in, r], with the singular values.
    cut_in: Tensor<2>,
    /// Right factor of W - W_k, [r, d_out].
    cut_out: Tensor<2>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of A.
    pub dropout: f64,
    /// Weight of the penalty on the singular values.
    pub beta: f64,
    /// Weight of the penalty on the factors' distance from orthogonality.
    pub gamma: f64,
}

impl Adapter for Kasa {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("kasa", self.dropout, ctx)?;
        let scaled = self.a.val() * (self.diag.val() * self.scaling).unsqueeze();
        Ok(base.with_weight(base.weight() + scaled.matmul(self.b.val())))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let narrow = dropout(x.clone(), self.dropout, ctx).matmul(self.a.val());
        let scaled = narrow * (self.diag.val() * self.scaling).unsqueeze();
        base.forward(x) + scaled.matmul(self.b.val())
    }

    fn rebase(&self, base: &FrozenBase) -> Option<FrozenBase> {
        let cut = self.cut_in.clone().matmul(self.cut_out.clone());
        Some(base.with_weight((base.weight() - cut).detach()))
    }

    /// beta |d|^2 + gamma (|A^T A - I| + |B B^T - I|) in Frobenius norms (equations 9 to 11).
    fn penalty(&self, _: &FrozenBase, _: &Ctx) -> Option<Tensor<1>> {
        let (a, b, diag) = (self.a.val(), self.b.val(), self.diag.val());
        let rank = diag.dims()[0];
        let off = |gram: Tensor<2>| {
            let off = gram.clone() - identity(rank, &gram.device(), gram.dtype());
            // The root has no derivative at zero.
            (off.clone() * off).sum().clamp_min(1e-30).sqrt()
        };
        let orthogonal =
            off(a.clone().transpose().matmul(a)) + off(b.clone().matmul(b.transpose()));
        Some((diag.clone() * diag).sum() * self.beta + orthogonal * self.gamma)
    }
}

impl Graft for KasaConfig {
    type Adapter = Kasa;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_rank(self.rank, layer.max_rank())?;
        if self.rank == layer.max_rank() {
            return Err(format!(
                "rank {}: expected less than min(d_in, d_out) = {}, or nothing is left of the weight",
                self.rank,
                layer.max_rank()
            ));
        }
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.rank * (layer.d_in + layer.d_out + 1))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Kasa> {
        let (d_in, d_out, rank) = (base.d_in(), base.d_out(), self.rank);
        let cut = trailing(base, rank, ctx)?;
        let cut_in = cut
            .u
            .scale_columns(&cut.s)
            .map_err(|error| ctx.numeric(error))?;
        Ok(Kasa {
            a: Param::from_tensor(ctx.tensor(
                Init::KaimingUniform { fan_in: d_in },
                [d_in, rank],
                "a",
            )),
            diag: Param::from_tensor(ctx.tensor(Init::Normal { std: 1.0 }, [rank], "diag")),
            b: Param::from_tensor(ctx.tensor(Init::ZEROS, [rank, d_out], "b")),
            cut_in: tensor(&cut_in, ctx),
            cut_out: tensor(&cut.vt, ctx),
            scaling: self.scaling.factor(self.alpha, rank),
            dropout: self.dropout,
            beta: self.beta,
            gamma: self.gamma,
        })
    }
}

impl Method for KasaConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        at_init: AtInit::NotIdentity,
        regularised: true,
        admits: "a linear layer with min(d_in, d_out) above the rank",
        ..MethodMeta::graft(
            "kasa",
            "KaSA",
            Family::Svd,
            "2412.06071",
            "y = x W_k + b + s ((x A) . d) B, W_k = W without its r smallest singular triples",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        if layer.max_rank() < 2 {
            return Vec::new();
        }
        vec![
            Self {
                rank: (layer.max_rank() - 1).min(3),
                alpha: 2.0,
                ..Self::default()
            },
            Self {
                rank: layer.max_rank() - 1,
                scaling: Scaling::RankStabilised,
                dropout: 0.1,
                beta: 0.0,
                gamma: 0.0,
                ..Self::default()
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::{attach, base, draw, forms_differ};

    #[test]
    fn the_base_loses_its_smallest_singular_values_and_no_others() {
        let base = base([9, 6]);
        let mut adapter = attach(
            &KasaConfig {
                rank: 2,
                ..KasaConfig::default()
            },
            &base,
        );
        let spectrum =
            |weight: &Tensor<2>| engraft_linalg::svd(&bridge::to_matrix(weight)).unwrap().s;
        let (all, kept) = (
            spectrum(&base.weight()),
            spectrum(&adapter.rebase(&base).unwrap().weight()),
        );
        for (expected, found) in all[..4].iter().chain(&[0.0; 2]).zip(&kept) {
            assert!((expected - found).abs() < 1e-12 * all[0]);
        }
        adapter.b = Param::from_tensor(draw([2, 6], "b"));
        assert!(forms_differ(&adapter, &base) < 1e-12);
    }

    #[test]
    fn the_penalty_is_that_of_the_singular_values_alone_for_orthonormal_factors() {
        let base = base([6, 6]);
        let mut adapter = attach(
            &KasaConfig {
                rank: 3,
                beta: 0.5,
                gamma: 2.0,
                ..KasaConfig::default()
            },
            &base,
        );
        let unit = identity(6, &base.device(), base.dtype());
        adapter.a = Param::from_tensor(unit.clone().narrow(1, 0, 3));
        adapter.b = Param::from_tensor(unit.narrow(0, 2, 3));
        let penalty = |adapter: &Kasa| adapter.penalty(&base, &Ctx::default()).unwrap();
        let squares: f64 = bridge::values(&adapter.diag.val())
            .iter()
            .map(|d| d * d)
            .sum();
        assert!((bridge::values(&penalty(&adapter))[0] - 0.5 * squares).abs() < 1e-12);
        // |0 - I| of three rows.
        adapter.b = Param::from_tensor(draw([3, 6], "b") * 0.0);
        let expected = 0.5 * squares + 2.0 * 3.0f64.sqrt();
        assert!((bridge::values(&penalty(&adapter))[0] - expected).abs() < 1e-12);
    }
}
