//! HiRA: Hadamard high-rank adaptation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Lookup, Method,
    MethodMeta, Parts, Result, check_dropout, dropout, positive_rank, refuse_dropout,
};
use engraft_tensor::Init;
use engraft_tensor::ops::{linear, matmul, modulated};
use serde::{Deserialize, Serialize};

use crate::LoraInit;

/// Configuration of [`Hira`]. Paper default: rank 32.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct HiraConfig {
    /// Rank r of the factor, not of the update.
    pub rank: usize,
    /// Probability of zeroing an input of the update in training.
    pub dropout: f64,
    /// How A starts.
    pub init: LoraInit,
}

impl Default for HiraConfig {
    fn default() -> Self {
        Self {
            rank: 32,
            dropout: 0.0,
            init: LoraInit::KaimingUniform,
        }
    }
}

/// W' = W . (1 + A B): the update W . (A B) has up to r times the rank of W.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [d_in, r] | trained, random at first |
/// | B | [r, d_out] | trained, zero at first |
///
/// Huang et al., HiRA: Parameter-Efficient Hadamard High-Rank Adaptation for Large Language
/// Models, ICLR 2025 (OpenReview TwJrTz9cRS), equation 3. It has no scaling factor.
///
/// # Cost
/// x (W . (A B)) is the sum over k of ((x . a_k) W) . b_k, which costs r products with W: r T d_in
/// d_out for T tokens. Forming W . (A B) costs r d_in d_out once and one product, (r + T) d_in
/// d_out, which is never more where T > 1. The weight is therefore formed in `forward` too.
#[derive(Module, Debug)]
pub struct Hira {
    /// A, [d_in, r].
    pub a: Param<Tensor<2>>,
    /// B, [r, d_out].
    pub b: Param<Tensor<2>>,
    /// Dropout probability on the inputs of the update.
    pub dropout: f64,
}

impl Hira {
    /// W . (1 + A B).
    fn weight(&self, base: &FrozenBase) -> Tensor<2> {
        modulated(base.weight(), self.a.val(), self.b.val())
    }
}

impl Adapter for Hira {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("hira", self.dropout, ctx)?;
        Ok(base.with_weight(self.weight(base)))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        if ctx.is_training() && self.dropout > 0.0 {
            let update = base.weight() * matmul(self.a.val(), self.b.val());
            return base.forward(x.clone()) + matmul(dropout(x, self.dropout, ctx), update);
        }
        linear(x, self.weight(base), base.bias.clone())
    }

    /// Only the rows that occur are formed. There is no dropout on indices.
    fn lookup(&self, rows: &Lookup, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let gain = rows.of(self.a.val()).matmul(self.b.val()) + 1.0;
        base.add_bias(rows.of(base.weight()) * gain)
    }
}

impl Graft for HiraConfig {
    type Adapter = Hira;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.rank * (layer.d_in + layer.d_out))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Hira> {
        let (d_in, d_out, rank) = (base.d_in(), base.d_out(), self.rank);
        let a = match self.init {
            LoraInit::KaimingUniform => Init::KaimingUniform { fan_in: d_in },
            LoraInit::Gaussian => Init::Normal {
                std: 1.0 / rank as f64,
            },
        };
        Ok(Hira {
            a: Param::from_tensor(ctx.tensor(a, [d_in, rank], "a")),
            b: Param::from_tensor(ctx.tensor(Init::ZEROS, [rank, d_out], "b")),
            dropout: self.dropout,
        })
    }
}

impl Method for HiraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("HIRA"),
        ..MethodMeta::graft(
            "hira",
            "HiRA",
            Family::Lowrank,
            // ICLR 2025, OpenReview TwJrTz9cRS: not on arXiv.
            "",
            "W' = W . (1 + A B)",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        vec![
            Self {
                rank: 2,
                ..Self::default()
            },
            Self {
                rank: 5,
                dropout: 0.1,
                init: LoraInit::Gaussian,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use engraft_linalg::svd;
    use engraft_testkit::compare;

    use super::*;
    use crate::trial;

    #[test]
    fn a_rank_one_factor_makes_an_update_of_full_rank() {
        let config = HiraConfig {
            rank: 1,
            ..HiraConfig::default()
        };
        let base = trial::base(7, 5, true);
        let hira = trial::moved(&config, &base);
        let update = trial::update(&hira, &base);
        let smallest = svd(&update).unwrap().s.into_iter().fold(f64::MAX, f64::min);
        assert!(smallest > 1e-3, "{smallest}");
        // Row i and column j of W are scaled by 1 + a_i b_j.
        let (a, b) = (trial::matrix(&hira.a), trial::matrix(&hira.b));
        let w = engraft_tensor::bridge::to_matrix(&base.weight());
        for i in 0..7 {
            for j in 0..5 {
                let expected = w.get(i, j) * a.get(i, 0) * b.get(0, j);
                assert!((update.get(i, j) - expected).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn an_embedding_looks_up_rows_of_the_weight_form() {
        let base = trial::base(7, 4, false);
        let hira = trial::moved(&HiraConfig::default(), &base);
        let indices = Tensor::from_data(TensorData::new(vec![6i64, 0, 6], [3]), &base.device());
        let rows = Lookup::new(indices);
        let effective = hira.effective(&base, &Ctx::default()).unwrap();
        let found = hira.lookup(&rows, &base, &Ctx::default());
        compare::close("rows", &found, &effective.lookup(&rows), 32).unwrap();
    }
}
