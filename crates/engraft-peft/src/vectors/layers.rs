//! Cases on linear layers: one adapter, several at once, or one for each batch row.

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use engraft_core::{Adaptable, Adapted, Composition, Ctx, Mode, RowChoice, params};

use super::case::{Case, within};
use super::checks::Checks;
use super::net::{Form, Network, stacked, unstack};
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
    let form = Form::of(&case.net)?;
    let mut values = within(&case.tensors, "base.");
    values.extend(within(&case.tensors, "residual."));
    unstack(&mut values);
    let fresh = || Ok::<_, Error>(Adapted::new(Network::new(form, &values, device)?));

    let mut adapted = fresh()?;
    let shapes = adapted.model.shapes();
    // First of all, whether all their types are there.
    case.adapters
        .iter()
        .try_for_each(|(_, adapter)| types::known(adapter.config().peft_type()))?;
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
        merged(case, &mut adapted, &names, form, &mut checks)?;
    } else {
        mixed(case, &adapted, device, &mut checks)?;
    }
    let adapters = if case.saved.is_empty() {
        &case.adapters
    } else {
        adapted = fresh()?;
        imports.clear();
        for (name, adapter) in &case.saved {
            let import = adapter.import(&shapes, name)?;
            import.attach(&mut adapted, registry)?;
            imports.push(import);
        }
        let x = flat(case, "in.x", device)?;
        let y = output(case, &adapted.model, &x, &adapted.ctx(Mode::Eval))?;
        checks.close("out.y", &y.to_data());
        &case.saved
    };
    for (import, (_, adapter)) in imports.iter().zip(adapters) {
        let models = (&adapted, &mut fresh()?);
        let adapter = (import, adapter);
        round_trip(models, adapter, form.in_out(), registry, &mut checks);
    }
    checks.finish(report)
}

/// A tensor of the case, flattened, on the device.
pub(super) fn flat(case: &Case, key: &str, device: &Device) -> Result<Tensor<1>, Stop> {
    let data = case.tensor(key)?;
    let count = data.num_elements();
    let data = data.clone().convert_dtype(DType::F32);
    Ok(Tensor::from_data(
        TensorData::from_bytes_vec(data.as_bytes().to_vec(), vec![count], DType::F32),
        (device, DType::F32),
    ))
}

/// The output of the network on the case's input x, flattened.
pub(super) fn output(
    case: &Case,
    model: &Network,
    x: &Tensor<1>,
    ctx: &Ctx,
) -> Result<Tensor<1>, Stop> {
    Ok(model.forward(x, &case.tensor("in.x")?.shape().to_vec(), ctx))
}

/// Output and gradients with all adapters active, and the output with all of them off.
fn active(
    case: &Case,
    adapted: &mut Adapted<Network>,
    imports: &[Import],
    device: &Device,
    checks: &mut Checks,
) -> Result<(), Stop> {
    let x = flat(case, "in.x", device)?.require_grad();
    let y = output(case, &adapted.model, &x, &adapted.ctx(Mode::Eval))?;
    checks.close("out.y", &y.to_data());
    if case.tensors.contains_key("in.g") {
        let grads = (y * flat(case, "in.g", device)?).sum().backward();
        if case.tensors.contains_key("grad.in.x") {
            compare_gradient(
                case,
                "grad.",
                "in.x",
                x.grad(&grads).map(|grad| grad.to_data()),
                checks,
            );
        }
        let found = gradients(adapted, &grads);
        for import in imports {
            let prefix = case.gradient_prefix(&import.name);
            let by_peft = import.to_peft(&found)?;
            for key in within(&case.tensors, &prefix)
                .keys()
                .filter(|key| key.as_str() != "in.x")
            {
                compare_gradient(case, &prefix, key, by_peft.get(key).cloned(), checks);
            }
        }
    }
    if case.tensors.contains_key("out.y_train") {
        let mode = Mode::Train { seed: 0, step: 0 };
        let y = output(case, &adapted.model, &x, &adapted.ctx(mode))?;
        checks.close("out.y_train", &y.to_data());
    }
    if case.tensors.contains_key("out.y_base") {
        adapted.disable(true);
        let y = output(case, &adapted.model, &x, &adapted.ctx(Mode::Eval))?;
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
pub(super) fn gradients<M: Adaptable>(
    adapted: &Adapted<M>,
    grads: &Gradients,
) -> BTreeMap<String, TensorData> {
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
    adapted: &mut Adapted<Network>,
    names: &[&str],
    device: &Device,
    checks: &mut Checks,
) -> Result<(), Stop> {
    let fail = |error: engraft_core::Error| Stop::Fail(error.to_string());
    for name in names {
        let key = format!("out.y_only.{name}");
        if case.tensors.contains_key(&key) {
            adapted.activate(&[name], Composition::Sum).map_err(fail)?;
            let x = flat(case, "in.x", device)?;
            let y = output(case, &adapted.model, &x, &adapted.ctx(Mode::Eval))?;
            checks.close(&key, &y.to_data());
        }
    }
    adapted.activate(names, Composition::Sum).map_err(fail)
}

/// The weights after merging, and the same weights as before after unmerging.
fn merged(
    case: &Case,
    adapted: &mut Adapted<Network>,
    names: &[&str],
    form: Form,
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
        match stacked(form, key, data, &after) {
            Some(found) => checks.close(&format!("merged.{key}"), &found),
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
    adapted: &Adapted<Network>,
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
    let y = output(case, &adapted.model, &flat(case, "in.x", device)?, &ctx)?;
    checks.close("out.y", &y.to_data());
    Ok(())
}

/// Writes the adapter, reads it into a fresh network and writes it again: its tensors must come
/// out as they went in.
pub(super) fn round_trip<M: Adaptable>(
    (adapted, fresh): (&Adapted<M>, &mut Adapted<M>),
    (import, adapter): (&Import, &PeftAdapter),
    in_out: bool,
    registry: Registry,
    checks: &mut Checks,
) {
    let mut again = || -> Result<PeftAdapter> {
        let first = export(adapted, &import.name, in_out)?;
        // As text, because that is what a file holds.
        let config = serde_json::from_str(&first.config().to_json().to_string())
            .map_err(|error| Error::config("", error))?;
        let read = PeftAdapter::from_parts(config, first.tensors().clone())
            .with_frozen(adapter.frozen.clone())
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
            // What PEFT stores twice is written once.
            let copied = |key: &str| import.copies.iter().any(|copy| copy == key);
            for (key, data) in adapter.tensors().iter().filter(|(key, _)| !copied(key)) {
                checks.equal(
                    &format!("adapter.{key} written and read again"),
                    written.tensors().get(key),
                    data,
                );
            }
            // Shared projections that a file left to a seed are written out, for each layer where
            // PEFT repeats them; nothing else is added.
            let name = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
            let grown: BTreeSet<String> = import.grown.iter().map(|key| name(key)).collect();
            let added = written.tensors().keys().filter(|key| {
                !adapter.tensors().contains_key(*key)
                    && !import.grown.contains(key)
                    && !grown.contains(&name(key))
            });
            for key in added.collect::<Vec<_>>() {
                checks.fail(format!("adapter.{key}: written, but not in the adapter"));
            }
        }
    }
}
