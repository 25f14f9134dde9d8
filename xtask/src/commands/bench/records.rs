//! What was measured, one line of JSON a case, the last one of a case counting.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::sides::Measured;
use crate::error::XtaskError;

/// One case on both sides, in turn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// `train stack4 lora_r8`.
    pub name: String,
    /// Threads of each side.
    pub threads: usize,
    /// Ours, a run a round.
    pub ours: Vec<Measured>,
    /// PEFT's; none where the case is ours alone.
    pub peft: Vec<Measured>,
    /// Versions of Python, torch and peft.
    pub versions: Value,
    /// Days since 1970.
    pub day: u64,
    /// How many cores other programs kept busy meanwhile, on average.
    pub other: Option<f64>,
}

impl Pair {
    /// Ours over PEFT's, round by round, in order of size.
    pub fn ratios(&self) -> Vec<f64> {
        let rounds = self.ours.iter().zip(&self.peft);
        let mut ratios: Vec<f64> = rounds.map(|(ours, peft)| ours.ms / peft.ms).collect();
        ratios.sort_by(f64::total_cmp);
        ratios
    }
}

/// How a cost grows along one axis.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Growth {
    /// `inputs lora_r8`.
    pub name: String,
    /// Sizes, and what a step took and needed there.
    pub points: Vec<(usize, Measured)>,
    /// The structure's exponent.
    pub expected: f64,
    /// Days since 1970.
    pub day: u64,
}

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Record {
    /// Against PEFT.
    Pair(Pair),
    /// Against ourselves at other sizes.
    Growth(Growth),
}

impl Record {
    fn key(&self) -> String {
        match self {
            Self::Pair(pair) => format!("{} {}", pair.threads, pair.name),
            Self::Growth(growth) => growth.name.clone(),
        }
    }
}

fn path(root: &Path) -> PathBuf {
    root.join("results/bench.jsonl")
}

/// Adds a record.
///
/// # Errors
/// The file cannot be written.
pub fn append(root: &Path, record: &Record) -> Result<(), XtaskError> {
    let path = path(root);
    let line = serde_json::to_string(record).expect("plain data");
    let folder = path.parent().unwrap_or(root);
    fs::create_dir_all(folder)
        .and_then(|()| fs::OpenOptions::new().append(true).create(true).open(&path))
        .and_then(|mut file| writeln!(file, "{line}"))
        .map_err(|source| XtaskError::File {
            action: "write",
            path,
            source,
        })
}

/// The last record of every case, in the order in which cases first came.
///
/// # Errors
/// The file cannot be read. A line that was cut off is passed over.
pub fn load(root: &Path) -> Result<Vec<Record>, XtaskError> {
    let path = path(root);
    let text = fs::read_to_string(&path).map_err(|source| XtaskError::File {
        action: "read",
        path,
        source,
    })?;
    Ok(latest(
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok()),
    ))
}

fn latest(records: impl Iterator<Item = Record>) -> Vec<Record> {
    let mut places = BTreeMap::new();
    let mut kept: Vec<Record> = Vec::new();
    for record in records {
        let place = *places.entry(record.key()).or_insert(kept.len());
        match kept.get_mut(place) {
            Some(held) => *held = record,
            None => kept.push(record),
        }
    }
    kept
}

/// Days since 1970, by the system's clock.
pub fn today() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_secs() / 86_400)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_record_of_a_case_counts() {
        let growth = |name: &str, expected| {
            Record::Growth(Growth {
                name: name.to_owned(),
                points: Vec::new(),
                expected,
                day: 0,
            })
        };
        let records = [growth("a", 1.0), growth("b", 2.0), growth("a", 3.0)];
        assert_eq!(
            latest(records.into_iter()),
            [growth("a", 3.0), growth("b", 2.0)]
        );
    }
}
