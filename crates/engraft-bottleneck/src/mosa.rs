//! MoSA: a mixture of the parts of one adapter.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts, Result,
    SiteAdapter, SiteGraft, SiteKind, SiteShape, check_dropout, dropout, standardised,
};
use engraft_tensor::{Init, Key, bridge};
use rand::RngExt;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use crate::{Activation, Sublayers};

/// Which projection is not split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Share {
    /// D is trained whole.
    #[default]
    Down,
    /// U is trained whole.
    Up,
    /// Both are split.
    None,
}

/// How the parts become one adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Merge {
    /// Their mean: what each part learnt counts 1 / k.
    #[default]
    Mean,
    /// Each part gives the entries that it trained.
    Join,
}

/// Configuration of [`Mosa`]. Defaults of the authors' code and scripts: beside the feed-forward network,
/// width 16, four parts, D whole, mean, GELU, s = 0.1, dropout 0.1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MosaConfig {
    /// `feed-forward`, `attention` or `both`.
    pub beside: Sublayers,
    /// Width m of the bottleneck.
    pub width: usize,
    /// Parts k.
    pub parts: usize,
    /// `down`, `up` or `none`.
    pub share: Share,
    /// `mean` or `join`.
    pub merge: Merge,
    /// f.
    pub activation: Activation,
    /// s.
    pub scale: f64,
    /// Dropout behind f.
    pub dropout: f64,
}

impl Default for MosaConfig {
    fn default() -> Self {
        Self {
            beside: Sublayers::FeedForward,
            width: 16,
            parts: 4,
            share: Share::Down,
            merge: Merge::Mean,
            activation: Activation::Gelu,
            scale: 0.1,
            dropout: 0.1,
        }
    }
}

/// z + s (f(norm(h) D + b_D) U + b_U) beside a sublayer: h the residual stream before it, z what
/// it returned. A training step uses D_i and U_j of random parts i and j, evaluation the merged
/// ones.
///
/// | symbol | shape | |
/// |---|---|---|
/// | D_0 | [d, m] | U(-1/sqrt(d), 1/sqrt(d)), frozen, grown again from the seed |
/// | M_1, ..., M_k | [d, m] | disjoint random masks that cover all, frozen, from the seed |
/// | delta (`down`) | [d, m] | trained, zero at first |
/// | b_i (`down_bias`) | [k, m] | trained, zero at first |
///
/// D_i = D_0 + M_i . delta; merged D_0 + delta / k (mean) or D_0 + delta (join), with the mean of
/// the b_i. U likewise from U_0 = 0. A projection that is not split is D_0 + delta and has one
/// offset.
///
/// Zhang et al., MoSA: Mixture of Sparse Adapters for Visual Efficient Tuning, arXiv 2312.02923,
/// section 3, and the authors' src/models/vit_adapter/vit_mosa.py, src/utils/pruner.py: k copies
/// of one start, the gradient of copy i masked with M_i, offsets unmasked, merged by the mean
/// after every epoch. Their `joint` merge divides the joined weights by k again, here it does not.
/// The second forward pass whose divergence from the first they add to the loss belongs to the
/// training loop. It costs O(tokens d m).
#[derive(Module, Debug)]
pub struct Mosa {
    /// Gain of the layer norm, `[d]`.
    pub norm_gain: Param<Tensor<1>>,
    /// Offset of the layer norm, `[d]`.
    pub norm_bias: Param<Tensor<1>>,
    /// D.
    pub down: Split,
    /// U.
    pub up: Split,
    #[module(skip)]
    activation: Activation,
    #[module(skip)]
    merge: Merge,
    scale: f64,
    dropout: f64,
}

/// A projection in parts.
#[derive(Module, Debug)]
pub struct Split {
    /// What is learnt, [inputs, outputs].
    pub delta: Param<Tensor<2>>,
    /// Offsets, [k, outputs].
    pub bias: Param<Tensor<2>>,
    start: Tensor<2>,
    /// To which part each entry belongs.
    owner: Tensor<2>,
}

impl Split {
    fn init(init: Init, shape: [usize; 2], parts: usize, role: &str, ctx: &InitContext) -> Self {
        let zeros = |shape: [usize; 2], field: &str| {
            Param::from_tensor(ctx.tensor(Init::ZEROS, shape, &format!("{role}.{field}")))
        };
        let key = ctx.key.child(&format!("{role}.mask"));
        let owner = owners(shape[0] * shape[1], parts, &key);
        Self {
            delta: zeros(shape, "delta"),
            bias: zeros([parts, shape[1]], "bias"),
            start: ctx.tensor(init, shape, &format!("{role}.start")),
            owner: bridge::tensor(owner, shape, &ctx.device, ctx.dtype),
        }
    }

    fn parts(&self) -> usize {
        self.bias.dims()[0]
    }

    /// x D_i + b_i.
    fn part(&self, x: Tensor<2>, index: usize) -> Tensor<2> {
        let others = self.owner.clone().not_equal_elem(index as f64);
        let weight = self.start.clone() + self.delta.val().mask_fill(others, 0.0);
        x.matmul(weight) + self.bias.val().narrow(0, index, 1)
    }

    /// x times the merged weight, and the merged offset.
    fn merged(&self, x: Tensor<2>, merge: Merge) -> Tensor<2> {
        let delta = match merge {
            Merge::Mean => self.delta.val() / self.parts() as f64,
            Merge::Join => self.delta.val(),
        };
        x.matmul(self.start.clone() + delta) + self.bias.val().mean_dim(0)
    }

    /// The part that this step draws, or the merged whole in evaluation.
    fn forward(&self, x: Tensor<2>, merge: Merge, role: &str, ctx: &Ctx) -> Tensor<2> {
        match ctx.key(role) {
            Some(key) => self.part(x, key.rng().random_range(0..self.parts())),
            None => self.merged(x, merge),
        }
    }
}

/// A random part for each of `count` entries, the parts as equal as can be.
fn owners(count: usize, parts: usize, key: &Key) -> Vec<f64> {
    let mut owners: Vec<f64> = (0..count)
        .map(|rank| (rank * parts / count) as f64)
        .collect();
    owners.shuffle(&mut key.rng());
    owners
}

impl SiteAdapter for Mosa {
    fn wrap(&self, input: Tensor<2>, output: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let stream = ctx.stream().cloned().unwrap_or(input);
        let (gain, bias) = (self.norm_gain.val(), self.norm_bias.val());
        let normed = standardised(stream) * gain.unsqueeze() + bias.unsqueeze();
        let narrow = self.down.forward(normed, self.merge, "down-part", ctx);
        let narrow = dropout(self.activation.apply(narrow), self.dropout, ctx);
        output + self.up.forward(narrow, self.merge, "up-part", ctx) * self.scale
    }
}

impl MosaConfig {
    /// Parts of D and of U.
    fn split(&self) -> [usize; 2] {
        match self.share {
            Share::Down => [1, self.parts],
            Share::Up => [self.parts, 1],
            Share::None => [self.parts; 2],
        }
    }
}

impl SiteGraft for MosaConfig {
    type Adapter = Mosa;

    const SITES: &'static [SiteKind] = &[SiteKind::Sublayer];

    fn takes(&self, site: &SiteShape) -> bool {
        self.beside.include(site)
    }

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        let (d, m, [down, up]) = (site.width, self.width, self.split());
        Counts::trained(2 * d * m + down * m + up * d + 2 * d)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<Mosa> {
        let (d, m, [down, up]) = (site.width, self.width, self.split());
        let vector = |init, role| Param::from_tensor(ctx.tensor(init, [d], role));
        let start = Init::KaimingUniform { fan_in: d };
        Ok(Mosa {
            norm_gain: vector(Init::ONES, "norm_gain"),
            norm_bias: vector(Init::ZEROS, "norm_bias"),
            down: Split::init(start, [d, m], down, "down", ctx),
            up: Split::init(Init::ZEROS, [m, d], up, "up", ctx),
            activation: self.activation,
            merge: self.merge,
            scale: self.scale,
            dropout: self.dropout,
        })
    }
}

impl Method for MosaConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        admits: "any sublayer",
        ..MethodMeta::graft(
            "mosa",
            "MoSA",
            Family::Bottleneck,
            "2312.02923",
            "z + s (f(norm(h) D_i + b_i) U_j + b'_j), parts i, j at random; merged in evaluation",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        for (name, value) in [("width", self.width), ("parts", self.parts)] {
            if value == 0 {
                return Err(format!("{name} 0: expected at least 1"));
            }
        }
        if !self.scale.is_finite() {
            return Err(format!("scale {}: expected a finite number", self.scale));
        }
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            width: 3,
            scale: 1.0,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                beside: Sublayers::Both,
                parts: 3,
                share: Share::None,
                merge: Merge::Join,
                dropout: 0.0,
                activation: Activation::Tanh,
                ..small.clone()
            },
            Self {
                beside: Sublayers::Attention,
                parts: 2,
                share: Share::Up,
                ..small.clone()
            },
            Self {
                parts: 1,
                dropout: 0.0,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::Mode;

    use super::*;
    use crate::testing::{apart, draw, entries, in_mode, init, site};

    fn moved(config: &MosaConfig) -> Mosa {
        let mut mosa = init(config, 5);
        for (split, role) in [(&mut mosa.down, "down"), (&mut mosa.up, "up")] {
            split.delta = Param::from_tensor(draw(split.delta.dims(), role));
            split.bias = Param::from_tensor(draw(split.bias.dims(), &format!("{role} bias")));
        }
        mosa
    }

    #[test]
    fn parts_are_disjoint_equal_and_cover_everything() {
        let mosa = init(
            &MosaConfig {
                share: Share::None,
                ..MosaConfig::default()
            },
            5,
        );
        for split in [&mosa.down, &mosa.up] {
            let owner = entries(&split.owner);
            for part in 0..4 {
                assert_eq!(owner.iter().filter(|o| **o == part as f64).count(), 20);
            }
        }
    }

    #[test]
    fn merged_it_is_the_mean_of_its_parts_or_their_union() {
        let config = MosaConfig {
            share: Share::None,
            ..MosaConfig::default()
        };
        let split = moved(&config).down;
        let x = draw([3, 5], "x");
        let parts = (0..4).map(|index| split.part(x.clone(), index));
        let mean = parts.reduce(|sum, one| sum + one).unwrap() / 4.0;
        assert!(apart(&split.merged(x.clone(), Merge::Mean), &mean) < 1e-13);
        let whole = x.clone().matmul(split.start.clone() + split.delta.val());
        let whole = whole + split.bias.val().mean_dim(0);
        assert!(apart(&split.merged(x, Merge::Join), &whole) < 1e-13);
    }

    #[test]
    fn a_step_trains_one_part_alone() {
        let config = MosaConfig {
            dropout: 0.0,
            ..MosaConfig::default()
        };
        let mosa = moved(&config).train();
        let sublayer = || ["s", "i", "o"].map(|role| draw([2, 3, 5], role));
        let mut seen = std::collections::BTreeSet::new();
        for step in 0..20 {
            let y = in_mode(&mosa, sublayer(), Mode::Train { seed: 1, step });
            let gradients = y.sum().backward();
            let delta = entries(&mosa.up.delta.val().grad(&gradients).unwrap());
            let owner = entries(&mosa.up.owner);
            let owners: Vec<f64> = (owner.iter().zip(&delta))
                .filter(|(_, g)| **g != 0.0)
                .map(|(owner, _)| *owner)
                .collect();
            assert!(owners.windows(2).all(|pair| pair[0] == pair[1]));
            seen.insert(owners[0] as usize);
            // D is shared: all of it is trained that the part of U reads.
            let down = entries(&mosa.down.delta.val().grad(&gradients).unwrap());
            assert!(down.iter().filter(|g| **g != 0.0).count() > 40);
        }
        assert_eq!(seen.len(), 4);
        let eval = || in_mode(&mosa, sublayer(), Mode::Eval);
        assert_eq!(entries(&eval()), entries(&eval()));
    }

    #[test]
    fn counts_follow_from_the_parts() {
        // ViT-B/16, width 16, D shared: U has an offset per part.
        let count = MosaConfig::default().count(&site(768)).trainable;
        assert_eq!(count, 2 * 768 * 16 + 16 + 4 * 768 + 2 * 768);
    }
}
