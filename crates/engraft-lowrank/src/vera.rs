//! VeRA: vector-based random matrix adaptation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, BankSpec, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result, check_dropout, positive_rank, refuse_dropout,
};
use engraft_tensor::Init;
use engraft_tensor::ops::row_products;
use serde::{Deserialize, Serialize};

/// Configuration of [`Vera`]. Paper defaults: rank 256 to 1024, d at 0.1 (section 4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct VeraConfig {
    /// Rank r of the shared projections.
    pub rank: usize,
    /// First value of every entry of d.
    pub d_initial: f64,
    /// Probability of zeroing an input in training.
    pub dropout: f64,
}

impl Default for VeraConfig {
    fn default() -> Self {
        Self {
            rank: 256,
            d_initial: 0.1,
            dropout: 0.0,
        }
    }
}

/// y = x W + b + ((x A) . d) B . b_scale, with A and B random, frozen and shared by all layers.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [max d_in, r] | bank; a layer uses its first d_in rows |
/// | B | [r, max d_out] | bank; a layer uses its first d_out columns |
/// | d (`lambda_d`) | `[r]` | trained, 0.1 at first |
/// | b_scale (`lambda_b`) | `[d_out]` | trained, zero at first |
///
/// Kopiczko et al., VeRA: Vector-based Random Matrix Adaptation, arXiv 2310.11454, equation 2.
/// One pair of projections sized to the largest layer is PEFT's reading of "shared across layers";
/// the paper's models have layers of one size.
///
/// # Cost
/// diag(d) B diag(b) is formed in each step, r d_out; then T tokens cost T r (d_in + d_out) beside the
/// base, and backward, where A needs no gradient, T r (d_in + 2 d_out).
#[derive(Module, Debug)]
pub struct Vera {
    /// d, `[r]`.
    pub lambda_d: Param<Tensor<1>>,
    /// b, `[d_out]`.
    pub lambda_b: Param<Tensor<1>>,
    /// Dropout probability on the inputs.
    pub dropout: f64,
    #[module(skip)]
    a: String,
    #[module(skip)]
    b: String,
}

impl Vera {
    /// The shared projections cut to this layer, the second with d and b on its sides: A, [d_in, r],
    /// and diag(d) B diag(b), [r, d_out].
    fn factors(&self, base: &FrozenBase, ctx: &Ctx) -> (Tensor<2>, Tensor<2>) {
        let a = ctx.shared(&self.a).narrow(0, 0, base.d_in());
        let b = ctx.shared(&self.b).narrow(1, 0, base.d_out());
        let (d, scale) = (self.lambda_d.val(), self.lambda_b.val());
        (
            a,
            row_products(scale.unsqueeze(), b, Some(d.unsqueeze_dim(1))),
        )
    }
}

impl Adapter for Vera {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("vera", self.dropout, ctx)?;
        Ok(base.with_low_rank(self.factors(base, ctx), 1.0))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        base.low_rank(x, self.factors(base, ctx), 1.0, self.dropout, ctx)
    }
}

impl Graft for VeraConfig {
    type Adapter = Vera;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(layer.d_out + self.rank)
    }

    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        let d_in = layers.iter().map(|layer| layer.d_in).max().unwrap_or(0);
        let d_out = layers.iter().map(|layer| layer.d_out).max().unwrap_or(0);
        vec![
            BankSpec::frozen(
                "a",
                [d_in, self.rank],
                Init::KaimingUniform { fan_in: d_in },
            ),
            BankSpec::frozen(
                "b",
                [self.rank, d_out],
                Init::KaimingUniform { fan_in: self.rank },
            ),
        ]
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Vera> {
        Ok(Vera {
            lambda_d: Param::from_tensor(ctx.tensor(
                Init::Constant(self.d_initial),
                [self.rank],
                "lambda_d",
            )),
            lambda_b: Param::from_tensor(ctx.tensor(Init::ZEROS, [base.d_out()], "lambda_b")),
            dropout: self.dropout,
            a: ctx.shared_name("a"),
            b: ctx.shared_name("b"),
        })
    }
}

impl Method for VeraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("VERA"),
        ..MethodMeta::graft(
            "vera",
            "VeRA",
            Family::Lowrank,
            "2310.11454",
            "y = x W + b + ((x A) . d) B . b, A and B random, frozen, shared",
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
                rank: 6,
                ..Self::default()
            },
            Self {
                rank: 3,
                dropout: 0.2,
                ..Self::default()
            },
        ]
    }
}
