//! MonteCLoRA: LoRA with the variational parameters of its sampler.

use engraft_core::LayerShape;
use serde_json::{Value, json};

use super::{
    Configured, Field, Result, Settings, Variant, common, entries, entry, finish, nested, table,
};

pub(super) struct Monteclora;

const KEY: &str = "monteclora_config";

impl Variant for Monteclora {
    fn key(&self) -> &'static str {
        KEY
    }

    fn method(&self) -> &'static str {
        "monteclora"
    }

    fn has_offset(&self) -> bool {
        true
    }

    fn read(&self, value: Value, _: &[LayerShape], settings: &mut Settings) -> Result<()> {
        let mut own = entries(value, KEY)?;
        let samples: usize = entry(&mut own, KEY, "num_samples", 8)?;
        let scaler: f64 = entry(&mut own, KEY, "sample_scaler", 1e-4)?;
        let weight: f64 = entry(&mut own, KEY, "kl_loss_weight", 1e-5)?;
        let prior: f64 = entry(&mut own, KEY, "dirichlet_prior", 0.1)?;
        let entropy: bool = entry(&mut own, KEY, "use_entropy", false)?;
        // Draws are not buffered here.
        own.remove("buffer_size");
        finish(own, KEY)?;
        settings.config.extend(table([
            ("samples", samples.into()),
            ("sample-scaler", scaler.into()),
            ("kl-loss-weight", weight.into()),
            ("dirichlet-prior", prior.into()),
            ("use-entropy", entropy.into()),
        ]));
        Ok(())
    }

    fn write(&self, layers: &[Configured]) -> Result<Value, String> {
        Ok(json!({
            "num_samples": common::<usize>(layers, "samples")?,
            "sample_scaler": common::<f64>(layers, "sample-scaler")?,
            "dirichlet_prior": common::<f64>(layers, "dirichlet-prior")?,
            "kl_loss_weight": common::<f64>(layers, "kl-loss-weight")?,
            "use_entropy": common::<bool>(layers, "use-entropy")?,
            "buffer_size": 150,
        }))
    }

    fn fields(&self, layer: &Configured, lora: Vec<Field>) -> Result<Vec<Field>> {
        let (rank, samples): (usize, usize) = (layer.get("rank")?, layer.get("samples")?);
        let mut fields = nested(lora);
        fields.extend([
            Field::same("lora_monteclora_sampler.std_prior", "std_prior", &[rank]),
            Field::same(
                "lora_monteclora_sampler.expert_weights_prior",
                "expert_weights_prior",
                &[samples],
            ),
            Field::same(
                "lora_monteclora_sampler.gaussian_var_prior",
                "gaussian_var_prior",
                &[rank, rank],
            ),
            Field::same(
                "lora_monteclora_sampler.expert_weights",
                "expert_weights",
                &[samples],
            ),
        ]);
        Ok(fields)
    }
}
