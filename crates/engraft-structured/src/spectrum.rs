//! Which entries of a spectrum are trained.

use burn::tensor::{Device, Int, Tensor, TensorData};
use engraft_core::LayerShape;
use engraft_tensor::MersenneTwister;

/// n distinct entries (p, q) of a [d_out, d_in] spectrum: the first n of PyTorch's random
/// permutation of all entries, row by row, from a seed. This is how the authors and PEFT choose
/// them, so that a file needs to hold the seed alone.
pub(crate) fn entries(n: usize, seed: u64, d_in: usize, d_out: usize) -> Vec<[usize; 2]> {
    MersenneTwister::new(seed)
        .permutation(d_in * d_out, n)
        .into_iter()
        .map(|entry| [entry / d_in, entry % d_in])
        .collect()
}

/// Whether a layer has n entries: the reason if not.
pub(crate) fn admit_entries(n: usize, layer: &LayerShape) -> Result<(), String> {
    let all = layer.d_in * layer.d_out;
    if n <= all {
        Ok(())
    } else {
        Err(format!(
            "n-frequency {n}: expected at most d_in d_out = {all}"
        ))
    }
}

/// Whether n is a number of entries at all: the reason if not.
pub(crate) fn positive_entries(n: usize) -> Result<(), String> {
    match n {
        0 => Err("n-frequency 0: expected at least 1".to_owned()),
        _ => Ok(()),
    }
}

/// Indices as a tensor.
pub(crate) fn indices(values: impl IntoIterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.into_iter().map(|value| value as i64).collect();
    let shape = [values.len()];
    Tensor::from_data(TensorData::new(values, shape), device)
}
