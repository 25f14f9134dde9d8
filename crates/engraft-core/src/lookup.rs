//! Rows of a table that tokens look up.

use burn::tensor::{Device, Int, Tensor};

/// One index into the rows of a table per token, among them those of the padding token: it looks up its
/// row as any other does, but the row learns nothing from it (PyTorch's `padding_idx`).
#[derive(Debug, Clone)]
pub struct Lookup {
    indices: Tensor<1, Int>,
    padding: Option<usize>,
}

impl Lookup {
    /// The rows at these indices, none of which is padding.
    pub fn new(indices: Tensor<1, Int>) -> Self {
        Self {
            indices,
            padding: None,
        }
    }

    /// The same where the row `padding` learns nothing.
    pub fn with_padding(self, padding: Option<usize>) -> Self {
        Self { padding, ..self }
    }

    /// The indices, `[tokens]`.
    pub fn indices(&self) -> Tensor<1, Int> {
        self.indices.clone()
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.indices.dims()[0]
    }

    /// Where the indices live.
    pub fn device(&self) -> Device {
        self.indices.device()
    }

    /// The tokens at these positions.
    pub(crate) fn select(&self, members: Tensor<1, Int>) -> Self {
        Self {
            indices: self.indices.clone().select(0, members),
            padding: self.padding,
        }
    }

    /// The rows of a table [rows, width] that the tokens look up, [tokens, width].
    pub fn of(&self, table: Tensor<2>) -> Tensor<2> {
        self.hold(table.select(0, self.indices()))
    }

    /// Rows [tokens, width] of the tokens, of which padding's pass no gradient on.
    pub fn hold(&self, rows: Tensor<2>) -> Tensor<2> {
        let Some(padding) = self.padding else {
            return rows;
        };
        let padded = self.indices().equal_elem(padding as i64);
        let padded = padded.unsqueeze_dim::<2>(1).expand(rows.dims());
        let held = rows.clone().detach();
        rows.mask_where(padded, held)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;
    use engraft_tensor::bridge;

    use super::*;

    #[test]
    fn paddings_row_is_looked_up_and_learns_nothing() {
        let device = Device::default().autodiff();
        let table = Tensor::<2>::from_data(
            TensorData::from([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]),
            &device,
        )
        .require_grad();
        let lookup = Lookup::new(Tensor::from_data([2, 1, 1, 0], &device)).with_padding(Some(1));
        let rows = lookup.of(table.clone());
        let values = bridge::values(&rows.clone().inner());
        assert_eq!(values, [5.0, 6.0, 3.0, 4.0, 3.0, 4.0, 1.0, 2.0]);
        let gradient = table.grad(&rows.sum().backward()).unwrap();
        assert_eq!(bridge::values(&gradient), [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]);
    }
}
