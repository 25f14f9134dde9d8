//! SURM with symmetric Toeplitz matrices.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, check_dropout, dropout, refuse_dropout,
};
use engraft_tensor::Init;
use engraft_tensor::ops::circular;
use serde::{Deserialize, Serialize};

use crate::surm::{SurmForm, fast_length, identity, padded, side};

/// Configuration of [`SurmToeplitz`]. Defaults of the authors' code: two factors, s = 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SurmToeplitzConfig {
    /// `product` of two matrices, or a `single` one.
    pub form: SurmForm,
    /// s.
    pub scaling: f64,
    /// Probability of zeroing an input of the update in training.
    pub dropout: f64,
}

impl Default for SurmToeplitzConfig {
    fn default() -> Self {
        Self {
            form: SurmForm::Product,
            scaling: 1.0,
            dropout: 0.0,
        }
    }
}

/// y = x W + b + s x T(a) T(c), with symmetric Toeplitz matrices.
///
/// | symbol | shape | |
/// |---|---|---|
/// | a | `[d]` | trained, N(0, 0.02^2) at first; zero without c |
/// | c | `[d]` | trained, zero at first; only in the form `product` |
/// | T(t) | [d, d] | t[\|i - j\|] in row i and column j; d = max(d_in, d_out) |
///
/// Sehanobish et al., Structured Unrestricted-Rank Matrices for Parameter Efficient Fine-tuning,
/// arXiv 2406.17740, section 4; the product of two factors and its init are those of the authors'
/// code (arijitthegame/structured-matrices-PEFT, `src/lora/toeplitz_lora.py`). That code takes
/// square layers only; here T(a) has the layer's inputs as rows and T(c) its outputs as columns.
///
/// The activation form costs O(d log d) a token: a Toeplitz matrix is the corner of a circulant one
/// of at least 2 d - 1, which is diagonal after a Fourier transform.
#[derive(Module, Debug)]
pub struct SurmToeplitz {
    /// a, `[d]`.
    pub a: Param<Tensor<1>>,
    /// c, `[d]`.
    pub c: Option<Param<Tensor<1>>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of the update.
    pub dropout: f64,
}

/// x T(t), cut to `width` columns; x has at most d columns.
fn symmetric_toeplitz(x: Tensor<2>, t: Tensor<1>, width: usize) -> Tensor<2> {
    let d = t.dims()[0];
    let length = fast_length(2 * d - 1);
    let mut kernel = padded(t.clone().unsqueeze(), length + 1 - d);
    if d > 1 {
        let mirrored = t.narrow(0, 1, d - 1).flip([0]).unsqueeze();
        kernel = Tensor::cat(vec![kernel, mirrored], 1);
    }
    circular(x, kernel.unsqueeze(), width, 1.0)
}

impl SurmToeplitz {
    /// s x T(a) T(c), cut to the layer's outputs.
    fn update(&self, x: Tensor<2>, d_out: usize) -> Tensor<2> {
        let a = self.a.val() * self.scaling;
        match &self.c {
            Some(c) => {
                let d = a.dims()[0];
                symmetric_toeplitz(symmetric_toeplitz(x, a, d), c.val(), d_out)
            }
            None => symmetric_toeplitz(x, a, d_out),
        }
    }
}

impl Adapter for SurmToeplitz {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("surm-toeplitz", self.dropout, ctx)?;
        let update = self.update(identity(base.d_in(), &base.weight()), base.d_out());
        Ok(base.with_weight(base.weight() + update))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let update = self.update(dropout(x.clone(), self.dropout, ctx), base.d_out());
        base.forward(x) + update
    }
}

impl Graft for SurmToeplitzConfig {
    type Adapter = SurmToeplitz;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.form.count(layer))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<SurmToeplitz> {
        let d = side(base.d_in(), base.d_out());
        let (a, c) = match self.form {
            SurmForm::Product => (Init::Normal { std: 0.02 }, Some(Init::ZEROS)),
            SurmForm::Single => (Init::ZEROS, None),
        };
        Ok(SurmToeplitz {
            a: Param::from_tensor(ctx.tensor(a, [d], "a")),
            c: c.map(|c| Param::from_tensor(ctx.tensor(c, [d], "c"))),
            scaling: self.scaling,
            dropout: self.dropout,
        })
    }
}

impl Method for SurmToeplitzConfig {
    const META: MethodMeta = MethodMeta::graft(
        "surm-toeplitz",
        "SURM symmetric Toeplitz",
        Family::Structured,
        "2406.17740",
        "y = x W + b + s x T(a) T(c), T symmetric Toeplitz",
    );

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        vec![
            Self::default(),
            Self {
                form: SurmForm::Single,
                scaling: 2.0,
                dropout: 0.1,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::Layer;

    #[test]
    fn a_single_factor_is_symmetric_toeplitz() {
        for (d_in, d_out) in [(9, 9), (1, 4), (5, 1)] {
            let layer = Layer::new(d_in, d_out);
            let mut adapter = layer.adapt(&SurmToeplitzConfig {
                form: SurmForm::Single,
                ..SurmToeplitzConfig::default()
            });
            assert!(layer.update(&adapter).concat().iter().all(|x| *x == 0.0));
            let values: Vec<f64> = (1..=d_in.max(d_out)).map(|i| i as f64).collect();
            let t = bridge::tensor(
                values,
                [d_in.max(d_out)],
                &adapter.a.device(),
                burn::tensor::DType::F64,
            );
            adapter.a = Param::from_tensor(t);
            for (i, row) in layer.update(&adapter).iter().enumerate() {
                for (j, value) in row.iter().enumerate() {
                    assert!((value - (i.abs_diff(j) + 1) as f64).abs() < 1e-13);
                }
            }
        }
    }

    #[test]
    fn two_factors_multiply() {
        let layer = Layer::new(7, 12);
        let mut adapter = layer.adapt(&SurmToeplitzConfig {
            scaling: 3.0,
            ..SurmToeplitzConfig::default()
        });
        assert!(layer.update(&adapter).concat().iter().all(|x| *x == 0.0));
        adapter.c = adapter.c.map(|c| c.map(|c| c + 1.0));
        assert!(layer.forms_distance(&adapter) < 1e-13);
        // T(1, ..., 1) sums the rows of T(a).
        let a = bridge::values(&adapter.a.val());
        for (i, row) in layer.update(&adapter).iter().enumerate() {
            let sum: f64 = (0..12usize).map(|j| a[i.abs_diff(j)]).sum();
            assert!(row.iter().all(|value| (value - 3.0 * sum).abs() < 1e-14));
        }
    }

    #[test]
    fn counts_are_those_of_the_code() {
        let config = SurmToeplitzConfig::default();
        let count = config.count(&LayerShape::linear("", 768, 768, true));
        // q, k and v of ViT-B's 12 layers: the paper's 55K.
        assert_eq!(3 * 12 * count.all_trained(), 55_296);
    }
}
