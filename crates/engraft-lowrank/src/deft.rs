//! DEFT: decompositional efficient fine-tuning.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, check_dropout, dropout, positive_rank, refuse_dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::projection::Projection;

/// Standard deviation of the first directions P.
pub(crate) const SPREAD: f64 = 0.02;

/// Configuration of [`Deft`]. Defaults of PEFT: rank 8, no scaling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DeftConfig {
    /// Rank r; at most d_out of it is used.
    pub rank: usize,
    /// How the projection is made from P.
    pub projection: Projection,
    /// alpha, s = alpha / r; without it s = 1.
    pub alpha: Option<f64>,
    /// Probability of zeroing an input of R in training.
    pub dropout: f64,
}

impl Default for DeftConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            projection: Projection::Relu,
            alpha: None,
            dropout: 0.0,
        }
    }
}

/// W' = W (I - S Q^T) + s R Q^T: what W writes along the directions Q is replaced by R.
///
/// | symbol | shape | |
/// |---|---|---|
/// | P | [d_out, r] | trained, N(0, 0.02^2) at first |
/// | Q, S | [d_out, r] | P and max(P, 0), or both the orthonormal factor of P; see [`Projection`] |
/// | R | [d_in, r] | trained, W S / s at first, so that W' = W |
/// | s | | alpha / r, or 1 |
///
/// Kumar et al., DEFT: Decompositional Efficient Fine-Tuning for Text-to-Image Models, arXiv
/// 2509.22793, section 3. The authors start R at random, which takes a subspace off W at once;
/// PEFT's start at the identity is followed. Without R it is [PaRa](crate::Para).
///
/// # Cost
/// A token costs r (d_in + 2 d_out); no projection [d_out, d_out] is formed. With `qr`, each pass
/// brings P to the host for its decomposition.
#[derive(Module, Debug)]
pub struct Deft {
    /// P, [d_out, r].
    pub p: Param<Tensor<2>>,
    /// R, [d_in, r].
    pub r: Param<Tensor<2>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of R.
    pub dropout: f64,
    #[module(skip)]
    projection: Projection,
}

impl Adapter for Deft {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("deft", self.dropout, ctx)?;
        let (q, s) = self.projection.factors(self.p.val());
        let change = self.r.val() * self.scaling - base.weight().matmul(s);
        Ok(base.with_weight(base.weight() + change.matmul(q.transpose())))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let (q, s) = self.projection.factors(self.p.val());
        let plain = x.clone().matmul(base.weight());
        let injected = dropout(x, self.dropout, ctx).matmul(self.r.val()) * self.scaling;
        let change = injected - plain.clone().matmul(s);
        base.add_bias(plain + change.matmul(q.transpose()))
    }
}

impl Graft for DeftConfig {
    type Adapter = Deft;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.rank.min(layer.d_out) * (layer.d_in + layer.d_out))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Deft> {
        let rank = self.rank.min(base.d_out());
        let scaling = self.alpha.map_or(1.0, |alpha| alpha / rank as f64);
        let p = ctx.tensor(Init::Normal { std: SPREAD }, [base.d_out(), rank], "p");
        let (_, s) = self.projection.factors(p.clone());
        Ok(Deft {
            p: Param::from_tensor(p),
            r: Param::from_tensor((base.weight().matmul(s) / scaling).detach()),
            scaling,
            dropout: self.dropout,
            projection: self.projection,
        })
    }
}

impl Method for DeftConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("DEFT"),
        ..MethodMeta::graft(
            "deft",
            "DEFT",
            Family::Lowrank,
            "2509.22793",
            "W' = W (I - S Q^T) + s R Q^T, Q and S from P",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        match self.alpha {
            Some(alpha) if alpha == 0.0 || !alpha.is_finite() => Err(format!(
                "alpha {alpha}: expected a number other than 0, or none for no scaling"
            )),
            _ => Ok(()),
        }
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let example = |rank, projection, alpha, dropout| Self {
            rank,
            projection,
            alpha,
            dropout,
        };
        vec![
            example(2, Projection::Relu, None, 0.0),
            example(5, Projection::Relu, Some(8.0), 0.1),
            example(3, Projection::Qr, None, 0.0),
            example(2, Projection::Qr, Some(3.0), 0.2),
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::{counts, llama_3b_qv};
    use crate::trial;

    fn config(projection: Projection) -> DeftConfig {
        DeftConfig {
            rank: 3,
            projection,
            alpha: Some(6.0),
            dropout: 0.0,
        }
    }

    #[test]
    fn only_the_directions_of_p_change() {
        let base = trial::base(9, 7, true);
        let deft = trial::moved(&config(Projection::Qr), &base);
        let update = trial::update(&deft, &base);
        // W' Q = s R, and nothing changes on the complement of Q.
        let (q, _) = Projection::Qr.factors(deft.p.val());
        let q = bridge::to_matrix(&q);
        let effective = deft.effective(&base, &Ctx::default()).unwrap();
        let along = bridge::to_matrix(&effective.weight()).matmul(&q).unwrap();
        let injected = trial::matrix(&deft.r).scale(2.0);
        assert!(along.max_abs_diff(&injected).unwrap() < 1e-13);
        let within = update.matmul(&q).unwrap().matmul(&q.transpose()).unwrap();
        assert!(within.max_abs_diff(&update).unwrap() < 1e-13);
    }

    #[test]
    fn it_starts_at_the_base_with_either_projection() {
        let base = trial::base(6, 2, false);
        for projection in [Projection::Relu, Projection::Qr] {
            let deft = trial::fresh(&config(projection), &base);
            assert_eq!(deft.p.dims(), [2, 2]);
            assert!(trial::update(&deft, &base).max_abs() < 1e-14);
        }
    }

    #[test]
    fn counts_are_the_published_ones() {
        // PEFT's MetaMathQA benchmark: rank 32 on q and v of Llama-3.2-3B.
        let config = DeftConfig {
            rank: 32,
            ..DeftConfig::default()
        };
        assert_eq!(counts(&config, &llama_3b_qv()).all_trained(), 9_175_040);
    }
}
