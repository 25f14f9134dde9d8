//! SURM with circulant matrices.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, check_dropout, dropout, refuse_dropout,
};
use engraft_tensor::Init;
use engraft_tensor::ops::{circular, circular_weight};
use serde::{Deserialize, Serialize};

use crate::surm::{SurmForm, reversed, side};

/// Configuration of [`SurmCirculant`]. Defaults of the authors' code: two vectors, s = 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SurmCirculantConfig {
    /// `product` of two vectors, or a `single` one.
    pub form: SurmForm,
    /// s.
    pub scaling: f64,
    /// Probability of zeroing an input of the update in training.
    pub dropout: f64,
}

impl Default for SurmCirculantConfig {
    fn default() -> Self {
        Self {
            form: SurmForm::Product,
            scaling: 1.0,
            dropout: 0.0,
        }
    }
}

/// y = x W + b + s x C(a . c)^T, with the circulant matrix C of a first column.
///
/// | symbol | shape | |
/// |---|---|---|
/// | a | `[d]` | trained, N(0, 1) at first; zero without c |
/// | c | `[d]` | trained, zero at first; only in the form `product` |
/// | C(g) | [d, d] | g[(i - j) mod d] in row i and column j; d = max(d_in, d_out) |
///
/// Sehanobish et al., Structured Unrestricted-Rank Matrices for Parameter Efficient Fine-tuning,
/// arXiv 2406.17740, section 4. The elementwise product of two vectors and its init are those of
/// the authors' code (arijitthegame/structured-matrices-PEFT, `src/lora/circulant_lora.py`), which
/// says that it differs from the paper. That code takes square layers only; here a layer of other
/// widths uses the upper left corner of C. Its trained scale is not offered.
///
/// The activation form costs O(d log d) a token by Fourier transforms (plus d times the prime
/// factors of d beyond 5); C is formed only on backends without the transform.
#[derive(Module, Debug)]
pub struct SurmCirculant {
    /// a, `[d]`.
    pub a: Param<Tensor<1>>,
    /// c, `[d]`.
    pub c: Option<Param<Tensor<1>>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of the update.
    pub dropout: f64,
}

impl SurmCirculant {
    /// The first column of C^T, [1, 1, d].
    fn kernel(&self) -> Tensor<3> {
        let column = match &self.c {
            Some(c) => self.a.val() * c.val(),
            None => self.a.val(),
        };
        reversed(column.unsqueeze()).unsqueeze()
    }
}

impl Adapter for SurmCirculant {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("surm-circulant", self.dropout, ctx)?;
        let weight = circular_weight(base.weight(), self.kernel(), self.scaling);
        Ok(base.with_weight(weight))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let dropped = dropout(x.clone(), self.dropout, ctx);
        base.forward(x) + circular(dropped, self.kernel(), base.d_out(), self.scaling)
    }
}

impl Graft for SurmCirculantConfig {
    type Adapter = SurmCirculant;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.form.count(layer))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<SurmCirculant> {
        let d = side(base.d_in(), base.d_out());
        let (a, c) = match self.form {
            SurmForm::Product => (Init::Normal { std: 1.0 }, Some(Init::ZEROS)),
            SurmForm::Single => (Init::ZEROS, None),
        };
        Ok(SurmCirculant {
            a: Param::from_tensor(ctx.tensor(a, [d], "a")),
            c: c.map(|c| Param::from_tensor(ctx.tensor(c, [d], "c"))),
            scaling: self.scaling,
            dropout: self.dropout,
        })
    }
}

impl Method for SurmCirculantConfig {
    const META: MethodMeta = MethodMeta::graft(
        "surm-circulant",
        "SURM circulant",
        Family::Structured,
        "2406.17740",
        "y = x W + b + s x C(a . c)^T, C circulant",
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
    fn the_update_is_the_corner_of_a_circulant() {
        for (d_in, d_out) in [(9, 9), (7, 12), (12, 7)] {
            let layer = Layer::new(d_in, d_out);
            let mut adapter = layer.adapt(&SurmCirculantConfig {
                scaling: 0.5,
                ..SurmCirculantConfig::default()
            });
            assert!(layer.update(&adapter).concat().iter().all(|x| *x == 0.0));
            adapter.c = adapter.c.map(|c| c.map(|c| c + 2.0));
            assert!(layer.forms_distance(&adapter) < 1e-13);
            let (d, a) = (d_in.max(d_out), bridge::values(&adapter.a.val()));
            for (j, row) in layer.update(&adapter).iter().enumerate() {
                for (i, value) in row.iter().enumerate() {
                    assert!((value - a[(i + d - j) % d]).abs() < 1e-14);
                }
            }
        }
    }

    #[test]
    fn counts_are_those_of_the_code() {
        let config = SurmCirculantConfig::default();
        let count = config.count(&LayerShape::linear("", 768, 768, true));
        // q, k and v of ViT-B's 12 layers: the paper's 55K.
        assert_eq!(3 * 12 * count.all_trained(), 55_296);
    }
}
