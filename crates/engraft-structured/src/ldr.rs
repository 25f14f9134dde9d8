//! SURM with matrices of low displacement rank.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, check_dropout, dropout, positive_rank, refuse_dropout,
};
use engraft_tensor::Init;
use engraft_tensor::ops::circular;
use serde::{Deserialize, Serialize};

use crate::surm::{fast_length, identity, padded, reversed, side};

/// Configuration of [`SurmLdr`]. Defaults: one product, which trains as many values as the other
/// SURMs; s = 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SurmLdrConfig {
    /// Number r of products, the displacement rank.
    pub rank: usize,
    /// s.
    pub scaling: f64,
    /// Probability of zeroing an input of the update in training.
    pub dropout: f64,
}

impl Default for SurmLdrConfig {
    fn default() -> Self {
        Self {
            rank: 1,
            scaling: 1.0,
            dropout: 0.0,
        }
    }
}

/// y = x W + b + s x (sum_i Z_1(g_i) Z_-1(h_i))^T.
///
/// | symbol | shape | |
/// |---|---|---|
/// | g | [r, d] | trained first columns of the circulant factors, zero at first |
/// | h | [r, d] | trained first columns of the skew-circulant factors, N(0, 0.02^2) at first |
/// | Z_f(v) | [d, d] | v[i - j] in row i and column j, f v[d + i - j] above the diagonal |
///
/// d = max(d_in, d_out). The update M of a square layer has Z_1 M - M Z_-1 of rank at most r, with
/// the shifts Z_f = Z_f(e_2).
///
/// Sehanobish et al., Structured Unrestricted-Rank Matrices for Parameter Efficient Fine-tuning,
/// arXiv 2406.17740, section 3; the init is that of the authors' code
/// (arijitthegame/structured-matrices-PEFT, `src/lora/general_ldr_lora.py`). That code takes square
/// layers only and the root of unity of one element more in its skew factor; here the paper's
/// definition is followed, and a layer of other widths uses the upper left corner. r is an
/// option without a published default.
///
/// The activation form costs O(r d log d) a token: a skew-circulant product is a convolution of at
/// least 2 d values whose second half is subtracted from the first.
#[derive(Module, Debug)]
pub struct SurmLdr {
    /// g, [r, d].
    pub g: Param<Tensor<2>>,
    /// h, [r, d].
    pub h: Param<Tensor<2>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of the update.
    pub dropout: f64,
}

impl SurmLdr {
    /// s x M^T, cut to the layer's outputs.
    fn update(&self, x: Tensor<2>, d_out: usize) -> Tensor<2> {
        let (tokens, [r, d]) = (x.dims()[0], self.h.dims());
        let length = fast_length(2 * d);
        let kernels = reversed(padded(self.h.val(), length)).unsqueeze_dim(1);
        let convolved: Tensor<3> =
            circular(x, kernels, r * length, 1.0).reshape([tokens, r, length]);
        let skewed = convolved.clone().narrow(2, 0, d) - convolved.narrow(2, d, d);
        let kernels = reversed(self.g.val()).unsqueeze_dim(0);
        circular(
            skewed.reshape([tokens, r * d]),
            kernels,
            d_out,
            self.scaling,
        )
    }
}

impl Adapter for SurmLdr {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("surm-ldr", self.dropout, ctx)?;
        let update = self.update(identity(base.d_in(), &base.weight()), base.d_out());
        Ok(base.with_weight(base.weight() + update))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let update = self.update(dropout(x.clone(), self.dropout, ctx), base.d_out());
        base.forward(x) + update
    }
}

impl Graft for SurmLdrConfig {
    type Adapter = SurmLdr;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(2 * self.rank * side(layer.d_in, layer.d_out))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<SurmLdr> {
        let shape = [self.rank, side(base.d_in(), base.d_out())];
        Ok(SurmLdr {
            g: Param::from_tensor(ctx.tensor(Init::ZEROS, shape, "g")),
            h: Param::from_tensor(ctx.tensor(Init::Normal { std: 0.02 }, shape, "h")),
            scaling: self.scaling,
            dropout: self.dropout,
        })
    }
}

impl Method for SurmLdrConfig {
    const META: MethodMeta = MethodMeta::graft(
        "surm-ldr",
        "SURM low displacement rank",
        Family::Structured,
        "2406.17740",
        "y = x W + b + s x (sum_i Z_1(g_i) Z_-1(h_i))^T",
    );

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        vec![
            Self::default(),
            Self {
                rank: 3,
                scaling: 2.0,
                dropout: 0.1,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_linalg::{Matrix, svd};

    use super::*;
    use crate::testing::Layer;

    /// The update with random g, as a matrix (out, in).
    fn update(layer: &Layer, rank: usize) -> (SurmLdr, Vec<Vec<f64>>) {
        let mut adapter = layer.adapt(&SurmLdrConfig {
            rank,
            ..SurmLdrConfig::default()
        });
        assert!(layer.update(&adapter).concat().iter().all(|x| *x == 0.0));
        adapter.g = adapter.g.map(|g| g + 1.0);
        adapter.g = Param::from_tensor(adapter.g.val() + adapter.h.val().flip([1]) * 30.0);
        let rows = layer.update(&adapter);
        let transposed = (0..rows[0].len())
            .map(|i| rows.iter().map(|row| row[i]).collect())
            .collect();
        (adapter, transposed)
    }

    #[test]
    fn the_displacement_rank_is_r_and_the_rank_is_not_restricted() {
        let (d, layer) = (10, Layer::new(10, 10));
        for rank in [1, 2] {
            let (_, m) = update(&layer, rank);
            // Z_1 M shifts the rows down, M Z_-1 the columns to the left with the sign changed.
            let displacement = Matrix::from_fn(d, d, |i, j| {
                let sign = if j + 1 == d { -1.0 } else { 1.0 };
                m[(i + d - 1) % d][j] - sign * m[i][(j + 1) % d]
            });
            let values = svd(&displacement).unwrap().s;
            assert!(values[rank] < 1e-13 * values[0] && values[rank - 1] > 1e-3 * values[0]);
            let own = svd(&Matrix::from_fn(d, d, |i, j| m[i][j])).unwrap().s;
            assert!(own[d - 1] > 1e-6 * own[0]);
        }
    }

    #[test]
    fn other_widths_use_the_corner() {
        for (d_in, d_out) in [(7, 12), (12, 7)] {
            let (layer, square) = (Layer::new(d_in, d_out), Layer::new(12, 12));
            let (adapter, m) = update(&layer, 2);
            assert!(layer.forms_distance(&adapter) < 1e-13);
            let whole = square.update(&adapter);
            for (i, row) in m.iter().enumerate() {
                for (j, value) in row.iter().enumerate() {
                    assert!((value - whole[j][i]).abs() < 1e-14);
                }
            }
        }
    }

    #[test]
    fn counts_are_two_vectors_a_product() {
        let config = SurmLdrConfig::default();
        let count = config.count(&LayerShape::linear("", 768, 768, true));
        assert_eq!(3 * 12 * count.all_trained(), 55_296);
    }
}
