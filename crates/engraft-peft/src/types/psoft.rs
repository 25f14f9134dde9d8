//! PSOFT, whose frozen factors are not in the file.

use engraft_core::LayerShape;
use serde_json::{Value, json};

use super::{Configured, PeftType, Settings, Table, Written, common, table};
use crate::config::{Reader, number};
use crate::error::{Error, Result};
use crate::field::Field;

/// y = x W + b + s x A (diag(m_in) R diag(m_out) - I) B.
pub(super) struct Psoft;

impl PeftType for Psoft {
    fn name(&self) -> &'static str {
        "PSOFT"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["psoft"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["bias"]
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 32)?;
        let alpha: f64 = config.get("psoft_alpha", 32.0)?;
        let dropout: f64 = config.get("psoft_dropout", 0.0)?;
        let is_orthogonal: bool = config.get("psoft_orth", true)?;
        let is_series: bool = config.get("use_cayley_neumann", false)?;
        let terms: usize = config.get("num_cayley_neumann_terms", 5)?;
        let bound: Option<f64> = config.find("cayley_neumann_eps")?;
        let rotation: Value = match (is_orthogonal, is_series) {
            (false, _) => "free".into(),
            (true, true) => json!({ "neumann": { "terms": terms, "bound": bound } }),
            (true, false) => "exact".into(),
        };
        let split = match config.get("ab_svd_init", "psoft_init".to_owned())?.as_str() {
            "psoft_init" => "orthonormal",
            "pissa_init" => "symmetric",
            other => {
                return Err(Error::config(
                    "ab_svd_init",
                    format!("found `{other}`, expected psoft_init or pissa_init"),
                ));
            }
        };
        let iterations: usize = config.get("psoft_svd_lowrank_niter", 10)?;
        let niter = match config.get("psoft_svd", "full".to_owned())?.as_str() {
            "full" => 0,
            "lowrank" => iterations,
            other => {
                return Err(Error::config(
                    "psoft_svd",
                    format!("found `{other}`, expected full or lowrank"),
                ));
            }
        };
        config.skip(&["random_seed", "init_weights"]);
        let own = table([
            ("rank", rank.into()),
            ("alpha", alpha.into()),
            ("dropout", dropout.into()),
            ("rotation", rotation),
            ("magnitude-in", config.get("psoft_mag_a", true)?.into()),
            ("magnitude-out", config.get("psoft_mag_b", true)?.into()),
            ("split", split.into()),
            ("niter", niter.into()),
        ]);
        Ok(Settings {
            method: "psoft",
            config: own,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let rank: usize = common(layers, "rank")?;
        let alpha: Option<f64> = common(layers, "alpha")?;
        let rotation: Value = common(layers, "rotation")?;
        let series = rotation.get("neumann");
        let part = |key: &str| series.and_then(|series| series.get(key)).cloned();
        let split = match common::<String>(layers, "split")?.as_str() {
            "symmetric" => "pissa_init",
            _ => "psoft_init",
        };
        let niter: usize = common(layers, "niter")?;
        let keys: Table = table([
            ("r", rank.into()),
            ("psoft_alpha", number(alpha.unwrap_or(rank as f64))),
            ("psoft_dropout", common::<f64>(layers, "dropout")?.into()),
            ("ab_svd_init", split.into()),
            (
                "psoft_svd",
                if niter == 0 { "full" } else { "lowrank" }.into(),
            ),
            (
                "psoft_svd_lowrank_niter",
                if niter == 0 { 10 } else { niter }.into(),
            ),
            ("random_seed", 0.into()),
            ("psoft_orth", (rotation != "free").into()),
            (
                "psoft_mag_a",
                common::<bool>(layers, "magnitude-in")?.into(),
            ),
            (
                "psoft_mag_b",
                common::<bool>(layers, "magnitude-out")?.into(),
            ),
            ("use_cayley_neumann", series.is_some().into()),
            (
                "num_cayley_neumann_terms",
                part("terms").unwrap_or(5.into()),
            ),
            ("cayley_neumann_eps", part("bound").unwrap_or_default()),
            ("init_weights", true.into()),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let rank: usize = layer.get("rank")?;
        let triangle = rank * rank.saturating_sub(1) / 2;
        let mut fields = vec![match layer.get::<Value>("rotation")? == "free" {
            true => Field::transposed("psoft_R.weight", "r", [rank, rank]),
            false => Field::reshaped("psoft_R.weight", "q", &[triangle], &[1, triangle]),
        }];
        for (key, peft, own) in [
            ("magnitude-in", "psoft_R.vector_a", "magnitude_in"),
            ("magnitude-out", "psoft_R.vector_b", "magnitude_out"),
        ] {
            if layer.get(key)? {
                fields.push(Field::same(peft, own, &[rank]));
            }
        }
        Ok(fields)
    }

    fn unsaved(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (d_in, d_out, rank) = (layer.layer.d_in, layer.layer.d_out, layer.get("rank")?);
        Ok(vec![
            Field::transposed("_psoft_A_cache", "a", [rank, d_in]),
            Field::transposed("_psoft_B_cache", "b", [d_out, rank]),
        ])
    }

    fn why_unsaved(&self) -> &'static str {
        "PSOFT's frozen factors A and B are not in PEFT's file: they are computed again from the \
         weight, and what the rotation means depends on the signs that this decomposition happens \
         to give the singular vectors"
    }
}
