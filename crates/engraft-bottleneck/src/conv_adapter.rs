//! Conv-Adapter.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts, Result,
    SiteAdapter, SiteGraft, SiteKind, SiteShape,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::token_grid::{check_kernel, on_grid, same_size};
use crate::{Activation, Sublayers};

/// Configuration of [`ConvAdapter`]. Defaults: beside the feed-forward network, a quarter of the
/// channels, a kernel of 3 by 3, ReLU.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ConvAdapterConfig {
    /// `feed-forward`, `attention` or `both`.
    pub beside: Sublayers,
    /// d / m, a divisor of d.
    pub reduction_factor: usize,
    /// Rows and columns of the convolution, an odd number.
    pub kernel: usize,
    /// Pixels from one row of the kernel to the next.
    pub dilation: usize,
    /// f.
    pub activation: Activation,
}

impl Default for ConvAdapterConfig {
    fn default() -> Self {
        Self {
            beside: Sublayers::FeedForward,
            reduction_factor: 4,
            kernel: 3,
            dilation: 1,
            activation: Activation::Relu,
        }
    }
}

/// z + alpha . (f(conv(h)) U + b_U), h the input of a sublayer, z what it returned.
///
/// | symbol | shape | |
/// |---|---|---|
/// | K (`conv`), its offset | [m, d / m, k, k], `[m]` | trained; U(-b, b), b = 1 / sqrt(k^2 d / m) |
/// | U, b_U | [m, d], `[d]` | trained, zero at first |
/// | alpha | `[d]` | trained, one at first |
///
/// The convolution has m groups of d / m channels, one per output. Chen et al., Conv-Adapter:
/// Exploring Parameter Efficient Transfer Learning for ConvNets, arXiv 2208.07463, section 3.2, and
/// the authors' models/tuning_modules/conv_adapter.py (ConvAdapter). The paper adapts convolutional
/// networks; here it acts on the grid of patches ([`Ctx::grid`]) of a transformer. Assumed: U starts
/// at zero, where the code leaves it at its random start. It costs O(tokens d (k^2 + m)).
#[derive(Module, Debug)]
pub struct ConvAdapter {
    /// K, [m, d / m, k, k].
    pub conv: Param<Tensor<4>>,
    /// Offset of the convolution, `[m]`.
    pub conv_bias: Param<Tensor<1>>,
    /// U, [m, d].
    pub up: Param<Tensor<2>>,
    /// b_U, `[d]`.
    pub up_bias: Param<Tensor<1>>,
    /// alpha, `[d]`.
    pub alpha: Param<Tensor<1>>,
    #[module(skip)]
    activation: Activation,
    dilation: usize,
}

impl SiteAdapter for ConvAdapter {
    fn wrap(&self, input: Tensor<2>, output: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let (kernel, bias) = (self.conv.val(), self.conv_bias.val());
        let narrow = on_grid(input, ctx, |image| {
            same_size(image, kernel.clone(), Some(bias.clone()), self.dilation)
        });
        let wide = self.activation.apply(narrow).matmul(self.up.val());
        output + (wide + self.up_bias.val().unsqueeze()) * self.alpha.val().unsqueeze()
    }
}

impl SiteGraft for ConvAdapterConfig {
    type Adapter = ConvAdapter;

    const SITES: &'static [SiteKind] = &[SiteKind::Sublayer];

    fn takes(&self, site: &SiteShape) -> bool {
        self.beside.include(site)
    }

    fn admits(&self, site: &SiteShape) -> Result<(), String> {
        if site.width.is_multiple_of(self.reduction_factor) {
            return Ok(());
        }
        Err(format!(
            "reduction-factor {}: expected a divisor of the width {}",
            self.reduction_factor, site.width
        ))
    }

    fn count(&self, site: &SiteShape) -> Counts {
        let d = site.width;
        let m = d / self.reduction_factor;
        Counts::trained(d * self.kernel * self.kernel + m + m * d + 2 * d)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<ConvAdapter> {
        let (d, k) = (site.width, self.kernel);
        let (m, per_group) = (d / self.reduction_factor, self.reduction_factor);
        let start = Init::KaimingUniform {
            fan_in: per_group * k * k,
        };
        let vector = |init, width, role| Param::from_tensor(ctx.tensor(init, [width], role));
        Ok(ConvAdapter {
            conv: Param::from_tensor(ctx.tensor(start, [m, per_group, k, k], "conv")),
            conv_bias: vector(start, m, "conv_bias"),
            up: Param::from_tensor(ctx.tensor(Init::ZEROS, [m, d], "up")),
            up_bias: vector(Init::ZEROS, d, "up_bias"),
            alpha: vector(Init::ONES, d, "alpha"),
            activation: self.activation,
            dilation: self.dilation,
        })
    }
}

impl Method for ConvAdapterConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        admits: "any sublayer whose width the reduction factor divides",
        ..MethodMeta::graft(
            "conv-adapter",
            "Conv-Adapter",
            Family::Bottleneck,
            "2208.07463",
            "z + alpha . (f(conv(h)) U + b_U), a depthwise convolution on the grid of patches",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        for (name, value) in [
            ("reduction-factor", self.reduction_factor),
            ("dilation", self.dilation),
        ] {
            if value == 0 {
                return Err(format!("{name} 0: expected at least 1"));
            }
        }
        check_kernel(self.kernel)
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let divisor = |bound: usize| {
            let divides = |n: &usize| layer.d_out.is_multiple_of(*n);
            (1..=bound).rev().find(divides).unwrap_or(1)
        };
        vec![
            Self {
                reduction_factor: divisor(4),
                activation: Activation::Tanh,
                ..Self::default()
            },
            Self {
                beside: Sublayers::Both,
                reduction_factor: divisor(layer.d_out),
                kernel: 5,
                activation: Activation::Gelu,
                ..Self::default()
            },
            Self {
                beside: Sublayers::Attention,
                reduction_factor: divisor(2),
                dilation: 2,
                activation: Activation::Silu,
                ..Self::default()
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::{apart, draw, entries, init, site};
    use crate::token_grid::testing::{convolved, on};

    #[test]
    fn it_is_the_definition_cell_by_cell() {
        let config = ConvAdapterConfig {
            reduction_factor: 2,
            dilation: 2,
            ..ConvAdapterConfig::default()
        };
        let mut adapter = init(&config, 4);
        adapter.conv_bias = Param::from_tensor(draw([1, 2], "bias").reshape([2]) * 0.0);
        adapter.up = Param::from_tensor(draw([2, 4], "up"));
        adapter.alpha = Param::from_tensor(draw([1, 4], "alpha").reshape([4]));
        let x = draw([1, 12, 4], "x");
        let flat: Tensor<2> = x.clone().squeeze_dim(0);
        let tokens: Vec<Vec<f64>> = entries(&flat).chunks(4).map(<[f64]>::to_vec).collect();
        let narrow = convolved(&tokens, [3, 4], &adapter.conv.val(), 2);
        let narrow: Vec<f64> = narrow.into_iter().flatten().map(|x| x.max(0.0)).collect();
        let narrow = bridge::tensor(narrow, [12, 2], &flat.device(), flat.dtype());
        let change = narrow.matmul(adapter.up.val()) * adapter.alpha.val().unsqueeze();
        let found: Tensor<2> = on(&adapter, &x, [3, 4]).squeeze_dim(0);
        assert!(apart(&found, &(flat + change)) < 1e-13);
    }

    #[test]
    fn an_indivisible_width_is_refused() {
        let reason = ConvAdapterConfig::default().admits(&site(30)).unwrap_err();
        assert!(reason.contains("divisor of the width 30"), "{reason}");
        assert_eq!(
            ConvAdapterConfig::default().count(&site(768)).trainable,
            768 * 9 + 192 + 192 * 768 + 2 * 768
        );
    }
}
