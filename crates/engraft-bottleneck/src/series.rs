//! Series bottleneck adapters: Houlsby and Pfeiffer.

use burn::module::Module;
use burn::tensor::Tensor;
use engraft_core::{
    Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts, Result,
    SiteAdapter, SiteGraft, SiteKind, SiteShape,
};
use serde::{Deserialize, Serialize};

use crate::bottleneck::{Bottleneck, BottleneckShape};
use crate::{Activation, Sublayers};

/// Configuration of [`BottleneckSeries`]. Defaults: after both sublayers (Houlsby), a reduction
/// factor of 16, GELU, offsets, no norm.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct BottleneckSeriesConfig {
    /// `both` (Houlsby et al.), `feed-forward` (Pfeiffer et al.) or `attention`.
    pub after: Sublayers,
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

impl Default for BottleneckSeriesConfig {
    fn default() -> Self {
        Self {
            after: Sublayers::Both,
            width: None,
            reduction_factor: 16,
            activation: Activation::Gelu,
            bias: true,
            layer_norm: false,
            scale: 1.0,
        }
    }
}

/// z + s (f(z D + b_D) U + b_U), z what a sublayer returned, before the residual sum.
///
/// Houlsby et al., Parameter-Efficient Transfer Learning for NLP, arXiv 1902.00751, section 2.1:
/// after attention and after the feed-forward network. Pfeiffer et al., AdapterFusion, arXiv
/// 2005.00247, section 3: after the feed-forward network only. See [`Bottleneck`] for shapes and
/// starting values; the authors start U near zero, here it is zero.
#[derive(Module, Debug)]
pub struct BottleneckSeries {
    /// D, U and their offsets.
    pub bottleneck: Bottleneck,
}

impl SiteAdapter for BottleneckSeries {
    fn wrap(&self, _: Tensor<2>, output: Tensor<2>, _: &Ctx) -> Tensor<2> {
        output.clone() + self.bottleneck.forward(output)
    }
}

impl BottleneckSeriesConfig {
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

impl SiteGraft for BottleneckSeriesConfig {
    type Adapter = BottleneckSeries;

    const SITES: &'static [SiteKind] = &[SiteKind::Sublayer];

    fn takes(&self, site: &SiteShape) -> bool {
        self.after.include(site)
    }

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        self.shape().count(site.width)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<BottleneckSeries> {
        Ok(BottleneckSeries {
            bottleneck: self.shape().init(site.width, ctx),
        })
    }
}

impl Method for BottleneckSeriesConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        admits: "any sublayer",
        ..MethodMeta::graft(
            "bottleneck-series",
            "Series adapter (Houlsby, Pfeiffer)",
            Family::Bottleneck,
            "1902.00751",
            "z + s (f(z D + b_D) U + b_U), z a sublayer's output",
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
                after: Sublayers::FeedForward,
                width: None,
                reduction_factor: 4,
                activation: Activation::Silu,
                layer_norm: true,
                ..small.clone()
            },
            Self {
                after: Sublayers::Attention,
                activation: Activation::Tanh,
                bias: false,
                scale: 2.0,
                ..small.clone()
            },
            Self {
                activation: Activation::Relu,
                ..small.clone()
            },
            Self {
                activation: Activation::Sigmoid,
                ..small.clone()
            },
            Self {
                activation: Activation::Identity,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(config: &BottleneckSeriesConfig, width: usize) -> usize {
        config
            .count(&SiteShape {
                path: "blocks.0.mlp".to_owned(),
                kind: SiteKind::Sublayer,
                width,
            })
            .trainable
    }

    #[test]
    fn counts_are_the_published_ones() {
        let of = |width| BottleneckSeriesConfig {
            width: Some(width),
            ..BottleneckSeriesConfig::default()
        };
        // T-Few's baseline on T0-3B: reduction 32 of 2048, 48 adapters and 122 layer norms, 12.9M.
        let reduced = BottleneckSeriesConfig {
            reduction_factor: 32,
            ..BottleneckSeriesConfig::default()
        };
        assert_eq!(count(&reduced, 2048), 264_256);
        assert_eq!(48 * count(&reduced, 2048) + 122 * 2048, 12_934_144);
        // Compacter's baselines on T5-base (62 layer norms trained): 24 and 28 adapters of width 24.
        assert_eq!(24 * count(&of(24), 768) + 62 * 768, 951_360);
        assert_eq!(28 * count(&of(24), 768) + 62 * 768, 1_101_984);
        // PEViT's baseline on CLIP ViT-B/32: 12 adapters with a norm, and heads of 29,523 on average.
        let normed = BottleneckSeriesConfig {
            layer_norm: true,
            ..of(64)
        };
        assert_eq!(12 * count(&normed, 768) + 29_523, 1_237_587);
        // ReFT's baseline on LLaMA-7B (1.953%) and 13B (1.586%): two per layer, no offsets.
        let bare = BottleneckSeriesConfig {
            bias: false,
            ..of(256)
        };
        assert_eq!(32 * 2 * count(&bare, 4096), 134_217_728);
        assert_eq!(40 * 2 * count(&bare, 5120), 209_715_200);
    }

    #[test]
    fn after_chooses_sublayers_by_their_path() {
        let site = |path: &str| SiteShape {
            path: path.to_owned(),
            kind: SiteKind::Sublayer,
            width: 8,
        };
        let takes = |after, path| {
            BottleneckSeriesConfig {
                after,
                ..BottleneckSeriesConfig::default()
            }
            .takes(&site(path))
        };
        assert!(
            takes(Sublayers::Both, "blocks.0.attention") && takes(Sublayers::Both, "blocks.0.mlp")
        );
        assert!(
            !takes(Sublayers::FeedForward, "blocks.0.attention")
                && takes(Sublayers::FeedForward, "blocks.0.mlp")
        );
        assert!(
            takes(Sublayers::Attention, "blocks.0.attention")
                && !takes(Sublayers::Attention, "blocks.0.mlp")
        );
    }
}
