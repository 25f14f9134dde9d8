//! Cases on linear layers: one adapter, several at once, or one for each batch row.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use engraft_core::{Adaptable, Adapted, Composition, Ctx, Mode, RowChoice, params};

use super::case::{Case, within};
use super::checks::Checks;
use super::net::{Mlp, Storage};
use super::report::CaseReport;
use super::{Registry, Stop};
use crate::adapter::{PeftAdapter, export};
use crate::error::{Error, Result};
use crate::import::Import;
use crate::types;

/// The name that stands for the base in a mixed batch.
const BASE: &str = "__base__";

pub(super) fn run(
    case: &Case,
    device: &Device,
    registry: Registry,
    report: &mut CaseReport,
) -> Result<(), Stop> {
    let storage = Storage::of(&case.net)?;
    let mut values = within(&case.tensors, "base.");
    values.extend(within(&case.tensors, "residual."));
    let fresh = || Ok::<_, Error>(Adapted::new(Mlp::new(&case.net, storage, &values, device)?));

    let mut adapted = fresh()?;
    let shapes = adapted.model.shapes();
    // First of all, whether all their types are there.
    case.adapters
        .iter()
        .try_for_each(|(_, adapter)| types::find(adapter.config().peft_type()).map(drop))?;
    let mut imports = Vec::new();
    for (name, adapter) in &case.adapters {
        let import = adapter.import(&shapes, name)?;
        report.engraft.get_or_insert(import.method.clone());
        report.warnings.extend(import.warnings.clone());
        import.attach(&mut adapted, registry)?;
        imports.push(import);
    }
    let names: Vec<&str> = case
        .adapters
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    adapted
        .activate(&names, Composition::Sum)
        .map_err(Error::from)?;

    let mut checks = Checks::new(case);
    if case.adapter_names.is_empty() {
        active(case, &mut adapted, &imports, device, &mut checks)?;
        alone(case, &mut adapted, &names, device, &mut checks)?;
        merged(case, &mut adapted, &names, storage, &mut checks)?;
    } else {
        mixed(case, &adapted, device, &mut checks)?;
    }
    for (import, (_, adapter)) in imports.iter().zip(&case.adapters) {
        round_trip(
            &adapted,
            &mut fresh()?,
            import,
            adapter,
            storage,
            registry,
            &mut checks,
        );
    }
    checks.finish(report)
}

/// A tensor of the case as tokens [n, width], on the device.
fn tokens(case: &Case, key: &str, device: &Device) -> Result<Tensor<2>, Stop> {
    let data = case
        .tensors
        .get(key)
        .ok_or_else(|| Stop::Fail(format!("{key} is missing")))?;
    let width = data.shape().last().copied().unwrap_or(1);
    let shape = [data.num_elements() / width.max(1), width];
    Ok(Tensor::from_data(
        TensorData::from_bytes_vec(data.as_bytes().to_vec(), shape.to_vec(), data.dtype()),
        (device, DType::F32),
    ))
}

/// Output and gradients with all adapters active, and the output with all of them off.
fn active(
    case: &Case,
    adapted: &mut Adapted<Mlp>,
    imports: &[Import],
    device: &Device,
    checks: &mut Checks,
) -> Result<(), Stop> {
    let x = tokens(case, "in.x", device)?.require_grad();
    let y = adapted.model.forward(x.clone(), &adapted.ctx(Mode::Eval));
    checks.close("out.y", &y.to_data());
    if case.tensors.contains_key("in.g") {
        let grads = (y * tokens(case, "in.g", device)?).sum().backward();
        compare_gradient(
            case,
            "grad.",
            "in.x",
            x.grad(&grads).map(|grad| grad.to_data()),
            checks,
        );
        let found = gradients(adapted, &grads);
        for import in imports {
            let prefix = case.gradient_prefix(&import.name);
            let by_peft: BTreeMap<String, TensorData> = found
                .iter()
                .filter_map(|(key, data)| import.to_peft(key, data))
                .collect();
            for key in within(&case.tensors, &prefix)
                .keys()
                .filter(|key| key.as_str() != "in.x")
            {
                compare_gradient(case, &prefix, key, by_peft.get(key).cloned(), checks);
            }
        }
    }
    if case.tensors.contains_key("out.y_base") {
        adapted.disable(true);
        let y = adapted.model.forward(x, &adapted.ctx(Mode::Eval));
        checks.close("out.y_base", &y.to_data());
        adapted.disable(false);
    }
    Ok(())
}

/// Compares with the true gradient where PEFT's own is wrong.
fn compare_gradient(
    case: &Case,
    prefix: &str,
    key: &str,
    found: Option<TensorData>,
    checks: &mut Checks,
) {
    let stated = format!("{prefix}{key}");
    let corrected = stated.replacen("grad.", "grad_true.", 1);
    let expected = if case.tensors.contains_key(&corrected) {
        corrected
    } else {
        stated
    };
    match found {
        Some(found) => checks.close(&expected, &found),
        None => checks.fail(format!(
            "{expected}: no parameter of the adapter has this gradient"
        )),
    }
}

/// The gradients of all parameters that have one, keyed as in adapter files.
fn gradients(adapted: &Adapted<Mlp>, grads: &Gradients) -> BTreeMap<String, TensorData> {
    struct Collect<'a> {
        path: Vec<String>,
        grads: &'a Gradients,
        found: BTreeMap<String, TensorData>,
    }
    impl ModuleVisitor for Collect<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = param.base().grad(self.grads) {
                self.found.insert(self.path.join("."), gradient.to_data());
            }
        }
    }
    let mut collect = Collect {
        path: Vec::new(),
        grads,
        found: BTreeMap::new(),
    };
    adapted.visit(&mut collect);
    collect.found
}

/// The output of each adapter alone, where the case has it.
fn alone(
    case: &Case,
    adapted: &mut Adapted<Mlp>,
    names: &[&str],
    device: &Device,
    checks: &mut Checks,
) -> Result<(), Stop> {
    let fail = |error: engraft_core::Error| Stop::Fail(error.to_string());
    for name in names {
        let key = format!("out.y_only.{name}");
        if case.tensors.contains_key(&key) {
            adapted.activate(&[name], Composition::Sum).map_err(fail)?;
            let y = adapted
                .model
                .forward(tokens(case, "in.x", device)?, &adapted.ctx(Mode::Eval));
            checks.close(&key, &y.to_data());
        }
    }
    adapted.activate(names, Composition::Sum).map_err(fail)
}

/// The weights after merging, and the same weights as before after unmerging.
fn merged(
    case: &Case,
    adapted: &mut Adapted<Mlp>,
    names: &[&str],
    storage: Storage,
    checks: &mut Checks,
) -> Result<(), Stop> {
    let expected = within(&case.tensors, "merged.");
    if expected.is_empty() {
        return Ok(());
    }
    let own = |path: &str| !path.contains(".adapters.");
    let before = params::read(&adapted.model, own);
    adapted
        .merge()
        .map_err(|error| Stop::Fail(format!("merging {}: {error}", names.join(", "))))?;
    let after = params::read(&adapted.model, own);
    for (key, data) in &expected {
        match after.get(key) {
            Some(found) => checks.close(
                &format!("merged.{key}"),
                &storage.pair(key, data.shape()).to_peft(found),
            ),
            None => checks.fail(format!("merged.{key}: the network has no such parameter")),
        }
    }
    adapted.unmerge();
    let restored = params::read(&adapted.model, own);
    for (key, data) in &before {
        checks.equal(&format!("{key} after unmerging"), restored.get(key), data);
    }
    Ok(())
}

/// The output where each batch row has its own adapter.
fn mixed(
    case: &Case,
    adapted: &Adapted<Mlp>,
    device: &Device,
    checks: &mut Checks,
) -> Result<(), Stop> {
    let rows = RowChoice::new(
        case.adapter_names
            .iter()
            .map(|name| (name != BASE).then(|| name.clone()))
            .collect(),
    );
    let ctx = Ctx::new(&adapted.bank, Mode::Eval).with_rows(&rows);
    let y = adapted.model.forward(tokens(case, "in.x", device)?, &ctx);
    checks.close("out.y", &y.to_data());
    Ok(())
}

/// Writes the adapter, reads it into a fresh network and writes it again: its tensors must come
/// out as they went in.
fn round_trip(
    adapted: &Adapted<Mlp>,
    fresh: &mut Adapted<Mlp>,
    import: &Import,
    adapter: &PeftAdapter,
    storage: Storage,
    registry: Registry,
    checks: &mut Checks,
) {
    let mut again = || -> Result<PeftAdapter> {
        let in_out = storage == Storage::Conv1d;
        let first = export(adapted, &import.name, in_out)?;
        // As text, because that is what a file holds.
        let config = serde_json::from_str(&first.config().to_json().to_string())
            .map_err(|error| Error::config("", error))?;
        let read = PeftAdapter::from_parts(config, first.tensors().clone())
            .import(&fresh.model.shapes(), &import.name)?;
        read.attach(fresh, registry)?;
        export(fresh, &import.name, in_out)
    };
    match again() {
        Err(error) => checks.fail(format!("written and read again: {error}")),
        Ok(written) => {
            let keys = |adapter: &PeftAdapter| -> BTreeSet<String> {
                let config = adapter.config().to_json();
                config
                    .as_object()
                    .into_iter()
                    .flatten()
                    .map(|(key, _)| key.clone())
                    .collect()
            };
            let (found, expected) = (keys(&written), keys(adapter));
            for key in found.symmetric_difference(&expected) {
                checks.fail(format!(
                    "`{key}` is in one of the written configuration and PEFT's"
                ));
            }
            for (key, data) in adapter.tensors() {
                checks.equal(
                    &format!("adapter.{key} written and read again"),
                    written.tensors().get(key),
                    data,
                );
            }
            // Shared projections that a file left to a seed are written out; nothing else is added.
            let added = written
                .tensors()
                .keys()
                .filter(|key| !adapter.tensors().contains_key(*key) && !import.grown.contains(key));
            for key in added.collect::<Vec<_>>() {
                checks.fail(format!("adapter.{key}: written, but not in the adapter"));
            }
        }
    }
}
