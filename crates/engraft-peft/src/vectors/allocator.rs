//! Cases of AdaLoRA's allocation of ranks: a run of gradient descent, step by step.
//!
//! Each step is p -= lr dL/dp on L = sum(y . g) and the penalty, and then the method changes its
//! structure. Losses, gradients, the values of lambda before and after that, the running means of
//! the importance and what was removed are compared.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use engraft_core::{Adaptable, Adapted, Gradients, Mode, Time, Trained, params};

use super::case::{Case, ONLY, Step, Tolerance, within};
use super::checks::{Checks, values};
use super::layers::{flat, output};
use super::net::{Form, Network};
use super::report::CaseReport;
use super::{Registry, Stop};
use crate::adapter::PeftAdapter;
use crate::error::Error;
use crate::field::MODEL;
use crate::import::Import;

/// The kind of these cases.
pub(super) const KIND: &str = "adalora_allocator";

/// Of what the case has without a tolerance, relative to its largest entry. A step of a run amplifies
/// the rounding of all before it.
const RELATIVE: f64 = 2e-5;

pub(super) fn run(
    case: &Case,
    device: &Device,
    registry: Registry,
    report: &mut CaseReport,
) -> Result<(), Stop> {
    let mut run = Run::start(case, device, registry, report)?;
    let mut checks = Checks::new(case);
    for (key, found) in run.import.to_peft(&run.values("")?)? {
        checks.close(&format!("init.{key}"), &found);
    }
    let total = case.training.steps.len() as u64;
    for step in &case.training.steps {
        run.step(step, total, &mut checks)?;
    }
    run.compare_masks(&mut checks)?;
    checks.finish(report)
}

/// A run that has started.
struct Run<'a> {
    case: &'a Case,
    device: &'a Device,
    adapted: Adapted<Network>,
    import: Import,
}

impl<'a> Run<'a> {
    fn start(
        case: &'a Case,
        device: &'a Device,
        registry: Registry,
        report: &mut CaseReport,
    ) -> Result<Self, Stop> {
        let init = within(&case.tensors, "init.");
        // The network of the vectors is a field of the model that was adapted.
        let base = within(&case.tensors, "base.");
        let prefix = prefix(&init, &base);
        let base = base
            .into_iter()
            .map(|(key, data)| (format!("{prefix}{key}"), data))
            .collect();
        let mut adapted = Adapted::new(Network::new(Form::of(&case.net)?, &base, device)?);
        let (_, adapter) = case
            .adapters
            .first()
            .ok_or_else(|| Stop::Fail("no adapter".to_owned()))?;
        // The ranks of the configuration are those after the run.
        let mut config = adapter.config().clone();
        config.keys.remove("rank_pattern");
        let import = PeftAdapter::from_parts(config, init).import(&adapted.model.shapes(), ONLY)?;
        report.engraft = Some(import.method.clone());
        report.warnings.extend(import.warnings.clone());
        import.attach(&mut adapted, registry)?;
        Ok(Self {
            case,
            device,
            adapted,
            import,
        })
    }

    fn step(&mut self, expected: &Step, total: u64, checks: &mut Checks) -> Result<(), Stop> {
        let number = expected.step;
        let time = Time {
            step: number - 1,
            total,
        };
        let x = flat(self.case, "in.x", self.device)?;
        let ctx = self.adapted.ctx(Mode::Eval);
        let y = output(self.case, &self.adapted.model, &x, &ctx)?;
        let plain = (y * flat(self.case, "in.g", self.device)?).sum();
        let loss = match self.adapted.penalty(Mode::Eval) {
            Some(penalty) => plain.clone() + penalty,
            None => plain.clone(),
        };
        compare_loss(number, "loss", &loss, expected.loss, checks);
        let without = expected.loss_without_orth_reg;
        compare_loss(number, "loss without penalty", &plain, without, checks);

        let gradients = Gradients::backward(&loss, &self.adapted);
        let of_run = format!("step.{number}.");
        self.compare(
            &format!("{of_run}grad."),
            &self.gradients(&gradients)?,
            checks,
        )?;
        self.descend(&gradients);
        let lambda = only_lambda(self.values("")?);
        self.compare(&format!("{of_run}E_before_mask."), &lambda, checks)?;

        self.adapted
            .after_update(time, &gradients)
            .map_err(Error::from)?;
        for (key, found) in self.import.to_peft(&only_lambda(self.values("")?))? {
            checks.close(&format!("step_after.{number}.{key}"), &found);
        }
        for (peft, own) in [("ipt", "sensitivity"), ("unc", "uncertainty")] {
            let key = format!("{of_run}exp_avg_{peft}.");
            if self.case.tensors.keys().any(|one| one.starts_with(&key)) {
                let means = self.import.to_peft(&self.values(own)?)?;
                for (path, found) in means {
                    let path = path.trim_start_matches(MODEL);
                    compare_relative(self.case, &format!("{key}{path}"), &found, checks);
                }
            }
        }
        self.compare_ranks(expected, checks)
    }

    /// The values of the adapter's parameters, or the running means of this name, as the
    /// parameters that they belong to.
    fn values(&self, mean: &str) -> Result<BTreeMap<String, TensorData>, Stop> {
        let all = params::read(&self.adapted, |_| true);
        let mut found = BTreeMap::new();
        for pair in &self.import.pairs {
            let missing = || Stop::Fail(format!("the adapter has no {}", pair.own));
            let own = all.get(&pair.own).ok_or_else(missing)?;
            let data = match (mean, pair.own.rsplit_once('.')) {
                ("", _) | (_, None) => own,
                (mean, Some((adapter, field))) => all
                    .get(&format!("{adapter}.state.{field}.{mean}"))
                    .ok_or_else(missing)?,
            };
            found.insert(pair.own.clone(), shaped_as(data, own));
        }
        Ok(found)
    }

    /// The gradients in the shapes of their parameters.
    fn gradients(&self, found: &Gradients) -> Result<BTreeMap<String, TensorData>, Stop> {
        let values = self.values("")?;
        let shaped = values.into_iter().filter_map(|(path, value)| {
            let gradient = found.get(&path)?.to_data();
            Some((path, shaped_as(&gradient, &value)))
        });
        Ok(shaped.collect())
    }

    /// Compares all tensors whose key starts so.
    fn compare(
        &self,
        prefix: &str,
        own: &BTreeMap<String, TensorData>,
        checks: &mut Checks,
    ) -> Result<(), Stop> {
        let found = self.import.to_peft(own)?;
        for key in within(&self.case.tensors, prefix).keys() {
            match found.get(key) {
                Some(found) => {
                    compare_relative(self.case, &format!("{prefix}{key}"), found, checks);
                }
                None => checks.fail(format!("{prefix}{key}: there is no such tensor")),
            }
        }
        Ok(())
    }

    /// p -= lr dL/dp, in f32 as PyTorch.
    fn descend(&mut self, gradients: &Gradients) {
        let lr = self.case.training.lr as f32;
        let before = params::read(&self.adapted, |path| gradients.get(path).is_some());
        let after = before.into_iter().filter_map(|(path, data)| {
            let gradient = gradients.get(&path)?.to_data();
            let pairs = values(&data).into_iter().zip(values(&gradient));
            let moved: Vec<f32> = pairs
                .map(|(value, gradient)| value as f32 - lr * gradient as f32)
                .collect();
            Some((path, TensorData::new(moved, data.shape().to_vec())))
        });
        let after = after.collect();
        self.adapted = params::write(self.adapted.clone(), after);
    }

    /// Triplets left on each layer.
    fn ranks(&mut self) -> Result<BTreeMap<String, usize>, Stop> {
        let structure = self.adapted.structure(ONLY).map_err(Error::from)?;
        let rank = |report: Vec<(&str, f64)>| report.iter().map(|(_, rank)| *rank as usize).sum();
        Ok(structure
            .into_iter()
            .map(|(path, report)| (path, rank(report)))
            .collect())
    }

    fn compare_ranks(&mut self, expected: &Step, checks: &mut Checks) -> Result<(), Stop> {
        let found: BTreeMap<String, usize> = self
            .ranks()?
            .into_iter()
            .map(|(path, rank)| (format!("{MODEL}{path}.lora_E"), rank))
            .collect();
        if found != expected.ranks {
            let (step, expected) = (expected.step, &expected.ranks);
            checks.fail(format!(
                "step {step}: ranks {found:?}, expected {expected:?}"
            ));
        }
        let now: usize = found.values().sum();
        if expected.mask && now > expected.budget {
            let (step, budget) = (expected.step, expected.budget);
            checks.fail(format!("step {step}: {now} triplets, expected {budget}"));
        }
        Ok(())
    }

    /// Which triplets are left in the end.
    fn compare_masks(&self, checks: &mut Checks) -> Result<(), Stop> {
        let all = params::read(&self.adapted, |path| path.ends_with(".state.kept"));
        for (key, expected) in &self.case.training.final_rank_pattern {
            let path = key.split(".lora_E").next().unwrap_or_default();
            let kept = all.get(&format!("model.{path}.adapters.{ONLY}.state.kept"));
            let found: Option<Vec<bool>> =
                kept.map(|kept| values(kept).iter().map(|kept| *kept > 0.0).collect());
            if found.as_ref() != Some(expected) {
                checks.fail(format!("{key}: found {found:?}, expected {expected:?}"));
            }
        }
        Ok(())
    }
}

/// What stands before a layer's path in the adapter's keys, and not in those of the base.
fn prefix(init: &BTreeMap<String, TensorData>, base: &BTreeMap<String, TensorData>) -> String {
    let layers = base.keys().filter_map(|key| key.strip_suffix(".weight"));
    let found = layers.into_iter().find_map(|layer| {
        init.keys().find_map(|key| {
            let path = key.strip_prefix(MODEL)?.strip_suffix(".lora_A")?;
            let prefix = path.strip_suffix(layer)?;
            (prefix.is_empty() || prefix.ends_with('.')).then(|| prefix.to_owned())
        })
    });
    found.unwrap_or_default()
}

fn only_lambda(mut values: BTreeMap<String, TensorData>) -> BTreeMap<String, TensorData> {
    values.retain(|path, _| path.ends_with(".e"));
    values
}

fn shaped_as(data: &TensorData, like: &TensorData) -> TensorData {
    TensorData::from_bytes_vec(
        data.as_bytes().to_vec(),
        like.shape().to_vec(),
        data.dtype(),
    )
}

fn compare_relative(case: &Case, key: &str, found: &TensorData, checks: &mut Checks) {
    let largest = case.tensors.get(key).map_or(0.0, |expected| {
        values(expected)
            .iter()
            .fold(0.0, |max: f64, x| max.max(x.abs()))
    });
    let tolerance = Tolerance {
        atol: RELATIVE * largest,
        rtol: RELATIVE,
    };
    checks.within(key, found, tolerance);
}

fn compare_loss(step: u64, what: &str, found: &Tensor<1>, expected: f64, checks: &mut Checks) {
    let found = found.clone().into_scalar::<f64>();
    if (found - expected).abs() > RELATIVE * (1.0 + expected.abs()) {
        checks.fail(format!("step {step}: {what} {found}, expected {expected}"));
    }
}
