//! Merges that are written as adapters.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::Dtype;

use super::{Form, delta, lora, shira, vectors};
use crate::adapter::{CONFIG_FILE, Config, DELTA_CONFIG, DELTA_FILE, MODEL, TENSOR_FILE};
use crate::compatible::{self, Seeded, add_weighted_adapter};
use crate::error::{Error, Result};
use crate::file::{HostTensor, TensorSpool, write_atomically};
use crate::pipeline::Survey;
use crate::recipe::{Merger, ModuleOutcome, Outcome, Recipe, Way};
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

impl Merger {
    /// The adapter that PEFT's own combination makes.
    pub(super) fn compatible(
        &self,
        recipe: &Recipe,
        options: &compatible::Options,
        out: &Path,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let adapters = self
            .sources
            .iter()
            .map(|source| (source.adapter(), source.weight()));
        let adapters: Vec<_> = adapters.collect();
        let dtype = recipe
            .output
            .dtype
            .map_or_else(|| self.dtype(), Dtype::from);
        let mut file = File::create(&out.join(TENSOR_FILE), dtype)?;
        let mut platform = Seeded::new(recipe.seed);
        let config =
            add_weighted_adapter(&adapters, options, &mut platform, &mut |name, tensor| {
                file.push(name, &tensor)
            })?;
        outcome.form = format!(
            "{} as PEFT combines it",
            self.sources[0].adapter().type_name()
        );
        outcome.bytes = file.bytes;
        file.finish()?;
        write_atomically(&out.join(CONFIG_FILE), config.to_text().as_bytes())
    }

    /// An adapter of the form that the recipe wants, or that holds the first module exactly.
    pub(super) fn adapter(
        &self,
        recipe: &Recipe,
        out: &Path,
        outcome: &mut Outcome,
        step: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let mut form = None;
        let mut file = None;
        let mut biases = BTreeMap::new();
        let mut columns = Vec::new();
        let mut rank = 0;
        let saved = self.saved(recipe.saved)?;
        for module in self.modules.keys() {
            let update = self.update(module)?;
            let form = match form {
                Some(form) => form,
                None => {
                    let chosen = recipe.output.form(&update);
                    if chosen == Form::Shira {
                        rank = shira::rank(self)?;
                    }
                    let name = if chosen == Form::Delta {
                        DELTA_FILE
                    } else {
                        TENSOR_FILE
                    };
                    let dtype = recipe
                        .output
                        .dtype
                        .map_or_else(|| self.dtype(), Dtype::from);
                    file = Some(File::create(&out.join(name), dtype)?);
                    *form.insert(chosen)
                }
            };
            let file = file.as_mut().expect("with the form");
            let key = |field: &str| match form {
                Form::Delta => format!("{module}.{field}"),
                _ => format!("{MODEL}{module}.{field}"),
            };
            let named = |error: Error| match error {
                Error::Input(reason) => Error::input(format!("module `{module}`: {reason}")),
                other => other,
            };
            let layout = &self.modules[module];
            let written = match form {
                Form::Ia3 => vectors::module(&update).map_err(named)?,
                Form::Delta => delta::module(self, module, &update).map_err(named)?,
                Form::Shira => {
                    let (written, places) = shira::module(&update, rank).map_err(named)?;
                    file.places(&key("shira_indices"), vec![2, places.len() / 2], &places)?;
                    written
                }
                _ => {
                    let weight = self.weight(module, &update)?;
                    let kept = recipe.output.kept();
                    lora::module(&update, layout, kept, weight.as_deref()).map_err(named)?
                }
            };
            for (field, tensor) in &written.tensors {
                file.push(&key(field), tensor)?;
            }
            if vectors::scales_inputs(&update) {
                columns.push(module.clone());
            }
            if form == Form::Lora {
                biases.insert(
                    module.clone(),
                    update.bias_change(self.bias(module)?.as_deref()),
                );
            }
            let factor_wise = self.factor_wise(module)?;
            let done = ModuleOutcome {
                factor_wise,
                ..written.outcome
            };
            outcome.modules.insert(module.clone(), done);
            step(module);
        }
        let (Some(form), Some(mut file)) = (form, file) else {
            return Err(Error::input("the adapters change no module"));
        };
        for (path, tensor) in &saved {
            let name = match form {
                Form::Delta => format!("{path}{}", delta::SAVED),
                _ => format!("{MODEL}{path}"),
            };
            file.push(&name, tensor)?;
        }
        outcome.saved = saved.keys().cloned().collect();
        let of = self.sources[0].adapter().config();
        let config = match form {
            Form::Ia3 => vectors::config(self, of, &columns, &outcome.saved),
            Form::Shira => shira::config(self, of, rank, &outcome.saved),
            Form::Delta => delta::config(self, recipe, &outcome.saved),
            _ => {
                let has_bias = lora::biases(&mut file, &biases, &outcome.modules)?;
                lora::config(self, of, &outcome.modules, has_bias, &outcome.saved)
            }
        };
        outcome.form = match form {
            Form::Ia3 => "IA3",
            Form::Shira => "SHiRA",
            Form::Delta => "deltas",
            _ => "LoRA",
        }
        .to_owned();
        outcome.bytes = file.bytes;
        file.finish()?;
        // The configuration comes last: without it there is no adapter rather than half of one.
        let name = if form == Form::Delta {
            DELTA_CONFIG
        } else {
            CONFIG_FILE
        };
        write_atomically(&out.join(name), config.to_text().as_bytes())
    }

    /// How far the factor-wise combination of a module is from the exact one.
    fn factor_wise(&self, module: &str) -> Result<Option<f64>> {
        if self.way != Way::FactorWise {
            return Ok(None);
        }
        self.with_tasks(module, |tasks| {
            let found = self.way.merge(module, tasks, &Survey::default())?;
            let terms = tasks.iter().map(|task| (task.weight, task.update));
            let exact = Update::combination(terms)?;
            let [Some(difference), Some(exact)] =
                [found.plus(&exact.scaled(-1.0))?.low_rank, exact.low_rank]
            else {
                return Ok(Some(0.0));
            };
            let square = exact.dot(&exact)?;
            let error = difference.dot(&difference)?.max(0.0);
            Ok(Some(if square > 0.0 {
                (error / square).sqrt()
            } else {
                0.0
            }))
        })
    }
}

/// A configuration of PEFT for the modules of a merge.
pub(super) fn peft_config(
    merger: &Merger,
    of: &Config,
    saved: &[String],
    own: serde_json::Value,
) -> Config {
    use serde_json::{Map, Value, json};
    let kept = |key: &str| of.keys().get(key).cloned().unwrap_or(Value::Null);
    let modules: Vec<&String> = merger.modules.keys().collect();
    let parents: std::collections::BTreeSet<&str> = saved
        .iter()
        .filter_map(|path| path.rsplit_once('.'))
        .map(|(module, _)| module)
        .filter(|module| !merger.modules.contains_key(*module))
        .collect();
    let in_out = merger
        .modules
        .values()
        .any(|layout| *layout == crate::base::Layout::Transposed);
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
