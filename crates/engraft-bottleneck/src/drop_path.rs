//! Stochastic depth.

use burn::tensor::Tensor;
use engraft_core::Ctx;
use engraft_tensor::bridge;
use rand::RngExt;

/// y [tokens, d] with whole sequences zeroed with `probability` and the rest scaled by
/// 1 / (1 - probability), in training; y itself in evaluation. Tokens of no sequence are dropped
/// each for itself.
///
/// Huang et al., Deep Networks with Stochastic Depth, arXiv 1603.09382.
pub(crate) fn drop_path(y: Tensor<2>, probability: f64, ctx: &Ctx) -> Tensor<2> {
    let (Some(key), true) = (ctx.key("drop-path"), probability > 0.0) else {
        return y;
    };
    let tokens = y.dims()[0];
    let [_, length] = ctx.sequences().unwrap_or([tokens, 1]);
    let mut rng = key.rng();
    let kept: Vec<f64> = (0..tokens / length)
        .map(|_| f64::from(rng.random::<f64>() >= probability) / (1.0 - probability))
        .flat_map(|kept| std::iter::repeat_n(kept, length))
        .collect();
    let kept = bridge::tensor(kept, [tokens, 1], &y.device(), y.dtype());
    y * kept
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::{Bank, Mode};

    use super::*;

    #[test]
    fn evaluation_keeps_all_and_training_drops_rows_whole() {
        let bank = Bank::default();
        let y = bridge::tensor(vec![1.0; 800], [400, 2], &Device::default(), DType::F64);
        let kept = drop_path(y.clone(), 0.25, &Ctx::default());
        assert_eq!(bridge::values(&kept), vec![1.0; 800]);
        let ctx = Ctx::new(&bank, Mode::Train { seed: 1, step: 2 });
        let dropped = bridge::values(&drop_path(y, 0.25, &ctx));
        assert!(dropped.chunks(2).all(|row| row[0] == row[1]));
        let scale = 1.0 / 0.75;
        assert!(dropped.iter().all(|value| *value == 0.0 || *value == scale));
        let share = dropped.iter().filter(|value| **value == 0.0).count() as f64 / 800.0;
        // Five standard errors.
        assert!((share - 0.25).abs() < 5.0 * (0.25 * 0.75 / 400.0f64).sqrt());
    }
}
