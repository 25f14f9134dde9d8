//! Deltas of adapters: added to the base they are the merged checkpoint.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use engraft_core::file::{read_tensors, write_tensors};
use engraft_experiment::adapt::{adapt, merge_into};
use engraft_experiment::merge::{DELTA_CONFIG, DELTA_FILE, export_deltas};
use serde_json::{Value, json};

use crate::adapt::{Disk, answers, assert_alike};

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn tensors(file: &Path) -> Tensors {
    let read = read_tensors(file).unwrap().0.into_iter();
    read.map(|(name, data)| {
        let shape = data.shape().to_vec();
        let values = data.convert_dtype(DType::F32).try_into_vec().unwrap();
        (name, (shape, values))
    })
    .collect()
}

/// What a directory of deltas makes of a checkpoint.
fn applied(base: &Path, deltas: &Path) -> Tensors {
    let text = fs::read_to_string(deltas.join(DELTA_CONFIG)).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["format"], 1);
    assert_eq!(config["base"]["sha256"].as_str().unwrap().len(), 64);
    let mut model = tensors(&base.join("model.safetensors"));
    for (name, (shape, delta)) in tensors(&deltas.join(DELTA_FILE)) {
        if let Some(whole) = name.strip_suffix(":saved") {
            model.insert(whole.to_owned(), (shape, delta));
            continue;
        }
        let (module, field) = name.rsplit_once('.').unwrap();
        let change = &config["modules"][module];
        // A checkpoint of a model without a head has no prefix.
        let name = format!("{}.{field}", change["file"].as_str().unwrap());
        let names = [&name[..], name.split_once('.').unwrap().1];
        let name = names.into_iter().find(|name| model.contains_key(*name));
        let (stored, values) = model
            .get_mut(name.unwrap_or_else(|| panic!("{module}")))
            .unwrap();
        let layout = change["layout"].as_str().unwrap();
        if field == "weight" && ["transposed", "embedding"].contains(&layout) {
            assert_eq!(stored[..], [shape[1], shape[0]]);
            for (at, value) in values.iter_mut().enumerate() {
                *value += delta[at % shape[0] * shape[1] + at / shape[0]];
            }
        } else {
            assert_eq!(*stored, shape, "{module}.{field}");
            values.iter_mut().zip(delta).for_each(|(w, d)| *w += d);
        }
    }
    model
}

fn vectors(model: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engraft-peft/vectors/models");
    root.join(model)
}

#[test]
fn deltas_and_the_base_are_the_merged_checkpoint() {
    for (model, adapter) in [
        ("bert", "boft_m2_b4"),
        ("bert", "road_1"),
        ("bert", "loha"),
        ("roberta", "ia3"),
        ("llama", "oft"),
        ("llama", "dora_all"),
        ("gpt2", "vera"),
        ("vit", "lora_qv"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let [deltas, merged] = ["deltas", "merged"].map(|name| folder.path().join(name));
        let (base, from) = (
            vectors(model),
            vectors(model).join("adapters").join(adapter),
        );
        let exported = export_deltas(&base, &from, &deltas).unwrap();
        assert!(!exported.modules.is_empty(), "{model} {adapter}");
        merge_into(&base, &from, &merged).unwrap();
        let (found, expected) = (
            applied(&base, &deltas),
            tensors(&merged.join("model.safetensors")),
        );
        let mut changed = 0;
        let plain = tensors(&base.join("model.safetensors"));
        for (name, (shape, expected)) in expected {
            let Some((found_shape, found)) = found.get(&name) else {
                continue;
            };
            assert_eq!(*found_shape, shape, "{name}");
            changed += usize::from(plain[&name].1 != expected);
            for (found, expected) in found.iter().zip(&expected) {
                // One difference and one sum in single precision.
                let tolerance = 3e-7 * expected.abs().max(1.0);
                assert!(
                    (found - expected).abs() < tolerance,
                    "{model} {adapter} {name}: {found} {expected}"
                );
            }
        }
        assert!(
            changed >= exported.modules.len(),
            "{model} {adapter}: {changed}"
        );
    }
}

/// What is trained without a slot (norms, biases, heads) and what acts at sites but folds into weights.
#[test]
fn deltas_of_trained_parameters_and_of_sites_answer_as_the_adapter() {
    for method in ["bitfit", "ln-tuning", "ssf", "full"] {
        let disk = Disk::new("bert");
        let settings = disk.settings(method, json!({}));
        adapt(&settings, &mut |_| ()).unwrap();
        let active = answers(&disk.requests(&settings.out));
        let deltas = disk.folder.path().join("deltas");
        let exported = export_deltas(&disk.model(), &settings.out, &deltas).unwrap();
        assert_eq!(exported.method, method);
        assert!(
            exported.saved.contains(&"classifier.weight".to_owned()),
            "{exported:?}"
        );
        let merged = disk.folder.path().join("merged");
        fs::create_dir(&merged).unwrap();
        for name in ["config.json", "tokenizer.json"] {
            fs::copy(disk.model().join(name), merged.join(name)).unwrap();
        }
        let config: Value =
            serde_json::from_slice(&fs::read(merged.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["model_type"], "bert");
        let model = applied(&disk.model(), &deltas);
        let model = model
            .into_iter()
            .map(|(name, (shape, values))| (name, TensorData::new(values, shape)));
        write_tensors(
            &merged.join("model.safetensors"),
            &model.collect(),
            HashMap::new(),
        )
        .unwrap();
        // (SSF starts at random: nothing of it is LoRA's B of zero.)
        let nothing = disk.settings("lora", json!({"rank": 2}));
        assert_alike(&disk, &nothing, merged, &active);
    }
}

#[test]
fn what_has_no_change_of_a_weight_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("deltas");
    let refused = |base: &Path, adapter: &Path| {
        let error = export_deltas(base, adapter, &out).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(!out.exists());
        error.to_string()
    };
    let llama = vectors("llama");
    let said = refused(&llama, &llama.join("adapters/prefix_tuning"));
    assert!(
        said.contains("adapter `prefix_tuning`, method `prefix-tuning`, module `"),
        "{said}"
    );
    assert!(said.contains("keep it as an adapter"), "{said}");
    let said = refused(&llama, &llama.join("adapters/lily"));
    assert!(
        said.contains("method `lily`, module `model.layers.0."),
        "{said}"
    );
    let disk = Disk::new("bert");
    let settings = disk.settings(
        "bottleneck-series",
        json!({"after": "feed-forward", "width": 4}),
    );
    adapt(&settings, &mut |_| ()).unwrap();
    let said = refused(&disk.model(), &settings.out);
    assert!(
        said.contains("method `bottleneck-series`, module `") && said.contains("sites"),
        "{said}"
    );
    let other = refused(&vectors("vit"), &llama.join("adapters/lora_qv"));
    assert!(other.contains("q_proj"), "{other}");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine"), "").unwrap();
    let error = export_deltas(&llama, &llama.join("adapters/oft"), &out).unwrap_err();
    assert!(error.to_string().contains("not empty"), "{error}");
}
