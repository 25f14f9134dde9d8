//! How much the entries of a weight matter, before training.

use burn::tensor::Tensor;
use engraft_core::{Error, InitContext, Result, Statistics};
use engraft_tensor::bridge;

/// |t| of every entry, row by row.
pub(crate) fn magnitudes(tensor: &Tensor<2>) -> Vec<f64> {
    bridge::values(tensor).into_iter().map(f64::abs).collect()
}

/// The summed gradient of the weight over the calibration batches.
///
/// # Errors
/// If the model was not calibrated.
pub(crate) fn gradient(ctx: &InitContext) -> Result<Tensor<2>> {
    measured(ctx, "gradient", |statistics| statistics.gradient.clone())
}

/// The summed square of the weight's gradient over the calibration batches.
///
/// # Errors
/// If the model was not calibrated.
pub(crate) fn squared_gradient(ctx: &InitContext) -> Result<Tensor<2>> {
    measured(ctx, "squared gradient", |statistics| {
        statistics.squared_gradient.clone()
    })
}

fn measured(
    ctx: &InitContext,
    what: &str,
    of: impl FnOnce(&Statistics) -> Option<Tensor<2>>,
) -> Result<Tensor<2>> {
    of(ctx.statistics()?).ok_or_else(|| {
        Error::Unsupported(format!(
            "{}: the calibration has no {what}: calibrate for this configuration",
            ctx.path
        ))
    })
}
