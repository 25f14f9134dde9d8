//! VBLORA: VB-LoRA, with all logits or with the best of them only.

use burn::tensor::{DType, TensorData};
use engraft_core::LayerShape;

use super::{Configured, PeftType, Settings, Tensors, Written, common, table};
use crate::config::Reader;
use crate::error::Result;
use crate::field::{Layout, MODEL, SHARED};
use crate::pair::Pair;

/// y = x W + b + x A B with A and B mixed from the vectors of one bank.
pub(super) struct VbLora;

/// PEFT's name of the logits, and Engraft's.
const LOGITS: [[&str; 2]; 2] = [["vblora_logits_A", "a"], ["vblora_logits_B", "b"]];

impl PeftType for VbLora {
    fn name(&self) -> &'static str {
        "VBLORA"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["vb-lora"]
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        let top_only: bool = config.get("save_only_topk_weights", false)?;
        let own = table([
            ("rank", config.get("r", 4usize)?.into()),
            ("vectors", config.get("num_vectors", 256usize)?.into()),
            ("length", config.get("vector_length", 256usize)?.into()),
            ("top-k", config.get("topk", 2usize)?.into()),
            ("dropout", config.get("vblora_dropout", 0.0)?.into()),
            (
                "bank-bound",
                config.get("init_vector_bank_bound", 0.02)?.into(),
            ),
            ("logits-std", config.get("init_logits_std", 0.1)?.into()),
            ("form", if top_only { "top-k" } else { "logits" }.into()),
        ]);
        Ok(Settings {
            method: "vb-lora",
            config: own,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let keys = table([
            ("r", common::<usize>(layers, "rank")?.into()),
            ("num_vectors", common::<usize>(layers, "vectors")?.into()),
            ("vector_length", common::<usize>(layers, "length")?.into()),
            ("topk", common::<usize>(layers, "top-k")?.into()),
            ("vblora_dropout", common::<f64>(layers, "dropout")?.into()),
            (
                "init_vector_bank_bound",
                common::<f64>(layers, "bank-bound")?.into(),
            ),
            (
                "init_logits_std",
                common::<f64>(layers, "logits-std")?.into(),
            ),
            (
                "save_only_topk_weights",
                (common::<String>(layers, "form")? == "top-k").into(),
            ),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn pairs(&self, layers: &[Configured], name: &str) -> Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        for configured in layers {
            let layer = &configured.layer;
            let (vectors, top_k): (usize, usize) =
                (configured.get("vectors")?, configured.get("top-k")?);
            for ([peft, own], [m, q]) in LOGITS.into_iter().zip(shapes(configured)?) {
                let mut push = |rest: &str, own_rest: &str, depth: usize| {
                    let keys = [&format!("{peft}{rest}"), &format!("{own}.{own_rest}")];
                    let keys = keys.map(|key| key.as_str());
                    pairs.push(Pair::on_layer(
                        layer,
                        name,
                        keys,
                        &[m, q, depth],
                        Layout::Same,
                    ));
                };
                if configured.get::<String>("form")? == "logits" {
                    push("", "logits", vectors);
                    continue;
                }
                push("_topk_indices", "indices", top_k);
                if top_k > 1 {
                    push("_topk_weights", "weights", top_k - 1);
                }
            }
        }
        if let Some(first) = layers.first() {
            let shape = [first.get("vectors")?, first.get("length")?];
            let key = format!("{SHARED}vblora_vector_bank");
            pairs.push(Pair::trained(key, name, "vectors", &shape, Layout::Same));
        }
        Ok(pairs)
    }

    /// A mixture of one vector has no weights, which PEFT stores as a tensor without entries.
    fn unpack(
        &self,
        _: &[LayerShape],
        _: &mut Settings,
        tensors: &mut Tensors,
        _: &Tensors,
    ) -> Result<()> {
        tensors.retain(|key, data| !(key.ends_with("_topk_weights") && data.num_elements() == 0));
        for (key, data) in tensors {
            if key.ends_with("_topk_indices") {
                *data = data.clone().convert_dtype(DType::I64);
            }
        }
        Ok(())
    }

    fn pack(&self, layers: &[Configured], tensors: &mut Tensors) -> Result<(), String> {
        for layer in layers {
            // The smallest integers that PEFT trusts with the number of vectors.
            let dtype = match layer.value::<usize>("vectors")? {
                0..0x100 => DType::U8,
                0x100..0x8000 => DType::I16,
                0x8000..0x8000_0000 => DType::I32,
                _ => DType::I64,
            };
            let shapes = shapes(layer).map_err(|error| error.to_string())?;
            for ([peft, _], [m, q]) in LOGITS.into_iter().zip(shapes) {
                let key = format!("{MODEL}{}.{peft}", layer.layer.path);
                if let Some(data) = tensors.get_mut(&format!("{key}_topk_indices")) {
                    *data = data.clone().convert_dtype(dtype);
                    tensors
                        .entry(format!("{key}_topk_weights"))
                        .or_insert_with(|| TensorData::new(Vec::<f32>::new(), [m, q, 0]));
                }
            }
        }
        Ok(())
    }
}

/// How many sub-vectors A and B have, as PEFT arranges them.
fn shapes(configured: &Configured) -> Result<[[usize; 2]; 2]> {
    let (rank, length): (usize, usize) = (configured.get("rank")?, configured.get("length")?);
    let length = length.max(1);
    let layer = &configured.layer;
    Ok([[rank, layer.d_in / length], [layer.d_out / length, rank]])
}
