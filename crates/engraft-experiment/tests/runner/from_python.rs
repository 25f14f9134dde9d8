//! Adapters that Python's PEFT wrote: nothing beside its two files says what they are for.

use std::fs;
use std::path::{Path, PathBuf};

use engraft_core::file::read_tensors;
use engraft_data::tokens::{Splitting, Wrapping, tiny_tokenizer};
use engraft_experiment::adapt::{Prediction, Requests, predict};
use serde_json::json;

use crate::adapt::Disk;

fn vectors(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../engraft-peft/vectors/models")
        .join(model)
}

fn values(file: &Path, name: &str) -> Vec<f64> {
    let data = read_tensors(file).unwrap().0[name].clone().convert::<f64>();
    data.try_to_vec().unwrap()
}

/// A tokenizer whose word `t17` is the token 17.
fn numbered(vocabulary: usize) -> String {
    let words: serde_json::Map<_, _> = (0..vocabulary)
        .map(|id| (format!("t{id}"), json!(id)))
        .collect();
    json!({"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "t0"}})
    .to_string()
}

fn predictions(requests: &Requests) -> Vec<Prediction> {
    let mut all = Vec::new();
    predict(requests, |answer| {
        all.push(answer);
        Ok(())
    })
    .unwrap();
    all
}

#[test]
fn a_classifier_answers_as_in_python() {
    let disk = Disk::new("bert_cls");
    fs::write(disk.model().join("tokenizer.json"), numbered(97)).unwrap();
    let from = vectors("bert_cls");
    let ids = values(&from.join("io.safetensors"), "in.input_ids");
    let mask = values(&from.join("io.safetensors"), "in.attention_mask");
    let rows: Vec<String> = ids
        .chunks(9)
        .zip(mask.chunks(9))
        .map(|(ids, mask)| {
            let present = ids.iter().zip(mask).filter(|(_, mask)| **mask == 1.0);
            let words: Vec<String> = present.map(|(id, _)| format!("t{id}")).collect();
            format!("{},1\n", words.join(" "))
        })
        .collect();
    fs::write(disk.data(), format!("text,label\n{}", rows.concat())).unwrap();
    let adapter = from.join("adapters/lora_seq_cls");
    let found = predictions(&disk.requests(&adapter));
    let logits = values(&adapter.join("expected.safetensors"), "out.logits");
    assert_eq!(found.len(), 3);
    for (found, logits) in found.iter().zip(logits.chunks(3)) {
        let sum: f64 = logits.iter().map(|logit| logit.exp()).sum();
        let best = (0..3)
            .max_by(|a, b| logits[*a].total_cmp(&logits[*b]))
            .unwrap();
        assert_eq!(found.labels, [best.to_string()]);
        let expected = logits[best].exp() / sum;
        assert!(
            (found.scores[0] - expected).abs() < 1e-5,
            "{found:?}, {expected}"
        );
    }
}

#[test]
fn decoders_go_on_from_prompts() {
    for (model, adapters) in [
        (
            "llama",
            &[
                "ia3",
                "prefix_tuning",
                "lora_qv",
                "prompt_tuning",
                "layer_replication",
            ][..],
        ),
        ("gpt2", &["lora_qv", "ia3", "prefix_projection"]),
    ] {
        let disk = Disk::new(model);
        fs::write(disk.model().join("tokenizer.json"), numbered(97)).unwrap();
        for (column, name) in [("prompt", "prompts.jsonl"), ("text", "texts.jsonl")] {
            let rows = ["t5 t6 t7", "t9"].map(|text| format!("{}\n", json!({column: text})));
            let input = disk.folder.path().join(name);
            fs::write(&input, rows.concat()).unwrap();
            for adapter in adapters {
                let requests = Requests {
                    input: input.clone(),
                    max_new_tokens: Some(3),
                    ..disk.requests(&vectors(model).join("adapters").join(adapter))
                };
                let found = predictions(&requests);
                let words = |text: &Option<String>| text.as_ref().unwrap().split(' ').count();
                let counts: Vec<usize> = found.iter().map(|found| words(&found.text)).collect();
                assert_eq!(counts, [3, 3], "{model} {adapter}");
            }
        }
    }
}

#[test]
fn text_to_continue_is_for_decoders() {
    let disk = Disk::new("bert");
    let requests = disk.requests(&vectors("llama").join("adapters/prefix_tuning"));
    let error = predict(&requests, |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("expected a decoder"), "{error}");
}

#[test]
fn an_adapter_that_does_not_say_what_it_is_for_asks_for_the_task() {
    let disk = Disk::new("bert");
    let texts = ["a good film"];
    let tokenizer = tiny_tokenizer(Splitting::Words, Wrapping::Encoder, texts);
    fs::write(disk.model().join("tokenizer.json"), tokenizer).unwrap();
    let requests = disk.requests(&vectors("bert").join("adapters/ia3"));
    let error = predict(&requests, |_| Ok(())).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("give --task"), "{error}");
}

#[test]
fn images_have_their_names_and_are_measured_in_directories_of_classes() {
    let disk = Disk::new("vit");
    fs::write(
        disk.model().join("preprocessor_config.json"),
        json!({"size": {"height": 16, "width": 16}}).to_string(),
    )
    .unwrap();
    let images = disk.folder.path().join("images");
    for (class, shade) in [("dark", 20), ("light", 230)] {
        fs::create_dir_all(images.join(class)).unwrap();
        for number in 0..3 {
            let image = image::RgbImage::from_pixel(16, 16, image::Rgb([shade + number; 3]));
            image
                .save(images.join(class).join(format!("{number}.png")))
                .unwrap();
        }
    }
    let settings = engraft_experiment::adapt::Settings {
        data: images.clone(),
        evaluation: Some(images.clone()),
        ..disk.settings("lora", json!({"rank": 2}))
    };
    let summary = engraft_experiment::adapt::adapt(&settings, &mut |_| ()).unwrap();
    let requests = Requests {
        input: images.clone(),
        ..disk.requests(&settings.out)
    };
    let mut files = Vec::new();
    let scores = predict(&requests, |answer| {
        files.push(answer.file.unwrap());
        Ok(())
    });
    assert_eq!(scores.unwrap(), summary.after);
    assert_eq!(files[0], "dark/0.png");
    assert_eq!(files.len(), 6);
    let flat = Requests {
        input: images.join("light"),
        ..requests
    };
    assert_eq!(predictions(&flat)[2].file.as_deref(), Some("2.png"));
}
