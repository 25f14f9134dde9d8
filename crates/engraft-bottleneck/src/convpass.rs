//! Convpass: convolutional bypasses.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts, Result,
    SiteAdapter, SiteGraft, SiteKind, SiteShape, check_dropout, dropout,
};
use engraft_tensor::{Init, bridge, ops};
use serde::{Deserialize, Serialize};

use crate::Sublayers;
use crate::bottleneck::offset;
use crate::token_grid::{check_kernel, on_grid, same_size};

/// How the convolution starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kernel {
    /// As the identity: ones at its centre.
    #[default]
    Identity,
    /// Glorot uniform.
    Glorot,
}

/// Configuration of [`Convpass`]. Paper defaults: beside both sublayers, width 8, a kernel of 3 by 3,
/// dropout 0.1; s is tuned per task in 0.01, 0.1, 1, 10 and 100.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ConvpassConfig {
    /// `both`, `attention` (Convpass-attn) or `feed-forward`.
    pub beside: Sublayers,
    /// Width m of the bottleneck.
    pub width: usize,
    /// Rows and columns of the convolution, an odd number.
    pub kernel: usize,
    /// `identity` or `glorot`.
    pub start: Kernel,
    /// s.
    pub scale: f64,
    /// Dropout in front of U.
    pub dropout: f64,
}

impl Default for ConvpassConfig {
    fn default() -> Self {
        Self {
            beside: Sublayers::Both,
            width: 8,
            kernel: 3,
            start: Kernel::Identity,
            scale: 1.0,
            dropout: 0.1,
        }
    }
}

/// z + s (f(conv(f(h D + b_D))) U + b_U), h the normed input of a sublayer, z what it returned,
/// f(x) = x sigmoid(1.702 x).
///
/// | symbol | shape | |
/// |---|---|---|
/// | D, b_D | [d, m], `[m]` | trained; Glorot uniform, zero |
/// | K (`conv`), its offset | [m, m, k, k], `[m]` | trained; the identity, zero |
/// | U, b_U | [m, d], `[d]` | trained, zero at first |
///
/// Jie and Deng, Convolutional Bypasses Are Better Vision Transformer Adapters, arXiv 2207.07039,
/// section 3, and the authors' convpass/vtab/convpass.py. The convolution acts on the grid of
/// patches ([`Ctx::grid`]); the class token is an image of one pixel. In a model without a grid
/// every token is. It costs O(tokens m (d + k^2 m)).
#[derive(Module, Debug)]
pub struct Convpass {
    /// D, [d, m].
    pub down: Param<Tensor<2>>,
    /// b_D, `[m]`.
    pub down_bias: Option<Param<Tensor<1>>>,
    /// K, [m, m, k, k].
    pub conv: Param<Tensor<4>>,
    /// Offset of the convolution, `[m]`.
    pub conv_bias: Param<Tensor<1>>,
    /// U, [m, d].
    pub up: Param<Tensor<2>>,
    /// b_U, `[d]`.
    pub up_bias: Option<Param<Tensor<1>>>,
    scale: f64,
    dropout: f64,
}

/// x sigmoid(1.702 x), which GELU is close to.
fn quick_gelu(x: Tensor<2>) -> Tensor<2> {
    x.clone() * ops::sigmoid(x * 1.702)
}

impl SiteAdapter for Convpass {
    fn wrap(&self, input: Tensor<2>, output: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let narrow = quick_gelu(offset(input.matmul(self.down.val()), &self.down_bias));
        let (kernel, bias) = (self.conv.val(), self.conv_bias.val());
        let narrow = on_grid(narrow, ctx, |image| {
            same_size(image, kernel.clone(), Some(bias.clone()), 1)
        });
        let narrow = dropout(quick_gelu(narrow), self.dropout, ctx);
        output + offset(narrow.matmul(self.up.val()), &self.up_bias) * self.scale
    }
}

/// Ones at the centre of a kernel [m, m, k, k] where output and input are the same.
fn identity(m: usize, k: usize) -> Vec<f64> {
    let mut values = vec![0.0; m * m * k * k];
    for channel in 0..m {
        values[((channel * m + channel) * k + k / 2) * k + k / 2] = 1.0;
    }
    values
}

impl SiteGraft for ConvpassConfig {
    type Adapter = Convpass;

    const SITES: &'static [SiteKind] = &[SiteKind::Sublayer];

    fn takes(&self, site: &SiteShape) -> bool {
        self.beside.include(site)
    }

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        let (d, m) = (site.width, self.width);
        Counts::trained(2 * d * m + d + 2 * m + m * m * self.kernel * self.kernel)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<Convpass> {
        let (d, m, k) = (site.width, self.width, self.kernel);
        let glorot = |fans: usize| Init::Uniform {
            bound: (6.0 / fans as f64).sqrt(),
        };
        let zeros = |width, role| Param::from_tensor(ctx.tensor(Init::ZEROS, [width], role));
        let shape = [m, m, k, k];
        let conv = match self.start {
            Kernel::Identity => bridge::tensor(identity(m, k), shape, &ctx.device, ctx.dtype),
            Kernel::Glorot => ctx.tensor(glorot(2 * m * k * k), shape, "conv"),
        };
        Ok(Convpass {
            down: Param::from_tensor(ctx.tensor(glorot(d + m), [d, m], "down")),
            down_bias: Some(zeros(m, "down_bias")),
            conv: Param::from_tensor(conv),
            conv_bias: zeros(m, "conv_bias"),
            up: Param::from_tensor(ctx.tensor(Init::ZEROS, [m, d], "up")),
            up_bias: Some(zeros(d, "up_bias")),
            scale: self.scale,
            dropout: self.dropout,
        })
    }
}

impl Method for ConvpassConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        admits: "any sublayer",
        ..MethodMeta::graft(
            "convpass",
            "Convpass",
            Family::Bottleneck,
            "2207.07039",
            "z + s (f(conv(f(h D + b_D))) U + b_U), conv on the grid of patches",
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
        check_kernel(self.kernel)?;
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            width: 3,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                beside: Sublayers::Attention,
                start: Kernel::Glorot,
                scale: 2.0,
                dropout: 0.0,
                ..small.clone()
            },
            Self {
                beside: Sublayers::FeedForward,
                kernel: 1,
                width: 2,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{apart, draw, entries, init, site};
    use crate::token_grid::testing::{convolved, on};

    #[test]
    fn counts_are_the_published_ones() {
        // ViT-B/16: 0.33M beside both sublayers, 0.16M beside attention alone.
        let count = ConvpassConfig::default().count(&site(768)).trainable;
        assert_eq!(count, 768 * 8 + 8 + 8 * 8 * 9 + 8 + 8 * 768 + 768);
        assert_eq!(format!("{:.2}", (24 * count) as f64 / 1e6), "0.33");
        assert_eq!(format!("{:.2}", (12 * count) as f64 / 1e6), "0.16");
    }

    #[test]
    fn at_first_the_convolution_is_the_identity() {
        let mut adapter = init(&ConvpassConfig::default(), 5);
        adapter.up = Param::from_tensor(draw([8, 5], "up"));
        let x = draw([2, 7, 5], "x");
        // As if every token were alone.
        assert!(apart(&on(&adapter, &x, [2, 3]), &on(&adapter, &x, [7, 7])) < 1e-13);
    }

    #[test]
    fn it_is_the_definition_cell_by_cell() {
        let config = ConvpassConfig {
            width: 2,
            start: Kernel::Glorot,
            scale: 0.5,
            ..ConvpassConfig::default()
        };
        let mut adapter = init(&config, 3);
        adapter.up = Param::from_tensor(draw([2, 3], "up"));
        let x = draw([1, 7, 3], "x");
        let flat: Tensor<2> = x.clone().squeeze_dim(0);
        let quick = |x: f64| x / (1.0 + (-1.702 * x).exp());
        let narrow = entries(&flat.clone().matmul(adapter.down.val()));
        let narrow: Vec<Vec<f64>> = narrow
            .chunks(2)
            .map(|token| token.iter().map(|x| quick(*x)).collect())
            .collect();
        // A class token, then two rows of three.
        let kernel = adapter.conv.val();
        let mut mixed = convolved(&narrow[..1], [1, 1], &kernel, 1);
        mixed.extend(convolved(&narrow[1..], [2, 3], &kernel, 1));
        let mixed = mixed.into_iter().flatten().map(quick).collect();
        let mixed = bridge::tensor(mixed, [7, 2], &flat.device(), flat.dtype());
        let expected = flat + mixed.matmul(adapter.up.val()) * 0.5;
        let found: Tensor<2> = on(&adapter, &x, [2, 3]).squeeze_dim(0);
        assert!(apart(&found, &expected) < 1e-13);
    }
}
