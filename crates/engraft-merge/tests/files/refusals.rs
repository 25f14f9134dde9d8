//! What cannot be merged: the message says which adapter and module, and what would work.

use serde_json::json;

use crate::made::{Files, MODULES, Tensors, random};
use crate::merges::run;

const TWO: &str = "[[adapter]]\npath = \"a\"\n[[adapter]]\npath = \"b\"\n";

fn refused(files: &Files, text: &str, expected: &[&str]) {
    let message = run(files, text, "refused").unwrap_err().to_string();
    for part in expected {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn recipes_that_make_no_sense() {
    let files = Files::new();
    files.lora("a", 2, 3, 3);
    files.lora("b", 2, 3, 5);
    refused(
        &files,
        "method = \"tiess\"\n[[adapter]]\npath = \"a\"",
        &["no method `tiess`", "`ties`"],
    );
    refused(
        &files,
        &format!("methods = \"ties\"\n{TWO}"),
        &["methods", "nearest: `method`"],
    );
    refused(
        &files,
        &format!("method = \"ties\"\noptions = {{ densty = 0.1 }}\n{TWO}"),
        &["`densty`", "`density`"],
    );
    refused(
        &files,
        &format!("method = \"ties\"\n{TWO}[compatible]"),
        &["`method` and `compatible`"],
    );
    refused(&files, "adapter = []", &["no [[adapter]]"]);
    refused(
        &files,
        "[[adapter]]\npath = \"a\"\n[[adapter]]\npath = \"a\"",
        &["adapter `a`", "name"],
    );
    refused(
        &files,
        "[[adapter]]\npath = \"a\"\nweight = nan",
        &["adapter `a`", "NaN"],
    );
    refused(
        &files,
        "[[adapter]]\npath = \"nowhere\"",
        &["adapter `nowhere`", "no directory"],
    );
    refused(
        &files,
        &format!("{TWO}[output]\nrank = 2\nenergy = 0.5"),
        &["`rank` and `energy`"],
    );
    refused(
        &files,
        &format!("{TWO}[output]\nform = \"checkpoint\""),
        &["`base`"],
    );
    refused(
        &files,
        &format!("{TWO}[output]\nrank = 9"),
        &["rank 9", "from 1 to 8"],
    );
    refused(
        &files,
        &format!("method = \"ties\"\n{TWO}[output]\nform = \"lora\""),
        &["module `model.layers.0.q_proj`", "rank"],
    );
}

#[test]
fn adapters_that_do_not_belong_together() {
    let files = Files::new();
    files.lora("a", 2, 3, 3);
    files.lora("b", 2, 2, 5);
    refused(
        &files,
        TWO,
        &[
            "adapter `b`, module `model.layers.1.q_proj`",
            "lacks",
            "`a`",
            "missing = \"zero\"",
        ],
    );
    run(&files, &format!("missing = \"zero\"\n{TWO}"), "zero").unwrap();

    // Of another model: another shape.
    let mut tensors = Tensors::new();
    let mut rng = rand::SeedableRng::seed_from_u64(1);
    for (module, [rows, columns]) in MODULES {
        tensors.insert(
            format!("{module}.lora_A.weight"),
            random(&[2, columns + 1], &mut rng),
        );
        tensors.insert(
            format!("{module}.lora_B.weight"),
            random(&[rows, 2], &mut rng),
        );
    }
    let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj", "v_proj"]});
    files.adapter("b", config.clone(), &tensors);
    refused(
        &files,
        TWO,
        &[
            "adapter `b`, module `model.layers.0.q_proj`",
            "12x9",
            "12x8",
        ],
    );
    refused(
        &files,
        "base = \"base\"\n[[adapter]]\npath = \"b\"",
        &["adapter `b`, module", "another base"],
    );

    // Of another base by its name; the base settles it.
    files.lora("b", 2, 3, 5);
    let path = files.at("b").join("adapter_config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"base\"", "\"other\"")).unwrap();
    refused(
        &files,
        TWO,
        &["different bases", "`a` is for base", "`b` for other"],
    );
    let outcome = run(&files, &format!("base = \"base\"\n{TWO}"), "settled").unwrap();
    assert_eq!(outcome.warnings.len(), 1);

    // Modules that the base lacks.
    let renamed = tensors
        .into_iter()
        .map(|(key, tensor)| (key.replace("layers.1", "layers.7"), tensor));
    files.adapter("b", config, &renamed.collect());
    refused(
        &files,
        "base = \"base\"\n[[adapter]]\npath = \"b\"",
        &["adapter `b`", "layers.7", "nearest"],
    );
}

#[test]
fn adapters_that_are_broken_or_do_not_merge() {
    let files = Files::new();
    files.lora("a", 2, 3, 3);
    let mut rng = rand::SeedableRng::seed_from_u64(1);
    let mut tensors = Tensors::new();
    tensors.insert("prompt_embeddings".to_owned(), random(&[4, 8], &mut rng));
    files.adapter("b", json!({"peft_type": "PROMPT_TUNING"}), &tensors);
    refused(
        &files,
        TWO,
        &["adapter `b`", "`PROMPT_TUNING` has no host form", "`base`"],
    );
    let mut tensors = Tensors::new();
    for (module, [rows, columns]) in MODULES {
        tensors.insert(
            format!("{module}.lora_A.weight"),
            random(&[2, columns], &mut rng),
        );
        let mut b = random(&[rows, 2], &mut rng);
        b.data[3] = f32::INFINITY;
        tensors.insert(format!("{module}.lora_B.weight"), b);
    }
    let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj", "v_proj"]});
    files.adapter("b", config.clone(), &tensors);
    refused(
        &files,
        TWO,
        &["adapter `b`, module `model.layers.0.q_proj`", "inf at 3"],
    );
    let path = files.at("b").join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 7]).unwrap();
    refused(&files, TWO, &["adapter `b`", "truncated"]);
    std::fs::write(files.at("b").join("adapter_config.json"), "{").unwrap();
    refused(&files, TWO, &["adapter `b`", "malformed"]);
}
