//! Values at fixed places of a weight: what the adapters of this family share.

use burn::module::{Param, ParamId};
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};
use engraft_core::FrozenBase;
use engraft_tensor::bridge;
use engraft_tensor::ops::{sparse_linear, sparse_weight};

/// Indices as a tensor `[n]`.
pub(crate) fn indices(values: &[usize], device: &Device) -> Tensor<1, Int> {
    let data: Vec<i64> = values.iter().map(|&value| value as i64).collect();
    let shape = [data.len()];
    Tensor::from_data(TensorData::new(data, shape), device)
}

/// Indices that are stored in the adapter file and never change in training.
pub(crate) fn stored(values: &[usize], device: &Device) -> Param<Tensor<1, Int>> {
    Param::initialized(ParamId::new(), indices(values, device))
}

/// A sparse change s S of a weight [d_in, d_out].
#[derive(Debug)]
pub(crate) struct Entries {
    /// Places i d_out + j, `[n]`.
    pub positions: Tensor<1, Int>,
    /// What S holds there, `[n]`.
    pub values: Tensor<1>,
    /// s.
    pub scaling: f64,
}

impl Entries {
    /// The entries of S itself.
    pub fn new(positions: Tensor<1, Int>, values: Tensor<1>) -> Self {
        Self {
            positions,
            values,
            scaling: 1.0,
        }
    }

    /// W + s S and b: one copy of W.
    pub fn added(self, base: &FrozenBase) -> FrozenBase {
        let weight = base.weight();
        base.with_weight(sparse_weight(
            weight,
            self.positions,
            self.values,
            self.scaling,
        ))
    }

    /// x (W + s S) + b, without the gradient of a weight.
    pub fn forward(self, x: Tensor<2>, base: &FrozenBase) -> Tensor<2> {
        let frozen = (base.weight(), base.bias.clone());
        sparse_linear(x, frozen, self.positions, self.values, self.scaling)
    }
}

/// W + s S and b, or the base where there is no S.
pub(crate) fn added(entries: Option<Entries>, base: &FrozenBase) -> FrozenBase {
    entries.map_or_else(|| base.clone(), |entries| entries.added(base))
}

/// x (W + s S) + b, or the base's outputs where there is no S.
pub(crate) fn forward(entries: Option<Entries>, x: Tensor<2>, base: &FrozenBase) -> Tensor<2> {
    match entries {
        Some(entries) => entries.forward(x, base),
        None => base.forward(x),
    }
}

/// W with `delta` [n, d_out] added to the rows of `rows` `[n]`.
pub(crate) fn add_rows(weight: Tensor<2>, rows: Tensor<1, Int>, delta: Tensor<2>) -> Tensor<2> {
    weight.select_assign(0, rows, delta, IndexingUpdateOp::Add)
}

/// W (or outputs y) with `delta` [d_in, n] added to the columns of `columns` `[n]`.
pub(crate) fn add_columns(
    weight: Tensor<2>,
    columns: Tensor<1, Int>,
    delta: Tensor<2>,
) -> Tensor<2> {
    weight.select_assign(1, columns, delta, IndexingUpdateOp::Add)
}

/// The indices of a tensor, on the host.
pub(crate) fn places(tensor: &Tensor<1, Int>) -> Vec<usize> {
    let values: Vec<i64> = tensor
        .to_data()
        .convert::<i64>()
        .try_to_vec()
        .expect("converted to i64");
    values.into_iter().map(|value| value as usize).collect()
}

/// Sets a parameter to these values, row by row; it stays trained or frozen.
pub(crate) fn replace<const D: usize>(param: &mut Param<Tensor<D>>, values: Vec<f64>) {
    *param = param.clone().map(|old| {
        bridge::tensor(values, old.dims(), &old.device(), old.dtype())
            .set_require_grad(old.is_require_grad())
    });
}

/// Sets a parameter to zero; it stays trained or frozen.
pub(crate) fn clear<const D: usize>(param: &mut Param<Tensor<D>>) {
    *param = param
        .clone()
        .map(|old| old.zeros_like().set_require_grad(old.is_require_grad()));
}

/// Sets stored indices.
pub(crate) fn replace_indices(param: &mut Param<Tensor<1, Int>>, values: &[usize]) {
    *param = param.clone().map(|old| indices(values, &old.device()));
}

/// Whether a share of a weight's entries makes sense: the reason if not.
pub(crate) fn check_density(density: f64) -> Result<(), String> {
    if density > 0.0 && density <= 1.0 {
        Ok(())
    } else {
        Err(format!("density {density}: expected 0 < density <= 1"))
    }
}

/// How many entries there are, and how many are in use, for reports.
pub(crate) fn usage(values: &Param<Tensor<1>>) -> Vec<(&'static str, f64)> {
    let values = bridge::values(&values.val());
    let used = values.iter().filter(|value| **value != 0.0).count();
    vec![("entries", values.len() as f64), ("nonzero", used as f64)]
}

#[cfg(test)]
pub(crate) mod testing {
    use burn::tensor::DType;
    use engraft_core::{Adapter, Bank, Ctx, FrozenBase, Graft, InitContext};
    use engraft_tensor::{Init, Key};

    use super::*;

    /// A random tensor in f64.
    pub(crate) fn normal<const D: usize>(shape: [usize; D], role: &str) -> Tensor<D> {
        Init::Normal { std: 1.0 }.tensor(
            shape,
            &Key::new(11).child(role),
            &Device::default(),
            DType::F64,
        )
    }

    /// A random layer without a bias in f64.
    pub(crate) fn layer(d_in: usize, d_out: usize) -> FrozenBase {
        FrozenBase::new(normal([d_in, d_out], "weight"), None)
    }

    /// The adapter of `config` on `base`.
    pub(crate) fn attached<G: Graft>(config: &G, base: &FrozenBase) -> G::Adapter {
        let bank = Bank::default();
        config
            .init(base, &InitContext::new(0, "fc", "default", base, &bank))
            .unwrap()
    }

    /// W' - W, row by row.
    pub(crate) fn change<A: Adapter>(adapter: &A, base: &FrozenBase) -> Vec<f64> {
        let changed = adapter.effective(base, &Ctx::default()).unwrap().weight();
        bridge::values(&(changed - base.weight()))
    }

    /// Asserts that both forms give the same outputs.
    pub(crate) fn assert_forms_agree<A: Adapter>(adapter: &A, base: &FrozenBase) {
        let ctx = Ctx::default();
        let x = normal([4, base.d_in()], "x");
        let active = adapter.forward(x.clone(), base, &ctx);
        let dense = adapter.effective(base, &ctx).unwrap().forward(x);
        let distance = bridge::values(&(active - dense))
            .iter()
            .fold(0.0f64, |largest, x| largest.max(x.abs()));
        assert!(distance < 1e-12, "the forms differ by {distance}");
    }
}
