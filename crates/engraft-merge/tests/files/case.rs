//! A golden case, and the directories that a user would have of it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use engraft_merge::file::{Planned, TensorFiles, TensorWriter};
use serde_json::Value;
use tempfile::TempDir;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../engraft-peft/vectors")
}

/// The cases that have tensors of their own.
pub fn index() -> Vec<Value> {
    let text = std::fs::read_to_string(vectors().join("index.json")).unwrap();
    let index: Value = serde_json::from_str(&text).unwrap();
    index["cases"].as_array().unwrap().clone()
}

pub struct Case {
    pub id: String,
    pub json: Value,
    pub files: TensorFiles,
}

impl Case {
    pub fn read(entry: &Value) -> Self {
        let file = |key: &str| vectors().join(entry[key].as_str().unwrap());
        let text = std::fs::read_to_string(file("json_file")).unwrap();
        Self {
            id: entry["id"].as_str().unwrap().to_owned(),
            json: serde_json::from_str(&text).unwrap(),
            files: TensorFiles::open(&file("tensors_file")).unwrap(),
        }
    }

    pub fn tensor(&self, name: &str) -> Option<Vec<f32>> {
        let known = self.files.infos().contains_key(name);
        known.then(|| self.files.read(name).unwrap().data)
    }

    /// Writes the tensors under a prefix to a file, without the prefix.
    fn split(&self, prefix: &str, path: &Path) {
        let infos = self.files.infos();
        let planned = infos.iter().filter_map(|(name, info)| {
            Some(Planned {
                name: name.strip_prefix(prefix)?.to_owned(),
                dtype: info.dtype,
                shape: info.shape.clone(),
            })
        });
        let mut writer = TensorWriter::create(path, planned.collect(), &HashMap::new()).unwrap();
        for tensor in writer.order() {
            let bytes = self
                .files
                .bytes(&format!("{prefix}{}", tensor.name))
                .unwrap();
            writer.bytes(&bytes).unwrap();
        }
        writer.finish().unwrap();
    }

    /// A directory with the base's checkpoint.
    pub fn base(&self) -> TempDir {
        let directory = tempfile::tempdir().unwrap();
        self.split("base.", &directory.path().join("model.safetensors"));
        directory
    }

    /// Puts an adapter into a directory.
    pub fn adapter(&self, directory: &Path, prefix: &str, config: &Value) {
        self.split(prefix, &directory.join("adapter_model.safetensors"));
        std::fs::write(directory.join("adapter_config.json"), config.to_string()).unwrap();
    }

    /// Asserts the tolerance that the case states.
    pub fn compare(&self, name: &str, found: &[f32], expected: &[f32]) {
        let tolerance = &self.json["tolerance"][name];
        let bound = |key: &str| {
            tolerance[key]
                .as_f64()
                .unwrap_or_else(|| panic!("{name} has no {key}"))
        };
        let (atol, rtol) = (bound("atol"), bound("rtol"));
        assert_eq!(found.len(), expected.len(), "{}: {name}", self.id);
        for (a, b) in found.iter().zip(expected) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            assert!(
                (a - b).abs() <= atol + rtol * b.abs(),
                "{}: {name}: {a} {b}",
                self.id
            );
        }
    }
}
