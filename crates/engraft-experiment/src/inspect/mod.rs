//! What an adapter or a checkpoint contains, in one screen, from headers alone.

mod adapter;
mod checkpoint;
mod groups;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use engraft_core::Header;
use serde::de::DeserializeOwned;

use crate::adapt::{Card, OWN_FILE};
use crate::{Error, Result};

pub use groups::{Group, groups};

/// Lines of the table of tensors; what does not fit is counted.
const LINES: usize = 30;

/// What is at a path: facts, one a line, and the tensors.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contents {
    /// What it is, in a few words.
    pub title: String,
    /// Names and values.
    pub facts: Vec<(String, String)>,
    /// Header of each file with tensors.
    pub files: Vec<(PathBuf, Header)>,
}

impl Contents {
    fn fact(&mut self, name: &str, value: impl ToString) {
        self.facts.push((name.to_owned(), value.to_string()));
    }

    /// One screen of text.
    pub fn screen(&self) -> String {
        let mut text = format!("{}\n", self.title);
        let width = self.facts.iter().map(|(name, _)| name.len()).max();
        for (name, value) in &self.facts {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {name:<0$}  {value}", width.unwrap_or(0));
        }
        let mut rows = groups(self.files.iter().map(|(_, header)| header));
        let rest = rows.split_off(rows.len().min(LINES));
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["tensor", "shape", "type", "count", "values"]);
        for Group {
            pattern,
            shape,
            dtype,
            count,
            numel,
        } in &rows
        {
            table.add_row([
                pattern.clone(),
                format!("{shape:?}"),
                dtype.clone(),
                count.to_string(),
                grouped(*numel),
            ]);
        }
        let _ = writeln!(text, "\n{table}");
        if !rest.is_empty() {
            let count: usize = rest.iter().map(|group| group.count).sum();
            let _ = writeln!(text, "... and {count} tensors of {} more kinds", rest.len());
        }
        text
    }
}

/// What is at a path: a directory with an adapter or a checkpoint, or a safetensors file.
///
/// # Errors
/// Nothing there, nothing known there, or files that are truncated or malformed.
pub fn inspect(path: &Path) -> Result<Contents> {
    if path.is_dir() {
        let own = path.join(OWN_FILE);
        let known = match path.join(engraft_peft::CONFIG_FILE).exists() {
            true => Some(adapter::directory(path)?),
            false if own.exists() => Some(inspect(&own)?),
            false => None,
        };
        if let Some(mut contents) = known {
            if let Some(card) = Card::read(path)? {
                adapter::card(&mut contents, &card);
            }
            return Ok(contents);
        }
        if path.join("config.json").exists() {
            return checkpoint::directory(path);
        }
        return Err(Error::Input(format!(
            "{}: found neither {} (an adapter) nor config.json (a model)",
            path.display(),
            engraft_peft::CONFIG_FILE
        )));
    }
    let header = header(path)?;
    let mut contents = adapter::file(&header)?.unwrap_or_else(|| Contents {
        title: "tensors".to_owned(),
        ..Contents::default()
    });
    contents.fact("file", sizes([&header]));
    contents.files = vec![(path.to_owned(), header)];
    Ok(contents)
}

fn header(path: &Path) -> Result<Header> {
    Header::read(path).map_err(|error| Error::Input(error.to_string()))
}

fn json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io("read", path, &error))?;
    serde_json::from_str(&text)
        .map_err(|error| Error::Input(format!("{}: malformed: {error}", path.display())))
}

/// `12 tensors, 98,304 values, 0.4 MB`.
fn sizes<'a>(headers: impl IntoIterator<Item = &'a Header>) -> String {
    let (mut count, mut numel, mut bytes) = (0, 0, 0);
    for header in headers {
        for info in header.tensors.values() {
            count += 1;
            numel += info.numel();
            bytes += info.bytes;
        }
    }
    format!(
        "{count} tensors, {} values, {:.1} MB",
        grouped(numel),
        bytes as f64 / 1e6
    )
}

/// 1234567 as `1,234,567`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let parts: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|part| std::str::from_utf8(part).expect("digits"))
        .collect();
    parts.join(",")
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use burn::tensor::TensorData;
    use engraft_core::file::write_tensors;

    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(
            [0, 999, 1000, 1_234_567].map(grouped),
            ["0", "999", "1,000", "1,234,567"]
        );
    }

    #[test]
    fn an_adapter_a_checkpoint_and_a_file_fit_on_a_screen() {
        let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engraft-peft/vectors/models");
        let adapter = inspect(&vectors.join("bert/adapters/lora_qv"))
            .unwrap()
            .screen();
        assert!(
            adapter.starts_with("PEFT adapter of type LORA: ") && adapter.contains("DoRA, LoRA"),
            "{adapter}"
        );
        assert!(
            adapter.contains("encoder.layer.{0-1}.attention.self.query.lora_A.weight"),
            "{adapter}"
        );
        let model = inspect(&vectors.join("llama")).unwrap().screen();
        assert!(model.starts_with("model of type llama"), "{model}");
        assert!(
            model.contains("24,800") && model.lines().count() < 45,
            "{model}"
        );
        let file = inspect(&vectors.join("llama/model.safetensors")).unwrap();
        assert_eq!(file.title, "tensors");
    }

    #[test]
    fn what_is_not_there_or_not_known_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let said = |path: &Path| inspect(path).unwrap_err().to_string();
        assert!(said(folder.path()).contains("found neither"));
        assert!(said(&folder.path().join("nothing")).contains("cannot be read"));
        let path = folder.path().join("adapter.safetensors");
        let tensors = BTreeMap::from([("a".to_owned(), TensorData::zeros::<f32, _>([2]))]);
        let notes = HashMap::from([("engraft".to_owned(), "{}".to_owned())]);
        write_tensors(&path, &tensors, notes).unwrap();
        assert!(said(&path).contains("`engraft` entry"));
    }
}
