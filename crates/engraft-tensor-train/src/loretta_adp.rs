//! LoRETTA_adp: bottleneck adapters whose projections are in tensor-train form.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Activation, Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts,
    Result, SiteAdapter, SiteGraft, SiteKind, SiteShape, Sublayers, check_dropout, dropout,
    positive_rank,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::modes::modes;
use crate::tt::{TensorTrain, numel};

/// Configuration of [`LorettaAdp`]. Defaults of the authors' code: after both sublayers, width 64,
/// tensor rank 5, ReLU, no scaling, no dropout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LorettaAdpConfig {
    /// `both`, `feed-forward` or `attention`.
    pub after: Sublayers,
    /// Width m of the bottleneck.
    pub width: usize,
    /// Rank R of the tensor trains.
    pub tensor_rank: usize,
    /// f.
    pub activation: Activation,
    /// s.
    pub scale: f64,
    /// Probability of zeroing an input of the bottleneck in training.
    pub dropout: f64,
}

impl Default for LorettaAdpConfig {
    fn default() -> Self {
        Self {
            after: Sublayers::Both,
            width: 64,
            tensor_rank: 5,
            activation: Activation::Relu,
            scale: 1.0,
            dropout: 0.0,
        }
    }
}

/// z + s (f(z D + b_D) U + b_U), z what a sublayer returned, with D and U in tensor-train form.
///
/// | symbol | shape | |
/// |---|---|---|
/// | D (`down`) | [d, m] | trained [`TensorTrain`], Gaussian at first |
/// | U (`up`) | [m, d] | trained [`TensorTrain`], Gaussian at first but for its last core, zero |
/// | b_D | `[m]` | trained; U(-1/sqrt(m), 1/sqrt(m)) at first |
/// | b_U | `[d]` | trained; zero at first |
///
/// Yang et al., LoRETTA: Low-Rank Economic Tensor-Train Adaptation, arXiv 2402.11417, section 3;
/// mode sizes and starting values as in the authors' code (utils/tensor_util.py and
/// tensor_layers/layers.py). There U and b_U are random too, so that training does not start at
/// the pretrained model; here they start at zero. The paper trains layer norms too: compose with
/// a selection.
///
/// Cost: O(tokens d m + R d m), the second part to put D and U together.
#[derive(Module, Debug)]
pub struct LorettaAdp {
    /// D, [d, m].
    pub down: TensorTrain,
    /// b_D, `[m]`.
    pub down_bias: Param<Tensor<1>>,
    /// U, [m, d].
    pub up: TensorTrain,
    /// b_U, `[d]`.
    pub up_bias: Param<Tensor<1>>,
    /// f.
    #[module(skip)]
    pub activation: Activation,
    /// s.
    pub scale: f64,
    /// Dropout probability on the inputs of D.
    pub dropout: f64,
}

impl SiteAdapter for LorettaAdp {
    fn wrap(&self, _: Tensor<2>, output: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let dropped = dropout(output.clone(), self.dropout, ctx);
        let narrow = dropped.matmul(self.down.matrix()) + self.down_bias.val().unsqueeze();
        let wide = self.activation.apply(narrow).matmul(self.up.matrix());
        output + (wide + self.up_bias.val().unsqueeze()) * self.scale
    }
}

impl SiteGraft for LorettaAdpConfig {
    type Adapter = LorettaAdp;

    const SITES: &'static [SiteKind] = &[SiteKind::Sublayer];

    fn takes(&self, site: &SiteShape) -> bool {
        self.after.include(site)
    }

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        let train = numel(&modes(site.width, self.width), self.tensor_rank);
        Counts::trained(2 * train + self.width + site.width)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<LorettaAdp> {
        let (d, m) = (site.width, self.width);
        let train =
            |shape, role| TensorTrain::random(shape, &modes(d, m), self.tensor_rank, role, ctx);
        let bias = |init, width, role| Param::from_tensor(ctx.tensor(init, [width], role));
        Ok(LorettaAdp {
            down: train([d, m], "down"),
            down_bias: bias(Init::KaimingUniform { fan_in: m }, m, "down_bias"),
            up: train([m, d], "up").ending_in_zero(),
            up_bias: bias(Init::ZEROS, d, "up_bias"),
            activation: self.activation,
            scale: self.scale,
            dropout: self.dropout,
        })
    }
}

impl Method for LorettaAdpConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        admits: "any sublayer",
        ..MethodMeta::graft(
            "loretta-adp",
            "LoRETTA_adp",
            Family::TensorTrain,
            "2402.11417",
            "z + s (f(z D + b_D) U + b_U), D and U tensor trains",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if self.width == 0 {
            return Err("width 0: expected at least 1".to_owned());
        }
        if !self.scale.is_finite() {
            return Err(format!("scale {}: expected a finite number", self.scale));
        }
        positive_rank(self.tensor_rank).map_err(|reason| format!("tensor-{reason}"))?;
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            width: 4,
            tensor_rank: 2,
            activation: Activation::Tanh,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                after: Sublayers::FeedForward,
                width: 6,
                scale: 0.5,
                dropout: 0.2,
                ..small.clone()
            },
            Self {
                after: Sublayers::Attention,
                tensor_rank: 3,
                activation: Activation::Gelu,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::{Bank, FrozenBase};
    use engraft_tensor::{Key, bridge};

    use super::*;

    fn site(width: usize) -> SiteShape {
        SiteShape {
            path: "blocks.0.mlp".to_owned(),
            kind: SiteKind::Sublayer,
            width,
        }
    }

    #[test]
    fn it_starts_at_the_base_and_the_last_core_has_a_gradient() {
        let draw = |shape: [usize; 2]| {
            Init::Normal { std: 1.0 }.tensor(
                shape,
                &Key::new(2),
                &Device::default().autodiff(),
                DType::F64,
            )
        };
        let base = FrozenBase::new(draw([12, 12]), None);
        let config = LorettaAdpConfig {
            width: 4,
            tensor_rank: 2,
            activation: Activation::Tanh,
            ..LorettaAdpConfig::default()
        };
        let bank = Bank::default();
        let adapter = config
            .init(
                &site(12),
                &InitContext::new(5, "blocks.0.mlp", "default", &base, &bank),
            )
            .unwrap();
        let z = draw([6, 12]);
        let y = adapter.wrap(z.clone(), z.clone(), &Ctx::default());
        assert_eq!(bridge::values(&y), bridge::values(&z));
        let grads = (y.clone() * y).sum().backward();
        let last = adapter.up.cores.last().unwrap().val().grad(&grads).unwrap();
        assert!(bridge::values(&last).iter().any(|value| value.abs() > 1e-6));
    }

    #[test]
    fn counts_are_the_published_ones() {
        // 1,100 values a projection of 4096 to 64. Two adapters and two norms in each of the 32
        // layers of LLaMA-2-7B are 669,184; the paper's 0.88M places them otherwise.
        let config = LorettaAdpConfig::default();
        let count = config.count(&site(4096)).trainable;
        assert_eq!(count, 2 * 1_100 + 64 + 4096);
        assert_eq!(32 * (2 * count + 2 * 4096), 669_184);
    }
}
