//! Writing a checkpoint that `transformers` loads.

use std::any::Any;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor, TensorData};
use engraft_core::file::write_atomically;
use engraft_core::{Adaptable, Error, Result, Slot, Slots, Weight};
use serde_json::{Map, Value, json};

use super::files::{SINGLE, file_error, written};
use crate::parts::Wanted;
use crate::pretrained::{Config, Pretrained};

impl Pretrained {
    /// Writes `config.json` and `model.safetensors`, under the names and in the precision that
    /// `transformers` (and this checkpoint, if it was loaded) has, each whole or not at all. Adapters
    /// that are attached are not part of it; those that are merged are. Quantised weights are written
    /// as the numbers they stand for, one tensor at a time.
    ///
    /// # Errors
    /// A directory that cannot be written, or parameters that the architecture lacks: a bias that an
    /// adapter brought along.
    pub fn save(&self, directory: &Path) -> Result<()> {
        // What is merged into one of two layers that share a weight makes them two.
        let mut own = self.clone();
        own.untie();
        own.save_as_it_is(directory)
    }

    fn save_as_it_is(&self, directory: &Path) -> Result<()> {
        let config = Config::new(self.config_json())?;
        let (names, stored) = (config.names(), &self.origin().stored);
        let listed = config.listed();
        let wanted: BTreeMap<&str, &Wanted> = listed
            .iter()
            .map(|wanted| (wanted.path.as_str(), wanted))
            .collect();
        let mut values = self.values();
        let foreign: Vec<String> = values
            .keys()
            .filter(|path| !wanted.contains_key(path.as_str()))
            .cloned()
            .collect();
        if !foreign.is_empty() {
            return Err(Error::Unsupported(format!(
                "the model has parameters that {} lacks: {}",
                self.config_json()["model_type"],
                super::listed(&foreign)
            )));
        }
        let usual = most_common(stored.values().copied());
        let tensors: Vec<(String, Stored<'_>)> = wanted
            .into_iter()
            .filter_map(|(path, wanted)| {
                let value = values.remove(path)?;
                let dtype = stored.get(path).copied().or(usual);
                let dtype = dtype.unwrap_or(value.dtype());
                Some((
                    path,
                    Stored {
                        value,
                        wanted,
                        dtype,
                    },
                ))
            })
            .flat_map(|(path, stored)| {
                let names = names.files(path).into_iter();
                names.map(move |name| (name, stored.clone()))
            })
            .collect();
        write(directory, tensors)?;
        let json = serde_json::to_string_pretty(self.config_json()).expect("plain data");
        write_atomically(&directory.join("config.json"), (json + "\n").as_bytes())
    }

    /// The parameters without those of adapters, by path, as matrices: one of another rank is one row.
    /// They share their memory with the model, and quantised weights stay that.
    fn values(&self) -> BTreeMap<String, Weight<Tensor<2>>> {
        let mut values = Values::default();
        self.visit(&mut values);
        let mut found = values.found;
        let mut quantised = |path: &str, slot: Slot<'_>| {
            if let Slot::Linear(linear) = slot
                && linear.weight.as_quantised().is_some()
            {
                found.insert(format!("{path}.weight"), linear.weight.view());
            }
        };
        self.clone().slots(&mut Slots::new(&mut quantised));
        found
    }
}

#[derive(Default)]
struct Values {
    path: Vec<String>,
    found: BTreeMap<String, Weight<Tensor<2>>>,
}

impl ModuleVisitor for Values {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        if !path.contains(".adapters.") {
            let value = param.base();
            // A matrix may be a view, of which reshaping would make a copy.
            let matrix = (&value as &dyn Any).downcast_ref::<Tensor<2>>().cloned();
            let value = matrix.unwrap_or_else(|| value.reshape([1, -1]));
            self.found.insert(path, value.into());
        }
    }
}

/// A parameter on its way into a file: converted when its turn comes.
#[derive(Clone)]
struct Stored<'a> {
    value: Weight<Tensor<2>>,
    wanted: &'a Wanted,
    dtype: DType,
}

/// Numbers of a parameter that are converted at a time: what is held beside the model.
const CHUNK: usize = 1 << 20;

impl Stored<'_> {
    fn bytes(&self) -> usize {
        self.wanted.shape.iter().product::<usize>() * self.dtype.size()
    }

    /// Writes the numbers in the order of the file.
    fn write(&self, file: &mut impl Write) -> std::io::Result<()> {
        let mut put = |part: TensorData| {
            let part = part.convert_dtype(self.dtype);
            file.write_all(part.as_bytes())
        };
        let value = self.value.dense();
        let [rows, columns] = value.dims();
        let part = |axis, start, len| value.clone().narrow(axis, start, len);
        match self.wanted.transposed {
            false => chunks(rows, CHUNK / columns.max(1))
                .try_for_each(|(start, len)| put(part(0, start, len).to_data())),
            true => chunks(columns, CHUNK / rows.max(1))
                .try_for_each(|(start, len)| put(part(1, start, len).transpose().to_data())),
        }
    }
}

/// Starts and lengths of the parts, of `size` at most, of so many.
fn chunks(count: usize, size: usize) -> impl Iterator<Item = (usize, usize)> {
    let size = size.max(1);
    (0..count)
        .step_by(size)
        .map(move |start| (start, size.min(count - start)))
}

/// The header of a safetensors file of these tensors: its length in 8 bytes, then JSON, filled up with
/// spaces to a multiple of 8.
fn header(tensors: &[(String, Stored<'_>)]) -> Vec<u8> {
    // What transformers asks of a file's metadata.
    let mut entries = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    let mut start = 0;
    for (name, stored) in tensors {
        let end = start + stored.bytes();
        let entry = json!({
            "dtype": written(stored.dtype).expect("a precision that was read, or that is computed in"),
            "shape": stored.wanted.stored,
            "data_offsets": [start, end],
        });
        entries.insert(name.clone(), entry);
        start = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    text.resize(text.len().next_multiple_of(8), b' ');
    let length = (text.len() as u64).to_le_bytes();
    [&length[..], &text].concat()
}

/// Writes safetensors part by part, to a temporary name in the directory, then renames.
fn write(directory: &Path, mut tensors: Vec<(String, Stored<'_>)>) -> Result<()> {
    let path = directory.join(SINGLE);
    let failed = |error: String| file_error(&path, format!("cannot be written: {error}"));
    std::fs::create_dir_all(directory).map_err(|error| failed(error.to_string()))?;
    // As files are by convention: wide numbers first, so that all are aligned.
    tensors.sort_by(|(a, one), (b, other)| (other.dtype.size(), a).cmp(&(one.dtype.size(), b)));
    // A file as any other is created; the writer's own would be readable by its owner alone.
    let file = tempfile::Builder::new()
        .make_in(directory, |path| File::create_new(path))
        .map_err(|error| failed(error.to_string()))?;
    let fill = || -> std::io::Result<()> {
        let mut out = BufWriter::new(file.as_file());
        out.write_all(&header(&tensors))?;
        tensors
            .iter()
            .try_for_each(|(_, stored)| stored.write(&mut out))?;
        out.flush()?;
        drop(out);
        file.as_file().sync_all()
    };
    fill().map_err(|error| failed(error.to_string()))?;
    file.persist(&path)
        .map_err(|error| failed(error.to_string()))?;
    Ok(())
}

fn most_common(dtypes: impl Iterator<Item = DType>) -> Option<DType> {
    let mut counts: Vec<(DType, usize)> = Vec::new();
    for dtype in dtypes {
        match counts.iter_mut().find(|(known, _)| *known == dtype) {
            Some((_, count)) => *count += 1,
            None => counts.push((dtype, 1)),
        }
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map(|(dtype, _)| dtype)
}
