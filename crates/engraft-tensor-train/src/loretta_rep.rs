//! LoRETTA_rep: low-rank factors in tensor-train form.

use burn::module::Module;
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, Scaling, check_dropout, positive_rank, refuse_dropout,
};
use serde::{Deserialize, Serialize};

use crate::modes::modes;
use crate::tt::{TensorTrain, numel};

/// Configuration of [`LorettaRep`]. Paper defaults: rank 8, tensor rank 5; alpha 16.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LorettaRepConfig {
    /// Rank r of the product A B.
    pub rank: usize,
    /// Rank R of the tensor trains.
    pub tensor_rank: usize,
    /// alpha; s = alpha / r.
    pub alpha: f64,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
}

impl Default for LorettaRepConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            tensor_rank: 5,
            alpha: 16.0,
            dropout: 0.0,
        }
    }
}

/// y = x (W - s A0 B0) + b + s x A B, with A and B in tensor-train form and A0, B0 their first values.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [d_in, r] | trained [`TensorTrain`], Gaussian at first |
/// | B | [r, d_out] | trained [`TensorTrain`], Gaussian at first |
/// | A0, B0 | [d_in, r], [r, d_out] | frozen, grown again from the seed |
///
/// Yang et al., LoRETTA: Low-Rank Economic Tensor-Train Adaptation, arXiv 2402.11417, section 3. A
/// zero core would leave the other cores of its train without gradient, so all cores start from a
/// Gaussian and the noise A0 B0 is taken off the frozen weight. The authors' released code leaves
/// it in, so that training there does not start at the pretrained model. The paper trains layer
/// norms too: compose with a selection.
///
/// The activation form costs O(tokens (d_in d_out + r (d_in + d_out)) + R r (d_in + d_out)).
#[derive(Module, Debug)]
pub struct LorettaRep {
    /// A, [d_in, r].
    pub a: TensorTrain,
    /// B, [r, d_out].
    pub b: TensorTrain,
    /// A0, [d_in, r].
    a0: Tensor<2>,
    /// B0, [r, d_out].
    b0: Tensor<2>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of A.
    pub dropout: f64,
}

impl Adapter for LorettaRep {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("loretta-rep", self.dropout, ctx)?;
        let factors = (self.a.matrix(), self.b.matrix());
        Ok(base.with_low_rank(factors, self.scaling))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let factors = (self.a.matrix(), self.b.matrix());
        base.low_rank(x, factors, self.scaling, self.dropout, ctx)
    }

    fn rebase(&self, base: &FrozenBase) -> Option<FrozenBase> {
        let noise = self.a0.clone().matmul(self.b0.clone()) * self.scaling;
        Some(base.with_weight((base.weight() - noise).detach()))
    }
}

impl Graft for LorettaRepConfig {
    type Adapter = LorettaRep;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let train = |d| numel(&modes(d, self.rank), self.tensor_rank);
        Counts::trained(train(layer.d_in) + train(layer.d_out))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<LorettaRep> {
        let (d_in, d_out, rank) = (base.d_in(), base.d_out(), self.rank);
        let a = TensorTrain::random([d_in, rank], &modes(d_in, rank), self.tensor_rank, "a", ctx);
        let b = TensorTrain::random(
            [rank, d_out],
            &modes(d_out, rank),
            self.tensor_rank,
            "b",
            ctx,
        );
        Ok(LorettaRep {
            a0: a.matrix().detach(),
            b0: b.matrix().detach(),
            a,
            b,
            scaling: Scaling::Classic.factor(self.alpha, rank),
            dropout: self.dropout,
        })
    }
}

impl Method for LorettaRepConfig {
    const META: MethodMeta = MethodMeta::graft(
        "loretta-rep",
        "LoRETTA_rep",
        Family::TensorTrain,
        "2402.11417",
        "y = x (W - s A0 B0) + b + s x A B, A and B tensor trains",
    );

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        positive_rank(self.tensor_rank).map_err(|reason| format!("tensor-{reason}"))?;
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        vec![
            Self {
                rank: 4,
                tensor_rank: 2,
                alpha: 4.0,
                ..Self::default()
            },
            Self {
                rank: 3,
                tensor_rank: 3,
                alpha: 1.0,
                dropout: 0.1,
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

    #[test]
    fn starts_at_the_base_with_gradients_at_every_core() {
        let draw = |shape| {
            Init::Normal { std: 1.0 }.tensor(
                shape,
                &Key::new(2),
                &Device::default().autodiff(),
                DType::F64,
            )
        };
        let base = FrozenBase::new(draw([12, 10]), None);
        let config = LorettaRepConfig {
            rank: 4,
            tensor_rank: 2,
            ..LorettaRepConfig::default()
        };
        let adapter = config
            .init(
                &base,
                &InitContext::new(5, "fc", "default", &base, &Bank::default()),
            )
            .unwrap();
        let rebased = adapter.rebase(&base).unwrap();
        let x = draw([6, 12]);
        let y = adapter.forward(x.clone(), &rebased, &Ctx::default());
        let worst = bridge::to_matrix(&(y.clone() - base.forward(x))).max_abs();
        assert!(worst < 1e-12, "{worst:e}");
        let grads = (y.clone() * y).sum().backward();
        for core in adapter.a.cores.iter().chain(&adapter.b.cores) {
            let gradient = core.val().grad(&grads).expect("every core is trained");
            assert!(
                bridge::values(&gradient)
                    .iter()
                    .any(|value| value.abs() > 1e-9)
            );
        }
    }

    #[test]
    fn counts_follow_the_published_mode_sizes() {
        // 4096 at rank 8 is [16, 16, 8, 4, 4]: 800 values per factor; q and v of LLaMA-2-7B.
        let config = LorettaRepConfig::default();
        assert_eq!(
            config
                .count(&LayerShape::linear("q", 4096, 4096, false))
                .trainable,
            1_600
        );
        // An adapter of width 64 on 4096: [16, 16, 16, 4, 4, 4], 1,100 values.
        assert_eq!(numel(&modes(4096, 64), 5), 1_100);
    }
}
