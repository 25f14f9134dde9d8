//! Dropout from path-keyed host streams.

use burn::tensor::Tensor;
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
    let mut rng = key.rng();
    let kept = 1.0 / (1.0 - probability);
    let dims = x.dims();
    let mask = (0..dims[0] * dims[1])
        .map(|_| {
            if rng.random::<f64>() < probability {
                0.0
            } else {
                kept
            }
        })
        .collect();
    let mask = bridge::tensor(mask, dims, &x.device(), x.dtype());
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
