//! Adapters and bases that tests make.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use engraft_merge::file::{HostTensor, Planned, TensorFiles, TensorWriter};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Modules of the base, `[out, in]`.
pub const MODULES: [(&str, [usize; 2]); 3] = [
    ("model.layers.0.q_proj", [12, 8]),
    ("model.layers.0.v_proj", [6, 8]),
    ("model.layers.1.q_proj", [12, 8]),
];

pub struct Files(pub TempDir);

pub type Tensors = BTreeMap<String, HostTensor>;

pub fn random(shape: &[usize], rng: &mut ChaCha8Rng) -> HostTensor {
    let data = (0..shape.iter().product()).map(|_| rng.random_range(-1.0..1.0));
    HostTensor::new(shape.to_vec(), data.collect())
}

pub fn write(path: &Path, tensors: &Tensors, dtype: Dtype) {
    let planned = tensors.iter().map(|(name, tensor)| Planned {
        name: name.clone(),
        dtype,
        shape: tensor.shape.clone(),
    });
    let mut writer = TensorWriter::create(path, planned.collect(), &HashMap::new()).unwrap();
    for tensor in writer.order() {
        writer.numbers(dtype, &tensors[&tensor.name].data).unwrap();
    }
    writer.finish().unwrap();
}

impl Files {
    /// A base in two shards, with biases in its second layer.
    pub fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut shards = [Tensors::new(), Tensors::new()];
        for (at, (module, shape)) in MODULES.iter().enumerate() {
            let shard = &mut shards[at / 2];
            shard.insert(format!("{module}.weight"), random(shape, &mut rng));
            if at == 2 {
                shard.insert(format!("{module}.bias"), random(&shape[..1], &mut rng));
            }
        }
        shards[0].insert("model.norm.weight".to_owned(), random(&[8], &mut rng));
        let mut map = serde_json::Map::new();
        for (at, shard) in shards.iter().enumerate() {
            let name = format!("model-0000{}-of-00002.safetensors", at + 1);
            write(&files.at("base").join(&name), shard, Dtype::F32);
            map.extend(shard.keys().map(|key| (key.clone(), json!(name))));
        }
        let index = json!({"metadata": {}, "weight_map": map}).to_string();
        std::fs::write(files.at("base").join("model.safetensors.index.json"), index).unwrap();
        std::fs::write(files.at("base").join("config.json"), "{}").unwrap();
        files
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// An adapter of these tensors and keys.
    pub fn adapter(&self, name: &str, config: Value, tensors: &Tensors) {
        let at = self.at(name);
        let named = tensors
            .iter()
            .map(|(key, tensor)| (format!("base_model.model.{key}"), tensor.clone()));
        write(
            &at.join("adapter_model.safetensors"),
            &named.collect(),
            Dtype::F32,
        );
        std::fs::write(at.join("adapter_config.json"), config.to_string()).unwrap();
    }

    /// A LoRA on the first `modules` modules.
    pub fn lora(&self, name: &str, rank: usize, modules: usize, seed: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut tensors = Tensors::new();
        for (module, [rows, columns]) in &MODULES[..modules] {
            tensors.insert(
                format!("{module}.lora_A.weight"),
                random(&[rank, *columns], &mut rng),
            );
            tensors.insert(
                format!("{module}.lora_B.weight"),
                random(&[*rows, rank], &mut rng),
            );
        }
        let config = json!({
            "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "use_rslora": seed.is_multiple_of(2),
            "target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": "base",
        });
        self.adapter(name, config, &tensors);
    }

    /// An IA3 that scales outputs of q and inputs of v.
    pub fn ia3(&self, name: &str, seed: u64) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut tensors = Tensors::new();
        for (module, [rows, columns]) in MODULES {
            let shape = if module.ends_with("q_proj") {
                [rows, 1]
            } else {
                [1, columns]
            };
            tensors.insert(format!("{module}.ia3_l"), random(&shape, &mut rng));
        }
        let config = json!({"peft_type": "IA3", "target_modules": ["q_proj", "v_proj"], "feedforward_modules": ["v_proj"]});
        self.adapter(name, config, &tensors);
    }

    pub fn tensors(&self, name: &str) -> TensorFiles {
        TensorFiles::checkpoint(&self.at(name)).unwrap()
    }
}
