//! Repeatable values: from host-side streams, the same in every precision.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};
use engraft_core::params;
use engraft_tensor::{Init, Key};

/// A standard normal tensor from the stream `role`.
pub fn normal<const D: usize>(
    shape: [usize; D],
    role: &str,
    device: &Device,
    dtype: DType,
) -> Tensor<D> {
    Init::Normal { std: 1.0 }
        .tensor(shape, &Key::new(0).child(role), device, DType::F32)
        .cast(dtype)
}

/// The module with N(0, std^2) added to every trained parameter, from the stream of its path: a
/// state that training could have reached.
pub fn perturb_trained<M: Module>(module: M, std: f64, seed: u64) -> M {
    let trained: Vec<String> = params::list(&module)
        .into_iter()
        .filter(|found| found.trained)
        .map(|found| found.path)
        .collect();
    let moved: BTreeMap<String, TensorData> =
        params::read(&module, |path| trained.iter().any(|known| known == path))
            .into_iter()
            .map(|(path, data)| {
                let (shape, dtype) = (data.shape().to_vec(), data.dtype());
                let noise = Init::Normal { std }.values(
                    data.num_elements(),
                    &Key::new(seed).child("perturbation").child(&path),
                );
                let values: Vec<f64> = data
                    .convert::<f64>()
                    .try_to_vec()
                    .expect("converted to f64");
                let values = values
                    .into_iter()
                    .zip(noise)
                    .map(|(value, noise)| value + noise)
                    .collect();
                (
                    path,
                    TensorData::new::<f64, _>(values, shape).convert_dtype(dtype),
                )
            })
            .collect();
    params::write(module, moved)
}
