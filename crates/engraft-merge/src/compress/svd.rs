//! Low-rank updates with fewer singular triples.
//!
//! The update B A of a LoRA pair, or W - W0 of a checkpoint against its base, becomes the product of
//! fewer factors ([`factorise`]). The scaling goes into B: alpha is the rank everywhere. Ranks differ between
//! modules where a share of the energy, sum s_i^2, is asked for; PEFT knows them by `rank_pattern`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::coder::Options;
use super::report::{Report, Squares, TensorReport};
use super::source::{
    Scratch, Source, Staging, copy_beside, difference, length, planned, unchanged,
};
use crate::adapter::{Adapter, CONFIG_FILE, Config, MODEL, TENSOR_FILE};
use crate::base::transposed;
use crate::error::{Error, Result};
use crate::factorise::{Lora, Rank, factorise};
use crate::file::{HostTensor, Info, TensorFiles, WEIGHTS, narrow, size, write_atomically};
use crate::update::{Dense, Factors, Update};

/// Refuses what no update has.
pub(super) fn check(rank: Rank) -> Result<()> {
    match rank {
        Rank::Fixed(0) => Err(Error::input("rank 0, expected at least 1")),
        Rank::Energy(share) if !(share > 0.0 && share <= 1.0) => Err(Error::input(format!(
            "energy {share}, expected a share in (0, 1]"
        ))),
        _ => Ok(()),
    }
}

/// At most as many triples as there are.
fn truncated(update: &Update, triples: usize, rank: Rank) -> Result<Lora> {
    let rank = match rank {
        Rank::Fixed(rank) => Rank::Fixed(rank.min(triples)),
        energy => energy,
    };
    factorise(update, rank, None)
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

    fn module(&mut self, name: &str, kept: &Lora, bytes_in: u64, bytes: usize) {
        let rank = kept.rank();
        let squares = Squares {
            error: (kept.error * kept.norm).powi(2),
            whole: kept.norm.powi(2),
        };
        let numbers = rank * (kept.left.rows() + kept.right.cols());
        self.report.tensors.push(TensorReport {
            name: name.to_owned(),
            how: format!("rank {rank}"),
            bytes_in,
            bits: 8 * (numbers * bytes) as u64,
            predicted: None,
            error: Some(squares.relative()),
        });
        self.report.bits += 8 * (numbers * bytes) as u64;
        self.total.add(squares);
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
    rank: Rank,
    out: &Path,
) -> Result<Report> {
    match (source.is_adapter(), &source.directory, &options.base) {
        (true, Some(directory), None) => pairs(source, directory, rank, out),
        (true, _, Some(_)) => Err(Error::input(
            "codec svd truncates an adapter's own update: leave out `base`",
        )),
        (_, _, Some(base)) => changes(source, &Source::open(base)?, options, rank, out),
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
fn pairs(source: &Source, directory: &Path, rank: Rank, out: &Path) -> Result<Report> {
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
        let factors = Factors::new(b.matrix()?.scale(scaling), a.matrix()?)?;
        let shape = [factors.left.rows(), factors.right.cols()];
        let triples = factors.rank().min(shape[0]).min(shape[1]);
        let kept = truncated(&Update::low_rank(factors), triples, rank)?;
        let b_info = files.info(&b_name)?;
        let bytes_in = info.bytes() + b_info.bytes();
        let module = stem.strip_prefix(MODEL).unwrap_or(stem);
        made.module(module, &kept, bytes_in as u64, size(info.dtype));
        let mut shape = a.shape;
        shape[0] = kept.rank();
        made.push(
            name,
            info.dtype,
            &HostTensor::new(shape, kept.right.to_f32()),
        )?;
        let mut shape = b.shape;
        shape[1] = kept.rank();
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
    rank: Rank,
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
                let delta = match gpt2 && is_conv1d(module) {
                    true => transposed(&delta),
                    false => delta,
                };
                let [rows, columns] = [delta.shape[0], delta.shape[1]];
                let update = Update::dense(Dense::new(rows, columns, delta.data)?);
                let kept = truncated(&update, rows.min(columns), rank)?;
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
