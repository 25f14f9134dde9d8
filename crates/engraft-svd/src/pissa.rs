//! PiSSA: principal singular values and vectors adaptation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, Scaling, admit_rank, check_dropout, dropout, positive_rank, refuse_dropout,
};
use serde::{Deserialize, Serialize};

use crate::spectrum::{frozen, leading, tensor};

/// Configuration of [`Pissa`]. Paper defaults: rank 128, alpha = rank, no dropout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PissaConfig {
    /// Rank r, at most min(d_in, d_out).
    pub rank: usize,
    /// alpha; the rank if left out.
    pub alpha: Option<f64>,
    /// `classic`, or `rank-stabilised` as in rsLoRA.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Power iterations of the randomised SVD; 0 for the exact one. The test matrix has r + 10
    /// columns (PEFT's `pissa_niter_n` takes r, which is less accurate at the same cost).
    pub niter: usize,
}

impl Default for PissaConfig {
    fn default() -> Self {
        Self {
            rank: 128,
            alpha: None,
            scaling: Scaling::Classic,
            dropout: 0.0,
            niter: 0,
        }
    }
}

/// y = x (W - s A0 B0) + b + s x A B, with W ~ U S V^T and A0 = U_r (S_r / s)^1/2,
/// B0 = (S_r / s)^1/2 V_r^T.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A, B | [d_in, r], [r, d_out] | trained, A0 and B0 at first |
/// | A0, B0 | [d_in, r], [r, d_out] | frozen, in the adapter file |
/// | s | | alpha / r, or alpha / sqrt(r) |
///
/// Meng et al., PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language
/// Models, arXiv 2404.02948, section 3. The residual W - s A0 B0 is this adapter's own base (see
/// [`Adapter::rebase`]); A0 and B0 are stored so that it does not hang on reproducing an SVD.
/// The activation form costs O(tokens (d_in d_out + r (d_in + d_out))), as LoRA's.
#[derive(Module, Debug)]
pub struct Pissa {
    /// A, [d_in, r].
    pub a: Param<Tensor<2>>,
    /// B, [r, d_out].
    pub b: Param<Tensor<2>>,
    /// A0, [d_in, r].
    pub a0: Param<Tensor<2>>,
    /// B0, [r, d_out].
    pub b0: Param<Tensor<2>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of A.
    pub dropout: f64,
}

impl Pissa {
    /// The same adapter as a LoRA on the original weight: A' = [A, A0], [d_in, 2r], and
    /// B' = [B; -B0], [2r, d_out], with W + s A' B' = (W - s A0 B0) + s A B. The scaling stays s: a
    /// file that states rank 2r has alpha 2 alpha (sqrt(2) alpha when rank-stabilised).
    pub fn to_lora(&self) -> (Tensor<2>, Tensor<2>) {
        (
            Tensor::cat(vec![self.a.val(), self.a0.val()], 1),
            Tensor::cat(vec![self.b.val(), -self.b0.val()], 0),
        )
    }
}

impl Adapter for Pissa {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("pissa", self.dropout, ctx)?;
        Ok(
            base.with_weight(
                base.weight.clone() + self.a.val().matmul(self.b.val()) * self.scaling,
            ),
        )
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let narrow = dropout(x.clone(), self.dropout, ctx).matmul(self.a.val()) * self.scaling;
        base.forward(x) + narrow.matmul(self.b.val())
    }

    fn rebase(&self, base: &FrozenBase) -> Option<FrozenBase> {
        let principal = self.a0.val().matmul(self.b0.val()) * self.scaling;
        Some(base.with_weight((base.weight.clone() - principal).detach()))
    }
}

impl Graft for PissaConfig {
    type Adapter = Pissa;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_rank(self.rank, layer.max_rank())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let factors = self.rank * (layer.d_in + layer.d_out);
        Counts::with_frozen(factors, factors)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Pissa> {
        let scaling = self
            .scaling
            .factor(self.alpha.unwrap_or(self.rank as f64), self.rank);
        let principal = leading(base, self.rank, self.niter, ctx)?;
        let roots: Vec<f64> = principal
            .s
            .iter()
            .map(|value| (value / scaling).sqrt())
            .collect();
        let a0 = tensor(
            &principal
                .u
                .scale_columns(&roots)
                .map_err(|error| ctx.numeric(error))?,
            ctx,
        );
        let b0 = tensor(
            &principal
                .vt
                .scale_rows(&roots)
                .map_err(|error| ctx.numeric(error))?,
            ctx,
        );
        Ok(Pissa {
            a: Param::from_tensor(a0.clone()),
            b: Param::from_tensor(b0.clone()),
            a0: frozen(a0),
            b0: frozen(b0),
            scaling,
            dropout: self.dropout,
        })
    }
}

impl Method for PissaConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        admits: "a linear layer with min(d_in, d_out) of at least the rank",
        ..MethodMeta::graft(
            "pissa",
            "PiSSA",
            Family::Svd,
            "2404.02948",
            "y = x (W - s A0 B0) + b + s x A B, s A0 B0 = U_r S_r V_r^T",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        match self.alpha {
            Some(alpha) if !(alpha.is_finite() && alpha > 0.0) => Err(format!(
                "alpha {alpha}: expected a positive number, because the singular values are divided by it"
            )),
            _ => Ok(()),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let rank = layer.max_rank().min(3);
        let small = Self {
            rank,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                alpha: Some(5.0),
                scaling: Scaling::RankStabilised,
                niter: 2,
                ..small.clone()
            },
            Self {
                rank: layer.max_rank(),
                alpha: Some(1.0),
                dropout: 0.1,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::Bank;
    use engraft_tensor::{Init, Key, bridge};

    use super::*;

    fn base() -> FrozenBase {
        let draw = |shape, role: &str| {
            Init::Normal { std: 1.0 }.tensor(
                shape,
                &Key::new(1).child(role),
                &Device::default(),
                DType::F64,
            )
        };
        FrozenBase::new(draw([12, 7], "w"), None)
    }

    fn attach(config: &PissaConfig, base: &FrozenBase) -> Pissa {
        config
            .init(
                base,
                &InitContext::new(3, "fc", "default", base, &Bank::default()),
            )
            .unwrap()
    }

    fn largest(tensor: Tensor<2>) -> f64 {
        bridge::values(&tensor)
            .into_iter()
            .fold(0.0, |most, value| most.max(value.abs()))
    }

    #[test]
    fn the_residual_has_the_remaining_singular_values() {
        let base = base();
        let adapter = attach(
            &PissaConfig {
                rank: 3,
                alpha: Some(6.0),
                ..PissaConfig::default()
            },
            &base,
        );
        let residual = adapter.rebase(&base).unwrap();
        let all = engraft_linalg::svd(&bridge::to_matrix(&base.weight))
            .unwrap()
            .s;
        let rest = engraft_linalg::svd(&bridge::to_matrix(&residual.weight))
            .unwrap()
            .s;
        for (expected, found) in all[3..].iter().chain(&[0.0; 3]).zip(&rest) {
            assert!(
                (expected - found).abs() < 1e-12 * all[0],
                "{expected} {found}"
            );
        }
    }

    #[test]
    fn as_a_lora_on_the_original_weight_it_is_the_same_map() {
        let base = base();
        let mut adapter = attach(
            &PissaConfig {
                rank: 2,
                alpha: Some(4.0),
                niter: 3,
                ..PissaConfig::default()
            },
            &base,
        );
        adapter.a = adapter.a.map(|a| a * 1.5 + 0.1);
        let own = adapter
            .effective(&adapter.rebase(&base).unwrap(), &Ctx::default())
            .unwrap()
            .weight;
        let (a, b) = adapter.to_lora();
        assert_eq!((a.dims(), b.dims()), ([12, 4], [4, 7]));
        let lora = base.weight + a.matmul(b) * adapter.scaling;
        assert!(largest(own - lora) < 1e-12);
    }

    #[test]
    fn counts_are_the_published_ones() {
        // LLaMA-2-7B, rank 128, all seven linear layers: 320M trained.
        let pissa = PissaConfig::default();
        let of = |d_in, d_out| {
            pissa
                .count(&LayerShape::linear("fc", d_in, d_out, false))
                .trainable
        };
        assert_eq!(
            32 * (4 * of(4096, 4096) + 2 * of(4096, 11008) + of(11008, 4096)),
            319_815_680
        );
        assert!(
            pissa
                .admits(&LayerShape::linear("fc", 200, 100, false))
                .unwrap_err()
                .contains("at most min(d_in, d_out) = 100")
        );
    }
}
