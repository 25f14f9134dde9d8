//! PEANUT: PEANuT.

use engraft_core::LayerShape;
use engraft_tensor::suggestion;

use super::{Configured, PeftType, Settings, Written, common, table};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::Field;

/// W' = W + s f(W) B.
pub(super) struct Peanut;

/// Names of activations in transformers and here; of several for one, the first is written.
const ACTIVATIONS: [(&str, &str); 24] = [
    ("gelu", "gelu"),
    ("gelu_10", "gelu-10"),
    ("gelu_accurate", "gelu-tanh"),
    ("gelu_fast", "gelu-tanh"),
    ("gelu_new", "gelu-tanh"),
    ("gelu_python", "gelu"),
    ("gelu_python_tanh", "gelu-tanh"),
    ("gelu_pytorch_tanh", "gelu-tanh"),
    ("hardswish", "hardswish"),
    ("laplace", "laplace"),
    ("leaky_relu", "leaky-relu"),
    ("linear", "linear"),
    ("mish", "mish"),
    ("prelu", "prelu"),
    ("quick_gelu", "quick-gelu"),
    ("relu", "relu"),
    ("relu2", "relu2"),
    ("relu6", "relu6"),
    ("sigmoid", "sigmoid"),
    ("silu", "silu"),
    ("sqrtsoftplus", "sqrtsoftplus"),
    ("swish", "silu"),
    ("tanh", "tanh"),
    ("xielu", "xielu"),
];

impl PeftType for Peanut {
    fn name(&self) -> &'static str {
        "PEANUT"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["peanut"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["bias", "fan_in_fan_out"]
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        let named: String = config.get("act_fn", "relu".to_owned())?;
        let activation = ACTIVATIONS.iter().find(|(there, _)| *there == named);
        let Some((_, activation)) = activation else {
            let known = ACTIVATIONS.iter().map(|(there, _)| *there);
            let nearest = suggestion(&named, known);
            return Err(Error::config(
                "act_fn",
                format!("`{named}` is no activation of transformers{nearest}"),
            ));
        };
        let own = table([
            ("rank", config.get("r", 32_usize)?.into()),
            ("depth", config.get("depth", 0_usize)?.into()),
            ("activation", (*activation).into()),
            ("scaling", config.get("scaling", 1.0_f64)?.into()),
        ]);
        config.skip(&["init_weights"]);
        Ok(Settings {
            method: "peanut",
            config: own,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let activation: String = common(layers, "activation")?;
        let (named, _) = ACTIVATIONS
            .iter()
            .find(|(_, here)| *here == activation)
            .ok_or_else(|| format!("transformers has no activation `{activation}`"))?;
        let keys = table([
            ("r", common::<usize>(layers, "rank")?.into()),
            ("depth", common::<usize>(layers, "depth")?.into()),
            ("act_fn", (*named).into()),
            ("scaling", common::<f64>(layers, "scaling")?.into()),
            ("init_weights", true.into()),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let (rank, d_out) = (layer.get("rank")?, layer.layer.d_out);
        let mut fields = vec![
            Field::transposed("peanut_A.weight", "a", [rank, d_out]),
            Field::transposed("peanut_B.weight", "b", [d_out, rank]),
        ];
        for index in 0..layer.get::<usize>("depth")? {
            fields.extend(["encoders", "decoders"].map(|side| {
                let there = format!("peanut_{side}.{index}.weight");
                Field::transposed(there, format!("{side}.{index}"), [rank, rank])
            }));
        }
        Ok(fields)
    }
}
