//! FOURIERFT: FourierFT. Which entries are trained follows from the seed.

use engraft_core::LayerShape;

use super::{Configured, PeftType, Settings, Written, common, size_patterns, sizes, table};
use crate::config::{Reader, number};
use crate::error::Result;
use crate::field::Field;
use crate::targets::first_below;

/// W' = W + s Re(IDFT2(F))^T with F zero but for n entries.
pub(super) struct FourierFt;

impl PeftType for FourierFt {
    fn name(&self) -> &'static str {
        "FOURIERFT"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["fourierft"]
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let n: usize = config.get("n_frequency", 1000)?;
        let patterns = config.frequencies()?;
        let names = ("n_frequency_pattern", "n-frequency");
        let overrides = sizes(layers, names, n, |path| {
            first_below("n_frequency_pattern", &patterns, path)
        })?;
        let own = table([
            ("n-frequency", n.into()),
            ("scaling", config.get::<f64>("scaling", 150.0)?.into()),
            (
                "entry-seed",
                config.get::<u64>("random_loc_seed", 777)?.into(),
            ),
            (
                "zero-init",
                config.get::<bool>("init_weights", false)?.into(),
            ),
        ]);
        Ok(Settings {
            method: "fourierft",
            config: own,
            overrides,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let (n, patterns) = size_patterns(layers, "n-frequency", str::to_owned, first_below)?;
        let keys = table([
            ("n_frequency", n.into()),
            ("n_frequency_pattern", patterns),
            ("scaling", number(common(layers, "scaling")?)),
            (
                "random_loc_seed",
                common::<u64>(layers, "entry-seed")?.into(),
            ),
            ("init_weights", common::<bool>(layers, "zero-init")?.into()),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let n = layer.get("n-frequency")?;
        Ok(vec![Field::same("fourierft_spectrum", "spectrum", &[n])])
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use engraft_core::file::read_tensors;
    use engraft_tensor::MersenneTwister;

    #[test]
    fn entries_are_those_that_pytorch_draws() {
        for (case, tensor) in [
            ("fourierft__n50_24x16", "fc1.indices"),
            ("fourierft__conv1d", "fc1.indices"),
            ("fourierft__mlp_pattern", "fc1.indices"),
            ("fourierft__mlp_pattern", "fc2.indices"),
            ("waveft__db1_24x16", "fc1.waveft_indices"),
            ("waveft__db2_odd_21x27", "fc1.waveft_indices"),
            ("waveft__no_idwt_24x40_n", "fc1.waveft_indices"),
        ] {
            let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/cases");
            let (tensors, _) = read_tensors(&cases.join(format!("{case}.safetensors"))).unwrap();
            let stored: Vec<i64> = tensors[&format!("aux.base_model.model.{tensor}")]
                .clone()
                .try_to_vec()
                .unwrap();
            let [d_in, d_out] = match (case, tensor) {
                ("fourierft__conv1d", _) => [24, 36],
                ("fourierft__mlp_pattern", "fc1.indices") => [24, 40],
                ("fourierft__mlp_pattern", _) => [40, 15],
                ("waveft__db2_odd_21x27", _) => [21, 27],
                ("waveft__no_idwt_24x40_n", _) => [24, 40],
                _ => [24, 16],
            };
            let n = stored.len() / 2;
            let chosen = MersenneTwister::new(777).permutation(d_in * d_out, n);
            let outputs = chosen.iter().map(|entry| (entry / d_in) as i64);
            let inputs = chosen.iter().map(|entry| (entry % d_in) as i64);
            assert!(outputs.chain(inputs).eq(stored), "{case} {tensor}");
        }
    }
}
