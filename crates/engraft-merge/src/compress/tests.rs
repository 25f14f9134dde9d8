//! Directories in, directories out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use engraft_linalg::Matrix;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::ternary::entropy_bits;
use super::*;
use crate::adapter::{Adapter, CONFIG_FILE, MODEL, TENSOR_FILE};
use crate::base::Base;
use crate::factorise::Rank;
use crate::file::{Planned, TensorFiles, TensorWriter};

type Tensors = Vec<(String, Dtype, Vec<usize>, Vec<f32>)>;

fn normal(count: usize, seed: u64) -> Vec<f32> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let draw = |_| -> f32 { StandardNormal.sample(&mut random) };
    (0..count).map(draw).collect()
}

fn save(path: &Path, tensors: &Tensors) {
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
fn lora(directory: &Path, rank: usize, dtype: Dtype, seed: u64) {
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
fn checkpoints(directory: &Path, dtype: Dtype) -> [PathBuf; 2] {
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

fn numbers(path: &Path) -> HashMap<String, Vec<f32>> {
    let files = TensorFiles::open(path).unwrap();
    let names = files.infos().keys();
    names
        .map(|name| (name.clone(), files.read(name).unwrap().data))
        .collect()
}

fn bytes(path: &Path) -> Vec<(String, String, Vec<u8>)> {
    let files = TensorFiles::open(path).unwrap();
    let each = files.infos().iter().map(|(name, info)| {
        let what = format!("{:?} {:?}", info.dtype, info.shape);
        (name.clone(), what, files.bytes(name).unwrap().to_vec())
    });
    each.collect()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    let each = a
        .iter()
        .zip(b)
        .map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2));
    each.sum::<f64>().sqrt()
}

struct Place {
    directory: TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn adapter(&self, dtype: Dtype) -> PathBuf {
        let path = self.path("adapter");
        std::fs::create_dir(&path).unwrap();
        lora(&path, 4, dtype, 7);
        path
    }
}

fn codecs() -> Vec<Codec> {
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

#[test]
fn errors_are_those_of_the_report() {
    for dtype in [Dtype::F32, Dtype::BF16] {
        for codec in codecs() {
            let place = Place::new();
            let adapter = place.adapter(dtype);
            let options = Options {
                keep: vec!["head".to_owned()],
                ..Options::new(codec)
            };
            let report = compress(&adapter, &place.path("small"), &options).unwrap();
            let back = decompress(&place.path("small"), &place.path("back"), None).unwrap();
            assert_eq!(back.error, report.error);
            assert!(place.path("back").join("README.md").exists());
            let (before, after) = (
                numbers(&adapter.join(TENSOR_FILE)),
                numbers(&place.path("back").join(TENSOR_FILE)),
            );
            assert_eq!(
                before[&format!("{MODEL}head.weight")],
                after[&format!("{MODEL}head.weight")]
            );
            let (mut error, mut whole) = (0.0, 0.0);
            for tensor in report.tensors.iter().filter(|tensor| tensor.how != "exact") {
                let (x, y) = (&before[&tensor.name], &after[&tensor.name]);
                let own = distance(x, y) / distance(x, &vec![0.0; x.len()]);
                assert!(
                    (own - tensor.error.unwrap()).abs() <= 1e-9,
                    "{codec:?} {}",
                    tensor.name
                );
                error += distance(x, y).powi(2);
                whole += distance(x, &vec![0.0; x.len()]).powi(2);
            }
            assert!((report.error - f64::sqrt(error / whole)).abs() <= 1e-9);
            // One bit between extremes is worse than nothing.
            let coarse = matches!(codec, Codec::Quantised(how) if how.bits == 1);
            assert!(
                report.error > 0.0 && (report.error < 1.0 || coarse),
                "{codec:?} {}",
                report.error
            );
        }
    }
}

#[test]
fn compeft_over_the_whole_is_one_ternary_vector() {
    let place = Place::new();
    let adapter = place.adapter(Dtype::F32);
    let compeft = Compeft {
        density: 0.2,
        magnitude: Magnitude::Deviation(1.5),
        scope: Scope::Whole,
    };
    compress(
        &adapter,
        &place.path("small"),
        &Options::new(Codec::Compeft(compeft)),
    )
    .unwrap();
    decompress(&place.path("small"), &place.path("back"), None).unwrap();
    let before = numbers(&adapter.join(TENSOR_FILE));
    let after = numbers(&place.path("back").join(TENSOR_FILE));
    let all: Vec<f64> = before.values().flatten().map(|x| f64::from(*x)).collect();
    let n = all.len() as f64;
    let mean = all.iter().sum::<f64>() / n;
    let deviation = (all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
    let mut sorted: Vec<f64> = all.iter().map(|x| x.abs()).collect();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let threshold = sorted[(0.2 * n).round() as usize - 1];
    for (name, values) in &before {
        for (x, y) in values.iter().zip(&after[name]) {
            let expected = match f64::from(x.abs()) >= threshold {
                true => (f64::from(x.signum()) * 1.5 * deviation) as f32,
                false => 0.0,
            };
            assert!(
                (y - expected).abs() <= 1e-6 * expected.abs(),
                "{name}: {x} {y} {expected}"
            );
        }
    }
}

#[test]
fn files_of_random_updates_are_as_small_as_the_formula() {
    let place = Place::new();
    let tensors: Tensors = (0..4)
        .map(|at| {
            (
                format!("t{at}"),
                Dtype::F32,
                vec![256, 512],
                normal(256 * 512, at),
            )
        })
        .collect();
    let input = place.path("random.safetensors");
    save(&input, &tensors);
    for scope in [Scope::Whole, Scope::Tensor] {
        for density in [0.01, 0.05, 0.1, 0.2, 0.3, 0.38, 0.5] {
            let codec = Codec::Compeft(Compeft {
                density,
                scope,
                ..Compeft::default()
            });
            let out = place.path(&format!("{scope:?}{density}"));
            let report = compress(&input, &out, &Options::new(codec)).unwrap();
            let d = 4 * 256 * 512;
            let formula = entropy_bits((density * d as f64).round() as usize, d) + 16.0;
            let predicted = report.predicted.unwrap();
            assert!(
                (predicted / formula - 1.0).abs() < 2e-3,
                "{predicted} {formula}"
            );
            let bits = report.bits as f64;
            assert!(
                (bits / formula - 1.0).abs() < 0.02,
                "{density}: {}",
                bits / formula
            );
            // The header is not in the formula: about 100 bytes a tensor and the manifest.
            let file = 8.0 * report.bytes_out as f64;
            assert!(file < 1.02 * formula + 8.0 * 1500.0);
        }
    }
}

#[test]
fn what_is_lossless_is_exact() {
    for dtype in [Dtype::F32, Dtype::BF16, Dtype::F16] {
        let place = Place::new();
        let [base, tuned] = checkpoints(place.directory.path(), dtype);
        let options = Options::new(Codec::Delta).against(&base);
        let report = compress(&tuned, &place.path("small"), &options).unwrap();
        assert_eq!(report.error, 0.0);
        assert!(report.bytes_out < report.bytes_in);
        decompress(&place.path("small"), &place.path("back"), Some(&base)).unwrap();
        let file = "model.safetensors";
        assert_eq!(
            bytes(&tuned.join(file)),
            bytes(&place.path("back").join(file))
        );
        let message = decompress(&place.path("small"), &place.path("no"), None).unwrap_err();
        assert!(message.to_string().contains("give `base`"), "{message}");
        let message =
            decompress(&place.path("small"), &place.path("no"), Some(&tuned)).unwrap_err();
        assert!(message.to_string().contains("another base"), "{message}");
        assert!(!place.path("no").exists());
    }
}

#[test]
fn bitdelta_keeps_what_is_no_matrix() {
    let place = Place::new();
    let [base, tuned] = checkpoints(place.directory.path(), Dtype::F32);
    let options = Options::new(Codec::BitDelta).against(&base);
    let report = compress(&tuned, &place.path("small"), &options).unwrap();
    decompress(&place.path("small"), &place.path("back"), Some(&base)).unwrap();
    let file = "model.safetensors";
    let [from, to, back] =
        [&base, &tuned, &place.path("back")].map(|path| numbers(&path.join(file)));
    for name in ["model.embed.weight", "model.k.weight", "model.norm.weight"] {
        assert_eq!(to[name], back[name]);
    }
    for name in ["model.q.weight", "model.v.weight"] {
        let delta: Vec<f32> = to[name]
            .iter()
            .zip(&from[name])
            .map(|(a, b)| a - b)
            .collect();
        let alpha = delta.iter().map(|x| x.abs()).sum::<f32>() / delta.len() as f32;
        for ((w, d), found) in from[name].iter().zip(&delta).zip(&back[name]) {
            let expected = w + if *d < 0.0 { -alpha } else { alpha };
            assert!((found - expected).abs() <= 1e-6 * expected.abs().max(1.0));
        }
    }
    // Of a normal change the signs miss 1 - 2 / pi of the energy.
    let expected = (1.0 - 2.0 / std::f64::consts::PI).sqrt();
    assert!((report.error - expected).abs() < 0.05, "{}", report.error);
}

#[test]
fn a_task_vector_is_coded_against_its_base() {
    let place = Place::new();
    let [base, tuned] = checkpoints(place.directory.path(), Dtype::F32);
    for codec in codecs() {
        let name = format!("{codec:?}");
        let options = Options::new(codec).against(&base);
        let report = compress(&tuned, &place.path(&name), &options).unwrap();
        let out = place.path(&format!("back {name}"));
        decompress(&place.path(&name), &out, Some(&base)).unwrap();
        let file = "model.safetensors";
        let [from, to, back] = [&base, &tuned, &out].map(|path| numbers(&path.join(file)));
        for tensor in &report.tensors {
            let name = &tensor.name;
            let (error, whole) = (
                distance(&to[name], &back[name]),
                distance(&to[name], &from[name]),
            );
            let relative = if error == 0.0 { 0.0 } else { error / whole };
            assert!(
                whole == 0.0 || (relative - tensor.error.unwrap()).abs() <= 1e-4,
                "{name}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn truncated_pairs_lose_what_is_left_out(keep in 1usize..6, share in 0.3f64..1.0, seed in 0u64..1000) {
        let place = Place::new();
        let adapter = place.path("adapter");
        std::fs::create_dir(&adapter).unwrap();
        lora(&adapter, 4, Dtype::F32, seed);
        for (at, how) in [Rank::Fixed(keep), Rank::Energy(share)].into_iter().enumerate() {
            let out = place.path(&format!("out{at}"));
            let report = compress(&adapter, &out, &Options::new(Codec::Svd(how))).unwrap();
            let [before, after] = [&adapter, &out].map(|path| Adapter::open("a", path).unwrap());
            prop_assert_eq!(after.config().is_set("use_rslora"), false);
            for tensor in &report.tensors {
                let [x, y] = [&before, &after].map(|adapter| {
                    adapter.update(&tensor.name, None).unwrap().low_rank.unwrap().product().unwrap()
                });
                let error = x.sub(&y).unwrap().frobenius_norm() / x.frobenius_norm();
                prop_assert!((error - tensor.error.unwrap()).abs() <= 1e-5, "{error} {tensor:?}");
                if let Rank::Energy(share) = how {
                    prop_assert!(error * error <= 1.0 - share + 1e-6);
                }
                prop_assert!(keep < 4 || at == 1 || error <= 1e-6);
            }
            let head = format!("{MODEL}head.weight");
            prop_assert_eq!(after.files().read(&head).unwrap(), before.files().read(&head).unwrap());
        }
    }
}

#[test]
fn a_checkpoints_change_becomes_an_adapter() {
    let place = Place::new();
    let [base, tuned] = checkpoints(place.directory.path(), Dtype::F32);
    let (from, to) = (Base::open(&base).unwrap(), Base::open(&tuned).unwrap());
    let delta = |module: &str| -> Matrix {
        let weight = |base: &Base| {
            base.weight(module, &Default::default())
                .unwrap()
                .matrix()
                .unwrap()
        };
        weight(&to).sub(&weight(&from)).unwrap()
    };
    for (name, codec) in [
        ("svd", Codec::Svd(Rank::Fixed(5))),
        ("energy", Codec::Svd(Rank::Energy(0.9))),
        ("sparse", Codec::Sparse(Amount::Rank(2))),
        ("dense", Codec::Sparse(Amount::Density(0.25))),
    ] {
        let out = place.path(name);
        let report = compress(&tuned, &out, &Options::new(codec).against(&base)).unwrap();
        assert!(
            report
                .notes
                .iter()
                .any(|note| note.contains("model.norm.weight"))
        );
        let adapter = Adapter::open("a", &out).unwrap();
        assert_eq!(adapter.modules().len(), 2);
        for tensor in &report.tensors {
            let update = adapter.update(&tensor.name, Some(&from)).unwrap();
            let (rows, columns) = update.known_shape().unwrap();
            let found =
                Matrix::from_f32(rows, columns, &update.strip(0..rows, None).unwrap()).unwrap();
            let delta = delta(&tensor.name);
            let error = found.sub(&delta).unwrap().frobenius_norm() / delta.frobenius_norm();
            assert!(
                (error - tensor.error.unwrap()).abs() <= 1e-5,
                "{name} {error} {tensor:?}"
            );
            if let Some(sparse) = &update.sparse {
                let expected = match codec {
                    Codec::Sparse(Amount::Rank(r)) => r * (rows + columns),
                    _ => rows * columns / 4,
                };
                assert_eq!(sparse.len(), expected);
            }
        }
    }
    let norm = Adapter::open("a", &place.path("svd")).unwrap();
    assert_eq!(norm.saved().collect::<Vec<_>>(), ["model.norm.weight"]);
    let message = compress(
        &tuned,
        &place.path("no"),
        &Options::new(Codec::Sparse(Amount::Rank(99))).against(&base),
    );
    assert!(message.unwrap_err().to_string().contains("at most rank"));
}

#[test]
fn an_adapters_largest_entries_are_stored() {
    let place = Place::new();
    let adapter = place.adapter(Dtype::F32);
    let codec = Codec::Sparse(Amount::Rank(3));
    let report = compress(&adapter, &place.path("sparse"), &Options::new(codec)).unwrap();
    let text = std::fs::read_to_string(place.path("sparse").join(CONFIG_FILE)).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&config["peft_type"], &config["r"]),
        (&json!("SHIRA"), &json!(3))
    );
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    let files = TensorFiles::open(&place.path("sparse").join(TENSOR_FILE)).unwrap();
    let indices = files
        .info(&format!("{MODEL}layers.0.q.shira_indices"))
        .unwrap();
    assert_eq!(
        (indices.dtype, &indices.shape),
        (Dtype::I32, &vec![2, 3 * 70])
    );
}

#[test]
fn damaged_files_are_refused() {
    let place = Place::new();
    let adapter = place.adapter(Dtype::F32);
    let mut random = ChaCha8Rng::seed_from_u64(1);
    for codec in codecs().into_iter().step_by(3) {
        let small = place.path(&format!("{codec:?}"));
        compress(&adapter, &small, &Options::new(codec)).unwrap();
        let whole = std::fs::read(small.join(COMPRESSED)).unwrap();
        let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize + 8;
        for _ in 0..40 {
            let mut damaged = whole.clone();
            match random.random_range(0..3) {
                0 => damaged.truncate(random.random_range(0..whole.len())),
                // The filling of a last byte stands for nothing.
                1 => damaged[random.random_range(header..whole.len())] ^= 0xff,
                _ => damaged[random.random_range(0..8)] ^= 1 << random.random_range(0..8),
            }
            std::fs::write(place.path("damaged"), &damaged).unwrap();
            let result = decompress(&place.path("damaged"), &place.path("no"), None);
            let message = result.expect_err("it is damaged").to_string();
            assert!(message.contains("damaged"), "{message}");
            assert!(!place.path("no").exists());
        }
    }
    let left: Vec<_> = std::fs::read_dir(place.directory.path()).unwrap().collect();
    let is_hidden = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
    assert!(
        left.into_iter()
            .all(|entry| !is_hidden(&entry.unwrap().file_name()))
    );
}

#[test]
fn what_cannot_be_done_is_said() {
    let place = Place::new();
    let adapter = place.adapter(Dtype::F32);
    let [base, _] = checkpoints(place.directory.path(), Dtype::F32);
    let options = Options::new(Codec::Compeft(Compeft::default()));
    let refused = |input: &Path, options: &Options, what: &str| {
        let message = compress(input, &place.path("no"), options)
            .unwrap_err()
            .to_string();
        assert!(message.contains(what), "{message}");
        assert!(!place.path("no").exists());
    };
    refused(&place.path("nothing"), &options, "no such file");
    refused(&adapter, &Options::new(Codec::Delta), "give `base`");
    refused(
        &adapter,
        &options.clone().against(&base),
        "has none of the tensors",
    );
    refused(
        &base,
        &Options::new(Codec::Svd(Rank::Fixed(2))),
        "with its `base`",
    );
    let density = |density| {
        Options::new(Codec::Compeft(Compeft {
            density,
            ..Compeft::default()
        }))
    };
    for bad in [0.0, -1.0, 1.5, f64::NAN] {
        refused(&adapter, &density(bad), "density");
    }
    let bits = Codec::Quantised(Quantised {
        bits: 9,
        ..Quantised::default()
    });
    refused(&adapter, &Options::new(bits), "expected 1 to 8");
    let message = compress(&adapter, &adapter, &options)
        .unwrap_err()
        .to_string();
    assert!(message.contains("is not empty"), "{message}");
    let message = decompress(&adapter, &place.path("no"), None)
        .unwrap_err()
        .to_string();
    assert!(message.contains("no compressed adapter"), "{message}");
    let file = adapter.join(TENSOR_FILE);
    let message = decompress(&file, &place.path("no"), None)
        .unwrap_err()
        .to_string();
    assert!(message.contains("is no compressed adapter"), "{message}");
    compress(&adapter, &place.path("small"), &options).unwrap();
    refused(&place.path("small"), &options, "is compressed");
    let mut tensors: Tensors = vec![("x".into(), Dtype::F32, vec![2], vec![1.0, f32::NAN])];
    save(&place.path("nan"), &tensors);
    refused(&place.path("nan"), &options, "expected finite numbers");
    tensors[0].3[1] = 2.0;
    save(&place.path("nan"), &tensors);
    let only = Options {
        keep: vec!["x".to_owned()],
        ..options
    };
    refused(&place.path("nan"), &only, "no tensor is left");
}
