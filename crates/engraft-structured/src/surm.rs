//! What the structured unrestricted-rank matrices (SURM) share.

use burn::tensor::Tensor;
use engraft_core::LayerShape;
use serde::{Deserialize, Serialize};

/// How many structured factors make the update, as the authors' options `use_prod` and `init_zero`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SurmForm {
    /// Two vectors, the first random and the second zero at first: 2 d values.
    #[default]
    Product,
    /// One vector, zero at first: d values.
    Single,
}

impl SurmForm {
    /// Trained values of a layer.
    pub(crate) fn count(self, layer: &LayerShape) -> usize {
        match self {
            Self::Product => 2 * side(layer.d_in, layer.d_out),
            Self::Single => side(layer.d_in, layer.d_out),
        }
    }
}

/// Side d of the square matrix whose upper left corner acts on a layer.
pub(crate) fn side(d_in: usize, d_out: usize) -> usize {
    d_in.max(d_out)
}

/// x [rows, width] with zeros behind it up to `width`.
pub(crate) fn padded(x: Tensor<2>, width: usize) -> Tensor<2> {
    let [rows, found] = x.dims();
    if found == width {
        return x;
    }
    let options = (&x.device(), x.dtype());
    let zeros = Tensor::zeros([rows, width - found], options);
    Tensor::cat(vec![x, zeros], 1)
}

/// c [rows, n] at -j mod n: a matrix with the first row c has it as first column.
pub(crate) fn reversed(c: Tensor<2>) -> Tensor<2> {
    let n = c.dims()[1];
    if n == 1 {
        return c;
    }
    let rest = c.clone().narrow(1, 1, n - 1).flip([1]);
    Tensor::cat(vec![c.narrow(1, 0, 1), rest], 1)
}

/// The least length from `least` on with a fast transform: a power of two, or three or five of them.
pub(crate) fn fast_length(least: usize) -> usize {
    [1, 3, 5]
        .into_iter()
        .map(|odd| odd * least.div_ceil(odd).next_power_of_two())
        .min()
        .unwrap_or(least)
}

/// The rows of the identity, [n, n], like `like`.
pub(crate) fn identity(n: usize, like: &Tensor<2>) -> Tensor<2> {
    Tensor::<2>::eye(n, &like.device()).cast(like.dtype())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_lengths_are_near() {
        assert_eq!(
            [1, 2, 7, 9, 11, 1535].map(fast_length),
            [1, 2, 8, 10, 12, 1536]
        );
    }
}
