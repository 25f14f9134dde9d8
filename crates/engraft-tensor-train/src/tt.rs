//! A matrix as a tensor train.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::InitContext;
use engraft_tensor::Init;

/// A matrix M [rows, cols] whose entries, in row-major order, form the tensor
/// T(i_1, ..., i_D) = G_1(i_1) G_2(i_2) ... G_D(i_D).
///
/// Core k is [R_{k-1}, n_k, R_k] with R_0 = R_D = 1 and n_1 ... n_D = rows cols; it holds
/// sum_k R_{k-1} n_k R_k values instead of rows cols (Oseledets, SIAM J. Sci. Comput. 33, 2011).
/// A part of a longer train has R_0 > 1 as its rows or R_D > 1 as its columns.
///
/// The mode sizes in use do not separate rows from columns, so M is put together by D - 1 small
/// products, O(rows cols R) whatever the number of tokens. For the thin factors of an adapter this
/// is less than the product with the tokens that follows, as long as there are more than R tokens.
#[derive(Module, Debug)]
pub struct TensorTrain {
    /// G_1, ..., G_D.
    pub cores: Vec<Param<Tensor<3>>>,
    /// Rows of M.
    pub rows: usize,
    /// Columns of M.
    pub cols: usize,
}

impl TensorTrain {
    /// A random train whose entries have mean 0 and variance 1 / (rows + cols): core k is drawn from
    /// N(0, (rows + cols)^(-1/D) / R_k), as in the LoRETTA authors' code.
    pub fn random(
        shape: [usize; 2],
        modes: &[usize],
        tensor_rank: usize,
        role: &str,
        ctx: &InitContext,
    ) -> Self {
        let [rows, cols] = shape;
        let variance = ((rows + cols) as f64).powf(-1.0 / modes.len() as f64);
        let std = |[_, _, right]: [usize; 3]| (variance / right as f64).sqrt();
        Self::drawn(shape, core_shapes(modes, tensor_rank), std, role, ctx)
    }

    /// A train with these core shapes, each core drawn from N(0, std^2).
    pub(crate) fn drawn(
        [rows, cols]: [usize; 2],
        shapes: impl Iterator<Item = [usize; 3]>,
        std: impl Fn([usize; 3]) -> f64,
        role: &str,
        ctx: &InitContext,
    ) -> Self {
        let draw = |(k, shape)| {
            let init = Init::Normal { std: std(shape) };
            Param::from_tensor(ctx.tensor(init, shape, &format!("{role}.{k}")))
        };
        Self {
            cores: shapes.enumerate().map(draw).collect(),
            rows,
            cols,
        }
    }

    /// The same train with its last core at zero, so that M is zero and its gradient reaches that
    /// core first.
    pub(crate) fn ending_in_zero(mut self) -> Self {
        if let Some(last) = self.cores.pop() {
            self.cores.push(Param::from_tensor(last.val().zeros_like()));
        }
        self
    }

    /// M, [rows, cols].
    pub fn matrix(&self) -> Tensor<2> {
        let mut train: Option<Tensor<2>> = None;
        for core in &self.cores {
            let core = core.val();
            let [left, mode, right] = core.dims();
            // So far [R_0 n_1 ... n_{k-1}, R_{k-1}]; the next core as [R_{k-1}, n_k R_k].
            let so_far = match train {
                Some(so_far) => so_far.matmul(core.reshape([left, mode * right])),
                None => core.reshape([left * mode, right]),
            };
            train = Some(so_far.reshape([-1, right as i64]));
        }
        train
            .expect("a train has at least one core")
            .reshape([self.rows, self.cols])
    }
}

/// [R_{k-1}, n_k, R_k] for k = 1, ..., D, with R_k = `tensor_rank` between the ends.
fn core_shapes(modes: &[usize], tensor_rank: usize) -> impl Iterator<Item = [usize; 3]> {
    let last = modes.len() - 1;
    modes.iter().enumerate().map(move |(k, &mode)| {
        let left = if k == 0 { 1 } else { tensor_rank };
        let right = if k == last { 1 } else { tensor_rank };
        [left, mode, right]
    })
}

/// Number of values of a train with these modes.
pub(crate) fn numel(modes: &[usize], tensor_rank: usize) -> usize {
    core_shapes(modes, tensor_rank)
        .map(|shape| shape.iter().product::<usize>())
        .sum()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::{Bank, FrozenBase};
    use engraft_tensor::bridge;

    use super::*;

    fn random(shape: [usize; 2], modes: &[usize], seed: u64) -> TensorTrain {
        let base = FrozenBase::new(
            Init::ZEROS.tensor(
                [1, 1],
                &engraft_tensor::Key::new(0),
                &Device::default(),
                DType::F64,
            ),
            None,
        );
        TensorTrain::random(
            shape,
            modes,
            3,
            "a",
            &InitContext::new(seed, "fc", "default", &base, &Bank::default()),
        )
    }

    #[test]
    fn entries_are_the_products_of_core_slices() {
        let train = random([6, 4], &[2, 3, 4], 1);
        let matrix = bridge::values(&train.matrix());
        let cores: Vec<Vec<f64>> = train
            .cores
            .iter()
            .map(|core| bridge::values(&core.val()))
            .collect();
        for (place, entry) in matrix.iter().enumerate() {
            let (i, j, k) = (place / 12, place / 4 % 3, place % 4);
            let mut expected = 0.0;
            for a in 0..3 {
                for b in 0..3 {
                    expected +=
                        cores[0][i * 3 + a] * cores[1][(a * 3 + j) * 3 + b] * cores[2][b * 4 + k];
                }
            }
            assert!((entry - expected).abs() < 1e-14);
        }
    }

    #[test]
    fn entries_have_the_stated_variance() {
        let squares: f64 = (0..200)
            .map(|seed| {
                bridge::values(&random([6, 4], &[2, 3, 4], seed).matrix())
                    .iter()
                    .map(|x| x * x)
                    .sum::<f64>()
            })
            .sum();
        let variance = squares / (200.0 * 24.0);
        assert!((variance * 10.0 - 1.0).abs() < 0.2, "{variance}");
    }
}
