//! Writing the file of a compressed adapter: coded tensors and a manifest, one tensor at a time.

use std::collections::HashMap;
use std::path::Path;

use safetensors::Dtype;

use super::coder::{Codec, Coded, Entry, Options};
use super::manifest::{MANIFEST, Manifest, VERSION};
use super::report::{Report, Squares, TensorReport};
use super::source::{Digest, Scratch, Source, Staging, copy_beside, difference, length, planned};
use super::ternary::{Choice, Scope, entropy_bits};
use super::{COMPRESSED, exact, signs};
use crate::error::{Error, Result};
use crate::file::{Info, TensorFiles, WEIGHTS, widen};

/// The change of one tensor from the base's.
struct Changes<'a> {
    source: &'a Source,
    base: Option<&'a TensorFiles>,
    options: &'a Options,
}

impl Changes<'_> {
    /// How a tensor is to be coded.
    fn entry(&self, name: &str, info: &Info) -> Entry {
        let base = self.base.and_then(|base| base.infos().get(name));
        let same = base.filter(|base| base.shape == info.shape);
        let is_weight = |info: &Info| WEIGHTS.contains(&info.dtype);
        let lossy = match self.options.codec {
            Codec::Compeft(_) | Codec::Quantised(_) => true,
            Codec::BitDelta => info.shape.len() >= 2,
            _ => false,
        };
        let lossy = lossy
            && is_weight(info)
            && info.count() > 0
            && !self.options.keeps(name)
            && (self.base.is_none() || same.is_some_and(is_weight));
        Entry {
            dtype: info.dtype,
            shape: info.shape.clone(),
            exact: !lossy,
            based: match lossy {
                true => same.is_some(),
                false => same.is_some_and(|base| base.dtype == info.dtype),
            },
        }
    }

    /// x - base.
    fn change(&self, name: &str, entry: &Entry) -> Result<Vec<f32>> {
        match (self.base, entry.based) {
            (Some(base), true) => Ok(difference(&self.source.files, base, name)?.data),
            _ => Ok(self.source.files.read(name)?.data),
        }
    }
}

/// Writes the tensors of a source, coded.
pub(super) fn write(source: &Source, options: &Options, out: &Path) -> Result<Report> {
    let opened = options.base.as_deref().map(Source::open).transpose()?;
    let base = opened.as_ref().map(|base| &base.files);
    let changes = Changes {
        source,
        base,
        options,
    };
    let infos = source.files.infos();
    if let Some(base) =
        base.filter(|base| !infos.keys().any(|name| base.infos().contains_key(name)))
    {
        let example = infos.keys().next().map_or("", String::as_str);
        return Err(Error::file(
            base.path(),
            format!("has none of the tensors (for example {example}): expected the same names"),
        ));
    }
    let entries: Vec<(&String, &Info, Entry)> = infos
        .iter()
        .map(|(name, info)| (name, info, changes.entry(name, info)))
        .collect();
    let mut lossy = entries
        .iter()
        .filter(|(_, _, entry)| !entry.exact)
        .peekable();
    if lossy.peek().is_none() && options.codec != Codec::Delta {
        let reason = format!("no tensor is left for codec {}", options.codec.name());
        return Err(Error::file(source.files.path(), reason));
    }
    let count: u64 = lossy.map(|(_, info, _)| info.count() as u64).sum();
    let mut whole = match options.codec {
        Codec::Compeft(how) if how.scope == Scope::Whole => {
            Some(how.choice(count, &mut |visit| {
                for (name, _, entry) in entries.iter().filter(|(_, _, entry)| !entry.exact) {
                    visit(&changes.change(name, entry)?);
                }
                Ok(())
            })?)
        }
        _ => None,
    };
    let staging = Staging::new(out)?;
    let mut scratch = Scratch::new(&staging)?;
    let mut digests = [Digest::default(), Digest::default(), Digest::default()];
    let (mut report, mut total) = (Report::default(), Squares::default());
    for (name, info, entry) in &entries {
        let bytes = source.files.bytes(name)?;
        let from = match (base, entry.based) {
            (Some(base), true) => Some((base.info(name)?.dtype, base.bytes(name)?)),
            _ => None,
        };
        let from = from.as_ref().map(|(dtype, bytes)| (*dtype, &**bytes));
        let coded = match entry.exact {
            true => exact::encode(&bytes, from.map(|(_, base)| base), entry.width()),
            false => encode(
                &options.codec,
                &mut whole,
                &changes.change(name, entry)?,
                entry,
            )?,
        };
        let scale = whole.map(|choice| choice.scale);
        let result = entry.decode(&options.codec, scale, &coded.bytes, from);
        let result = result.ok_or_else(|| {
            let reason = format!("{name}: its coded form overflows {:?}", entry.dtype);
            Error::file(source.files.path(), reason)
        })?;
        let squares = match entry.exact {
            true => Squares::default(),
            false => squares(&changes.change(name, entry)?, entry, &bytes, &result),
        };
        let what = (entry.dtype, &entry.shape);
        digests[0].add(name, &what, &bytes);
        digests[1].add(name, &what, &result);
        if let Some((dtype, bytes)) = from {
            digests[2].add(name, &dtype, bytes);
        }
        total.add(squares);
        report.note(name, info, entry, options, &coded, squares);
        let planned = planned(name, Dtype::U8, &[coded.bytes.len()]);
        scratch.push(planned, &coded.bytes)?;
    }
    if let Some(choice) = whole {
        report.bits += 32;
        report.predicted =
            Some(entropy_bits(choice.selection.kept as usize, count as usize) + 16.0);
    }
    report.codec = options.codec.name().to_owned();
    report.error = total.relative();
    let manifest = Manifest {
        version: VERSION,
        codec: options.codec,
        file: source.name.clone(),
        metadata: source.files.metadata().clone().into_iter().collect(),
        error: report.error,
        original: digests[0].hex(),
        result: digests[1].hex(),
        base: base.map(|_| digests[2].hex()),
        magnitude: whole.map(|choice| choice.scale.to_bits()),
        tensors: entries.into_iter().map(|(_, _, entry)| entry).collect(),
    };
    let text = serde_json::to_string(&manifest).expect("plain data");
    let metadata = HashMap::from([(MANIFEST.to_owned(), text)]);
    let file = staging.path().join(COMPRESSED);
    scratch.finish(&file, &metadata)?;
    if let Some(directory) = &source.directory {
        copy_beside(directory, staging.path(), &[])?;
    }
    report.bytes_in = source.bytes()?;
    report.bytes_out = length(&file)?;
    staging.place()?;
    Ok(report)
}

fn encode(
    codec: &Codec,
    whole: &mut Option<Choice>,
    change: &[f32],
    entry: &Entry,
) -> Result<Coded> {
    Ok(match (codec, whole) {
        (Codec::Compeft(_), Some(whole)) => whole.encode(change, Scope::Whole),
        (Codec::Compeft(how), None) => {
            let mut choice = how.choice(change.len() as u64, &mut |visit| {
                visit(change);
                Ok(())
            })?;
            choice.encode(change, Scope::Tensor)
        }
        (Codec::Quantised(how), _) => how.encode(change, &entry.shape),
        (Codec::BitDelta, _) => signs::encode(change),
        (other, _) => {
            let reason = format!("codec {} has no file of its own", other.name());
            return Err(Error::input(reason));
        }
    })
}

/// |result - bytes|^2 and |change|^2.
fn squares(change: &[f32], entry: &Entry, bytes: &[u8], result: &[u8]) -> Squares {
    let numbers = |bytes: &[u8]| {
        let mut numbers = vec![0.0; change.len()];
        widen(entry.dtype, bytes, &mut numbers);
        numbers
    };
    let square = |x: f64| x * x;
    let pairs = numbers(bytes).into_iter().zip(numbers(result));
    Squares {
        error: pairs
            .map(|(a, b)| square(f64::from(a) - f64::from(b)))
            .sum(),
        whole: change.iter().map(|x| square(f64::from(*x))).sum(),
    }
}

impl Report {
    fn note(
        &mut self,
        name: &str,
        info: &Info,
        entry: &Entry,
        options: &Options,
        coded: &Coded,
        squares: Squares,
    ) {
        if entry.exact && !entry.based && options.base.is_some() {
            let note = format!("{name}: the base has no such tensor of this shape; kept exactly");
            self.notes.push(note);
        }
        if !entry.exact || options.codec == Codec::Delta {
            self.bits += coded.bits;
            let sum = |bits: f64| self.predicted.unwrap_or(0.0) + bits;
            self.predicted = coded.predicted.map(sum).or(self.predicted);
        }
        self.tensors.push(TensorReport {
            name: name.to_owned(),
            how: match entry.exact {
                true => "exact".to_owned(),
                false => options.codec.name().to_owned(),
            },
            bytes_in: info.bytes() as u64,
            bits: coded.bits,
            predicted: coded.predicted,
            error: Some(squares.relative()),
        });
    }
}
