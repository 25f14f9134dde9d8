//! Reading the file of a compressed adapter, one tensor at a time.

use std::collections::BTreeMap;
use std::path::Path;

use super::COMPRESSED;
use super::coder::Entry;
use super::manifest::Manifest;
use super::report::{Report, TensorReport};
use super::source::{Digest, Source, Staging, copy_beside, length, planned};
use crate::error::{Error, Result};
use crate::file::{Planned, TensorFiles, TensorWriter, WEIGHTS};

/// Writes the tensors of a compressed file as they were before, or nearly so.
pub(super) fn read(input: &Path, out: &Path, base: Option<&Path>) -> Result<Report> {
    let path = match input.is_dir() {
        true => input.join(COMPRESSED),
        false => input.to_owned(),
    };
    if !path.exists() {
        return Err(Error::file(
            input,
            format!(
                "has no {COMPRESSED}: it is no compressed adapter (those of the codecs svd and sparse are plain adapters already)"
            ),
        ));
    }
    let files = TensorFiles::open(&path)?;
    let manifest = Manifest::read(&files)?;
    let base = match (base, manifest.tensors.iter().any(|entry| entry.based)) {
        (None, true) => {
            let reason =
                "holds changes from a base: give `base`, the one it was compressed against";
            return Err(Error::file(&path, reason));
        }
        (Some(base), true) => Some(Source::open(base)?.files),
        (_, false) => None,
    };
    let names = files.infos().keys();
    let entries: BTreeMap<&String, &Entry> = names.zip(&manifest.tensors).collect();
    let planned = entries
        .iter()
        .map(|(name, entry)| planned(name, entry.dtype, &entry.shape));
    let staging = Staging::new(out)?;
    let written = staging.path().join(&manifest.file);
    let metadata = manifest.metadata.clone().into_iter().collect();
    let mut writer = TensorWriter::create(&written, planned.collect(), &metadata)?;
    let scale = manifest.magnitude.map(f32::from_bits);
    let mut digests = [Digest::default(), Digest::default()];
    let mut report = Report::default();
    for Planned { name, .. } in writer.order() {
        let (entry, coded) = (entries[&name], files.bytes(&name)?);
        let from = match (&base, entry.based) {
            (Some(base), true) => Some((base.info(&name)?.dtype, base.bytes(&name)?)),
            _ => None,
        };
        let from = from.as_ref().map(|(dtype, bytes)| (*dtype, &**bytes));
        if let Some((dtype, bytes)) = from {
            digests[1].add(&name, &dtype, bytes);
            if !WEIGHTS.contains(&dtype) && !entry.exact {
                return Err(other_base(&path));
            }
        }
        let bytes = entry.decode(&manifest.codec, scale, &coded, from);
        let bytes = bytes.ok_or_else(|| match from {
            Some(_) => Error::file(&path, format!("{name}: corrupted, or the base is another than the one it was compressed against")),
            None => Error::file(&path, format!("{name}: corrupted")),
        })?;
        digests[0].add(&name, &(entry.dtype, &entry.shape), &bytes);
        report.tensors.push(TensorReport {
            name,
            how: match entry.exact {
                true => "exact".to_owned(),
                false => manifest.codec.name().to_owned(),
            },
            bytes_in: bytes.len() as u64,
            bits: 8 * coded.len() as u64,
            predicted: None,
            error: entry.exact.then_some(0.0),
        });
        writer.bytes(&bytes)?;
    }
    if manifest
        .base
        .is_some_and(|expected| base.is_some() && expected != digests[1].hex())
    {
        return Err(other_base(&path));
    }
    if digests[0].hex() != manifest.result {
        let reason = "corrupted: the tensors are not those that were compressed (SHA-256 differs)";
        return Err(Error::file(&path, reason));
    }
    writer.finish()?;
    if input.is_dir() {
        copy_beside(input, staging.path(), &[])?;
    }
    report.tensors.sort_by(|a, b| a.name.cmp(&b.name));
    report.codec = manifest.codec.name().to_owned();
    report.error = manifest.error;
    report.bytes_in = length(&path)?;
    report.bytes_out = length(&written)?;
    staging.place()?;
    Ok(report)
}

fn other_base(path: &Path) -> Error {
    Error::file(
        path,
        "was compressed against another base than the one given (SHA-256 differs)",
    )
}
