//! RoAd: 2D rotary adaptation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result,
};
use engraft_tensor::Init;
use engraft_tensor::ops::{PairRotation, rotate_pairs};
use serde::{Deserialize, Serialize};

/// Which entries of the 2 x 2 maps share an angle and a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Variant {
    /// All four: a scaled rotation.
    #[default]
    #[serde(rename = "road-1")]
    One,
    /// The two of each row.
    #[serde(rename = "road-2")]
    Two,
    /// None.
    #[serde(rename = "road-4")]
    Four,
}

impl Variant {
    /// Angles (and scales) of one pair of outputs.
    fn per_pair(self) -> usize {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Four => 4,
        }
    }
}

/// Configuration of [`Road`]. Defaults: RoAd_1 on adjacent pairs, as in the paper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RoadConfig {
    /// `road-1`, `road-2` or `road-4`.
    pub variant: Variant,
    /// Size g of the groups of outputs in which output j is paired with output j + g / 2. In groups of
    /// 2 (the paper) these are neighbours; PEFT's default is 64.
    pub group_size: usize,
}

impl Default for RoadConfig {
    fn default() -> Self {
        Self {
            variant: Variant::One,
            group_size: 2,
        }
    }
}

/// y = (x W + b) R, where R maps the outputs pair by pair:
/// z_1 = a_11 cos t_11 y_1 - a_12 sin t_12 y_2 and z_2 = a_21 sin t_21 y_1 + a_22 cos t_22 y_2.
///
/// | symbol | shape | |
/// |---|---|---|
/// | theta | `[k d_out / 2]` | trained angles t, zero at first |
/// | alpha | `[k d_out / 2]` | trained scales a, one at first |
///
/// RoAd_k has k angles and k scales for each pair: RoAd_1 one, RoAd_2 one for each row (t_i1 = t_i2),
/// RoAd_4 all four. They are ordered by group of g outputs; within a group of RoAd_1 by pair, of RoAd_2
/// by output, of RoAd_4 first those of the cosines and then those of the sines, each by output. A token
/// costs O(d_out) beside the layer.
///
/// Liao and Monz, 3-in-1: 2D Rotary Adaptation for Efficient Finetuning, Efficient Batching and
/// Composability, arXiv 2409.00119, section 3.1. PEFT pairs output j with output j + g / 2; that is
/// `group-size`, and the order is PEFT's.
#[derive(Module, Debug)]
pub struct Road {
    /// theta, `[k d_out / 2]`.
    pub theta: Param<Tensor<1>>,
    /// alpha, `[k d_out / 2]`.
    pub alpha: Param<Tensor<1>>,
    /// Which entries share them.
    #[module(skip)]
    pub variant: Variant,
    /// g.
    #[module(skip)]
    pub group_size: usize,
}

impl Road {
    /// y R for outputs y [tokens, d_out].
    pub fn apply(&self, y: Tensor<2>) -> Tensor<2> {
        let maps = PairRotation {
            per_pair: self.variant.per_pair(),
            half: self.group_size / 2,
        };
        rotate_pairs(y, self.theta.val(), self.alpha.val(), maps)
    }
}

impl Adapter for Road {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let row = |bias: Tensor<1>| self.apply(bias.unsqueeze()).squeeze_dim(0);
        Ok(FrozenBase::new(
            self.apply(base.weight()),
            base.bias.clone().map(row),
        ))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        self.apply(base.forward(x))
    }
}

impl RoadConfig {
    /// Angles (and scales) on a layer.
    fn angles(&self, d_out: usize) -> usize {
        self.variant.per_pair() * (d_out / 2)
    }
}

impl Graft for RoadConfig {
    type Adapter = Road;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        let (found, d_out) = (self.group_size, layer.d_out);
        if d_out.is_multiple_of(found) {
            return Ok(());
        }
        let nearest = (2..=d_out)
            .step_by(2)
            .filter(|group| d_out.is_multiple_of(*group))
            .min_by_key(|group| group.abs_diff(found));
        Err(match nearest {
            Some(near) => format!(
                "groups of {found} do not divide d_out = {d_out}; the nearest even size that does is {near}"
            ),
            None => format!("d_out = {d_out} does not fall into pairs; expected an even width"),
        })
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(2 * self.angles(layer.d_out))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Road> {
        let shape = [self.angles(base.d_out())];
        Ok(Road {
            theta: Param::from_tensor(ctx.tensor(Init::ZEROS, shape, "theta")),
            alpha: Param::from_tensor(ctx.tensor(Init::ONES, shape, "alpha")),
            variant: self.variant,
            group_size: self.group_size,
        })
    }
}

impl Method for RoadConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("ROAD"),
        changes_bias: true,
        admits: "d_out a multiple of the group size, which is even",
        ..MethodMeta::graft(
            "road",
            "RoAd",
            Family::Givens,
            "2409.00119",
            "y = (x W + b) R, R of blocks [[a cos t, a sin t], [-a sin t, a cos t]]",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if self.group_size >= 2 && self.group_size.is_multiple_of(2) {
            Ok(())
        } else {
            Err(format!(
                "group-size {}: expected an even number of at least 2",
                self.group_size
            ))
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let mut examples = Vec::new();
        for variant in [Variant::One, Variant::Two, Variant::Four] {
            for group_size in [2, 4, 10] {
                let config = Self {
                    variant,
                    group_size,
                };
                if config.admits(layer).is_ok() {
                    examples.push(config);
                }
            }
        }
        examples
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::DType;
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::{draw, eye, forms_apart, largest};

    fn random(variant: Variant, group_size: usize, d_out: usize) -> Road {
        let angles = [variant.per_pair() * (d_out / 2)];
        Road {
            theta: Param::from_tensor(draw(angles, 4, "theta")),
            alpha: Param::from_tensor(draw(angles, 4, "alpha")),
            variant,
            group_size,
        }
    }

    #[test]
    fn both_forms_agree_and_pairs_stay_among_themselves() {
        let base = FrozenBase::new(draw([5, 24], 4, "w"), Some(draw([24], 4, "b")));
        for variant in [Variant::One, Variant::Two, Variant::Four] {
            for group_size in [2, 6, 24] {
                let road = random(variant, group_size, 24);
                assert!(forms_apart(&road, &base) < 1e-12);
                let r = bridge::values(&road.apply(eye(24, DType::F64)));
                let half = group_size / 2;
                for (at, value) in r.into_iter().enumerate() {
                    let (i, j) = (at / 24, at % 24);
                    let paired = i / group_size == j / group_size && i % half == j % half;
                    assert_eq!(paired, value != 0.0, "{variant:?} {group_size} {i} {j}");
                }
            }
        }
    }

    #[test]
    fn without_scales_the_first_variant_is_a_rotation_of_neighbours() {
        let mut road = random(Variant::One, 2, 6);
        road.alpha = Param::from_tensor(road.alpha.val() * 0.0 + 1.0);
        let r = road.apply(eye(6, DType::F64));
        assert!(largest(r.clone().matmul(r.clone().transpose()) - eye(6, DType::F64)) < 1e-15);
        // z = (y_1 cos t - y_2 sin t, y_1 sin t + y_2 cos t), as a row times R.
        let (sin, cos) = bridge::values(&road.theta.val())[1].sin_cos();
        let r = bridge::values(&r);
        assert_eq!([r[14], r[15], r[20], r[21]], [cos, sin, -sin, cos]);
    }

    #[test]
    fn counts_are_the_published_ones() {
        let count = |variant, d_out| {
            let config = RoadConfig {
                variant,
                ..RoadConfig::default()
            };
            config
                .count(&LayerShape::linear("", 1, d_out, false))
                .trainable
        };
        let llama = |variant, d, ff| 5 * count(variant, d) + 2 * count(variant, ff);
        // Tables 3 and 4: all seven linear layers of LLaMA-7B's 32 (0.02%, 0.04%), and of 13B's 40.
        assert_eq!(32 * llama(Variant::One, 4096, 11008), 1_359_872);
        assert_eq!(32 * llama(Variant::Two, 4096, 11008), 2_719_744);
        assert_eq!(32 * llama(Variant::Four, 4096, 11008), 4 * 1_359_872);
        assert_eq!(40 * llama(Variant::One, 5120, 13824), 2_129_920);
        assert_eq!(40 * llama(Variant::Two, 5120, 13824), 4_259_840);
        // Table 2: all six of RoBERTa-base's 12, and fc1 of RoBERTa-large's 24.
        assert_eq!(
            12 * (5 * count(Variant::One, 768) + count(Variant::One, 3072)),
            82_944
        );
        assert_eq!(24 * count(Variant::One, 4096), 98_304);
    }
}
