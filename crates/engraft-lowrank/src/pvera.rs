//! PVeRA: VeRA with a learned distribution of its inner features.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, BankSpec, Counts, Ctx, Error, Family, FrozenBase, Graft, InitContext, LayerShape,
    Method, MethodMeta, Parts, Result, check_dropout, dropout, positive_rank,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

/// Configuration of [`Pvera`]. Defaults of the authors' code in PEFT: rank 256, d at 0.1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PveraConfig {
    /// Rank r of the shared projections.
    pub rank: usize,
    /// First value of every entry of d.
    pub d_initial: f64,
    /// Probability of zeroing an input in training.
    pub dropout: f64,
}

impl Default for PveraConfig {
    fn default() -> Self {
        Self {
            rank: 256,
            d_initial: 0.1,
            dropout: 0.0,
        }
    }
}

/// y = x W + b + (z B) . b_scale with z ~ N(mu, exp(log sigma^2)), (mu, log sigma^2) = (x A) . d.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [max d_in, 2 r] | bank, random, frozen; a layer uses its first d_in rows |
/// | B | [r, max d_out] | bank, random, frozen; a layer uses its first d_out columns |
/// | d (`lambda_d`) | `[2 r]` | trained, 0.1 at first |
/// | b_scale (`lambda_b`) | `[d_out]` | trained, zero at first |
///
/// In training z = mu + sigma eps with a standard normal eps for every token; in evaluation z = mu,
/// which is linear in x and merges. (The authors can also sample in evaluation; evaluation here is
/// deterministic.) Both forms cost O(tokens r (d_in + d_out)).
///
/// Probabilistic vector-based random matrix adaptation, arXiv 2512.07703; the authors' code in PEFT
/// is followed, which has no further term in the loss.
#[derive(Module, Debug)]
pub struct Pvera {
    /// d, `[2 r]`: of the means, then of the log variances.
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

impl Pvera {
    fn rank(&self) -> usize {
        self.lambda_d.val().dims()[0] / 2
    }

    /// The shared projections cut to this layer: [d_in, 2 r] and [r, d_out].
    fn projections(&self, base: &FrozenBase, ctx: &Ctx) -> (Tensor<2>, Tensor<2>) {
        (
            ctx.shared(&self.a).narrow(0, 0, base.d_in()),
            ctx.shared(&self.b).narrow(1, 0, base.d_out()),
        )
    }
}

impl Adapter for Pvera {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        if ctx.is_training() {
            return Err(Error::NoWeightForm {
                method: "pvera".to_owned(),
                path: ctx.path().to_owned(),
                reason: "its features are sampled in training; evaluate".to_owned(),
            });
        }
        let (a, b) = self.projections(base, ctx);
        let mean = (a * self.lambda_d.val().unsqueeze()).narrow(1, 0, self.rank());
        let update = mean.matmul(b * self.lambda_b.val().unsqueeze());
        Ok(base.with_weight(base.weight() + update))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let (a, b) = self.projections(base, ctx);
        let rank = self.rank();
        let inner = dropout(x.clone(), self.dropout, ctx);
        let z = match ctx.key("sample") {
            None => {
                inner.matmul(a.narrow(1, 0, rank))
                    * self.lambda_d.val().narrow(0, 0, rank).unsqueeze()
            }
            Some(key) => {
                let both = inner.matmul(a) * self.lambda_d.val().unsqueeze();
                let mean = both.clone().narrow(1, 0, rank);
                let deviation = (both.narrow(1, rank, rank) * 0.5).exp();
                let eps = Init::Normal { std: 1.0 }.tensor(
                    mean.dims(),
                    &key,
                    &mean.device(),
                    mean.dtype(),
                );
                mean + deviation * eps
            }
        };
        base.forward(x) + z.matmul(b) * self.lambda_b.val().unsqueeze()
    }
}

impl Graft for PveraConfig {
    type Adapter = Pvera;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(layer.d_out + 2 * self.rank)
    }

    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        let d_in = layers.iter().map(|layer| layer.d_in).max().unwrap_or(0);
        let d_out = layers.iter().map(|layer| layer.d_out).max().unwrap_or(0);
        // PyTorch's `kaiming_uniform_`, gain sqrt(2).
        let kaiming = |fan_in: usize| Init::Uniform {
            bound: (6.0 / fan_in.max(1) as f64).sqrt(),
        };
        vec![
            BankSpec::frozen("a", [d_in, 2 * self.rank], kaiming(d_in)),
            BankSpec::frozen("b", [self.rank, d_out], kaiming(self.rank)),
        ]
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Pvera> {
        let first = Init::Constant(self.d_initial);
        Ok(Pvera {
            lambda_d: Param::from_tensor(ctx.tensor(first, [2 * self.rank], "lambda_d")),
            lambda_b: Param::from_tensor(ctx.tensor(Init::ZEROS, [base.d_out()], "lambda_b")),
            dropout: self.dropout,
            a: ctx.shared_name("a"),
            b: ctx.shared_name("b"),
        })
    }
}

impl Method for PveraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("PVERA"),
        ..MethodMeta::graft(
            "pvera",
            "PVeRA",
            Family::Lowrank,
            "2512.07703",
            "y = x W + b + (z B) . b, z ~ N(mu, exp(log sigma^2)), (mu, log sigma^2) = (x A) . d",
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
                d_initial: 0.5,
                dropout: 0.2,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::Mode;
    use engraft_tensor::bridge;
    use engraft_testkit::random;

    use super::*;
    use crate::testing;

    #[test]
    fn the_count_is_the_published_one() {
        let counts = testing::counts(&PveraConfig::default(), &testing::llama_3b_qv());
        assert_eq!(counts.all_trained(), 143_360);
    }

    #[test]
    fn samples_scatter_around_the_evaluated_output() {
        let config = PveraConfig {
            rank: 4,
            ..PveraConfig::default()
        };
        testing::forms_agree(&config, 7, 5).unwrap();
        let adapted = testing::moved(&config, 7, 5);
        let layer = &adapted.model.block.fc1;
        let x = random::normal([6, 7], "x", &Device::default(), DType::F64);
        let y = |mode| bridge::values(&layer.forward(x.clone(), &adapted.ctx(mode)));
        let (mean, draws) = (y(Mode::Eval), 2000);
        let (mut sum, mut squares) = (vec![0.0; mean.len()], vec![0.0; mean.len()]);
        for step in 0..draws {
            for (entry, value) in y(Mode::Train { seed: 1, step }).into_iter().enumerate() {
                sum[entry] += value - mean[entry];
                squares[entry] += (value - mean[entry]).powi(2);
            }
        }
        for (sum, squares) in sum.iter().zip(&squares) {
            // Six standard errors of a mean of zero.
            assert!(*squares > 0.0 && sum.abs() < 6.0 * squares.sqrt());
        }
    }
}
