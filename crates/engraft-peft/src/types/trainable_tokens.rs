//! TRAINABLE_TOKENS: rows of an embedding.

use engraft_core::{LayerKind, LayerShape};

use super::{Configured, PeftType, Settings, Written, common, table};
use crate::config::Reader;
use crate::error::Result;
use crate::field::Field;

/// y = R[p(i), :] for the chosen tokens i. The tensor holds the rows, not differences.
pub(super) struct TrainableTokens;

impl PeftType for TrainableTokens {
    fn name(&self) -> &'static str {
        "TRAINABLE_TOKENS"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["trainable-tokens"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &[
            "bias",
            "exclude_modules",
            "fan_in_fan_out",
            "layers_pattern",
            "layers_to_transform",
            "modules_to_save",
        ]
    }

    fn takes(&self, kind: LayerKind) -> bool {
        matches!(kind, LayerKind::Embedding | LayerKind::Linear)
    }

    fn saves_base(&self) -> bool {
        false
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        let tokens: Vec<usize> = config.get("token_indices", Vec::new())?;
        config.skip(&["init_weights"]);
        Ok(Settings {
            method: "trainable-tokens",
            config: table([("tokens", tokens.into())]),
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let tokens = common::<Vec<usize>>(layers, "tokens")?;
        Ok(Written {
            keys: table([
                ("token_indices", tokens.into()),
                ("init_weights", true.into()),
            ]),
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let tokens: Vec<usize> = layer.get("tokens")?;
        let width = match layer.layer.kind {
            LayerKind::Embedding => layer.layer.d_out,
            _ => layer.layer.d_in,
        };
        let shape = [tokens.len(), width];
        Ok(vec![Field::same("trainable_tokens_delta", "rows", &shape)])
    }
}
