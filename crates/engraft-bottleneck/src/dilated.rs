//! Depthwise-dilated adapters.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts, Result,
    SiteAdapter, SiteGraft, SiteKind, SiteShape,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::bottleneck::{Bottleneck, BottleneckShape, offset};
use crate::token_grid::{check_kernel, on_grid, same_size};
use crate::{Activation, Sublayers};

/// Configuration of [`DilatedAdapter`]. Defaults: beside the feed-forward network, width 64, kernels
/// of 3 by 3 at dilations 1, 2 and 3, GELU, offsets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DilatedAdapterConfig {
    /// `feed-forward`, `attention` or `both`.
    pub beside: Sublayers,
    /// Width m of the bottleneck.
    pub width: usize,
    /// Rows and columns of each kernel, an odd number.
    pub kernel: usize,
    /// A kernel per dilation.
    pub dilations: Vec<usize>,
    /// f.
    pub activation: Activation,
    /// Whether the projections have offsets.
    pub bias: bool,
    /// s.
    pub scale: f64,
}

impl Default for DilatedAdapterConfig {
    fn default() -> Self {
        Self {
            beside: Sublayers::FeedForward,
            width: 64,
            kernel: 3,
            dilations: vec![1, 2, 3],
            activation: Activation::Gelu,
            bias: true,
            scale: 1.0,
        }
    }
}

/// z + s (f(n + mean_r conv_r(n)) U + b_U) with n = h D + b_D, h the input of a sublayer and z what
/// it returned; conv_r is depthwise with dilation r.
///
/// | symbol | shape | |
/// |---|---|---|
/// | D, b_D | [d, m], `[m]` | trained; U(-1/sqrt(d), 1/sqrt(d)), zero |
/// | K_r (`kernels`) | [R, m, k, k] | trained, U(-1/k, 1/k) at first |
/// | U, b_U | [m, d], `[d]` | trained, zero at first |
///
/// Several receptive fields at the price of k^2 numbers per channel each. Depthwise convolutions in the
/// bottleneck are those of Conv-Adapter (Chen et al., arXiv 2208.07463) and Mona (Yin et al., arXiv
/// 2408.08345), whose kernels grow where these are dilated (Yu and Koltun, arXiv 1511.07122). No
/// paper was followed to the letter: the sum inside the bottleneck and the defaults are this
/// project's. Convolutions act on the grid of patches ([`Ctx::grid`]), tokens outside it are images
/// of one pixel. It costs O(tokens m (d + R k^2)).
#[derive(Module, Debug)]
pub struct DilatedAdapter {
    /// D, U and their offsets.
    pub bottleneck: Bottleneck,
    /// K_r, [R, m, k, k].
    pub kernels: Param<Tensor<4>>,
    #[module(skip)]
    dilations: Vec<usize>,
}

impl SiteAdapter for DilatedAdapter {
    fn wrap(&self, input: Tensor<2>, output: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let Bottleneck {
            down,
            down_bias,
            up,
            up_bias,
            activation,
            scale,
            ..
        } = &self.bottleneck;
        let narrow = offset(input.matmul(down.val()), down_bias);
        let [_, m, k, _] = self.kernels.dims();
        let kernels = self.kernels.val();
        let kernel = |index| kernels.clone().narrow(0, index, 1).reshape([m, 1, k, k]);
        let mixed = on_grid(narrow.clone(), ctx, |image| {
            let convolved =
                self.dilations.iter().enumerate().map(|(index, &dilation)| {
                    same_size(image.clone(), kernel(index), None, dilation)
                });
            let sum = convolved.reduce(|sum, one| sum + one);
            sum.expect("at least one dilation") / self.dilations.len() as f64
        });
        let wide = activation.apply(narrow + mixed).matmul(up.val());
        output + offset(wide, up_bias) * *scale
    }
}

impl DilatedAdapterConfig {
    fn shape(&self) -> BottleneckShape {
        BottleneckShape {
            width: Some(self.width),
            reduction_factor: 1,
            activation: self.activation,
            bias: self.bias,
            layer_norm: false,
            scale: self.scale,
        }
    }
}

impl SiteGraft for DilatedAdapterConfig {
    type Adapter = DilatedAdapter;

    const SITES: &'static [SiteKind] = &[SiteKind::Sublayer];

    fn takes(&self, site: &SiteShape) -> bool {
        self.beside.include(site)
    }

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        let kernels = self.dilations.len() * self.width * self.kernel * self.kernel;
        self.shape().count(site.width) + Counts::trained(kernels)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<DilatedAdapter> {
        let k = self.kernel;
        let start = Init::KaimingUniform { fan_in: k * k };
        let shape = [self.dilations.len(), self.width, k, k];
        Ok(DilatedAdapter {
            bottleneck: self.shape().init(site.width, ctx),
            kernels: Param::from_tensor(ctx.tensor(start, shape, "kernels")),
            dilations: self.dilations.clone(),
        })
    }
}

impl Method for DilatedAdapterConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        admits: "any sublayer",
        ..MethodMeta::graft(
            "dilated-adapter",
            "Depthwise-dilated adapter",
            Family::Bottleneck,
            "2208.07463",
            "z + s (f(n + mean_r conv_r(n)) U + b_U), n = h D + b_D, conv_r depthwise, dilation r",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        self.shape().validate()?;
        if self.dilations.is_empty() || self.dilations.contains(&0) {
            return Err(format!(
                "dilations {:?}: expected at least one, each at least 1",
                self.dilations
            ));
        }
        check_kernel(self.kernel)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            width: 3,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                beside: Sublayers::Both,
                dilations: vec![2],
                kernel: 5,
                bias: false,
                activation: Activation::Tanh,
                ..small.clone()
            },
            Self {
                beside: Sublayers::Attention,
                dilations: vec![1, 1],
                kernel: 1,
                scale: 2.0,
                activation: Activation::Silu,
                ..small
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
        let config = DilatedAdapterConfig {
            width: 2,
            dilations: vec![1, 3],
            activation: Activation::Relu,
            ..DilatedAdapterConfig::default()
        };
        let mut adapter = init(&config, 3);
        adapter.bottleneck.up = Param::from_tensor(draw([2, 3], "up"));
        let x = draw([1, 17, 3], "x");
        let flat: Tensor<2> = x.clone().squeeze_dim(0);
        let narrow = entries(&flat.clone().matmul(adapter.bottleneck.down.val()));
        let narrow: Vec<Vec<f64>> = narrow.chunks(2).map(<[f64]>::to_vec).collect();
        let mut sum = narrow.clone();
        for (index, dilation) in [1, 3].into_iter().enumerate() {
            let kernel = adapter
                .kernels
                .val()
                .narrow(0, index, 1)
                .reshape([2, 1, 3, 3]);
            let mut mixed = convolved(&narrow[..1], [1, 1], &kernel, dilation);
            mixed.extend(convolved(&narrow[1..], [4, 4], &kernel, dilation));
            let pairs = sum.iter_mut().flatten().zip(mixed.into_iter().flatten());
            pairs.for_each(|(sum, mixed)| *sum += mixed / 2.0);
        }
        let active = sum.into_iter().flatten().map(|x| x.max(0.0)).collect();
        let active = bridge::tensor(active, [17, 2], &flat.device(), flat.dtype());
        let expected = flat + active.matmul(adapter.bottleneck.up.val());
        let found: Tensor<2> = on(&adapter, &x, [4, 4]).squeeze_dim(0);
        assert!(apart(&found, &expected) < 1e-13);
    }

    #[test]
    fn kernels_cost_little() {
        let config = DilatedAdapterConfig::default();
        let count = config.count(&site(768)).trainable;
        assert_eq!(count, 2 * 768 * 64 + 64 + 768 + 3 * 64 * 9);
        let none = DilatedAdapterConfig {
            dilations: vec![],
            ..config
        };
        assert!(none.validate().is_err());
    }
}
