//! Writing a checkpoint that `transformers` loads.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Tensor};
use engraft_core::file::write_atomically;
use engraft_core::{Adaptable, Error, Quantised, Result, Slot, Slots};
use safetensors::View;
use safetensors::tensor::Dtype;

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

    /// The parameters without those of adapters, by path. They share their memory with the model.
    fn values(&self) -> BTreeMap<String, Value> {
        let mut values = Values::default();
        self.visit(&mut values);
        let mut found = values.found;
        let mut quantised = |path: &str, slot: Slot<'_>| {
            if let Slot::Linear(linear) = slot
                && let Some(weight) = linear.weight.as_quantised()
            {
                found.insert(format!("{path}.weight"), Value::Quantised(weight.clone()));
            }
        };
        self.clone().slots(&mut Slots::new(&mut quantised));
        found
    }
}

/// The value of a parameter.
#[derive(Clone)]
enum Value {
    /// Flattened.
    Dense(Tensor<1>),
    /// Decoded when its turn comes.
    Quantised(Quantised),
}

impl Value {
    fn dtype(&self) -> DType {
        match self {
            Self::Dense(value) => value.dtype(),
            Self::Quantised(weight) => weight.dtype(),
        }
    }

    fn flat(&self) -> Tensor<1> {
        match self {
            Self::Dense(value) => value.clone(),
            Self::Quantised(weight) => weight.dense().reshape([-1]),
        }
    }
}

#[derive(Default)]
struct Values {
    path: Vec<String>,
    found: BTreeMap<String, Value>,
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
            self.found
                .insert(path, Value::Dense(param.base().reshape([-1])));
        }
    }
}

/// A parameter on its way into a file: converted when its turn comes.
#[derive(Clone)]
struct Stored<'a> {
    value: Value,
    wanted: &'a Wanted,
    dtype: DType,
}

impl View for Stored<'_> {
    fn dtype(&self) -> Dtype {
        written(self.dtype).expect("a precision that was read, or that is computed in")
    }

    #[expect(
        clippy::misnamed_getters,
        reason = "the file's shape is the stored one"
    )]
    fn shape(&self) -> &[usize] {
        &self.wanted.stored
    }

    fn data(&self) -> Cow<'_, [u8]> {
        let value = match self.wanted.transposed {
            true => {
                let shape = [self.wanted.shape[0], self.wanted.shape[1]];
                let matrix = self.value.flat().reshape(shape);
                matrix.transpose().to_data()
            }
            false => self.value.flat().to_data(),
        };
        Cow::Owned(value.convert_dtype(self.dtype).as_bytes().to_vec())
    }

    fn data_len(&self) -> usize {
        self.wanted.shape.iter().product::<usize>() * self.dtype.size()
    }
}

/// Writes safetensors tensor by tensor, to a temporary name in the directory, then renames.
fn write(directory: &Path, tensors: Vec<(String, Stored<'_>)>) -> Result<()> {
    let path = directory.join(SINGLE);
    let failed = |error: String| file_error(&path, format!("cannot be written: {error}"));
    std::fs::create_dir_all(directory).map_err(|error| failed(error.to_string()))?;
    // A file as any other is created; the writer's own would be readable by its owner alone.
    let file = tempfile::Builder::new()
        .make_in(directory, |path| std::fs::File::create_new(path))
        .map_err(|error| failed(error.to_string()))?;
    // What transformers asks of a file's metadata.
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize_to_file(tensors, Some(metadata), file.path())
        .map_err(|error| failed(error.to_string()))?;
    let finish = || -> std::io::Result<()> {
        let permissions = file.as_file().metadata()?.permissions();
        let written = std::fs::File::options().append(true).open(file.path())?;
        written.set_permissions(permissions)?;
        written.sync_all()
    };
    finish().map_err(|error| failed(error.to_string()))?;
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
