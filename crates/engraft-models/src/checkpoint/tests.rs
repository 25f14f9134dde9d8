use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, Device, TensorData};
use engraft_core::file::{read_tensors, write_tensors};
use engraft_core::{Ctx, params};
use engraft_tensor::Key;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::testing::{Case, fixture, vectors};

mod broken;
mod quantised;

type Tensors = BTreeMap<String, TensorData>;

fn options() -> LoadOptions {
    LoadOptions::new(&Device::default(), DType::F32)
}

fn tensors(directory: &Path) -> Tensors {
    read_tensors(&directory.join("model.safetensors"))
        .unwrap()
        .0
}

/// A copy of a checkpoint whose tensors and configuration were changed.
fn changed(
    from: &Path,
    tensors_by: impl FnOnce(&mut Tensors),
    config_by: impl FnOnce(&mut Value),
) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let mut values = tensors(from);
    tensors_by(&mut values);
    let path = directory.path().join("model.safetensors");
    write_tensors(&path, &values, HashMap::new()).unwrap();
    let text = std::fs::read_to_string(from.join("config.json")).unwrap();
    let mut config = serde_json::from_str(&text).unwrap();
    config_by(&mut config);
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    directory
}

fn message(directory: &Path) -> String {
    load(directory, &options()).unwrap_err().to_string()
}

fn values(model: &Pretrained) -> BTreeMap<String, TensorData> {
    params::read(model, |_| true)
}

#[test]
fn saving_what_was_loaded_gives_the_file_again() {
    let golden = ["bert", "roberta", "bert_cls", "vit"].map(vectors);
    let own = [
        "bert_mlm",
        "roberta_mlm",
        "roberta_mlm_untied",
        "roberta_regression",
        "roberta_tokens",
        "vit_cls",
    ]
    .map(fixture);
    for directory in golden.into_iter().chain(own) {
        let model = load(&directory, &options()).unwrap();
        assert_eq!(*model.report(), LoadReport::default());
        let copy = tempfile::tempdir().unwrap();
        model.save(copy.path()).unwrap();
        let [saved, file] = [copy.path(), &directory].map(|path| {
            let mut all = tensors(path);
            // transformers stores a second offset beside an untied output layer's, and ignores it.
            if all.contains_key("lm_head.decoder.bias") {
                assert!(all.remove("lm_head.bias").is_some());
            }
            all
        });
        assert_eq!(saved, file, "{directory:?}");
        let again = load(copy.path(), &options()).unwrap();
        assert_eq!(values(&again), values(&model));
        assert_eq!(again.config_json(), model.config_json());
        let files = std::fs::read_dir(copy.path()).unwrap().count();
        assert_eq!(files, 2, "no temporary file is left");
    }
}

#[test]
fn every_storage_and_compute_precision() {
    let directory = vectors("bert_cls");
    let cast = |dtype: DType| {
        let all = |tensors: &mut Tensors| {
            for value in tensors.values_mut() {
                *value = value.clone().convert_dtype(dtype);
            }
        };
        changed(&directory, all, |_| {})
    };
    for stored in [DType::F16, DType::BF16, DType::F64] {
        let half = cast(stored);
        let model = load(half.path(), &options()).unwrap();
        for (name, value) in values(&model) {
            assert_eq!(value.dtype(), DType::F32, "{name}");
        }
        let copy = tempfile::tempdir().unwrap();
        model.save(copy.path()).unwrap();
        assert_eq!(tensors(copy.path()), tensors(half.path()));
    }
    for dtype in [DType::F64, DType::F16, DType::BF16] {
        let options = LoadOptions::new(&Device::default(), dtype);
        let model = load(&directory, &options).unwrap();
        assert!(values(&model).values().all(|value| value.dtype() == dtype));
    }
    let options = LoadOptions::new(&Device::default(), DType::I32);
    assert!(load(&directory, &options).is_err());
}

#[test]
fn prefixes_old_names_and_buffers() {
    let directory = vectors("bert");
    let plain = load(&directory, &options()).unwrap();
    let old = changed(
        &directory,
        |tensors| {
            *tensors = std::mem::take(tensors)
                .into_iter()
                .map(|(name, value)| {
                    let name = name
                        .replace("LayerNorm.weight", "LayerNorm.gamma")
                        .replace("LayerNorm.bias", "LayerNorm.beta");
                    (format!("bert.{name}"), value)
                })
                .collect();
            let positions = TensorData::new((0..40i64).collect(), [1, 40]);
            tensors.insert("bert.embeddings.position_ids".to_owned(), positions);
            let head = TensorData::zeros::<f32, _>([97]);
            tensors.insert("cls.predictions.bias".to_owned(), head);
        },
        |_| {},
    );
    let model = load(old.path(), &options()).unwrap();
    assert_eq!(values(&model), values(&plain));
    assert_eq!(model.report().unused, ["cls.predictions.bias"]);

    // Files of transformers 5's own names.
    let directory = vectors("vit");
    let plain = load(&directory, &options()).unwrap();
    let new = changed(
        &directory,
        |tensors| {
            *tensors = std::mem::take(tensors)
                .into_iter()
                .map(|(name, value)| {
                    let name = name.replace("encoder.layer.", "vit.layers.");
                    let name = name.replace(".attention.attention.query.", ".attention.q_proj.");
                    (name.replace(".intermediate.dense.", ".mlp.fc1."), value)
                })
                .collect();
        },
        |_| {},
    );
    assert_eq!(
        values(&load(new.path(), &options()).unwrap()),
        values(&plain)
    );
}

#[test]
fn tied_weights_may_be_stored_twice_or_under_the_other_name() {
    let directory = fixture("bert_mlm");
    let plain = values(&load(&directory, &options()).unwrap());
    let (words, decoder) = (
        "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.weight",
    );
    let twice = changed(
        &directory,
        |tensors| drop(tensors.insert(decoder.to_owned(), tensors[words].clone())),
        |_| {},
    );
    assert_eq!(values(&load(twice.path(), &options()).unwrap()), plain);
    let other = changed(
        &directory,
        |tensors| {
            for (from, to) in [
                (words, decoder),
                ("cls.predictions.bias", "cls.predictions.decoder.bias"),
            ] {
                let value = tensors.remove(from).unwrap();
                tensors.insert(to.to_owned(), value);
            }
        },
        |_| {},
    );
    assert_eq!(values(&load(other.path(), &options()).unwrap()), plain);
}

#[test]
fn shards_are_one_checkpoint() {
    let from = vectors("roberta");
    let plain = load(&from, &options()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::copy(from.join("config.json"), path("config.json")).unwrap();
    let mut index = serde_json::Map::new();
    let all = tensors(&from);
    let (a, b): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|(name, _)| name.contains("layer.0"));
    for (shard, part) in [("model-1.safetensors", a), ("model-2.safetensors", b)] {
        let part: Tensors = part.into_iter().collect();
        index.extend(part.keys().map(|name| (name.clone(), json!(shard))));
        write_tensors(&path(shard), &part, HashMap::new()).unwrap();
    }
    let write = |index: &serde_json::Map<String, Value>| {
        let text = json!({"metadata": {}, "weight_map": index}).to_string();
        std::fs::write(path(files::INDEX), text).unwrap();
    };
    write(&index);
    let model = load(directory.path(), &options()).unwrap();
    assert_eq!(values(&model), values(&plain));

    let mut more = index.clone();
    more.insert("pooler.other".to_owned(), json!("model-1.safetensors"));
    write(&more);
    assert!(message(directory.path()).contains("no file has: pooler.other"));
    more.insert("pooler.other".to_owned(), json!("../model-1.safetensors"));
    write(&more);
    assert!(message(directory.path()).contains("in the same directory"));
    write(&index);
    std::fs::remove_file(path("model-2.safetensors")).unwrap();
    let found = message(directory.path());
    assert!(found.contains("model-2.safetensors: missing"), "{found}");
    std::fs::write(path(files::INDEX), "{").unwrap();
    assert!(message(directory.path()).contains("EOF"));
}

#[test]
fn a_new_head_starts_fresh_and_is_named() {
    let directory = vectors("bert");
    let head = |labels, seed| {
        let task = Task::Classification(labels);
        load(&directory, &options().with_task(task, Key::new(seed))).unwrap()
    };
    let model = head(5, 1);
    assert_eq!(
        model.report().fresh,
        ["classifier.weight", "classifier.bias"]
    );
    let shapes = crate::shapes::from_value(model.config_json()).unwrap();
    assert_eq!(shapes.head(), 32 * 5 + 5);
    assert_eq!(values(&model), values(&head(5, 1)));
    assert_ne!(values(&model), values(&head(5, 2)));
    let copy = tempfile::tempdir().unwrap();
    model.save(copy.path()).unwrap();
    assert_eq!(
        values(&load(copy.path(), &options()).unwrap()),
        values(&model)
    );

    // One that is there is kept if it fits, and makes room if it does not.
    let directory = vectors("bert_cls");
    let with = |task| load(&directory, &options().with_task(task, Key::new(0))).unwrap();
    let same = with(Task::Classification(3));
    assert_eq!(*same.report(), LoadReport::default());
    let other = with(Task::Classification(2));
    assert_eq!(
        other.report().fresh,
        ["classifier.weight", "classifier.bias"]
    );
    let masked = with(Task::MaskedLanguage);
    assert_eq!(masked.report().unused.len(), 4);
    assert!(
        masked
            .report()
            .fresh
            .contains(&"cls.predictions.bias".to_owned())
    );

    // Without a choice, what is missing is an error.
    let headless = changed(
        &directory,
        |tensors| drop(tensors.remove("classifier.bias")),
        |_| {},
    );
    assert!(message(headless.path()).contains("missing: classifier.bias"));
}

#[test]
fn a_model_in_f64_computes_what_it_does_in_f32() {
    let case = Case::load(&vectors("bert_cls"));
    let options = LoadOptions::new(&Device::default(), DType::F64);
    let wide = load(&vectors("bert_cls"), &options).unwrap();
    let output = wide.forward(&case.text(), &Ctx::default()).unwrap();
    let logits = output.logits.unwrap().sequence().unwrap();
    let narrow = logits.cast(DType::F32);
    case.agrees("out.logits", &narrow, case.usual("out.logits"));
    assert_eq!(
        wide.clone().train().valid().config_json(),
        wide.config_json()
    );
}
