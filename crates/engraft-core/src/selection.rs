//! The selection: parameters of the model itself are trained.

use std::fmt;

use crate::counts::Counts;
use crate::shape::{ModelShapes, ParamShape, Part};

/// Chooses parameters of the model itself to be trained.
pub trait Selection: fmt::Debug + Send + Sync + 'static {
    /// Whether the parameter is trained.
    fn selects(&self, param: &ParamShape) -> bool;
}

/// The parameters a selection trains, the head aside (the head is trained for every method alike,
/// or for none).
pub(crate) fn selected<'a>(
    selection: &'a dyn Selection,
    shapes: &'a ModelShapes,
) -> impl Iterator<Item = &'a ParamShape> {
    shapes
        .params
        .iter()
        .filter(|param| param.part != Part::Head && selection.selects(param))
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
