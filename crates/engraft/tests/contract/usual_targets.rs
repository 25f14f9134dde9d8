//! Where methods go by default in models that are known by name.

use engraft::{Injection, method};
use engraft_core::{Plan, Targets};
use engraft_models::shapes::preset;
use serde_json::json;

fn plan(model: &str, targets: Targets) -> Plan {
    let ia3 = method("ia3", &json!({})).unwrap();
    let injection = Injection::default().targets(targets);
    Plan::new(&ia3, &preset(model).unwrap(), &injection).unwrap()
}

/// The layers of the first block and the side that is scaled, the model's prefix and the block cut off.
fn first_block(model: &str, block: &str) -> Vec<String> {
    let plan = plan(model, Targets::default());
    let layers = plan.layers.iter().filter_map(|(layer, method)| {
        let name = layer.path.strip_prefix(block)?;
        Some(format!("{name} {}", method.config()["scales"].as_str()?))
    });
    layers.collect()
}

#[test]
fn ia3_takes_the_layers_of_pefts_table() {
    let expected: [(&str, &str, &[&str]); 5] = [
        (
            "llama-2-7b",
            "model.layers.0.",
            &[
                "self_attn.k_proj output",
                "self_attn.v_proj output",
                "mlp.down_proj input",
            ],
        ),
        (
            "bert-base",
            "bert.encoder.layer.0.",
            &[
                "attention.self.key output",
                "attention.self.value output",
                // PEFT's name for the feed-forward layer matches the attention's output too.
                "attention.output.dense input",
                "output.dense input",
            ],
        ),
        (
            "gpt2",
            "transformer.h.0.",
            &["attn.c_attn output", "mlp.c_proj input"],
        ),
        (
            "t0-3b",
            "decoder.block.0.",
            &[
                "layer.0.SelfAttention.k output",
                "layer.0.SelfAttention.v output",
                "layer.1.EncDecAttention.k output",
                "layer.1.EncDecAttention.v output",
                "layer.2.DenseReluDense.wo input",
            ],
        ),
        (
            "qwen2.5-7b",
            "model.layers.0.",
            &[
                "self_attn.q_proj output",
                "self_attn.v_proj output",
                "mlp.down_proj input",
            ],
        ),
    ];
    for (model, block, layers) in expected {
        assert_eq!(first_block(model, block), layers, "{model}");
    }
    // T-Few: 540K. PEFT's benchmark on Llama-3.2-3B: 286,720.
    let trained = |model| plan(model, Targets::default()).counts().all_trained();
    assert_eq!(trained("t0-3b"), 540_672);
    assert_eq!(trained("llama-3.2-3b"), 286_720);
}

#[test]
fn explicit_targets_take_the_place_of_the_table_and_exclusions_act_on_it() {
    let targets = |value| serde_json::from_value::<Targets>(value).unwrap();
    let everything = plan("llama-2-7b", targets(json!("all-linear")));
    assert_eq!(everything.layers.len(), 7 * 32);
    let excluded = plan(
        "llama-2-7b",
        targets(
            json!({"exclude": ["v_proj"], "layers": [1], "config-pattern": {"down_proj": {"scales": "output"}}}),
        ),
    );
    let layers: Vec<_> = excluded
        .layers
        .iter()
        .map(|(layer, _)| layer.path.as_str())
        .collect();
    assert_eq!(
        layers,
        [
            "model.layers.1.self_attn.k_proj",
            "model.layers.1.mlp.down_proj"
        ]
    );
    assert!(
        excluded
            .layers
            .iter()
            .all(|(_, method)| method.config()["scales"] == "output")
    );
    // A model that is not in the table: every linear layer.
    assert_eq!(
        plan("clip-vit-base-patch32-visual", Targets::default())
            .layers
            .len(),
        6 * 12
    );
}
