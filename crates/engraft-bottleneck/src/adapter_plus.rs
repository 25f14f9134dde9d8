//! Adapter+: post-adapters with a scale per channel.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    AtInit, Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts, Result,
    SiteAdapter, SiteGraft, SiteKind, SiteShape, check_dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::bottleneck::{Bottleneck, BottleneckShape};
use crate::drop_path::drop_path;
use crate::{Activation, Sublayers};

/// Which hidden state the adapter reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    /// The residual stream behind the sublayer: h + z. Behind attention it is the paper's
    /// pre-adapter.
    #[default]
    Post,
    /// What the sublayer returned: z.
    Intermediate,
    /// The residual stream in front of the sublayer: h.
    Parallel,
}

/// What the adapter's output is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScaleOf {
    /// A trained number per channel.
    #[default]
    Channel,
    /// One trained number.
    Layer,
    /// Nothing.
    None,
}

/// How D and U start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// N(0, 0.01^2) both, truncated at two standard deviations.
    #[default]
    Houlsby,
    /// N(0, 0.02^2) both.
    Bert,
    /// D is U(-1/sqrt(d), 1/sqrt(d)), U zero.
    Lora,
}

impl Start {
    fn draws(self, d: usize) -> [Init; 2] {
        match self {
            Self::Houlsby => [Init::TruncatedNormal { std: 0.01 }; 2],
            Self::Bert => [Init::Normal { std: 0.02 }; 2],
            Self::Lora => [Init::KaimingUniform { fan_in: d }, Init::ZEROS],
        }
    }
}

/// Configuration of [`AdapterPlus`]. Paper defaults: behind the feed-forward network, width 8, GELU,
/// a scale per channel, Houlsby's starting values, and a tenth of the sequences dropped in training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AdapterPlusConfig {
    /// `feed-forward`, `attention` or `both`.
    pub at: Sublayers,
    /// `post`, `intermediate` or `parallel`.
    pub position: Position,
    /// Width m of the bottleneck.
    pub width: usize,
    /// f.
    pub activation: Activation,
    /// Whether the projections have offsets.
    pub bias: bool,
    /// `channel`, `layer` or `none`.
    pub scaling: ScaleOf,
    /// `houlsby`, `bert` or `lora`.
    pub start: Start,
    /// Share of the sequences that a training step leaves as they are.
    pub drop_path: f64,
}

impl Default for AdapterPlusConfig {
    fn default() -> Self {
        Self {
            at: Sublayers::FeedForward,
            position: Position::Post,
            width: 8,
            activation: Activation::Gelu,
            bias: true,
            scaling: ScaleOf::Channel,
            start: Start::Houlsby,
            drop_path: 0.1,
        }
    }
}

/// z + s . (f(x D + b_D) U + b_U) with x = h + z, z what a sublayer returned and h the residual
/// stream that it is added to: the stream behind the sublayer is x + s . (f(x D + b_D) U + b_U).
///
/// | symbol | shape | |
/// |---|---|---|
/// | D, b_D | [d, m], `[m]` | trained; N(0, 0.01^2) truncated, zero |
/// | U, b_U | [m, d], `[d]` | trained; N(0, 0.01^2) truncated, zero |
/// | s (`scale`) | `[d]` or `[1]` | trained, one at first |
///
/// Steitz and Roth, Adapters Strike Back, arXiv 2406.06820, section 4 (Adapter+: post-adapter,
/// channel-wise scaling, no norm); the authors' adapter_plus/vit_adapter.py gives the starting values
/// and the stochastic depth of 0.1. In a model that normalises behind the residual sum the adapter
/// acts before that norm. It costs O(tokens d m).
#[derive(Module, Debug)]
pub struct AdapterPlus {
    /// D, U and their offsets.
    pub bottleneck: Bottleneck,
    /// s, `[d]` or `[1]`.
    pub scale: Option<Param<Tensor<1>>>,
    #[module(skip)]
    position: Position,
    drop_path: f64,
}

impl SiteAdapter for AdapterPlus {
    fn wrap(&self, input: Tensor<2>, output: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let stream = ctx.stream().cloned().unwrap_or(input);
        let hidden = match self.position {
            Position::Post => stream + output.clone(),
            Position::Intermediate => output.clone(),
            Position::Parallel => stream,
        };
        let change = drop_path(self.bottleneck.forward(hidden), self.drop_path, ctx);
        output
            + match &self.scale {
                Some(scale) => change * scale.val().unsqueeze(),
                None => change,
            }
    }
}

impl AdapterPlusConfig {
    fn shape(&self) -> BottleneckShape {
        BottleneckShape {
            width: Some(self.width),
            reduction_factor: 1,
            activation: self.activation,
            bias: self.bias,
            layer_norm: false,
            scale: 1.0,
        }
    }

    fn scales(&self, d: usize) -> usize {
        match self.scaling {
            ScaleOf::Channel => d,
            ScaleOf::Layer => 1,
            ScaleOf::None => 0,
        }
    }
}

impl SiteGraft for AdapterPlusConfig {
    type Adapter = AdapterPlus;

    const SITES: &'static [SiteKind] = &[SiteKind::Sublayer];

    fn takes(&self, site: &SiteShape) -> bool {
        self.at.include(site)
    }

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        self.shape().count(site.width) + Counts::trained(self.scales(site.width))
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<AdapterPlus> {
        let d = site.width;
        let scale = || Param::from_tensor(ctx.tensor(Init::ONES, [self.scales(d)], "scale"));
        Ok(AdapterPlus {
            bottleneck: self.shape().init_from(d, self.start.draws(d), ctx),
            scale: (self.scaling != ScaleOf::None).then(scale),
            position: self.position,
            drop_path: self.drop_path,
        })
    }
}

impl Method for AdapterPlusConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        // |D| |U| of Gaussian matrices: 0.01^2 (sqrt(d) + sqrt(m))^2, 0.09 at d = 768.
        at_init: AtInit::Bounded(0.1),
        admits: "any sublayer",
        ..MethodMeta::graft(
            "adapter-plus",
            "Adapter+",
            Family::Bottleneck,
            "2406.06820",
            "z + s . (f(x D + b_D) U + b_U), x = h + z the residual stream behind a sublayer",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn at_init(&self) -> AtInit {
        match self.start {
            Start::Lora => AtInit::Identity,
            Start::Houlsby | Start::Bert => Self::META.at_init,
        }
    }

    fn validate(&self) -> Result<(), String> {
        self.shape().validate()?;
        check_dropout(self.drop_path).map_err(|reason| format!("drop-path: {reason}"))
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            width: 3,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                at: Sublayers::Both,
                position: Position::Intermediate,
                scaling: ScaleOf::Layer,
                start: Start::Bert,
                drop_path: 0.0,
                ..small.clone()
            },
            Self {
                at: Sublayers::Attention,
                position: Position::Parallel,
                activation: Activation::Tanh,
                bias: false,
                scaling: ScaleOf::None,
                start: Start::Lora,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{draw, entries, init, site};

    #[test]
    fn counts_are_those_of_the_paper() {
        // ViT-B/16 without the heads: 0.20M, 0.07M and 0.35M with VTAB's of 36,048 on average.
        for (width, published) in [(8, "0.20"), (1, "0.07"), (16, "0.35")] {
            let config = AdapterPlusConfig {
                width,
                ..AdapterPlusConfig::default()
            };
            let count = 12 * config.count(&site(768)).trainable;
            assert_eq!(count, 12 * (2 * 768 * width + width + 2 * 768));
            let millions = (count + 36_048) as f64 / 1e6;
            assert_eq!(format!("{millions:.2}"), published);
        }
    }

    #[test]
    fn the_stream_behind_the_sublayer_is_what_it_reads() {
        let small = AdapterPlusConfig {
            width: 2,
            ..AdapterPlusConfig::default()
        };
        let mut adapter = init(&small, 5);
        adapter.bottleneck.up = Param::from_tensor(draw([2, 5], "up"));
        adapter.scale = Some(Param::from_tensor(draw([1, 5], "scale").reshape([5])));
        let [stream, input, output] = ["stream", "input", "output"].map(|role| draw([3, 5], role));
        let found = crate::testing::at_sublayer(&adapter, [&stream, &input, &output]);
        let expected = output.clone()
            + adapter.bottleneck.forward(stream + output)
                * adapter.scale.as_ref().unwrap().val().unsqueeze();
        assert_eq!(entries(&found), entries(&expected));
    }
}
