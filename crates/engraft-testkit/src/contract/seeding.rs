//! The same seed gives the same adapter on another thread, and in another precision to rounding.

use burn::tensor::{DType, TensorData};
use engraft_core::Adapted;

use super::case::{Case, parameters, same_parameters};
use super::{Outcome, ensure};
use crate::{Harness, compare};

pub(super) fn check(case: &Case) -> Outcome {
    let elsewhere = std::thread::scope(|scope| -> Result<Adapted<Harness>, String> {
        let made = scope.spawn(|| case.again(case.dtype).map_err(|error| error.to_string()));
        made.join()
            .map_err(|_| "panicked on another thread".to_owned())?
    })?;
    same_parameters("made on another thread", &elsewhere, &case.fresh)?;
    if case.dtype != DType::F32 {
        return Ok(());
    }
    let (single, double) = (
        parameters(&case.fresh),
        parameters(&case.again(DType::F64)?),
    );
    for (path, data) in &single {
        // Drawn values are rounded once; values derived from the base carry the error of their sums.
        let (found, expected) = (values(data), values(&double[path]));
        let scale = expected
            .iter()
            .fold(1.0f64, |scale, value| scale.max(value.abs()));
        let difference = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max);
        let allowed = compare::tolerance(DType::F32, case.terms(), scale);
        ensure(difference <= allowed, || {
            format!("{path}: f32 and f64 start {difference:.3e} apart, tolerance {allowed:.3e}")
        })?;
    }
    Ok(())
}

fn values(data: &TensorData) -> Vec<f64> {
    data.clone()
        .convert::<f64>()
        .try_to_vec()
        .expect("converted to f64")
}
