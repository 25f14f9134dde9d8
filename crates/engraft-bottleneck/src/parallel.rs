//! Parallel bottleneck adapters.

use burn::module::Module;
use burn::tensor::Tensor;
use engraft_core::{
    Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts, Result,
    SiteAdapter, SiteGraft, SiteKind, SiteShape,
};
use serde::{Deserialize, Serialize};

use crate::bottleneck::{Bottleneck, BottleneckShape};
use crate::{Activation, Sublayers};

/// Configuration of [`BottleneckParallel`]. Paper defaults: beside the feed-forward network, half
/// its width (512 of 1024), ReLU, s = 4.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct BottleneckParallelConfig {
    /// `feed-forward`, `attention` or `both`.
    pub beside: Sublayers,
    /// Width m of the bottleneck; the reduction factor decides where it is left out.
    pub width: Option<usize>,
    /// d / m.
    pub reduction_factor: usize,
    /// f.
    pub activation: Activation,
    /// Whether the projections have offsets.
    pub bias: bool,
    /// Whether a trained layer norm comes first.
    pub layer_norm: bool,
    /// s.
    pub scale: f64,
}

impl Default for BottleneckParallelConfig {
    fn default() -> Self {
        Self {
            beside: Sublayers::FeedForward,
            width: None,
            reduction_factor: 2,
            activation: Activation::Relu,
            bias: true,
            layer_norm: false,
            scale: 4.0,
        }
    }
}

/// z + s (f(h D + b_D) U + b_U), h the input of a sublayer and z what it returned.
///
/// He et al., Towards a Unified View of Parameter-Efficient Transfer Learning, arXiv 2110.04366,
/// section 3.3 (the scaled parallel adapter). AdaptFormer (arXiv 2205.13535) is the same beside the
/// feed-forward network of a vision transformer, with s = 0.1. See [`Bottleneck`] for shapes and
/// starting values.
#[derive(Module, Debug)]
pub struct BottleneckParallel {
    /// D, U and their offsets.
    pub bottleneck: Bottleneck,
}

impl SiteAdapter for BottleneckParallel {
    fn wrap(&self, input: Tensor<2>, output: Tensor<2>, _: &Ctx) -> Tensor<2> {
        output + self.bottleneck.forward(input)
    }
}

impl BottleneckParallelConfig {
    fn shape(&self) -> BottleneckShape {
        let Self {
            width,
            reduction_factor,
            activation,
            bias,
            layer_norm,
            scale,
            ..
        } = *self;
        BottleneckShape {
            width,
            reduction_factor,
            activation,
            bias,
            layer_norm,
            scale,
        }
    }
}

impl SiteGraft for BottleneckParallelConfig {
    type Adapter = BottleneckParallel;

    const SITES: &'static [SiteKind] = &[SiteKind::Sublayer];

    fn takes(&self, site: &SiteShape) -> bool {
        self.beside.include(site)
    }

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        self.shape().count(site.width)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<BottleneckParallel> {
        Ok(BottleneckParallel {
            bottleneck: self.shape().init(site.width, ctx),
        })
    }
}

impl Method for BottleneckParallelConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        admits: "any sublayer",
        ..MethodMeta::graft(
            "bottleneck-parallel",
            "Parallel adapter",
            Family::Bottleneck,
            "2110.04366",
            "z + s (f(h D + b_D) U + b_U), h a sublayer's input, z its output",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        self.shape().validate()
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            width: Some(3),
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                beside: Sublayers::Both,
                width: None,
                activation: Activation::Gelu,
                layer_norm: true,
                scale: 0.1,
                ..small.clone()
            },
            Self {
                beside: Sublayers::Attention,
                activation: Activation::Tanh,
                bias: false,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::{DType, Device};
    use engraft_core::{Bank, FrozenBase};
    use engraft_tensor::{Init, Key, bridge};

    use super::*;
    use crate::series::BottleneckSeriesConfig;

    #[test]
    fn it_reads_the_input_where_the_series_adapter_reads_the_output() {
        let draw = |shape: [usize; 2], role: &str| {
            Init::Normal { std: 1.0 }.tensor(
                shape,
                &Key::new(1).child(role),
                &Device::default(),
                DType::F64,
            )
        };
        let base = FrozenBase::new(draw([6, 6], "w"), None);
        let site = SiteShape {
            path: "blocks.0.mlp".to_owned(),
            kind: SiteKind::Sublayer,
            width: 6,
        };
        let bank = Bank::default();
        let ctx = InitContext::new(0, "blocks.0.mlp", "default", &base, &bank);
        let mut parallel = BottleneckParallelConfig {
            scale: 1.0,
            ..BottleneckParallelConfig::default()
        }
        .init(&site, &ctx)
        .unwrap();
        parallel.bottleneck.up = Param::from_tensor(draw([3, 6], "up"));
        let mut series = BottleneckSeriesConfig::default().init(&site, &ctx).unwrap();
        series.bottleneck = parallel.bottleneck.clone();
        let (input, output) = (draw([5, 6], "in"), draw([5, 6], "out"));
        let change = |adapter: &dyn Fn(Tensor<2>, Tensor<2>) -> Tensor<2>,
                      input: &Tensor<2>,
                      output: &Tensor<2>| {
            bridge::values(&(adapter(input.clone(), output.clone()) - output.clone()))
        };
        let parallel = |input, output| parallel.wrap(input, output, &Ctx::default());
        let series = |input, output| series.wrap(input, output, &Ctx::default());
        let (from_input, from_output) = (
            change(&parallel, &input, &output),
            change(&series, &output, &input),
        );
        assert!(
            from_input
                .iter()
                .zip(&from_output)
                .all(|(a, b)| (a - b).abs() < 1e-13)
        );
        assert!(from_input.iter().any(|value| value.abs() > 1e-3));
    }

    #[test]
    fn counts_are_the_published_ones() {
        // AdaptFormer without offsets as in Bi-AdaptFormer: 12 of width 32 on ViT-B, one bit each is
        // 72.0 KB of its 72.09 (24 scales aside).
        let config = BottleneckParallelConfig {
            width: Some(32),
            bias: false,
            ..BottleneckParallelConfig::default()
        };
        let site = SiteShape {
            path: "blocks.0.mlp".to_owned(),
            kind: SiteKind::Sublayer,
            width: 768,
        };
        assert_eq!(12 * config.count(&site).trainable / 8, 72 * 1024);
    }
}
