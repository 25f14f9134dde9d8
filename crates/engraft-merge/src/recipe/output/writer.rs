//! An adapter that is written as its modules come.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::{Form, Output, delta, lora, shira, vectors};
use crate::adapter::{CONFIG_FILE, Config, DELTA_CONFIG, DELTA_FILE, MODEL, TENSOR_FILE};
use crate::base::Layout;
use crate::error::{Error, Result};
use crate::file::{HostTensor, TensorSpool, write_atomically};
use crate::recipe::{Merger, ModuleOutcome, Part, Recipe, Source};
use crate::update::Update;

/// What one module becomes: tensors under names behind the module's path.
pub(super) struct Written {
    pub(super) tensors: Vec<(&'static str, HostTensor)>,
    pub(super) outcome: ModuleOutcome,
}

/// The tensors' file while it is written.
pub(super) struct File {
    spool: TensorSpool,
    dtype: Dtype,
    pub(super) bytes: u64,
}

impl File {
    pub(super) fn create(path: &Path, dtype: Dtype) -> Result<Self> {
        Ok(Self {
            spool: TensorSpool::create(path)?,
            dtype,
            bytes: 0,
        })
    }

    pub(super) fn push(&mut self, name: &str, tensor: &HostTensor) -> Result<()> {
        self.bytes += (tensor.data.len() * self.dtype.bitsize() / 8) as u64;
        self.spool.push(name, self.dtype, tensor)
    }

    /// Places are whole numbers.
    fn places(&mut self, name: &str, shape: Vec<usize>, places: &[i32]) -> Result<()> {
        let bytes: Vec<u8> = places
            .iter()
            .flat_map(|place| place.to_le_bytes())
            .collect();
        self.bytes += bytes.len() as u64;
        self.spool.bytes(name, Dtype::I32, shape, &bytes)
    }

    pub(super) fn finish(self) -> Result<()> {
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        self.spool.finish(&metadata)
    }
}

/// What a configuration says of an adapter.
pub(super) struct Facts<'a> {
    pub(super) layouts: &'a BTreeMap<String, Layout>,
    /// The adapter that it follows in what no merge changes.
    pub(super) of: &'a Config,
    pub(super) modules: &'a BTreeMap<String, ModuleOutcome>,
    pub(super) saved: &'a [String],
}

/// An adapter that is written as its modules come: in the form of the recipe, or in that which holds the
/// first module exactly.
pub(in crate::recipe) struct AdapterWriter<'a> {
    merger: &'a Merger,
    recipe: &'a Recipe,
    output: &'a Output,
    /// The adapter whose configuration it follows.
    first: &'a Source,
    out: PathBuf,
    open: Option<(Form, File)>,
    biases: BTreeMap<String, Option<Vec<f64>>>,
    columns: Vec<String>,
    /// SHiRA's rank is known when all modules are.
    sparse: Vec<(String, Update)>,
    modules: BTreeMap<String, ModuleOutcome>,
}

impl<'a> AdapterWriter<'a> {
    /// Begins an adapter in a directory that is there. `first` is the adapter whose configuration it
    /// follows.
    pub(in crate::recipe) fn new(
        merger: &'a Merger,
        recipe: &'a Recipe,
        output: &'a Output,
        first: &'a Source,
        out: &Path,
    ) -> Self {
        Self {
            merger,
            recipe,
            output,
            first,
            out: out.to_owned(),
            open: None,
            biases: BTreeMap::new(),
            columns: Vec::new(),
            sparse: Vec::new(),
            modules: BTreeMap::new(),
        }
    }

    /// Takes a module's update in.
    ///
    /// # Errors
    /// An update that the form does not hold, a disk that is full.
    pub(in crate::recipe) fn push(&mut self, module: &str, update: &Update) -> Result<()> {
        if self.open.is_none() {
            let form = self.output.form(update);
            let name = match form {
                Form::Delta => DELTA_FILE,
                _ => TENSOR_FILE,
            };
            let dtype = self.output.dtype.map(Dtype::from);
            let dtype = dtype.unwrap_or_else(|| self.merger.dtype());
            self.open = Some((form, File::create(&self.out.join(name), dtype)?));
        }
        let Some((form, file)) = &mut self.open else {
            return Ok(());
        };
        let form = *form;
        let merger = self.merger;
        let layout = &merger.modules[module];
        let written = match form {
            Form::Shira => {
                self.sparse.push((module.to_owned(), update.clone()));
                return Ok(());
            }
            Form::Ia3 => vectors::module(update),
            Form::Delta => delta::module(merger, module, update),
            _ => merger.weight(module, update).and_then(|weight| {
                lora::module(update, layout, self.output.kept(), weight.as_deref())
            }),
        };
        let written = written.map_err(|error| named(module, error))?;
        for (field, tensor) in &written.tensors {
            file.push(&key(form, module, field), tensor)?;
        }
        if vectors::scales_inputs(update) {
            self.columns.push(module.to_owned());
        }
        if form == Form::Lora {
            let bias = update.bias_change(merger.bias(module)?.as_deref());
            self.biases.insert(module.to_owned(), bias);
        }
        self.modules.insert(module.to_owned(), written.outcome);
        Ok(())
    }

    /// Says of a module how far what was written is from what it stands for.
    pub(in crate::recipe) fn lost(&mut self, module: &str, norm: f64, error: f64) {
        if let Some(outcome) = self.modules.get_mut(module) {
            (outcome.norm, outcome.error) = (Some(norm), error);
        }
    }

    /// Writes the parameters that are whole and the configuration: without that there is no adapter
    /// rather than half of one. `adapters` are the names of those that it came from.
    ///
    /// # Errors
    /// No modules, sparse updates that SHiRA does not hold, a disk that is full.
    pub(in crate::recipe) fn finish(
        mut self,
        saved: &BTreeMap<String, HostTensor>,
        adapters: Vec<String>,
    ) -> Result<Part> {
        let Some((form, mut file)) = self.open else {
            return Err(Error::input("the adapters change no module"));
        };
        let rank = shira::rank(&self.sparse)?;
        for (module, update) in &self.sparse {
            let found = shira::module(update, rank).map_err(|error| named(module, error))?;
            let (written, places) = found;
            let name = key(form, module, "shira_indices");
            file.places(&name, vec![2, places.len() / 2], &places)?;
            for (field, tensor) in &written.tensors {
                file.push(&key(form, module, field), tensor)?;
            }
            self.modules.insert(module.clone(), written.outcome);
        }
        for (path, tensor) in saved {
            let name = match form {
                Form::Delta => format!("{path}{}", delta::SAVED),
                _ => format!("{MODEL}{path}"),
            };
            file.push(&name, tensor)?;
        }
        let names: Vec<String> = saved.keys().cloned().collect();
        let facts = Facts {
            layouts: &self.merger.modules,
            of: self.first.adapter().config(),
            modules: &self.modules,
            saved: &names,
        };
        let (name, config) = match form {
            Form::Ia3 => (CONFIG_FILE, vectors::config(&facts, &self.columns)),
            Form::Shira => (CONFIG_FILE, shira::config(&facts, rank)),
            Form::Delta => (DELTA_CONFIG, delta::config(&facts, self.recipe)),
            _ => {
                let has_bias = lora::biases(&mut file, &self.biases, &self.modules)?;
                (CONFIG_FILE, lora::config(&facts, has_bias))
            }
        };
        let shown = match form {
            Form::Ia3 => "IA3",
            Form::Shira => "SHiRA",
            Form::Delta => "deltas",
            _ => "LoRA",
        };
        let bytes = file.bytes;
        file.finish()?;
        write_atomically(&self.out.join(name), config.to_text().as_bytes())?;
        Ok(Part {
            adapters,
            form: shown.to_owned(),
            modules: self.modules,
            bytes,
            saved: names,
        })
    }
}

/// A tensor's name in the file.
fn key(form: Form, module: &str, field: &str) -> String {
    match form {
        Form::Delta => format!("{module}.{field}"),
        _ => format!("{MODEL}{module}.{field}"),
    }
}

fn named(module: &str, error: Error) -> Error {
    match error {
        Error::Input(reason) => Error::input(format!("module `{module}`: {reason}")),
        other => other,
    }
}

/// A configuration of PEFT for the modules of an adapter.
pub(super) fn peft_config(facts: &Facts<'_>, own: Value) -> Config {
    let kept = |key: &str| facts.of.keys().get(key).cloned().unwrap_or(Value::Null);
    let modules: Vec<&String> = facts.modules.keys().collect();
    let parents: std::collections::BTreeSet<&str> = facts
        .saved
        .iter()
        .filter_map(|path| path.rsplit_once('.'))
        .map(|(module, _)| module)
        .filter(|module| !facts.modules.contains_key(*module))
        .collect();
    let in_out = modules
        .iter()
        .any(|module| facts.layouts[*module] == Layout::Transposed);
    let mut keys: Map<String, Value> = Map::new();
    let common = json!({
        "task_type": kept("task_type"),
        "auto_mapping": null,
        "base_model_name_or_path": kept("base_model_name_or_path"),
        "revision": kept("revision"),
        "inference_mode": true,
        "target_modules": modules,
        "exclude_modules": null,
        "fan_in_fan_out": in_out,
        "modules_to_save": if parents.is_empty() { Value::Null } else { json!(parents) },
    });
    for table in [common, own] {
        if let Value::Object(table) = table {
            keys.extend(table);
        }
    }
    Config::new(keys)
}
