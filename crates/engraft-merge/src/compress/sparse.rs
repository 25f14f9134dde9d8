//! The largest entries of every module's update, as SHiRA stores them (arXiv 2406.13175, section 4):
//! values and their coordinates (row, column).
//!
//! PEFT reads such a file when every weight of `[out, in]` has r (out + in) entries.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::coder::Options;
use super::report::{Report, Squares, TensorReport};
use super::select::Selection;
use super::source::{
    Scratch, Source, Staging, copy_beside, difference, length, planned, unchanged,
};
use crate::adapter::{Adapter, CONFIG_FILE, Config, MODEL, TENSOR_FILE};
use crate::base::{Base, Layout};
use crate::error::{Error, Result};
use crate::file::{TensorFiles, WEIGHTS, write_atomically};

/// How many entries are kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Amount {
    /// As many as LoRA of this rank has: r (out + in). PEFT reads the result.
    Rank(usize),
    /// A share of them, above 0 and at most 1.
    Density(f64),
}

impl Amount {
    pub(super) fn check(&self) -> Result<()> {
        match *self {
            Self::Rank(0) => Err(Error::input("rank 0, expected at least 1")),
            Self::Density(share) if !(share > 0.0 && share <= 1.0) => Err(Error::input(format!(
                "density {share}, expected a share in (0, 1]"
            ))),
            _ => Ok(()),
        }
    }

    fn entries(self, module: &str, [rows, columns]: [usize; 2]) -> Result<usize> {
        match self {
            Self::Density(share) => Ok((share * (rows * columns) as f64).round() as usize),
            Self::Rank(rank) if rank * (rows + columns) > rows * columns => {
                Err(Error::input(format!(
                    "rank {rank} asks for {} entries of {module}, which has {rows}x{columns}: expected at most rank {}",
                    rank * (rows + columns),
                    rows * columns / (rows + columns)
                )))
            }
            Self::Rank(rank) => Ok(rank * (rows + columns)),
        }
    }
}

/// Writes the adapter.
pub(super) fn largest(
    source: &Source,
    options: &Options,
    how: Amount,
    out: &Path,
) -> Result<Report> {
    let mut made = Made::new(how, out)?;
    let base = options.base.as_deref();
    let mut config = json!({
        "peft_type": "SHIRA", "task_type": null, "inference_mode": true,
        "base_model_name_or_path": base, "mask_type": "random", "random_seed": null,
        "init_weights": true, "fan_in_fan_out": false, "modules_to_save": null,
    });
    match (source.is_adapter(), &source.directory, base) {
        (true, Some(directory), _) => {
            let adapter = Adapter::open("input", directory)?;
            for key in [
                "task_type",
                "base_model_name_or_path",
                "modules_to_save",
                "fan_in_fan_out",
            ] {
                if let Some(value) = adapter.config().keys().get(key) {
                    config[key] = value.clone();
                }
            }
            made.modules_of(&adapter, base.map(Base::open).transpose()?.as_ref())?;
            copy_beside(directory, made.staging.path(), &[CONFIG_FILE])?;
        }
        (_, _, Some(base)) => made.changes(&source.files, &Source::open(base)?.files)?,
        (_, _, None) => {
            let reason = "is no adapter's directory: codec sparse takes one, or a checkpoint with its `base`";
            return Err(Error::file(source.files.path(), reason));
        }
    }
    made.finish(source, config)
}

struct Made {
    how: Amount,
    staging: Staging,
    scratch: Scratch,
    report: Report,
    total: Squares,
    targets: BTreeSet<String>,
    /// r of the entries there are, where they are the same everywhere and whole.
    ranks: BTreeSet<Option<usize>>,
}

impl Made {
    fn new(how: Amount, out: &Path) -> Result<Self> {
        let staging = Staging::new(out)?;
        Ok(Self {
            how,
            scratch: Scratch::new(&staging)?,
            staging,
            report: Report::default(),
            total: Squares::default(),
            targets: BTreeSet::new(),
            ranks: BTreeSet::new(),
        })
    }

    /// The updates of an adapter's modules; what it has whole goes along.
    fn modules_of(&mut self, adapter: &Adapter, base: Option<&Base>) -> Result<()> {
        for (module, place) in adapter.modules() {
            if !matches!(place.layout, Layout::Linear) {
                let reason = "its weight is not that of a linear layer, which is all SHiRA knows";
                return Err(Error::module(adapter.name(), module, reason));
            }
            let update = adapter.update(module, base)?;
            if update.bias.is_some() || update.bias_scale.is_some() {
                let note = format!("{module}: the change of its bias is left out");
                self.report.notes.push(note);
            }
            let (rows, columns) = update
                .known_shape()
                .map_err(|error| Error::module(adapter.name(), module, error))?;
            let weight = match (base, update.needs_base()) {
                (Some(base), true) => Some(base.weight(module, &place.layout)?.data),
                _ => None,
            };
            let delta = update.strip(0..rows, weight.as_deref())?;
            self.module(module, [rows, columns], &delta, 4 * delta.len() as u64)?;
        }
        let files = adapter.files();
        for path in adapter.saved() {
            let key = format!("{MODEL}{path}");
            let (Ok(info), Ok(bytes)) = (files.info(&key), files.bytes(&key)) else {
                self.report.notes.push(format!("{path}: left out"));
                continue;
            };
            self.scratch
                .push(planned(&key, info.dtype, &info.shape), &bytes)?;
        }
        Ok(())
    }

    /// The changes of a checkpoint's matrices.
    fn changes(&mut self, files: &TensorFiles, base: &TensorFiles) -> Result<()> {
        for (name, info) in files.infos() {
            if unchanged(files, base, name)? {
                continue;
            }
            match name.strip_suffix(".weight") {
                Some(module) if info.shape.len() == 2 && WEIGHTS.contains(&info.dtype) => {
                    let delta = difference(files, base, name)?.data;
                    let shape = [info.shape[0], info.shape[1]];
                    self.module(module, shape, &delta, info.bytes() as u64)?;
                }
                _ => {
                    let note = format!("{name}: changed, but no matrix; left out");
                    self.report.notes.push(note);
                }
            }
        }
        Ok(())
    }

    fn module(
        &mut self,
        module: &str,
        shape: [usize; 2],
        delta: &[f32],
        bytes_in: u64,
    ) -> Result<()> {
        let entries = self.how.entries(module, shape)?;
        let mut selection = Selection::largest(entries as u64, &mut |visit| {
            visit(delta);
            Ok(())
        })?;
        let mut places: Vec<usize> = (0..delta.len())
            .filter(|at| selection.keeps(delta[*at]))
            .collect();
        // PEFT counts entries: what is missing of them are zeros.
        let zeros = (0..delta.len()).filter(|at| delta[*at] == 0.0);
        places.extend(zeros.take(entries - places.len()).collect::<Vec<_>>());
        places.sort_unstable();
        let mut squares = Squares::default();
        let kept: f64 = places.iter().map(|at| f64::from(delta[*at]).powi(2)).sum();
        squares.whole = delta.iter().map(|x| f64::from(*x).powi(2)).sum();
        squares.error = match places.len() == delta.len() {
            true => 0.0,
            false => (squares.whole - kept).max(0.0),
        };
        let values = places.iter().flat_map(|at| delta[*at].to_le_bytes());
        let coordinate = |of: &dyn Fn(usize) -> usize| -> Vec<u8> {
            places
                .iter()
                .flat_map(|at| (of(*at) as i32).to_le_bytes())
                .collect()
        };
        let [rows, columns] = [
            coordinate(&|at| at / shape[1]),
            coordinate(&|at| at % shape[1]),
        ];
        let key = |field: &str| format!("{MODEL}{module}.{field}");
        let value_bytes: Vec<u8> = values.collect();
        self.scratch.push(
            planned(&key("shira_weight"), Dtype::F32, &[entries]),
            &value_bytes,
        )?;
        self.scratch.push(
            planned(&key("shira_indices"), Dtype::I32, &[2, entries]),
            &[rows, columns].concat(),
        )?;
        let bits = 96 * entries as u64;
        self.report.bits += bits;
        self.report.predicted = Some(self.report.bits as f64);
        self.report.tensors.push(TensorReport {
            name: module.to_owned(),
            how: format!("{entries} entries"),
            bytes_in,
            bits,
            predicted: Some(bits as f64),
            error: Some(squares.relative()),
        });
        self.total.add(squares);
        self.targets.insert(module.to_owned());
        let side = shape[0] + shape[1];
        let rank = entries / side;
        self.ranks
            .insert((entries == rank * side && rank > 0).then_some(rank));
        Ok(())
    }

    fn finish(mut self, source: &Source, mut config: Value) -> Result<Report> {
        if self.targets.is_empty() {
            let reason = "no matrix differs from the base's: there is no update to store";
            return Err(Error::file(source.files.path(), reason));
        }
        let rank = match (self.ranks.len(), self.ranks.first()) {
            (1, Some(Some(rank))) => *rank,
            _ => {
                let note = "PEFT reads such a file only with r (out + in) entries in every module: choose a rank for that";
                self.report.notes.push(note.to_owned());
                1
            }
        };
        config["r"] = rank.into();
        config["target_modules"] = json!(self.targets);
        let Value::Object(keys) = config else {
            unreachable!("written as an object")
        };
        let file = self.staging.path().join(TENSOR_FILE);
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        self.scratch.finish(&file, &metadata)?;
        let text = Config::new(keys).to_text();
        write_atomically(&self.staging.path().join(CONFIG_FILE), text.as_bytes())?;
        self.report.codec = "sparse".to_owned();
        self.report.error = self.total.relative();
        self.report.bytes_in = source.bytes()?;
        self.report.bytes_out = length(&file)?;
        self.staging.place()?;
        Ok(self.report)
    }
}
