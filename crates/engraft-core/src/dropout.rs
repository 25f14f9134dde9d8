//! Dropout from path-keyed host streams.

use burn::tensor::{DType, Tensor, TensorData};
use engraft_tensor::bridge;
use rand::RngExt;

use crate::ctx::Ctx;
use crate::error::{Error, Result};

/// x with each entry zeroed with `probability` and the rest scaled by 1 / (1 - probability), in
/// training; x itself in evaluation. The mask depends on (seed, path, step) alone, so that a
/// resumed run drops what the uninterrupted one would have dropped.
pub fn dropout(x: Tensor<2>, probability: f64, ctx: &Ctx) -> Tensor<2> {
    let (Some(key), true) = (ctx.key("dropout"), probability > 0.0) else {
        return x;
    };
    let kept = 1.0 / (1.0 - probability);
    let dims = x.dims();
    let mut draws = vec![0u32; dims[0] * dims[1]];
    key.rng().fill(&mut draws[..]);
    // A draw is below this with the probability, to 32 bits.
    let below = (probability * 2f64.powi(32)) as u32;
    let (device, dtype) = (x.device(), x.dtype());
    let mask = if dtype == DType::F32 {
        let kept = kept as f32;
        let mask = draws
            .iter()
            .map(|&draw| if draw < below { 0.0 } else { kept });
        Tensor::from_data(TensorData::new(mask.collect(), dims), (&device, dtype))
    } else {
        let mask = draws
            .iter()
            .map(|&draw| if draw < below { 0.0 } else { kept });
        bridge::tensor(mask.collect(), dims, &device, dtype)
    };
    x * mask
}

/// Whether a dropout probability is in [0, 1): the reason if not.
///
/// # Errors
/// The sentence for [`crate::Method::validate`].
pub fn check_dropout(probability: f64) -> Result<(), String> {
    if (0.0..1.0).contains(&probability) {
        Ok(())
    } else {
        Err(format!("dropout {probability}: expected 0 <= dropout < 1"))
    }
}

/// Refuses the weight form of `method` while dropout acts on its input.
///
/// # Errors
/// In training with a positive probability.
pub fn refuse_dropout(method: &str, probability: f64, ctx: &Ctx) -> Result<()> {
    if ctx.is_training() && probability > 0.0 {
        return Err(Error::NoWeightForm {
            method: method.to_owned(),
            path: ctx.path().to_owned(),
            reason: "dropout acts on its input; set dropout = 0, or evaluate".to_owned(),
        });
    }
    Ok(())
}
