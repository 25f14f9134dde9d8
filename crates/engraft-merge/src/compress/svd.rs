//! Low-rank updates with fewer singular triples.
//!
//! The update B A of a LoRA pair, or W - W0 of a checkpoint against its base, is U S V^T; what is kept
//! is B' = U sqrt(S) and A' = sqrt(S) V^T of the leading triples, the best approximation of that rank
//! (Eckart and Young 1936). The scaling goes into B: alpha is the rank everywhere. Ranks differ between
//! modules where a share of the energy, sum s_i^2, is asked for; PEFT knows them by `rank_pattern`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use engraft_linalg::{Matrix, Svd, leading_svd, product_svd};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::coder::Options;
use super::report::{Report, Squares, TensorReport};
use super::source::{
    Scratch, Source, Staging, copy_beside, difference, length, planned, unchanged,
};
use crate::adapter::{Adapter, CONFIG_FILE, Config, MODEL, TENSOR_FILE};
use crate::error::{Error, Result};
use crate::file::{HostTensor, Info, TensorFiles, WEIGHTS, narrow, size, write_atomically};

/// How many triples are kept; one at least, and never more than there are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncation {
    /// So many.
    Rank(usize),
    /// As few as have this share of the energy, sum s_i^2, between 0 and 1.
    Energy(f64),
}

impl Truncation {
    pub(super) fn check(&self) -> Result<()> {
        match *self {
            Self::Rank(0) => Err(Error::input("rank 0, expected at least 1")),
            Self::Energy(share) if !(share > 0.0 && share <= 1.0) => Err(Error::input(format!(
                "energy {share}, expected a share in (0, 1]"
            ))),
            _ => Ok(()),
        }
    }

    /// How many of these values are kept, of all whose squares sum up to `energy`; none where more are
    /// needed.
    fn rank(self, values: &[f64], energy: f64) -> Option<usize> {
        match self {
            Self::Rank(rank) => Some(rank.min(values.len()).max(1)),
            Self::Energy(share) => {
                let mut sum = 0.0;
                let enough = values.iter().position(|s| {
                    sum += s * s;
                    sum >= share * energy * (1.0 - 1e-12)
                });
                enough.map(|at| at + 1)
            }
        }
    }
}

/// B' and A' of a module.
struct Kept {
    left: Matrix,
    right: Matrix,
    squares: Squares,
}

impl Kept {
    /// The leading ones of all triples, or of the leading ones of a matrix of this energy.
    fn new(svd: &Svd, rank: usize, energy: f64, all: bool) -> Result<Self> {
        let kept = svd.truncated(rank)?;
        let roots: Vec<f64> = kept.s.iter().map(|s| s.sqrt()).collect();
        let squares = |values: &[f64]| values.iter().map(|s| s * s).sum::<f64>();
        let error = match all {
            true => squares(&svd.s[rank..]),
            false => (energy - squares(&kept.s)).max(0.0),
        };
        Ok(Self {
            left: kept.u.scale_columns(&roots)?,
            right: kept.vt.scale_rows(&roots)?,
            squares: Squares {
                error,
                whole: energy,
            },
        })
    }

    fn of_pair(b: &Matrix, a: &Matrix, how: Truncation) -> Result<Self> {
        let svd = product_svd(b, a)?;
        let energy = svd.s.iter().map(|s| s * s).sum();
        let rank = how.rank(&svd.s, energy).unwrap_or(svd.s.len());
        Self::new(&svd, rank, energy, true)
    }

    /// As many triples as are needed, tried in twos.
    fn of_matrix(delta: &Matrix, how: Truncation) -> Result<Self> {
        let side = delta.rows().min(delta.cols());
        let energy = delta.frobenius_norm().powi(2);
        let mut tried = match how {
            Truncation::Rank(rank) => rank.min(side),
            Truncation::Energy(_) => side.min(16),
        };
        loop {
            let svd = leading_svd(delta, tried, &mut ChaCha8Rng::seed_from_u64(0))?;
            match how.rank(&svd.s, energy) {
                Some(rank) => return Self::new(&svd, rank, energy, tried == side),
                None if tried == side => return Self::new(&svd, side, energy, true),
                None => tried = (2 * tried).min(side),
            }
        }
    }
}

/// An adapter of PEFT, as it is made.
struct Made {
    staging: Staging,
    scratch: Scratch,
    report: Report,
    total: Squares,
    ranks: BTreeMap<String, usize>,
}

impl Made {
    fn new(out: &Path) -> Result<Self> {
        let staging = Staging::new(out)?;
        Ok(Self {
            scratch: Scratch::new(&staging)?,
            staging,
            report: Report::default(),
            total: Squares::default(),
            ranks: BTreeMap::new(),
        })
    }

    fn push(&mut self, name: &str, dtype: Dtype, tensor: &HostTensor) -> Result<()> {
        let mut bytes = vec![0; tensor.data.len() * size(dtype)];
        narrow(dtype, &tensor.data, &mut bytes);
        self.scratch
            .push(planned(name, dtype, &tensor.shape), &bytes)
    }

    fn keep(&mut self, files: &TensorFiles, name: &str, called: &str, info: &Info) -> Result<()> {
        let planned = planned(called, info.dtype, &info.shape);
        self.scratch.push(planned, &files.bytes(name)?)
    }

    fn module(&mut self, name: &str, kept: &Kept, bytes_in: u64, bytes: usize) {
        let rank = kept.left.cols();
        let numbers = rank * (kept.left.rows() + kept.right.cols());
        self.report.tensors.push(TensorReport {
            name: name.to_owned(),
            how: format!("rank {rank}"),
            bytes_in,
            bits: 8 * (numbers * bytes) as u64,
            predicted: None,
            error: Some(kept.squares.relative()),
        });
        self.report.bits += 8 * (numbers * bytes) as u64;
        self.total.add(kept.squares);
        self.ranks.insert(name.to_owned(), rank);
    }

    /// Writes tensors and configuration, with the ranks.
    fn finish(
        mut self,
        source: &Source,
        config: &Config,
        metadata: &HashMap<String, String>,
    ) -> Result<Report> {
        let rank = self.ranks.values().copied().max().unwrap_or(1);
        let others: Map<String, Value> = self
            .ranks
            .iter()
            .filter(|(_, own)| **own != rank)
            .map(|(module, own)| (module.replace('.', "\\."), json!(own)))
            .collect();
        let config = config.with([
            ("r", json!(rank)),
            ("lora_alpha", json!(rank)),
            ("use_rslora", json!(false)),
            ("rank_pattern", Value::Object(others.clone())),
            ("alpha_pattern", Value::Object(others)),
        ]);
        let path = self.staging.path();
        let file = path.join(TENSOR_FILE);
        self.scratch.finish(&file, metadata)?;
        write_atomically(&path.join(CONFIG_FILE), config.to_text().as_bytes())?;
        if let (Some(directory), true) = (&source.directory, source.is_adapter()) {
            copy_beside(directory, path, &[CONFIG_FILE])?;
        }
        self.report.codec = "svd".to_owned();
        self.report.error = self.total.relative();
        self.report.bytes_in = source.bytes()?;
        self.report.bytes_out = length(&file)?;
        self.staging.place()?;
        Ok(self.report)
    }
}

/// Writes a LoRA adapter of fewer triples.
pub(super) fn truncate(
    source: &Source,
    options: &Options,
    how: Truncation,
    out: &Path,
) -> Result<Report> {
    match (source.is_adapter(), &source.directory, &options.base) {
        (true, Some(directory), None) => pairs(source, directory, how, out),
        (true, _, Some(_)) => Err(Error::input(
            "codec svd truncates an adapter's own update: leave out `base`",
        )),
        (_, _, Some(base)) => changes(source, &Source::open(base)?, options, how, out),
        (_, _, None) => Err(Error::file(
            source.files.path(),
            "is no adapter's directory: codec svd takes one, or a checkpoint with its `base`",
        )),
    }
}

/// Fields of a pair: A's and B's.
const PAIRS: [(&str, &str); 2] = [
    (".lora_A.weight", ".lora_B.weight"),
    (".lora_embedding_A", ".lora_embedding_B"),
];

/// The pairs of a LoRA adapter, truncated.
fn pairs(source: &Source, directory: &Path, how: Truncation, out: &Path) -> Result<Report> {
    let adapter = Adapter::open("input", directory)?;
    if adapter.type_name() != "LORA" {
        let reason = format!(
            "is of type {}: codec svd truncates pairs of LORA; compeft and quantised take any type",
            adapter.type_name()
        );
        return Err(Error::file(directory, reason));
    }
    let (config, files) = (adapter.config(), adapter.files());
    let mut made = Made::new(out)?;
    for (name, info) in files.infos() {
        if PAIRS.iter().any(|(_, b)| name.ends_with(b)) {
            continue;
        }
        let mut pairs = PAIRS.into_iter();
        let Some((stem, end)) = pairs.find_map(|(a, b)| Some((name.strip_suffix(a)?, b))) else {
            match name.strip_suffix(".lora_B.bias") {
                Some(stem) => {
                    let rank = files.info(&format!("{stem}.lora_A.weight"))?.shape[0];
                    let scaling = scaling(config, stem, rank)? as f32;
                    let mut bias = files.read(name)?;
                    bias.data.iter_mut().for_each(|x| *x *= scaling);
                    made.push(name, info.dtype, &bias)?;
                }
                None => made.keep(files, name, name, info)?,
            }
            continue;
        };
        let b_name = format!("{stem}{end}");
        let (a, b) = (files.read(name)?, files.read(&b_name)?);
        let scaling = scaling(config, stem, info.shape[0])?;
        let (left, right) = (b.matrix()?.scale(scaling), a.matrix()?);
        let kept = Kept::of_pair(&left, &right, how)?;
        let b_info = files.info(&b_name)?;
        let bytes_in = info.bytes() + b_info.bytes();
        let module = stem.strip_prefix(MODEL).unwrap_or(stem);
        made.module(module, &kept, bytes_in as u64, size(info.dtype));
        let rank = kept.left.cols();
        let mut shape = a.shape;
        shape[0] = rank;
        made.push(
            name,
            info.dtype,
            &HostTensor::new(shape, kept.right.to_f32()),
        )?;
        let mut shape = b.shape;
        shape[1] = rank;
        made.push(
            &b_name,
            b_info.dtype,
            &HostTensor::new(shape, kept.left.to_f32()),
        )?;
    }
    made.finish(source, config, files.metadata())
}

/// alpha / r, or alpha / sqrt(r).
fn scaling(config: &Config, stem: &str, rank: usize) -> Result<f64> {
    let module = stem.strip_prefix(MODEL).unwrap_or(stem);
    let alpha = config.number_of("lora_alpha", "alpha_pattern", module)?;
    Ok(match config.is_set("use_rslora") {
        true => alpha / (rank as f64).sqrt(),
        false => alpha / rank as f64,
    })
}

/// Parts of the names of embeddings, whose updates LoRA writes otherwise.
const EMBEDDINGS: [&str; 3] = ["embed", "wte", "wpe"];

/// The changes of a checkpoint's matrices as a LoRA adapter. What else changed goes along whole: biases
/// of these modules under `bias`, other parameters under `modules_to_save`.
fn changes(
    source: &Source,
    base: &Source,
    options: &Options,
    how: Truncation,
    out: &Path,
) -> Result<Report> {
    let files = &source.files;
    let gpt2 = is_gpt2(base);
    let mut made = Made::new(out)?;
    let (mut targets, mut saved, mut biased) = (BTreeSet::new(), BTreeSet::new(), false);
    for (name, info) in files.infos() {
        if unchanged(files, &base.files, name)? {
            continue;
        }
        let module = name.strip_suffix(".weight");
        let plain = !EMBEDDINGS.iter().any(|part| name.contains(part)) && !options.keeps(name);
        match module.filter(|_| plain && info.shape.len() == 2 && WEIGHTS.contains(&info.dtype)) {
            Some(module) => {
                let delta = difference(files, &base.files, name)?;
                let in_out = gpt2 && is_conv1d(module);
                let delta = match in_out {
                    true => delta.transpose(),
                    false => delta,
                };
                let kept = Kept::of_matrix(&delta, how)?;
                made.module(module, &kept, info.bytes() as u64, 4);
                let key = |field: &str| format!("{MODEL}{module}.{field}.weight");
                made.push(
                    &key("lora_A"),
                    Dtype::F32,
                    &HostTensor::from_matrix(&kept.right),
                )?;
                made.push(
                    &key("lora_B"),
                    Dtype::F32,
                    &HostTensor::from_matrix(&kept.left),
                )?;
                targets.insert(module.to_owned());
            }
            None => {
                saved.insert(name.clone());
            }
        }
    }
    if targets.is_empty() {
        let reason = "no matrix differs from the base's: there is no update to truncate";
        return Err(Error::file(files.path(), reason));
    }
    let mut modules = BTreeSet::new();
    for name in saved {
        let (module, field) = name.rsplit_once('.').unwrap_or(("", &name));
        let key = match targets.contains(module) {
            true => {
                biased = true;
                format!("{MODEL}{module}.base_layer.{field}")
            }
            false => {
                modules.insert(module.to_owned());
                format!("{MODEL}{name}")
            }
        };
        made.keep(files, &name, &key, files.info(&name)?)?;
        made.report
            .notes
            .push(format!("{name}: no matrix of a linear layer; kept whole"));
    }
    let config = json!({
        "peft_type": "LORA", "task_type": null, "inference_mode": true,
        "base_model_name_or_path": base.directory, "target_modules": targets,
        "modules_to_save": (!modules.is_empty()).then_some(modules),
        "bias": if biased { "lora_only" } else { "none" },
        "fan_in_fan_out": gpt2, "init_lora_weights": true, "lora_dropout": 0.0, "use_dora": false,
    });
    let Value::Object(keys) = config else {
        unreachable!("written as an object")
    };
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    made.finish(source, &Config::new(keys), &metadata)
}

/// Whether a checkpoint is of GPT-2, whose linear layers are stored as `[in, out]`.
fn is_gpt2(base: &Source) -> bool {
    let config = base.directory.as_ref().map(|path| path.join("config.json"));
    let text = config.and_then(|path| std::fs::read_to_string(path).ok());
    let keys = text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
    keys.is_some_and(|keys| keys["model_type"] == "gpt2")
}

/// Whether a module of GPT-2 is stored so.
fn is_conv1d(module: &str) -> bool {
    let name = module.rsplit('.').next().unwrap_or(module);
    ["c_attn", "c_proj", "c_fc", "q_attn"].contains(&name)
}
