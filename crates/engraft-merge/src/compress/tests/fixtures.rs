//! Adapters, checkpoints, and where they lie.

pub(super) use std::collections::HashMap;
pub(super) use std::path::{Path, PathBuf};

pub(super) use engraft_linalg::Matrix;
pub(super) use proptest::prelude::*;
pub(super) use rand::{RngExt, SeedableRng};
pub(super) use rand_chacha::ChaCha8Rng;
pub(super) use rand_distr::{Distribution, StandardNormal};
pub(super) use safetensors::Dtype;
pub(super) use serde_json::{Value, json};
pub(super) use tempfile::TempDir;

pub(super) use super::super::ternary::entropy_bits;
pub(super) use super::super::*;
pub(super) use crate::adapter::{Adapter, CONFIG_FILE, MODEL, TENSOR_FILE};
pub(super) use crate::base::Base;
pub(super) use crate::factorise::Rank;
pub(super) use crate::file::{Planned, TensorFiles, TensorWriter};

pub(super) type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<f32>)>;

pub(super) fn normal(count: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let draw = |_| -> f32 { StandardNormal.sample(&mut random) };
    (0..count).map(draw).collect()
}

pub(super) fn save(path: &Path, tensors: &Tensors) {
    let planned = tensors.iter().map(|(name, dtype, shape, _)| Planned {
        name: name.clone(),
        dtype: *dtype,
        shape: shape.clone(),
    });
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut writer = TensorWriter::create(path, planned.collect(), &metadata).unwrap();
    for planned in writer.order() {
        let (_, dtype, _, data) = tensors.iter().find(|t| t.0 == planned.name).unwrap();
        writer.numbers(*dtype, data).unwrap();
    }
    writer.finish().unwrap();
}

/// A LoRA adapter of two modules and a head.
pub(super) fn lora(directory: &Path, rank: usize, dtype: Dtype, seed: u64) {
    let mut tensors = Tensors::new();
    for (at, module) in ["layers.0.q", "layers.1.v"].into_iter().enumerate() {
        let seed = seed + 2 * at as u64;
        let (rows, columns) = (40, 30);
        let a = normal(rank * columns, seed);
        let b = normal(rows * rank, seed + 1);
        let key = |field: &str| format!("{MODEL}{module}.{field}.weight");
        tensors.push((key("lora_A"), dtype, vec![rank, columns], a));
        tensors.push((key("lora_B"), dtype, vec![rows, rank], b));
    }
    tensors.push((
        format!("{MODEL}head.weight"),
        Dtype::F32,
        vec![3, 40],
        normal(120, seed + 9),
    ));
    save(&directory.join(TENSOR_FILE), &tensors);
    let config = json!({
        "peft_type": "LORA", "r": rank, "lora_alpha": 16, "use_rslora": true,
        "alpha_pattern": {"v": 4}, "target_modules": ["q", "v"], "modules_to_save": ["head"],
    });
    std::fs::write(directory.join(CONFIG_FILE), config.to_string()).unwrap();
    std::fs::write(directory.join("README.md"), "a card").unwrap();
}

/// A checkpoint, and one that differs from it in some tensors.
pub(super) fn checkpoints(directory: &Path, dtype: Dtype) -> [PathBuf; 2] {
    let tensors = |step: f32| -> Tensors {
        let moved = |count: usize, seed: u64, step: f32| -> Vec<f32> {
            let change = normal(count, seed + 100).into_iter();
            normal(count, seed)
                .into_iter()
                .zip(change)
                .map(|(x, d)| x + step * d)
                .collect()
        };
        vec![
            (
                "model.embed.weight".into(),
                dtype,
                vec![20, 16],
                moved(320, 1, 0.0),
            ),
            (
                "model.q.weight".into(),
                dtype,
                vec![24, 16],
                moved(384, 2, step),
            ),
            (
                "model.v.weight".into(),
                dtype,
                vec![16, 16],
                moved(256, 3, step),
            ),
            (
                "model.k.weight".into(),
                dtype,
                vec![16, 16],
                moved(256, 4, 0.0),
            ),
            (
                "model.norm.weight".into(),
                Dtype::F32,
                vec![16],
                moved(16, 5, step),
            ),
        ]
    };
    [("base", 0.0), ("tuned", 0.01)].map(|(name, step)| {
        let path = directory.join(name);
        std::fs::create_dir(&path).unwrap();
        save(&path.join("model.safetensors"), &tensors(step));
        path
    })
}

pub(super) fn numbers(path: &Path) -> HashMap<String, Vec<f32>> {
    let files = TensorFiles::open(path).unwrap();
    let names = files.infos().keys();
    names
        .map(|name| (name.clone(), files.read(name).unwrap().data))
        .collect()
}

pub(super) fn bytes(path: &Path) -> Vec<(String, String, Vec<u8>)> {
    let files = TensorFiles::open(path).unwrap();
    let each = files.infos().iter().map(|(name, info)| {
        let what = format!("{:?} {:?}", info.dtype, info.shape);
        (name.clone(), what, files.bytes(name).unwrap().to_vec())
    });
    each.collect()
}

pub(super) fn distance(a: &[f32], b: &[f32]) -> f64 {
    let each = a
        .iter()
        .zip(b)
        .map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2));
    each.sum::<f64>().sqrt()
}

pub(super) struct Place {
    pub(super) directory: TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(super) fn adapter(&self, dtype: Dtype) -> PathBuf {
        let path = self.path("adapter");
        std::fs::create_dir(&path).unwrap();
        lora(&path, 4, dtype, 7);
        path
    }
}

pub(super) fn codecs() -> Vec<Codec> {
    let mut codecs = vec![
        Codec::Compeft(Compeft::default()),
        Codec::Compeft(Compeft {
            magnitude: Magnitude::Mean,
            ..Compeft::default()
        }),
        Codec::Compeft(Compeft {
            scope: Scope::Tensor,
            density: 0.3,
            ..Compeft::default()
        }),
    ];
    for bits in 1..=8 {
        for scale in [Scale::Absmax, Scale::Affine] {
            codecs.push(Codec::Quantised(Quantised {
                bits,
                scale,
                ..Quantised::default()
            }));
        }
    }
    codecs
}
