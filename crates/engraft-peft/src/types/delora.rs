//! DELORA: DeLoRA.

use engraft_core::LayerShape;

use super::{
    Configured, PeftType, Settings, Table, Written, common, override_by, pattern, rank_overrides,
    table,
};
use crate::config::{Patterns, Reader, number};
use crate::error::Result;
use crate::field::Field;

/// y = x W + b + (lambda / r) ((x . w) A) Xi B.
pub(super) struct Delora;

impl PeftType for Delora {
    fn name(&self) -> &'static str {
        "DELORA"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["delora"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["fan_in_fan_out"]
    }

    fn read(&self, config: &mut Reader, layers: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 8)?;
        let lambda: f64 = config.get("delora_lambda", 15.0)?;
        let dropout: f64 = config.get("module_dropout", 0.0)?;
        let mut overrides = rank_overrides(config, layers, rank)?;
        let lambdas: Patterns = config.get("lambda_pattern", Patterns::default())?;
        let lambdas = ("lambda_pattern", &lambdas);
        override_by(&mut overrides, lambdas, ("lambda", lambda), layers)?;
        config.skip(&["init_weights"]);
        let own = table([
            ("rank", rank.into()),
            ("lambda", lambda.into()),
            ("dropout", dropout.into()),
        ]);
        Ok(Settings {
            method: "delora",
            config: own,
            overrides,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let (rank, rank_pattern) = pattern(layers, "rank")?;
        let (lambda, lambdas) = pattern(layers, "lambda")?;
        let lambdas: Table = lambdas
            .0
            .into_iter()
            .map(|(path, lambda)| (path, number(lambda)))
            .collect();
        let keys = table([
            ("r", number(rank)),
            ("delora_lambda", number(lambda)),
            ("module_dropout", common::<f64>(layers, "dropout")?.into()),
            ("lambda_pattern", lambdas.into()),
            ("init_weights", true.into()),
        ]);
        Ok(Written {
            keys,
            rank_pattern,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (d_in, d_out, rank) = (layer.layer.d_in, layer.layer.d_out, layer.get("rank")?);
        Ok(vec![
            Field::transposed("delora_A", "a", [rank, d_in]),
            Field::transposed("delora_B", "b", [d_out, rank]),
            Field::same("delora_lambda", "lambda", &[1]),
            Field::same("delora_w_norm", "w_norm", &[d_in]),
        ])
    }
}
