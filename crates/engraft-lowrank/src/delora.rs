//! DeLoRA: decoupled low-rank adaptation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, check_dropout, positive_rank, refuse_dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

/// Below this length a direction of A or B is no longer normalised.
const SHORTEST: f64 = 1e-4;

/// Configuration of [`Delora`]. Defaults of PEFT: rank 8, lambda 15.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DeloraConfig {
    /// Rank r.
    pub rank: usize,
    /// First value of lambda, the bound on the strength of the update.
    pub lambda: f64,
    /// Probability of zeroing an input of the update in training.
    pub dropout: f64,
}

impl Default for DeloraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            lambda: 15.0,
            dropout: 0.0,
        }
    }
}

/// y = x W + b + (lambda / r) ((x . w) A) Xi B, Xi = diag(1 / (|a_k| |b_k|)): the directions of
/// the r terms are learned apart from their common strength lambda, and the update divided by w
/// has a Frobenius norm of at most |lambda|.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A, a_k | [d_in, r], its columns | trained, random at first |
/// | B, b_k | [r, d_out], its rows | trained, zero at first |
/// | lambda | `[1]` | trained |
/// | w | `[d_in]` | the norms of the rows of W when the adapter was made; stored |
///
/// Bini et al., DeLoRA: Decoupling Angles and Strength in Low-rank Adaptation, arXiv 2503.18225,
/// section 3.1. The paper scales by one |W| for the layer; the authors' code and PEFT by one norm
/// for each input, which is followed. The authors start from random A and B and take the first
/// update off W; PEFT starts from B = 0, whose length counts as 1e-4, and is followed. Lengths
/// are max(|a_k|, 1e-4), so that gradients are finite.
///
/// # Cost
/// A token costs d_in + r (d_in + d_out), as LoRA.
#[derive(Module, Debug)]
pub struct Delora {
    /// A, [d_in, r].
    pub a: Param<Tensor<2>>,
    /// B, [r, d_out].
    pub b: Param<Tensor<2>>,
    /// lambda, `[1]`.
    pub lambda: Param<Tensor<1>>,
    /// w, `[d_in]`.
    pub w_norm: Param<Tensor<1>>,
    /// Dropout probability on the inputs of the update.
    pub dropout: f64,
}

/// max(length, 1e-4) along `dim`, which stays with size 1.
fn lengths(matrix: Tensor<2>, dim: usize) -> Tensor<2> {
    // Clamped before the root, whose slope at 0 is infinite.
    (matrix.clone() * matrix)
        .sum_dim(dim)
        .clamp_min(SHORTEST * SHORTEST)
        .sqrt()
}

impl Delora {
    /// lambda / (r |a_k| |b_k|), [1, r].
    fn strengths(&self) -> Tensor<2> {
        let (a, b) = (self.a.val(), self.b.val());
        let rank = a.dims()[1] as f64;
        let lambda = (self.lambda.val() / rank).unsqueeze::<2>();
        lambda / (lengths(a, 0) * lengths(b, 1).transpose())
    }

    /// diag(w) A diag(strengths), [d_in, r], and B.
    fn factors(&self) -> (Tensor<2>, Tensor<2>) {
        let a = self.a.val() * self.w_norm.val().unsqueeze_dim::<2>(1);
        (a * self.strengths(), self.b.val())
    }
}

impl Adapter for Delora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("delora", self.dropout, ctx)?;
        Ok(base.with_low_rank(self.factors(), 1.0))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        base.low_rank(x, self.factors(), 1.0, self.dropout, ctx)
    }
}

impl Graft for DeloraConfig {
    type Adapter = Delora;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::with_frozen(self.rank * (layer.d_in + layer.d_out) + 1, layer.d_in)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Delora> {
        let (d_in, d_out, rank) = (base.d_in(), base.d_out(), self.rank);
        let w = base.weight().detach();
        let w_norm = (w.clone() * w).sum_dim(1).squeeze_dim::<1>(1).sqrt();
        Ok(Delora {
            a: Param::from_tensor(ctx.tensor(
                Init::KaimingUniform { fan_in: d_in },
                [d_in, rank],
                "a",
            )),
            b: Param::from_tensor(ctx.tensor(Init::ZEROS, [rank, d_out], "b")),
            lambda: Param::from_tensor(ctx.tensor(Init::Constant(self.lambda), [1], "lambda")),
            w_norm: Param::from_tensor(w_norm).set_require_grad(false),
            dropout: self.dropout,
        })
    }
}

impl Method for DeloraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("DELORA"),
        ..MethodMeta::graft(
            "delora",
            "DeLoRA",
            Family::Lowrank,
            "2503.18225",
            "y = x W + b + (lambda / r) ((x . w) A) diag(1 / (|a_k| |b_k|)) B, w the row norms of W",
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
                lambda: 3.0,
                dropout: 0.0,
            },
            Self {
                rank: 5,
                lambda: 0.5,
                dropout: 0.1,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial;

    #[test]
    fn lambda_bounds_the_update_whatever_the_length_of_its_directions() {
        let config = DeloraConfig {
            rank: 3,
            lambda: 2.0,
            dropout: 0.0,
        };
        let base = trial::base(9, 6, true);
        let mut delora = trial::moved(&config, &base);
        let update = trial::update(&delora, &base);
        let norms = engraft_tensor::bridge::values(&delora.w_norm.val());
        let inverse: Vec<f64> = norms.iter().map(|norm| norm.recip()).collect();
        let relative = update.scale_rows(&inverse).unwrap().frobenius_norm();
        let lambda = engraft_tensor::bridge::values(&delora.lambda.val())[0];
        assert!(relative <= lambda.abs() * (1.0 + 1e-12), "{relative}");

        // Longer directions change nothing.
        delora.a = delora.a.map(|a| a * 7.0);
        delora.b = delora.b.map(|b| b * 0.2);
        let again = trial::update(&delora, &base);
        assert!(again.max_abs_diff(&update).unwrap() < 1e-13 * update.max_abs());
    }

    #[test]
    fn the_row_norms_are_those_of_the_first_weight() {
        let base = trial::base(4, 3, false);
        let delora = trial::fresh(&DeloraConfig::default(), &base);
        let w = engraft_tensor::bridge::to_matrix(&base.weight());
        let norms = engraft_tensor::bridge::values(&delora.w_norm.val());
        for (i, norm) in norms.iter().enumerate() {
            let row: f64 = w.row(i).iter().map(|w| w * w).sum();
            assert!((norm - row.sqrt()).abs() < 1e-14);
        }
    }
}
