//! WAVEFT: WaveFT. Which entries are trained follows from the seed.

use engraft_core::LayerShape;

use super::{Configured, PeftType, Settings, Written, common, size_patterns, sizes, table};
use crate::config::{Reader, number};
use crate::error::Result;
use crate::field::Field;
use crate::targets::{first_match, only};

/// W' = W + s IDWT2(C)^T with C zero but for n entries.
pub(super) struct WaveFt;

impl PeftType for WaveFt {
    fn name(&self) -> &'static str {
        "WAVEFT"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["waveft"]
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let n: usize = config.get("n_frequency", 2592)?;
        let patterns = config.frequencies()?;
        let proportional: bool = config.get("proportional_parameters", false)?;
        let size = |layer: &LayerShape| (layer.d_in * layer.d_out) as f64;
        let all: f64 = layers.iter().map(size).sum();
        // The budget of all layers, shared out by size; Python rounds halves to even.
        let share = |path: &str| {
            let layer = layers.iter().find(|layer| layer.path == path)?;
            let budget = (n * layers.len()) as f64;
            Some((size(layer) / all * budget).round_ties_even().max(1.0))
        };
        let names = ("n_frequency_pattern", "n-frequency");
        let overrides = sizes(layers, names, n, |path| match proportional {
            true => Ok(share(path)),
            false => first_match("n_frequency_pattern", &patterns, path),
        })?;
        let init = match config.get("init_weights", true)? {
            true => "zeros",
            false => "gaussian",
        };
        let own = table([
            ("n-frequency", n.into()),
            ("scaling", config.get::<f64>("scaling", 25.0)?.into()),
            (
                "wavelet-family",
                config.get("wavelet_family", "db1".to_owned())?.into(),
            ),
            ("use-idwt", config.get::<bool>("use_idwt", true)?.into()),
            (
                "entry-seed",
                config.get::<u64>("random_loc_seed", 777)?.into(),
            ),
            ("init", init.into()),
        ]);
        Ok(Settings {
            method: "waveft",
            config: own,
            overrides,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let (n, patterns) = size_patterns(layers, "n-frequency", only, first_match)?;
        let keys = table([
            ("n_frequency", n.into()),
            ("n_frequency_pattern", patterns),
            ("proportional_parameters", false.into()),
            ("scaling", number(common(layers, "scaling")?)),
            (
                "wavelet_family",
                common::<String>(layers, "wavelet-family")?.into(),
            ),
            ("use_idwt", common::<bool>(layers, "use-idwt")?.into()),
            (
                "random_loc_seed",
                common::<u64>(layers, "entry-seed")?.into(),
            ),
            (
                "init_weights",
                (common::<String>(layers, "init")? == "zeros").into(),
            ),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let n = layer.get("n-frequency")?;
        Ok(vec![Field::same("waveft_spectrum", "spectrum", &[n])])
    }
}
