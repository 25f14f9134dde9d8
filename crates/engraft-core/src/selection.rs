//! The selection: parameters of the model itself are trained.

use std::fmt;

use engraft_tensor::suggestion;

use crate::counts::Counts;
use crate::error::{Error, Result};
use crate::shape::{ModelShapes, ParamShape, Part};
use crate::targets::{Targets, is_named};

/// Chooses parameters of the model itself to be trained.
pub trait Selection: fmt::Debug + Send + Sync + 'static {
    /// Whether the parameter is of the kind that is trained.
    fn selects(&self, param: &ParamShape) -> bool;

    /// Names of the layers the choice is confined to, matched against the ends of their paths; none
    /// for all layers. Each must hold something that is trained.
    fn within(&self) -> &[String] {
        &[]
    }

    /// Whether training nothing is a choice too; otherwise a model without a parameter of the kind is
    /// an error.
    fn may_be_empty(&self) -> bool {
        false
    }
}

/// The parameters a selection trains in the targeted layers, the head aside (the head is trained
/// for every method alike, or for none).
///
/// # Errors
/// A name or a target that matches nothing, with the nearest names; a model with nothing to train.
pub(crate) fn selected<'a>(
    method: &str,
    selection: &dyn Selection,
    shapes: &'a ModelShapes,
    targets: &Targets,
) -> Result<Vec<&'a ParamShape>> {
    let mut chosen: Vec<&ParamShape> = shapes
        .params
        .iter()
        .filter(|param| param.part != Part::Head && selection.selects(param))
        .collect();
    if chosen.is_empty() {
        return match selection.may_be_empty() {
            true => Ok(chosen),
            false => Err(Error::Unsupported(format!(
                "`{method}` finds nothing to train in this model"
            ))),
        };
    }
    let names = selection.within();
    for name in names {
        if !chosen.iter().any(|param| is_named(module(param), name)) {
            return Err(unmatched(name, &chosen));
        }
    }
    if !names.is_empty() {
        chosen.retain(|param| names.iter().any(|name| is_named(module(param), name)));
    }
    let mut modules: Vec<&str> = chosen.iter().map(|param| module(param)).collect();
    modules.dedup();
    let targeted = targets.select(&modules, WHAT, |_| true)?;
    chosen.retain(|param| targeted.contains(&module(param)));
    Ok(chosen)
}

/// What a name has to match.
const WHAT: &str = "layer with parameters that this method trains";

/// The module that a parameter belongs to: `blocks.0.fc2` for `blocks.0.fc2.bias`.
fn module(param: &ParamShape) -> &str {
    param.path.rsplit_once('.').map_or("", |(module, _)| module)
}

fn unmatched(name: &str, chosen: &[&ParamShape]) -> Error {
    // Compared with as many last components as the name has.
    let depth = name.split('.').count();
    let mut ends: Vec<String> = chosen
        .iter()
        .map(|param| {
            let parts: Vec<&str> = module(param).split('.').collect();
            parts[parts.len().saturating_sub(depth)..].join(".")
        })
        .collect();
    ends.sort();
    ends.dedup();
    Error::NoTarget {
        pattern: name.to_owned(),
        what: WHAT,
        suggestion: suggestion(name, ends.iter().map(String::as_str)),
    }
}

/// What training these parameters counts as.
pub(crate) fn count<'a>(params: impl Iterator<Item = &'a ParamShape>) -> Counts {
    params
        .map(|param| {
            let stored = Counts {
                stored: param.numel,
                ..Counts::default()
            };
            match param.part {
                Part::Norm => Counts {
                    norms: param.numel,
                    ..stored
                },
                Part::Head => Counts {
                    head: param.numel,
                    ..stored
                },
                Part::Body | Part::Embedding => Counts {
                    trainable: param.numel,
                    ..stored
                },
            }
        })
        .sum()
}
