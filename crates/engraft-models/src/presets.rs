//! Models that ship with their weights.

use std::path::Path;

use burn::tensor::Device;
use engraft_core::{Result, file};

use crate::vit::Vit;
use crate::vit_config::VitConfig;

/// The weights of [`digits_vit`] as safetensors.
pub const DIGITS_VIT: &[u8] = include_bytes!("../assets/digits-vit.safetensors");

/// The configuration of the digits ViT: 8x8 grey images, patches of 2x2, 10 classes.
pub fn digits_vit_config() -> VitConfig {
    VitConfig {
        image: 8,
        patch: 2,
        channels: 1,
        width: 48,
        depth: 3,
        heads: 4,
        mlp_width: 96,
        classes: 10,
        epsilon: 1e-6,
    }
}

/// The digits ViT, pre-trained on upright digits with pixels in [0, 1]. Its file's `provenance`
/// metadata says from which seed, in how many steps and on which data.
///
/// # Errors
/// None, unless the file in this crate is corrupted.
pub fn digits_vit(device: &Device) -> Result<Vit> {
    let path = Path::new("digits-vit.safetensors");
    Vit::from_safetensors(
        &digits_vit_config(),
        path,
        file::parse_tensors(path, DIGITS_VIT)?,
        device,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digits_vit_loads_and_is_small() {
        let model = digits_vit(&Device::default()).unwrap();
        assert_eq!(model.config(), &digits_vit_config());
        assert!(digits_vit_config().shapes().total() <= 120_000 && DIGITS_VIT.len() < 1 << 20);
        let trained = model.head.weight.val().abs().max().into_scalar::<f64>();
        assert!(trained > 0.0, "a fresh head is zero");
    }

    #[test]
    fn another_configuration_is_refused_with_what_differs() {
        let config = VitConfig {
            mlp_width: 100,
            depth: 4,
            ..digits_vit_config()
        };
        let path = Path::new("digits-vit.safetensors");
        let contents = file::parse_tensors(path, DIGITS_VIT).unwrap();
        let error = Vit::from_safetensors(&config, path, contents, &Device::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("blocks.3.mlp.fc1.weight is missing")
                && error.contains("blocks.0.mlp.fc1.weight has shape"),
            "{error}"
        );
    }
}
