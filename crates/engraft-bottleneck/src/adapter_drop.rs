//! AdapterDrop: no adapters in the lower layers.

use burn::module::Module;
use burn::tensor::Tensor;
use engraft_core::{
    Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Mode, Parts, Result,
    SiteAdapter, SiteGraft, SiteKind, SiteShape, layer_index,
};
use engraft_tensor::Key;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::bottleneck::{Bottleneck, BottleneckShape};
use crate::{Activation, Sublayers};

/// Which layers have no adapter, counted from the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dropping {
    /// The first that many never have one.
    Specialised(usize),
    /// All have one; every training step goes without those of the first n layers, n drawn anew.
    Robust {
        /// The largest n that is drawn.
        most: usize,
        /// n in evaluation: what speed is bought with.
        evaluation: usize,
    },
}

/// Configuration of [`AdapterDrop`]. Defaults: no adapters in the first five layers, after both
/// sublayers, a reduction factor of 16, GELU, offsets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AdapterDropConfig {
    /// `{ specialised = 5 }` or `{ robust = { most = 11, evaluation = 5 } }`.
    pub drop: Dropping,
    /// `both`, `feed-forward` or `attention`.
    pub after: Sublayers,
    /// Width m of the bottleneck; the reduction factor decides where it is left out.
    pub width: Option<usize>,
    /// d / m.
    pub reduction_factor: usize,
    /// f.
    pub activation: Activation,
    /// Whether the projections have offsets.
    pub bias: bool,
    /// s.
    pub scale: f64,
}

impl Default for AdapterDropConfig {
    fn default() -> Self {
        Self {
            drop: Dropping::Specialised(5),
            after: Sublayers::Both,
            width: None,
            reduction_factor: 16,
            activation: Activation::Gelu,
            bias: true,
            scale: 1.0,
        }
    }
}

/// z + s (f(z D + b_D) U + b_U) from layer n on, z in the layers before it; z is what a sublayer
/// returned.
///
/// Rückle et al., AdapterDrop: On the Efficiency of Adapters in Transformers, arXiv 2010.11918,
/// section 3: n is fixed (specialised) or drawn from 0, ..., `most` for every batch, 11 of 12 layers
/// in the paper (robust). The layer of a site is the first number in its path; a site without one
/// is never dropped. All sites of a model see the same n. See [`Bottleneck`] for shapes and starting
/// values.
#[derive(Module, Debug)]
pub struct AdapterDrop {
    /// D, U and their offsets.
    pub bottleneck: Bottleneck,
    #[module(skip)]
    layer: Option<usize>,
    #[module(skip)]
    drop: Dropping,
}

impl Dropping {
    /// n in this pass.
    fn layers(self, mode: Mode) -> usize {
        match (self, mode) {
            // Their sites have no adapter.
            (Self::Specialised(_), _) => 0,
            (Self::Robust { evaluation, .. }, Mode::Eval) => evaluation,
            (Self::Robust { most, .. }, Mode::Train { seed, step }) => {
                let key = Key::new(seed)
                    .child("adapter-drop")
                    .child(&step.to_string());
                key.rng().random_range(0..=most)
            }
        }
    }
}

impl SiteAdapter for AdapterDrop {
    fn wrap(&self, _: Tensor<2>, output: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        match self.layer {
            Some(layer) if layer < self.drop.layers(ctx.mode()) => output,
            _ => output.clone() + self.bottleneck.forward(output),
        }
    }
}

impl AdapterDropConfig {
    fn shape(&self) -> BottleneckShape {
        BottleneckShape {
            width: self.width,
            reduction_factor: self.reduction_factor,
            activation: self.activation,
            bias: self.bias,
            layer_norm: false,
            scale: self.scale,
        }
    }
}

impl SiteGraft for AdapterDropConfig {
    type Adapter = AdapterDrop;

    const SITES: &'static [SiteKind] = &[SiteKind::Sublayer];

    fn takes(&self, site: &SiteShape) -> bool {
        let dropped = match (self.drop, layer_index(&site.path)) {
            (Dropping::Specialised(layers), Some(layer)) => layer < layers,
            _ => false,
        };
        !dropped && self.after.include(site)
    }

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        self.shape().count(site.width)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<AdapterDrop> {
        Ok(AdapterDrop {
            bottleneck: self.shape().init(site.width, ctx),
            layer: layer_index(&site.path),
            drop: self.drop,
        })
    }
}

impl Method for AdapterDropConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        admits: "any sublayer",
        ..MethodMeta::graft(
            "adapter-drop",
            "AdapterDrop",
            Family::Bottleneck,
            "2010.11918",
            "z + s (f(z D + b_D) U + b_U) from layer n on, z before it",
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
        let robust = Dropping::Robust {
            most: 3,
            evaluation: 1,
        };
        vec![
            small.clone(),
            Self {
                drop: robust,
                after: Sublayers::FeedForward,
                width: None,
                activation: Activation::Tanh,
                bias: false,
                scale: 2.0,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;

    use super::*;
    use crate::testing::{apart, draw, entries, in_mode, init, site};

    fn at(layer: usize) -> SiteShape {
        SiteShape {
            path: format!("encoder.block.{layer}.sites.mlp"),
            ..site(768)
        }
    }

    #[test]
    fn the_first_layers_have_no_adapter_and_the_count_is_the_published_one() {
        // Compacter's table: T5-base, width 24, layers 5 to 11 of both stacks, 62 layer norms.
        let config = AdapterDropConfig {
            width: Some(24),
            ..AdapterDropConfig::default()
        };
        let layers: Vec<usize> = (0..12).filter(|layer| config.takes(&at(*layer))).collect();
        assert_eq!(layers, [5, 6, 7, 8, 9, 10, 11]);
        let count = 2 * 2 * layers.len() * config.count(&at(5)).trainable;
        assert_eq!(count + 62 * 768, 1_101_984);
    }

    #[test]
    fn a_robust_step_drops_a_random_number_of_layers() {
        let config = AdapterDropConfig {
            drop: Dropping::Robust {
                most: 11,
                evaluation: 4,
            },
            ..AdapterDropConfig::default()
        };
        // The site is in layer 3.
        let mut adapter = init(&config, 6);
        adapter.bottleneck.up_bias = Some(Param::from_tensor(draw([1, 6], "u").reshape([6])));
        let x = draw([2, 3, 6], "x");
        let acts = |adapter: &AdapterDrop, mode| {
            let y = in_mode(adapter, [x.clone(), x.clone(), x.clone()], mode);
            apart(&y, &x) > 1e-3
        };
        assert!(!acts(&adapter, Mode::Eval));
        let fewer = AdapterDrop {
            drop: Dropping::Robust {
                most: 11,
                evaluation: 3,
            },
            ..adapter.clone()
        };
        assert!(acts(&fewer, Mode::Eval));
        let train = |seed, step| Mode::Train { seed, step };
        let acted = (0..600)
            .filter(|step| acts(&adapter, train(5, *step)))
            .count();
        // n is at most 3 in four of twelve draws: 200, with a deviation of 11.5.
        assert!((140..260).contains(&acted), "{acted}");
        let drawn = |step| adapter.drop.layers(train(5, step));
        assert!((0..600).all(|step| acts(&adapter, train(5, step)) == (drawn(step) <= 3)));
        assert!((0..600).map(drawn).max() == Some(11) && (0..600).map(drawn).min() == Some(0));
        assert_eq!(entries(&x).len(), 36);
    }
}
