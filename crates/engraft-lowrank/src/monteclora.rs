//! MonteCLoRA: LoRA whose A is an average of Monte Carlo samples in training.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, Scaling, dropout, refuse_dropout,
};
use engraft_tensor::{Init, Key, bridge};
use serde::{Deserialize, Serialize};

use crate::lora::{Lora, LoraConfig};

/// Smallest variance of a column of A's noise.
const LEAST_VARIANCE: f64 = 1e-3;
/// Smallest concentration, and what keeps the covariance of the weights positive.
const EPSILON: f64 = 1e-6;

/// Configuration of [`Monteclora`]. Rank 8, alpha 16 as LoRA; 8 samples of scale 1e-4, as in PEFT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MontecloraConfig {
    /// Rank r.
    pub rank: usize,
    /// alpha; see [`Scaling`].
    pub alpha: f64,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Whether an offset c is trained behind B.
    pub bias: bool,
    /// Samples N of a forward pass.
    pub samples: usize,
    /// Scale e of the noise.
    pub sample_scaler: f64,
}

impl Default for MontecloraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            scaling: Scaling::Classic,
            dropout: 0.0,
            bias: false,
            samples: 8,
            sample_scaler: 1e-4,
        }
    }
}

impl MontecloraConfig {
    fn lora(&self) -> LoraConfig {
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha,
            scaling: self.scaling,
            dropout: self.dropout,
            bias: self.bias,
            ..LoraConfig::default()
        }
    }
}

/// y = x W + b + s (x A' B + c), in training with A' = A + e (sum_n w_n Z_n) V^(1/2), otherwise
/// A' = A.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A, B, c | as in [`Lora`] | trained |
/// | Z_n | [d_in, r] | N(0, 1), drawn in every step |
/// | V | diagonal, [r, r] | exp(2 `std_prior`) . diag(Wishart_r(I)), at least 1e-3 |
/// | w | `[N]` | softmax of a normal that approximates Dirichlet(exp(`expert_weights_prior`)) in log space |
/// | `std_prior`, `expert_weights_prior` | `[r]`, `[N]` | trained, U(0, 1) at first |
/// | `gaussian_var_prior`, `expert_weights` | [r, r], `[N]` | PEFT's records of V and w; stored, not used |
///
/// Sengupta et al., Robust and Efficient Fine-tuning of LLMs with Bayesian Reparameterization of
/// Low-Rank Adaptation, arXiv 2411.04358, section 3, as PEFT's `monteclora` computes it: w sums to
/// one, so that A enters unchanged, and the diagonal of a Wishart matrix of r degrees of freedom is
/// r independent chi-squared variables. The draws depend on (seed, path, step) alone. The
/// divergence terms that the paper adds to the loss are the training loop's affair, as in PEFT.
/// The activation form costs LoRA's, and N d_in r draws a step in training.
#[derive(Module, Debug)]
pub struct Monteclora {
    /// A, B, c and their scaling.
    pub lora: Lora,
    /// Logarithms of the deviations, `[r]`.
    pub std_prior: Param<Tensor<1>>,
    /// Logarithms of the concentrations, `[N]`.
    pub expert_weights_prior: Param<Tensor<1>>,
    /// [r, r].
    pub gaussian_var_prior: Param<Tensor<2>>,
    /// `[N]`.
    pub expert_weights: Param<Tensor<1>>,
    /// e.
    pub sample_scaler: f64,
}

impl Monteclora {
    /// w, `[N]`, from standard normal `draws`.
    fn weights(&self, draws: Tensor<1>) -> Tensor<1> {
        let alpha = self.expert_weights_prior.val().exp().clamp_min(EPSILON);
        let (log, n) = (alpha.clone().log(), alpha.dims()[0] as f64);
        let inverse = alpha.recip();
        let own = inverse.clone() * (1.0 - 2.0 / n);
        let variance = (own + inverse.sum() / (n * n)).clamp_min(EPSILON) + EPSILON;
        let mean = log.clone().mean();
        softmax(variance.sqrt() * draws + log - mean, 0)
    }

    /// The noise on A, [d_in, r].
    fn noise(&self, key: &Key) -> Tensor<2> {
        let std_prior = self.std_prior.val();
        let (device, dtype) = (std_prior.device(), std_prior.dtype());
        let [d_in, rank] = self.lora.a.dims();
        let samples = self.expert_weights_prior.dims()[0];
        let normal = |count, role: &str| Init::Normal { std: 1.0 }.values(count, &key.child(role));
        let z = bridge::tensor(
            normal(samples * d_in * rank, "samples"),
            [samples, d_in * rank],
            &device,
            dtype,
        );
        let squares = normal(rank * rank, "wishart");
        let chi_squared = squares
            .chunks(rank)
            .map(|row| row.iter().map(|x| x * x).sum())
            .collect();
        let wishart = bridge::tensor(chi_squared, [rank], &device, dtype);
        let weights = self.weights(bridge::tensor(
            normal(samples, "weights"),
            [samples],
            &device,
            dtype,
        ));
        let variance = ((std_prior * 2.0).exp() * wishart).clamp_min(LEAST_VARIANCE);
        let mixed = weights.unsqueeze::<2>().matmul(z).reshape([d_in, rank]);
        mixed * (variance.sqrt() * self.sample_scaler).unsqueeze()
    }

    /// A', [d_in, r], in this pass.
    fn sampled(&self, ctx: &Ctx) -> Tensor<2> {
        let a = self.lora.a.val();
        match ctx.key("monteclora") {
            Some(key) => a + self.noise(&key),
            None => a,
        }
    }
}

impl Adapter for Monteclora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("monteclora", self.lora.dropout, ctx)?;
        Ok(self.lora.layer(self.sampled(ctx), base))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let narrow = dropout(x.clone(), self.lora.dropout, ctx).matmul(self.sampled(ctx));
        self.lora.widen(x, narrow, base)
    }
}

impl Graft for MontecloraConfig {
    type Adapter = Monteclora;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let trained = self.lora().count(layer).trainable + self.rank + self.samples;
        Counts::with_frozen(trained, self.rank * self.rank + self.samples)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Monteclora> {
        let (rank, samples) = (self.rank, self.samples);
        // U(0, 1) from U(-1/2, 1/2).
        let uniform = |count: usize, role: &str| {
            Param::from_tensor(ctx.tensor(Init::Uniform { bound: 0.5 }, [count], role) + 0.5)
        };
        let eye = (0..rank * rank)
            .map(|at| f64::from(u8::from(at % (rank + 1) == 0)))
            .collect();
        let even = Init::Constant(1.0 / samples as f64);
        Ok(Monteclora {
            lora: self.lora().init(base, ctx)?,
            std_prior: uniform(rank, "std_prior"),
            expert_weights_prior: uniform(samples, "expert_weights_prior"),
            gaussian_var_prior: Param::from_tensor(bridge::tensor(
                eye,
                [rank, rank],
                &ctx.device,
                ctx.dtype,
            ))
            .set_require_grad(false),
            expert_weights: Param::from_tensor(ctx.tensor(even, [samples], "expert_weights"))
                .set_require_grad(false),
            sample_scaler: self.sample_scaler,
        })
    }
}

impl Method for MontecloraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        ..MethodMeta::graft(
            "monteclora",
            "MonteCLoRA",
            Family::Lowrank,
            "2411.04358",
            "y = x W + b + s (x (A + e (sum_n w_n Z_n) V^(1/2)) B + c) in training, LoRA otherwise",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if self.samples == 0 {
            return Err("samples 0: expected at least 1".to_owned());
        }
        if !self.sample_scaler.is_finite() {
            return Err(format!(
                "sample-scaler {}: expected a finite number",
                self.sample_scaler
            ));
        }
        self.lora().validate()
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 2,
            alpha: 3.0,
            samples: 3,
            sample_scaler: 0.1,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                scaling: Scaling::RankStabilised,
                bias: true,
                dropout: 0.1,
                samples: 1,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::{Bank, Mode};

    use super::*;
    use crate::testing::{attach, base, largest, normal};

    #[test]
    fn weights_are_a_distribution_and_follow_the_concentrations() {
        let config = MontecloraConfig {
            samples: 3,
            ..MontecloraConfig::default()
        };
        let mut adapter = attach(&config, &base([4, 3]));
        let weights = bridge::values(&adapter.weights(normal([3], "z")));
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let prior = bridge::tensor(
            vec![0.0, 5.0, 0.0],
            [3],
            &burn::tensor::Device::default(),
            burn::tensor::DType::F64,
        );
        adapter.expert_weights_prior = Param::from_tensor(prior);
        let weights = bridge::values(&adapter.weights(normal([3], "z") * 0.0));
        // softmax of (-5/3, 10/3, -5/3).
        assert!((weights[1] - 1.0 / (1.0 + 2.0 * (-5f64).exp())).abs() < 1e-12);
    }

    #[test]
    fn noise_has_the_stated_deviation_and_is_absent_in_evaluation() {
        let config = MontecloraConfig {
            rank: 2,
            samples: 1,
            sample_scaler: 0.5,
            ..MontecloraConfig::default()
        };
        let base = base([2000, 3]);
        let mut adapter = attach(&config, &base);
        adapter.std_prior = Param::from_tensor(normal([2], "std"));
        let bank = Bank::default();
        let of = |step| adapter.sampled(&Ctx::new(&bank, Mode::Train { seed: 1, step }));
        let key = Ctx::new(&bank, Mode::Train { seed: 1, step: 4 })
            .key("monteclora")
            .unwrap();
        let draws = Init::Normal { std: 1.0 }.values(4, &key.child("wishart"));
        let noise = bridge::to_matrix(&(of(4) - adapter.lora.a.val()));
        for (column, log_std) in bridge::values(&adapter.std_prior.val()).iter().enumerate() {
            let chi: f64 = draws[2 * column..2 * column + 2]
                .iter()
                .map(|x| x * x)
                .sum();
            let expected = 0.5 * log_std.exp() * chi.sqrt();
            let found = (0..2000)
                .map(|row| noise.get(row, column).powi(2))
                .sum::<f64>()
                / 2000.0;
            // Five standard errors of a variance.
            let error = (found / expected.powi(2) - 1.0).abs();
            assert!(error < 5.0 * (2.0f64 / 2000.0).sqrt(), "{error}");
        }
        assert!(largest(of(4) - of(5)) > 0.0);
        let plain = adapter.sampled(&Ctx::default());
        assert_eq!(largest(plain - adapter.lora.a.val()), 0.0);
    }
}
