//! RandLoRA: full-rank updates from random bases.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, BankSpec, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result, check_dropout, positive_rank, refuse_dropout,
};
use engraft_tensor::Init;
use engraft_tensor::ops::row_products;
use serde::{Deserialize, Serialize};

/// How the bases are drawn. All have unit variance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RandBasis {
    /// Uniform.
    #[default]
    Dense,
    /// Signs at one entry in 3.
    Sparse,
    /// Signs at one entry in sqrt(min(d_in, d_out)).
    VerySparse,
}

/// Configuration of [`RandLora`]. Defaults of the authors' code in PEFT: rank 32, alpha 20 r.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RandLoraConfig {
    /// Rank r of one basis. A smaller one means more bases and more parameters.
    pub rank: usize,
    /// alpha; the update is scaled by alpha / r.
    pub alpha: f64,
    /// Probability of zeroing an input in training.
    pub dropout: f64,
    /// `dense`, `sparse` or `very-sparse` bases.
    pub basis: RandBasis,
}

impl Default for RandLoraConfig {
    fn default() -> Self {
        Self {
            rank: 32,
            alpha: 640.0,
            dropout: 0.0,
            basis: RandBasis::Dense,
        }
    }
}

impl RandLoraConfig {
    /// n = ceil(width / r): enough bases for full rank.
    fn bases(&self, width: usize) -> usize {
        width.div_ceil(self.rank)
    }
}

/// y = x W + b + s x sum_i B_i diag(lambda_i) A diag(gamma_i) where d_out is the smaller width, and
/// the transposed sum where d_in is.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [r, min] | bank: one basis for all i; a layer uses its first columns |
/// | B | [max, n r] | bank: n bases side by side; a layer uses its first rows and bases |
/// | lambda | [r, n] | trained, zero at first |
/// | gamma | [n, min] | trained, 1 / max(n, min) at first |
/// | s | | alpha / r |
///
/// min and max are the smaller and larger of d_in and d_out, n = ceil(min / r).
///
/// Albert et al., RandLoRA: Full-rank parameter-efficient fine-tuning of large models, arXiv
/// 2502.00987, equation 4 and section 5 (sparse bases). PEFT's code is the authors', and is followed
/// in what it sums: it flattens B by (basis, rank) but lambda A gamma by (rank, basis), so that
/// column p of B meets row p of the other order. B's columns are drawn alike, so this is the same
/// method with another draw of B.
///
/// The scaled A of all bases is a min x min matrix: the update has full rank. Both forms cost what
/// the frozen layer costs, and that matrix, formed in one pass; backward the gradients of lambda and
/// gamma are sums over that of the matrix, and B needs none.
#[derive(Module, Debug)]
pub struct RandLora {
    /// lambda, [r, n].
    pub lambda: Param<Tensor<2>>,
    /// gamma, [n, min].
    pub gamma: Param<Tensor<2>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs.
    pub dropout: f64,
    #[module(skip)]
    a: String,
    #[module(skip)]
    b: String,
}

impl RandLora {
    /// The two factors in the order in which x meets them: [d_in, r n] and [r n, d_out].
    fn factors(&self, base: &FrozenBase, ctx: &Ctx) -> (Tensor<2>, Tensor<2>) {
        let [rank, bases] = self.lambda.val().dims();
        let (narrow, wide) = (base.d_in().min(base.d_out()), base.d_in().max(base.d_out()));
        let a = ctx.shared(&self.a).narrow(1, 0, narrow);
        let b = ctx
            .shared(&self.b)
            .narrow(0, 0, wide)
            .narrow(1, 0, bases * rank);
        let a = row_products(a, self.gamma.val(), Some(self.lambda.val().transpose()));
        if base.d_in() == narrow {
            (a.transpose(), b.transpose())
        } else {
            (b, a)
        }
    }
}

impl Adapter for RandLora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("randlora", self.dropout, ctx)?;
        Ok(base.with_low_rank(self.factors(base, ctx), self.scaling))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        base.low_rank(x, self.factors(base, ctx), self.scaling, self.dropout, ctx)
    }
}

impl Graft for RandLoraConfig {
    type Adapter = RandLora;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let narrow = layer.max_rank();
        Counts::trained(self.bases(narrow) * (self.rank + narrow))
    }

    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        let widest = |width: fn(&LayerShape) -> usize| layers.iter().map(width).max().unwrap_or(0);
        let (d_in, d_out) = (widest(|layer| layer.d_in), widest(|layer| layer.d_out));
        let (narrow, wide) = (d_in.min(d_out), d_in.max(d_out));
        let init = match self.basis {
            RandBasis::Dense => Init::Uniform { bound: 3f64.sqrt() },
            RandBasis::Sparse => Init::SparseSign { sparsity: 3.0 },
            RandBasis::VerySparse => Init::SparseSign {
                sparsity: (narrow.max(1) as f64).sqrt(),
            },
        };
        vec![
            BankSpec::frozen("a", [self.rank, narrow], init),
            BankSpec::frozen("b", [wide, self.bases(narrow) * self.rank], init),
        ]
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<RandLora> {
        let narrow = base.d_in().min(base.d_out());
        let bases = self.bases(narrow);
        let first = Init::Constant(1.0 / bases.max(narrow) as f64);
        Ok(RandLora {
            lambda: Param::from_tensor(ctx.tensor(Init::ZEROS, [self.rank, bases], "lambda")),
            gamma: Param::from_tensor(ctx.tensor(first, [bases, narrow], "gamma")),
            scaling: self.alpha / self.rank as f64,
            dropout: self.dropout,
            a: ctx.shared_name("a"),
            b: ctx.shared_name("b"),
        })
    }
}

impl Method for RandLoraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("RANDLORA"),
        ..MethodMeta::graft(
            "randlora",
            "RandLoRA",
            Family::Lowrank,
            "2502.00987",
            "y = x W + b + s x sum_i B_i diag(lambda_i) A diag(gamma_i), A and B random, frozen, shared",
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
        let small = Self {
            rank: 4,
            alpha: 6.0,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                rank: 3,
                dropout: 0.1,
                basis: RandBasis::Sparse,
                ..small.clone()
            },
            Self {
                rank: 20,
                basis: RandBasis::VerySparse,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::Mode;
    use engraft_linalg::svd;
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing;

    fn small(rank: usize) -> RandLoraConfig {
        RandLoraConfig {
            rank,
            alpha: 4.0,
            ..RandLoraConfig::default()
        }
    }

    #[test]
    fn the_count_is_the_published_one() {
        let config = RandLoraConfig::default();
        assert_eq!(
            testing::counts(&config, &testing::llama_3b_qv()).all_trained(),
            9_289_728
        );
    }

    #[test]
    fn forms_agree_wide_and_tall() {
        testing::forms_agree(&small(3), 7, 11).unwrap();
        testing::forms_agree(&small(3), 11, 7).unwrap();
    }

    #[test]
    fn the_update_of_rank_3_bases_has_full_rank() {
        let adapted = testing::moved(&small(3), 7, 11);
        let layer = &adapted.model.block.fc1;
        let changed = layer.effective(&adapted.ctx(Mode::Eval)).unwrap().weight();
        let update = bridge::to_matrix(&(changed - layer.weight.val()));
        let singular = svd(&update).unwrap().s;
        assert!(singular[6] > 1e-6 * singular[0], "{singular:?}");
    }
}
