//! WaveFT: a few wavelet coefficients of the update.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result,
};
use engraft_tensor::ops::{sparse_linear, sparse_weight};
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

use crate::spectrum::{admit_entries, entries, indices, positive_entries};
use crate::wavelet::Wavelet;

/// How the coefficients start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaveFtInit {
    /// Zero.
    #[default]
    Zeros,
    /// N(0, 0.01^2).
    Gaussian,
}

/// Configuration of [`WaveFt`]. Defaults of PEFT, the paper's for SDXL: n = 2592, s = 25, Haar.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct WaveFtConfig {
    /// Number n of trained coefficients of a layer.
    pub n_frequency: usize,
    /// s.
    pub scaling: f64,
    /// Wavelet: `db1` (Haar) to `db10`, `sym2` to `sym10`, `coif1` to `coif4`.
    pub wavelet_family: String,
    /// Whether coefficients are transformed; without, they are entries of the update itself.
    pub use_idwt: bool,
    /// Seed of the choice of entries, which layers of one shape share.
    pub entry_seed: u64,
    /// How the coefficients start.
    pub init: WaveFtInit,
}

impl Default for WaveFtConfig {
    fn default() -> Self {
        Self {
            n_frequency: 2592,
            scaling: 25.0,
            wavelet_family: "db1".to_owned(),
            use_idwt: true,
            entry_seed: 777,
            init: WaveFtInit::Zeros,
        }
    }
}

impl WaveFtConfig {
    /// The wavelet, if there is a transform.
    fn wavelet(&self) -> Result<Option<Wavelet>, String> {
        self.use_idwt
            .then(|| Wavelet::find(&self.wavelet_family))
            .transpose()
    }
}

/// W' = W + s IDWT2(C)^T, with C zero but for n entries.
///
/// | symbol | shape | |
/// |---|---|---|
/// | c (`spectrum`) | `[n]` | trained entries of C, zero at first |
/// | C | [d_out, d_in] | coefficients, their entries chosen by a seed and not stored |
///
/// Bilican et al., Exploring Sparsity for Parameter Efficient Fine Tuning Using Wavelets, arXiv
/// 2505.12532, section 3. One level of the transform; widths are padded as in PEFT (see the source
/// of its layer): C is centred in a matrix wider by the filter's length L less 2 and even, so that
/// a coefficient near a border keeps only what lies inside the weight, and the bands of an odd
/// layer are shifted by half of that. Without the transform this is SHiRA with a scale.
///
/// A coefficient adds L x L values to the weight, so that the update is sparse: n L^2 additions
/// (10,368 for the defaults, against d_in d_out L of a dense transform) into copies of panels of W
/// and one product, with a sampled product for the gradient.
#[derive(Module, Debug)]
pub struct WaveFt {
    /// c, `[n]`.
    pub spectrum: Param<Tensor<1>>,
    /// s.
    pub scaling: f64,
    /// What a unit coefficient adds at its places, [n, L^2].
    values: Tensor<2>,
    /// Places i d_out + j, `[n L^2]`.
    places: Tensor<1, Int>,
}

impl WaveFt {
    /// What the coefficients add at their places over s, [n L^2].
    fn added(&self) -> Tensor<1> {
        let [n, patch] = self.values.dims();
        let coefficients = self.spectrum.val().unsqueeze_dim::<2>(1);
        (coefficients * self.values.clone()).reshape([n * patch])
    }
}

impl Adapter for WaveFt {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let (weight, places) = (base.weight(), self.places.clone());
        let weight = sparse_weight(weight, places, self.added(), self.scaling);
        Ok(base.with_weight(weight))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let frozen = (base.weight(), base.bias.clone());
        sparse_linear(x, frozen, self.places.clone(), self.added(), self.scaling)
    }
}

impl Graft for WaveFtConfig {
    type Adapter = WaveFt;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_entries(self.n_frequency, layer)
    }

    fn count(&self, _: &LayerShape) -> Counts {
        Counts::trained(self.n_frequency)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<WaveFt> {
        let (d_in, d_out, n) = (base.d_in(), base.d_out(), self.n_frequency);
        let wavelet = self.wavelet().map_err(|reason| ctx.numeric(reason))?;
        let patch = wavelet.as_ref().map_or(1, |wavelet| wavelet.len().pow(2));
        let (mut values, mut places) = (vec![0.0; n * patch], vec![0; n * patch]);
        for (e, entry) in entries(n, self.entry_seed, d_in, d_out)
            .into_iter()
            .enumerate()
        {
            let added = match &wavelet {
                Some(wavelet) => wavelet.patch(entry, [d_out, d_in]),
                None => vec![(entry, 1.0)],
            };
            for (k, ([out, input], value)) in added.into_iter().enumerate() {
                values[e * patch + k] = value;
                places[e * patch + k] = input * d_out + out;
            }
        }
        let init = match self.init {
            WaveFtInit::Zeros => Init::ZEROS,
            WaveFtInit::Gaussian => Init::Normal { std: 0.01 },
        };
        Ok(WaveFt {
            spectrum: Param::from_tensor(ctx.tensor(init, [n], "spectrum")),
            scaling: self.scaling,
            values: bridge::tensor(values, [n, patch], &ctx.device, ctx.dtype),
            places: indices(places, &ctx.device),
        })
    }
}

impl Method for WaveFtConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("WAVEFT"),
        admits: "a linear layer with at least n-frequency entries",
        ..MethodMeta::graft(
            "waveft",
            "WaveFT",
            Family::Structured,
            "2505.12532",
            "W' = W + s IDWT2(C)^T, C zero but for n entries",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_entries(self.n_frequency)?;
        self.wavelet().map(drop)
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let all = layer.d_in * layer.d_out;
        let with = |n_frequency, wavelet_family: &str| Self {
            n_frequency,
            scaling: 3.0,
            wavelet_family: wavelet_family.to_owned(),
            ..Self::default()
        };
        vec![
            with(all.div_ceil(5), "db1"),
            with(all, "db3"),
            with(all.div_ceil(7), "coif1"),
            Self {
                use_idwt: false,
                entry_seed: 3,
                ..with(all.div_ceil(3), "sym4")
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::Layer;

    fn config(wavelet_family: &str, use_idwt: bool) -> WaveFtConfig {
        WaveFtConfig {
            n_frequency: 15,
            scaling: 2.0,
            wavelet_family: wavelet_family.to_owned(),
            use_idwt,
            init: WaveFtInit::Gaussian,
            ..WaveFtConfig::default()
        }
    }

    #[test]
    fn haar_keeps_the_energy_and_its_analysis_finds_the_coefficients() {
        let (d_in, d_out, layer) = (12, 8, Layer::new(12, 8));
        let adapter = layer.adapt(&config("db1", true));
        assert!(layer.forms_distance(&adapter) < 1e-13);
        let update = layer.update(&adapter);
        let coefficients = bridge::values(&adapter.spectrum.val());
        let energy = |values: &[f64]| values.iter().map(|x| x * x).sum::<f64>();
        let ratio = energy(&update.concat()) / energy(&coefficients);
        assert!((ratio - 4.0).abs() < 1e-12, "{ratio}");
        // Sums and differences of each 2 x 2 square of the update, (out, in).
        for (entry, value) in entries(15, 777, d_in, d_out).into_iter().zip(coefficients) {
            let (i, j) = (entry[0] % (d_out / 2), entry[1] % (d_in / 2));
            let (lower, right) = (entry[0] >= d_out / 2, entry[1] >= d_in / 2);
            let sign =
                |difference: bool, odd: usize| if difference && odd == 1 { -1.0 } else { 1.0 };
            let mut found = 0.0;
            for a in 0..2 {
                for b in 0..2 {
                    let signs = sign(right, a) * sign(lower, b);
                    found += 0.5 * signs * update[2 * j + b][2 * i + a];
                }
            }
            assert!((found - 2.0 * value).abs() < 1e-14, "{entry:?}");
        }
    }

    #[test]
    fn without_the_transform_the_entries_change_alone() {
        let layer = Layer::new(5, 7);
        let adapter = layer.adapt(&config("db2", false));
        let update = layer.update(&adapter).concat();
        assert_eq!(update.iter().filter(|x| **x != 0.0).count(), 15);
        let coefficients = bridge::values(&adapter.spectrum.val());
        for ([out, input], value) in entries(15, 777, 5, 7).into_iter().zip(coefficients) {
            assert!((update[input * 7 + out] - 2.0 * value).abs() < 1e-15);
        }
    }

    #[test]
    fn a_layer_trains_n_values() {
        let layer = LayerShape::linear("", 640, 640, false);
        assert_eq!(WaveFtConfig::default().count(&layer), Counts::trained(2592));
        assert!(
            config("db1", true)
                .admits(&LayerShape::linear("", 2, 7, true))
                .is_err()
        );
        assert!(config("coif5", true).validate().is_err());
    }
}
