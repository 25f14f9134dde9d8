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

use crate::gamma::{digamma, ln_gamma};
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
    /// Weight of the divergence from the prior in the loss.
    pub kl_loss_weight: f64,
    /// Concentration of the Dirichlet prior of the weights.
    pub dirichlet_prior: f64,
    /// Whether the squared length of w is added to the loss, which keeps w even.
    pub use_entropy: bool,
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
            kl_loss_weight: 1e-5,
            dirichlet_prior: 0.1,
            use_entropy: false,
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
/// r independent chi-squared variables. The draws depend on (seed, path, step) alone. The loss
/// gains the divergences of Dirichlet, Wishart and normal distribution from their priors, summed
/// over the adapted layers (PEFT averages over them, leaves adding them to the user, and has the
/// sign of one term of the Dirichlet divergence reversed). The activation form costs LoRA's, and
/// N d_in r draws a step in training.
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
    /// Weight of the divergences in the loss.
    pub kl_loss_weight: f64,
    /// Concentration of the Dirichlet prior.
    pub dirichlet_prior: f64,
    /// Whether w's squared length is in the loss.
    pub use_entropy: bool,
}

impl Monteclora {
    /// w, `[N]`, in the step of `key`.
    fn weights(&self, key: &Key) -> Tensor<1> {
        let like = self.expert_weights_prior.val();
        let draws = normal(like.dims(), "weights", key, &like);
        let alpha = self.expert_weights_prior.val().exp().clamp_min(EPSILON);
        let (log, n) = (alpha.clone().log(), alpha.dims()[0] as f64);
        let inverse = alpha.recip();
        let own = inverse.clone() * (1.0 - 2.0 / n);
        let variance = (own + inverse.sum() / (n * n)).clamp_min(EPSILON) + EPSILON;
        let mean = log.clone().mean();
        softmax(variance.sqrt() * draws + log - mean, 0)
    }

    /// The diagonal of V, `[r]`, in the step of `key`.
    fn variance(&self, key: &Key) -> Tensor<1> {
        let std_prior = self.std_prior.val();
        let [rank] = std_prior.dims();
        let draws = normal([rank, rank], "wishart", key, &std_prior);
        let wishart = (draws.clone() * draws).sum_dim(1).squeeze_dim::<1>(1);
        ((std_prior * 2.0).exp() * wishart).clamp_min(LEAST_VARIANCE)
    }

    /// The noise on A, [d_in, r].
    fn noise(&self, key: &Key) -> Tensor<2> {
        let weights = self.weights(key);
        let ([d_in, rank], [samples]) = (self.lora.a.dims(), weights.dims());
        let z = normal([samples, d_in * rank], "samples", key, &weights);
        let mixed = weights.unsqueeze::<2>().matmul(z).reshape([d_in, rank]);
        mixed * (self.variance(key).sqrt() * self.sample_scaler).unsqueeze()
    }

    /// The divergence of Dirichlet(exp(`expert_weights_prior`)) from the prior, `[1]`.
    fn dirichlet_divergence(&self) -> Tensor<1> {
        let alpha = self.expert_weights_prior.val().exp();
        let prior = alpha.zeros_like() + self.dirichlet_prior;
        let normaliser = |alpha: Tensor<1>| ln_gamma(alpha.clone().sum()) - ln_gamma(alpha).sum();
        let slope = digamma(alpha.clone()) - digamma(alpha.clone().sum());
        let along = ((alpha.clone() - prior.clone()) * slope).sum();
        normaliser(alpha) - normaliser(prior) + along
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

/// tr V - ln det V - r for diagonal V, `[1]`: twice the divergence of N(0, V) from N(0, 1).
fn excess(variance: Tensor<1>) -> Tensor<1> {
    (variance.clone() - variance.log() - 1.0).sum()
}

/// Standard normal draws of the step of `key`, where and as `like` is.
fn normal<const D: usize>(shape: [usize; D], role: &str, key: &Key, like: &Tensor<1>) -> Tensor<D> {
    let init = Init::Normal { std: 1.0 };
    init.tensor(shape, &key.child(role), &like.device(), like.dtype())
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

    fn penalty(&self, _: &FrozenBase, ctx: &Ctx) -> Option<Tensor<1>> {
        let key = ctx.key("monteclora")?;
        let rank = self.std_prior.dims()[0] as f64;
        let samples = self.expert_weights_prior.dims()[0] as f64;
        let wishart = excess((self.std_prior.val() * 2.0).exp()) * (0.5 * rank);
        let normal = excess(self.variance(&key)) * (0.5 * samples);
        let divergence = self.dirichlet_divergence() + wishart + normal;
        let penalty = divergence * self.kl_loss_weight;
        Some(if self.use_entropy {
            let weights = self.weights(&key);
            penalty + (weights.clone() * weights).sum()
        } else {
            penalty
        })
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
            kl_loss_weight: self.kl_loss_weight,
            dirichlet_prior: self.dirichlet_prior,
            use_entropy: self.use_entropy,
        })
    }
}

impl Method for MontecloraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        regularised: true,
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
        if !self.sample_scaler.is_finite() || !self.kl_loss_weight.is_finite() {
            return Err(format!(
                "sample-scaler {} and kl-loss-weight {}: expected finite numbers",
                self.sample_scaler, self.kl_loss_weight
            ));
        }
        if !(self.dirichlet_prior.is_finite() && self.dirichlet_prior > 0.0) {
            return Err(format!(
                "dirichlet-prior {}: expected a positive number",
                self.dirichlet_prior
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
                kl_loss_weight: 0.1,
                use_entropy: true,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::{Bank, Mode};

    use super::*;
    use crate::testing::{self, attach, base, largest};

    fn prior(values: Vec<f64>) -> Param<Tensor<1>> {
        let (count, device) = (values.len(), Device::default());
        Param::from_tensor(bridge::tensor(values, [count], &device, DType::F64))
    }

    #[test]
    fn weights_are_a_distribution_and_follow_the_concentrations() {
        let config = MontecloraConfig {
            samples: 3,
            ..MontecloraConfig::default()
        };
        let mut adapter = attach(&config, &base([4, 3]));
        let weights = |adapter: &Monteclora| bridge::values(&adapter.weights(&Key::new(7)));
        assert!((weights(&adapter).iter().sum::<f64>() - 1.0).abs() < 1e-12);
        // High concentrations leave little spread: softmax of (8, 13, 8).
        adapter.expert_weights_prior = prior(vec![8.0, 13.0, 8.0]);
        let expected = 1.0 / (1.0 + 2.0 * (-5f64).exp());
        assert!((weights(&adapter)[1] - expected).abs() < 1e-2);
    }

    #[test]
    fn divergences_vanish_at_the_priors_and_nowhere_else() {
        let config = MontecloraConfig {
            rank: 3,
            samples: 2,
            dirichlet_prior: 0.5,
            ..MontecloraConfig::default()
        };
        let mut adapter = attach(&config, &base([4, 3]));
        let dirichlet = |adapter: &Monteclora| bridge::values(&adapter.dirichlet_divergence())[0];
        adapter.expert_weights_prior = prior(vec![0.5f64.ln(); 2]);
        assert!(dirichlet(&adapter).abs() < 1e-10);
        // Beta(2, 1) from Beta(1/2, 1/2), by hand.
        adapter.expert_weights_prior = prior(vec![2f64.ln(), 0.0]);
        let expected = 2f64.ln() + std::f64::consts::PI.ln() - 1.5 * 0.5 - 0.5 * 1.5;
        assert!((dirichlet(&adapter) - expected).abs() < 1e-9);
        assert_eq!(bridge::values(&excess(prior(vec![1.0; 3]).val())), [0.0]);
        let twice = bridge::values(&excess(prior(vec![2.0]).val()))[0];
        assert!((twice - (1.0 - 2f64.ln())).abs() < 1e-12);
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
        adapter.std_prior = Param::from_tensor(testing::normal([2], "std"));
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
