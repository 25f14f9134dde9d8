//! What cannot be loaded is said.

use super::*;

#[test]
fn tensors_that_do_not_fit_are_listed_together() {
    let directory = changed(
        &vectors("bert"),
        |tensors| {
            let value = tensors.remove("encoder.layer.0.output.dense.bias").unwrap();
            tensors.insert("encoder.layer.0.outptu.dense.bias".to_owned(), value);
            tensors.remove("embeddings.LayerNorm.bias");
        },
        |config| config["intermediate_size"] = json!(60),
    );
    let found = message(directory.path());
    for part in [
        "missing: embeddings.LayerNorm.bias, encoder.layer.0.output.dense.bias",
        "unexpected: encoder.layer.0.outptu.dense.bias (nearest: encoder.layer.0.output.dense.bias",
        "encoder.layer.1.output.dense.weight has shape [32, 64], expected [32, 60]",
        "encoder.layer.0.intermediate.dense.bias has shape [64], expected [60]",
    ] {
        assert!(found.contains(part), "{part} in {found}");
    }
}

#[test]
fn weights_that_are_not_finite_are_named() {
    let directory = changed(
        &vectors("bert"),
        |tensors| {
            for (name, at, value) in [
                ("embeddings.LayerNorm.bias", 3, f32::NAN),
                ("encoder.layer.1.output.dense.weight", 65, f32::INFINITY),
            ] {
                let tensor = tensors.get_mut(name).unwrap();
                let mut values = tensor.clone().try_into_vec::<f32>().unwrap();
                values[at] = value;
                *tensor = TensorData::new(values, tensor.shape().clone());
            }
        },
        |_| {},
    );
    let found = message(directory.path());
    assert!(
        found.contains("embeddings.LayerNorm.bias holds NaN at [3]"),
        "{found}"
    );
    assert!(
        found.contains("encoder.layer.1.output.dense.weight holds inf at [1, 1]"),
        "{found}"
    );
}

#[test]
fn broken_and_missing_files() {
    let from = vectors("bert");
    let directory = changed(&from, |_| {}, |_| {});
    let path = directory.path().join("model.safetensors");
    let whole = std::fs::read(&path).unwrap();
    for length in [0, 4, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let found = message(directory.path());
        assert!(
            found.contains("truncated") && found.contains("model.safetensors"),
            "{found}"
        );
    }
    // Headers that lie about sizes, offsets and themselves.
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let text = String::from_utf8(whole[8..8 + header].to_vec()).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let lie = |change: &dyn Fn(&mut Value)| {
        let mut json = json.clone();
        change(&mut json["embeddings.LayerNorm.bias"]);
        let text = json.to_string();
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes.extend(&whole[8 + header..]);
        std::fs::write(&path, bytes).unwrap();
        message(directory.path())
    };
    assert!(lie(&|entry| entry["shape"] = json!([1u64 << 40])).contains("header"));
    assert!(lie(&|entry| entry["shape"] = json!([u64::MAX, 8])).contains("header"));
    assert!(lie(&|entry| entry["data_offsets"] = json!([0, u64::MAX])).contains("header"));
    assert!(lie(&|entry| entry["dtype"] = json!("F64")).contains("header"));
    assert!(lie(&|entry| *entry = json!(7)).contains("header"));
    for length in [u64::MAX, 1 << 40, header as u64 + 1] {
        let mut bytes = whole.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        assert!(message(directory.path()).contains("header"));
    }

    std::fs::remove_file(&path).unwrap();
    std::fs::write(directory.path().join("pytorch_model.bin"), b"x").unwrap();
    let found = message(directory.path());
    assert!(
        found.contains("neither") && found.contains("pytorch_model.bin"),
        "{found}"
    );
    std::fs::write(directory.path().join("config.json"), "{").unwrap();
    assert!(message(directory.path()).contains("not JSON"));
    std::fs::remove_file(directory.path().join("config.json")).unwrap();
    assert!(message(directory.path()).contains("config.json"));
    assert!(message(&directory.path().join("nowhere")).contains("no such directory"));
}

#[test]
fn integers_in_place_of_weights_are_an_error() {
    let directory = changed(
        &vectors("bert"),
        |tensors| {
            let bias = TensorData::new(vec![0i64; 32], [32]);
            tensors.insert("pooler.dense.bias".to_owned(), bias);
        },
        |_| {},
    );
    let found = message(directory.path());
    assert!(
        found.contains("pooler.dense.bias found precision I64"),
        "{found}"
    );
}
