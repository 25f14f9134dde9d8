//! Cases of PEFT's weighted combinations and of its conversion to LoRA, on the merging crate's
//! compatible mode. What it makes is compared as tensors, as updates and as outputs of the network.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use burn::tensor::{Device, TensorData};
use engraft_core::{Adaptable, Adapted, Mode, file, params};
use engraft_linalg::Svd;
use engraft_merge::adapter::{self as host, Config};
use engraft_merge::base::{Base, transposed};
use engraft_merge::compatible::{
    Draw, Drawn, Kept, Options, Platform, add_weighted_adapter, convert_to_lora, subtract_init,
};
use engraft_merge::file::HostTensor;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use super::case::{Case, Entry, json, within};
use super::checks::{Checks, values};
use super::layers::{flat, output};
use super::net::{Form, Network, stacked};
use super::report::CaseReport;
use super::{Registry, Stop};
use crate::adapter::{CONFIG_FILE, PeftAdapter, TENSOR_FILE};
use crate::error::Error;

/// Kind of the cases of `add_weighted_adapter`.
pub(super) const WEIGHTED: &str = "weighted";
/// Kind of the cases of `convert_to_lora`.
pub(super) const CONVERT: &str = "convert";

/// What only these cases say.
#[derive(Deserialize)]
struct Asked {
    adapter_config: Value,
    /// Not of IA3.
    #[serde(default)]
    result_config: Option<Value>,
    #[serde(default)]
    weights: Vec<f64>,
    #[serde(default)]
    arguments: Option<Options>,
    #[serde(default)]
    masks: Vec<Mask>,
    #[serde(default)]
    rank: Option<Kept>,
}

/// What a recorded draw was for.
#[derive(Deserialize)]
struct Mask {
    module: String,
    of: String,
    adapter: String,
}

impl From<engraft_merge::Error> for Stop {
    fn from(error: engraft_merge::Error) -> Self {
        Self::Fail(error.to_string())
    }
}

/// What a combination made.
struct Made {
    config: Config,
    tensors: BTreeMap<String, HostTensor>,
}

pub(super) fn run(
    directory: &Path,
    entry: &Entry,
    device: &Device,
    registry: Registry,
    report: &mut CaseReport,
) -> Result<(), Stop> {
    let case = Case::read(directory, entry)?;
    let asked: Asked = json(&directory.join(&entry.json_file))?;
    let root = Directories::new()?;
    let base = root.base(&case)?;
    let mut tensors = BTreeMap::new();
    let mut sink = |name: &str, tensor: HostTensor| {
        tensors.insert(name.to_owned(), tensor);
        Ok(())
    };
    let was_residual = case.tensors.keys().any(|key| key.starts_with("residual."));
    let config = match entry.kind.as_str() {
        WEIGHTED => {
            let mut platform = Recorded {
                case: &case,
                masks: &asked.masks,
            };
            let mut opened = Vec::new();
            for ((name, _), weight) in case.adapters.iter().zip(&asked.weights) {
                let own = within(&case.tensors, &format!("adapter.{name}."));
                let at = root.adapter(name, &asked.adapter_config[name], &own)?;
                opened.push((host::Adapter::open(name, &at)?, *weight));
            }
            let borrowed: Vec<_> = opened
                .iter()
                .map(|(adapter, weight)| (adapter, *weight))
                .collect();
            let options = asked.arguments.unwrap_or_default();
            add_weighted_adapter(&borrowed, &options, &mut platform, &mut sink)?
        }
        _ => {
            let parts = |prefix: &str| {
                let named = within(&case.tensors, &format!("{prefix}default."));
                match named.is_empty() {
                    true => within(&case.tensors, prefix),
                    false => named,
                }
            };
            let own = root.adapter("own", &asked.adapter_config, &parts("adapter."))?;
            match was_residual {
                true => {
                    let before = root.adapter("init", &asked.adapter_config, &parts("init."))?;
                    let own = host::Adapter::open_on_residual("own", &own)?;
                    let before = host::Adapter::open_on_residual("init", &before)?;
                    subtract_init(&own, &before, &mut sink)?
                }
                false => {
                    let kept = asked
                        .rank
                        .ok_or(Stop::Fail("the case has no rank".to_owned()))?;
                    let own = match host::host_form(&own)? {
                        Ok(()) => own,
                        Err(_) => root.deltas(&case, device, registry)?,
                    };
                    let own = host::Adapter::open("own", &own)?;
                    convert_to_lora(&own, Some(&base), kept, &mut sink)?
                }
            }
        }
    };
    let made = Made { config, tensors };
    let mut checks = Checks::new(&case);
    if let Some(expected) = &asked.result_config {
        configuration(&made.config, expected, &mut checks);
    }
    let is_determined = was_residual || entry.kind == WEIGHTED && !truncates(&asked, &made.config);
    tensors_and_updates(&case, &made, &root, is_determined, &mut checks)?;
    outputs(&case, &made, device, registry, was_residual, &mut checks)?;
    checks.finish(report)
}

/// Whether the factors are of a decomposition: singular vectors of near values are ill-determined, and
/// only their product is compared.
fn truncates(asked: &Asked, config: &Config) -> bool {
    let options = asked.arguments.unwrap_or_default();
    let kind = serde_json::to_value(options.combination_type).expect("plain data");
    config.peft_type() == "LORA" && kind.as_str().is_some_and(|kind| kind.ends_with("svd"))
}

/// Every key that was written, lists as the sets they are in PEFT.
fn configuration(found: &Config, expected: &Value, checks: &mut Checks) {
    /// Of how the file was saved rather than of what is in it.
    const SAVING: [&str; 3] = ["auto_mapping", "inference_mode", "peft_version"];
    let sorted = |value: &Value| match value.as_array() {
        None => value.clone(),
        Some(list) => {
            let mut list: Vec<String> = list.iter().map(Value::to_string).collect();
            list.sort();
            list.into()
        }
    };
    for (key, value) in found
        .keys()
        .iter()
        .filter(|(key, _)| !SAVING.contains(&key.as_str()))
    {
        let theirs = &expected[key];
        let both = value.as_f64().zip(theirs.as_f64());
        if sorted(value) != sorted(theirs) && both.is_none_or(|(a, b)| a != b) {
            checks.fail(format!("{key}: found {value}, expected {theirs}"));
        }
    }
}

fn tensors_and_updates(
    case: &Case,
    made: &Made,
    root: &Directories,
    is_determined: bool,
    checks: &mut Checks,
) -> Result<(), Stop> {
    let tensors: BTreeMap<String, TensorData> = made
        .tensors
        .iter()
        .map(|(key, tensor)| (key.clone(), data(tensor)))
        .collect();
    let expected = within(&case.tensors, "result.");
    let unexpected = tensors.keys().filter(|key| !expected.contains_key(*key));
    unexpected.for_each(|key| checks.fail(format!("{key} is unexpected")));
    for (key, expected) in &expected {
        match tensors.get(key) {
            None => checks.fail(format!("{key} is missing")),
            Some(found) if found.shape() != expected.shape() => checks.fail(format!(
                "{key}: found shape {:?}, expected {:?}",
                found.shape(),
                expected.shape()
            )),
            Some(found) if is_determined => checks.close(&format!("result.{key}"), found),
            Some(_) => {}
        }
    }
    let text = serde_json::from_str(&made.config.to_text()).expect("just written");
    let reread = host::Adapter::open("result", &root.adapter("result", &text, &tensors)?)?;
    for (name, expected) in within(&case.tensors, "result_delta.") {
        let module = name.strip_suffix(".weight").unwrap_or(&name);
        let found = reread.update(module, None)?.to_dense(None)?;
        let mut found = HostTensor::new(vec![found.rows, found.columns], found.data);
        if reread.modules()[module].layout.is_transposed() {
            found = transposed(&found);
        }
        checks.close_to(&format!("result_delta.{name}"), &data(&found), &expected);
    }
    Ok(())
}

/// The network with the result, on the original base.
fn outputs(
    case: &Case,
    made: &Made,
    device: &Device,
    registry: Registry,
    was_residual: bool,
    checks: &mut Checks,
) -> Result<(), Stop> {
    let form = Form::of(&case.net)?;
    let values = within(&case.tensors, "base.");
    let mut adapted = Adapted::new(Network::new(form, &values, device)?);
    let config = serde_json::from_str(&made.config.to_text()).expect("just written");
    let tensors = made
        .tensors
        .iter()
        .map(|(key, tensor)| (key.clone(), data(tensor)));
    let result = PeftAdapter::from_parts(config, tensors.collect());
    let import = result.import(&adapted.model.shapes(), "result")?;
    import.attach(&mut adapted, registry)?;
    let x = flat(case, "in.x", device)?;
    let y = output(case, &adapted.model, &x, &adapted.ctx(Mode::Eval))?.to_data();
    match was_residual {
        true => checks.close("out.y_converted", &y),
        false => checks.close("out.y", &y),
    }
    Ok(())
}

fn data(tensor: &HostTensor) -> TensorData {
    TensorData::new(tensor.data.clone(), tensor.shape.clone())
}

/// Draws, and signs of singular vectors, of the machine on which the case was made.
struct Recorded<'a> {
    case: &'a Case,
    masks: &'a [Mask],
}

impl Platform for Recorded<'_> {
    fn kept(&mut self, draw: Draw<'_>, count: usize, _: f64) -> Result<Vec<bool>, String> {
        let of = match draw.of {
            Drawn::A => "A",
            Drawn::B => "B",
            Drawn::Delta => "delta",
        };
        let wanted = |mask: &Mask| {
            mask.module == draw.module && mask.of == of && mask.adapter == draw.adapter
        };
        let at = self.masks.iter().position(wanted);
        let mask = at.and_then(|at| self.case.tensors.get(&format!("mask.{at}")));
        let mask = mask.ok_or_else(|| format!("the case has no draw for {draw:?}"))?;
        let kept: Vec<bool> = values(mask).into_iter().map(|kept| kept != 0.0).collect();
        match kept.len() == count {
            true => Ok(kept),
            false => Err(format!(
                "{} draws for {count} numbers of {draw:?}",
                kept.len()
            )),
        }
    }

    fn signed(&mut self, module: &str, svd: Svd) -> Svd {
        let prefix = format!("result.base_model.model.{module}.lora_");
        let recorded = ["A.weight", "embedding_A"]
            .iter()
            .find_map(|field| self.case.tensors.get(&format!("{prefix}{field}")));
        let Some(recorded) = recorded.map(values) else {
            return svd;
        };
        let rows = recorded.chunks(svd.vt.cols()).zip(0..svd.s.len());
        let dots = rows.map(|(theirs, i)| {
            let both = theirs.iter().zip(svd.vt.row(i));
            both.map(|(a, b)| a * b).sum::<f64>().signum()
        });
        let signs: Vec<f64> = dots.collect();
        match (svd.u.scale_columns(&signs), svd.vt.scale_rows(&signs)) {
            (Ok(u), Ok(vt)) => Svd { u, s: svd.s, vt },
            _ => svd,
        }
    }
}

/// Directories with the files that a user would have.
struct Directories(TempDir);

impl Directories {
    fn new() -> Result<Self, Stop> {
        let made = tempfile::tempdir();
        made.map(Self)
            .map_err(|error| Stop::Fail(format!("no temporary directory: {error}")))
    }

    fn adapter(
        &self,
        name: &str,
        config: &Value,
        tensors: &BTreeMap<String, TensorData>,
    ) -> Result<PathBuf, Stop> {
        let at = self.0.path().join(name);
        let failed = |error: std::io::Error| Stop::Fail(error.to_string());
        std::fs::create_dir_all(&at).map_err(failed)?;
        std::fs::write(at.join(CONFIG_FILE), config.to_string()).map_err(failed)?;
        file::write_tensors(&at.join(TENSOR_FILE), tensors, HashMap::new()).map_err(Error::from)?;
        Ok(at)
    }

    /// The case's adapter as deltas: what merging it changes in the network.
    fn deltas(&self, case: &Case, device: &Device, registry: Registry) -> Result<PathBuf, Stop> {
        let form = Form::of(&case.net)?;
        let base = within(&case.tensors, "base.");
        let mut adapted = Adapted::new(Network::new(form, &base, device)?);
        let (name, adapter) = &case.adapters[0];
        let import = adapter.import(&adapted.model.shapes(), name)?;
        import.attach(&mut adapted, registry)?;
        adapted.merge().map_err(Error::from)?;
        let after = params::read(&adapted.model, |path| !path.contains(".adapters."));
        let mut changes = BTreeMap::new();
        for (key, before) in &base {
            let Some(after) = stacked(form, key, before, &after) else {
                continue;
            };
            let pairs = values(&after).into_iter().zip(values(before));
            let change: Vec<f32> = pairs.map(|(a, b)| (a - b) as f32).collect();
            if change.iter().any(|x| *x != 0.0) {
                changes.insert(key.clone(), TensorData::new(change, before.shape().clone()));
            }
        }
        let at = self.0.path().join("deltas");
        let failed = |error: std::io::Error| Stop::Fail(error.to_string());
        std::fs::create_dir_all(&at).map_err(failed)?;
        let targets = adapter.config().to_json()["target_modules"].clone();
        let config = serde_json::json!({"target_modules": targets}).to_string();
        std::fs::write(at.join(host::DELTA_CONFIG), config).map_err(failed)?;
        file::write_tensors(&at.join(host::DELTA_FILE), &changes, HashMap::new())
            .map_err(Error::from)?;
        Ok(at)
    }

    fn base(&self, case: &Case) -> Result<Base, Stop> {
        let path = self.0.path().join("model.safetensors");
        let tensors = within(&case.tensors, "base.");
        file::write_tensors(&path, &tensors, HashMap::new()).map_err(Error::from)?;
        Ok(Base::open(&path)?)
    }
}
