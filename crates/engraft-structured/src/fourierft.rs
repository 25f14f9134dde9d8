//! FourierFT: a few coefficients of the update's Fourier transform.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    Adapter, AtInit, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result,
};
use engraft_tensor::Init;
use engraft_tensor::ops::{Spectrum, waves_linear, waves_weight};
use serde::{Deserialize, Serialize};

use crate::spectrum::{admit_entries, entries, indices, positive_entries};

/// Configuration of [`FourierFt`]. Defaults: n = 1000 and the seed 777 of PEFT, alpha = 150 (the
/// paper takes 100 to 150 on GLUE and 300 for LLaMA and ViT).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct FourierFtConfig {
    /// Number n of trained coefficients of a layer.
    pub n_frequency: usize,
    /// alpha.
    pub scaling: f64,
    /// Seed of the choice of entries, which layers of one shape share as in the paper.
    pub entry_seed: u64,
    /// Whether coefficients start at zero instead of N(0, 1).
    pub zero_init: bool,
}

impl Default for FourierFtConfig {
    fn default() -> Self {
        Self {
            n_frequency: 1000,
            scaling: 150.0,
            entry_seed: 777,
            zero_init: false,
        }
    }
}

/// W' = W + alpha Re(IDFT2(F))^T, with F zero but for n real entries.
///
/// | symbol | shape | |
/// |---|---|---|
/// | c (`spectrum`) | `[n]` | trained entries of F, N(0, 1) at first |
/// | F | [d_out, d_in] | c_e at (p_e, q_e), entries chosen by a seed and not stored |
/// | W' - W | [d_in, d_out] | alpha / (d_in d_out) sum_e c_e cos(2 pi (q_e i / d_in + p_e j / d_out)) |
///
/// Gao et al., Parameter-Efficient Fine-Tuning with Discrete Fourier Transform, arXiv 2405.03003,
/// equations 2 to 4. The inverse transform carries 1 / (d_in d_out) as in the authors' code and in
/// PEFT; the paper's equation omits it.
///
/// The activation form transforms each token, moves its n frequencies to the output's and transforms
/// back: O(d_in log d_in + d_out log d_out + n), where a product with the update as a matrix costs
/// d_in d_out, and its backward pass one such product more than the frozen layer's.
#[derive(Module, Debug)]
pub struct FourierFt {
    /// c, `[n]`.
    pub spectrum: Param<Tensor<1>>,
    /// alpha.
    pub scaling: f64,
    /// Place q d_out + p of each entry, `[n]`.
    places: Tensor<1, Int>,
}

impl FourierFt {
    /// The places of the coefficients, and the scale of their waves.
    fn waves(&self, base: &FrozenBase) -> Spectrum {
        let shape = [base.d_in(), base.d_out()];
        Spectrum {
            shape,
            places: self.places.clone(),
            scaling: self.scaling / (shape[0] * shape[1]) as f64,
        }
    }
}

impl Adapter for FourierFt {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let (weight, c) = (base.weight(), self.spectrum.val());
        Ok(base.with_weight(waves_weight(weight, c, self.waves(base))))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let frozen = (base.weight(), base.bias.clone());
        waves_linear(x, frozen, self.spectrum.val(), self.waves(base))
    }
}

impl Graft for FourierFtConfig {
    type Adapter = FourierFt;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_entries(self.n_frequency, layer)
    }

    fn count(&self, _: &LayerShape) -> Counts {
        Counts::trained(self.n_frequency)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<FourierFt> {
        let (d_in, d_out, n) = (base.d_in(), base.d_out(), self.n_frequency);
        let init = if self.zero_init {
            Init::ZEROS
        } else {
            Init::Normal { std: 1.0 }
        };
        let places = entries(n, self.entry_seed, d_in, d_out)
            .into_iter()
            .map(|[p, q]| q * d_out + p);
        Ok(FourierFt {
            spectrum: Param::from_tensor(ctx.tensor(init, [n], "spectrum")),
            scaling: self.scaling,
            places: indices(places, &ctx.device),
        })
    }
}

impl Method for FourierFtConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("FOURIERFT"),
        at_init: AtInit::NotIdentity,
        admits: "a linear layer with at least n-frequency entries",
        ..MethodMeta::graft(
            "fourierft",
            "FourierFT",
            Family::Structured,
            "2405.03003",
            "W' = W + alpha Re(IDFT2(F))^T, F zero but for n real entries",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_entries(self.n_frequency)
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let all = layer.d_in * layer.d_out;
        vec![
            Self {
                n_frequency: all.div_ceil(5),
                scaling: 20.0,
                ..Self::default()
            },
            Self {
                n_frequency: all,
                scaling: 5.0,
                entry_seed: 3,
                ..Self::default()
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::TAU;

    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::Layer;

    #[test]
    fn the_update_has_its_coefficients_and_no_other() {
        let (d_in, d_out, layer) = (12, 7, Layer::new(12, 7));
        let config = FourierFtConfig {
            n_frequency: 9,
            scaling: 3.0,
            ..FourierFtConfig::default()
        };
        let adapter = layer.adapt(&config);
        assert!(layer.forms_distance(&adapter) < 1e-13);
        let update = layer.update(&adapter);
        let coefficients = bridge::values(&adapter.spectrum.val());
        let chosen = entries(9, 777, d_in, d_out);
        // The real part of the inverse transform keeps half of an entry and of its mirror image.
        for p in 0..d_out {
            for q in 0..d_in {
                let (mut re, mut im) = (0.0, 0.0);
                for (i, row) in update.iter().enumerate() {
                    for (j, value) in row.iter().enumerate() {
                        let turn = (q * i) as f64 / d_in as f64 + (p * j) as f64 / d_out as f64;
                        re += value * (TAU * turn).cos();
                        im -= value * (TAU * turn).sin();
                    }
                }
                let mirror = [(d_out - p) % d_out, (d_in - q) % d_in];
                let half = |entry| {
                    let found = chosen.iter().position(|other| *other == entry);
                    found.map_or(0.0, |at| 0.5 * 3.0 * coefficients[at])
                };
                let expected = half([p, q]) + half(mirror);
                assert!((re - expected).abs() < 1e-12 && im.abs() < 1e-12);
            }
        }
    }

    #[test]
    fn zeros_start_at_the_base() {
        let layer = Layer::new(5, 3);
        let adapter = layer.adapt(&FourierFtConfig {
            n_frequency: 4,
            zero_init: true,
            ..FourierFtConfig::default()
        });
        assert!(layer.update(&adapter).concat().iter().all(|x| *x == 0.0));
    }

    #[test]
    fn counts_are_the_published_ones() {
        let count = |n_frequency| {
            let config = FourierFtConfig {
                n_frequency,
                ..FourierFtConfig::default()
            };
            config
                .count(&LayerShape::linear("", 768, 768, false))
                .all_trained()
        };
        // The paper, RoBERTa-base: 0.024M at q and v of 12 layers.
        assert_eq!(24 * count(1000), 24_000);
        // PEFT's benchmark, q and v of Llama-3.2-3B's 28 layers.
        assert_eq!(56 * count(1000), 56_000);
        assert_eq!(56 * count(5000), 280_000);
    }
}
