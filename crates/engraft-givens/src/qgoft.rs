//! qGOFT: quasi-orthogonal fine-tuning, Givens rotations with free entries.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result,
};
use engraft_tensor::bridge;
use engraft_tensor::ops::{plane_maps, plane_maps_rows};
use serde::{Deserialize, Serialize};

use crate::stages::admit_pairs;

/// Configuration of [`Qgoft`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct QgoftConfig {
    /// lambda of the orthogonality penalty lambda sum <a_i, b_i>^2 on the loss. The paper tunes it between
    /// 1e-3 and 0.5.
    pub lambda: f64,
}

impl Default for QgoftConfig {
    fn default() -> Self {
        Self { lambda: 1e-3 }
    }
}

/// y = (x R) W + b with R a product of d_in - 1 free maps of planes in log2(d_in) stages.
///
/// | symbol | shape | |
/// |---|---|---|
/// | G | [d_in - 1, 2, 2] | trained maps [[a1, b1], [a2, b2]], the identity at first, in the order of [`plane_maps`] |
///
/// The stages are those of GOFT; a map may also stretch and shear its plane, and the penalty
/// on the loss keeps its columns nearly orthogonal. A token costs
/// O(d_in) beside the layer; no d_in x d_in matrix is formed.
///
/// Ma et al., Parameter Efficient Quasi-Orthogonal Fine-Tuning via Givens Rotation, arXiv
/// 2404.04316.
#[derive(Module, Debug)]
pub struct Qgoft {
    /// G, [d_in - 1, 2, 2].
    pub g: Param<Tensor<3>>,
    /// lambda.
    pub lambda: f64,
}

impl Qgoft {
    /// The maps, [4, d_in - 1], as [`plane_maps`] takes them.
    pub fn maps(&self) -> Tensor<2> {
        let n = self.g.dims()[0];
        self.g.val().reshape([n, 4]).transpose()
    }

    /// a1, b1, a2, b2, each [d_in - 1].
    fn entries(&self) -> [Tensor<1>; 4] {
        let n = self.g.dims()[0];
        let maps = self.maps();
        [0, 1, 2, 3].map(|entry| maps.clone().narrow(0, entry, 1).reshape([n]))
    }
}

impl Adapter for Qgoft {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        Ok(base.with_weight(plane_maps_rows(base.weight(), self.maps())))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        base.forward(plane_maps(x, self.maps()))
    }

    /// lambda sum_i <a_i, b_i>^2, where a_i and b_i are the columns of the map i: zero when every map
    /// only rotates and stretches along the axes.
    fn penalty(&self, _: &FrozenBase, _: &Ctx) -> Option<Tensor<1>> {
        let [a1, b1, a2, b2] = self.entries();
        let inner = a1 * b1 + a2 * b2;
        Some((inner.clone() * inner).sum() * self.lambda)
    }
}

impl Graft for QgoftConfig {
    type Adapter = Qgoft;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_pairs(layer)
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(4 * (layer.d_in - 1))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Qgoft> {
        let pairs = base.d_in() - 1;
        let identity = [1.0, 0.0, 0.0, 1.0].repeat(pairs);
        Ok(Qgoft {
            g: Param::from_tensor(bridge::tensor(
                identity,
                [pairs, 2, 2],
                &ctx.device,
                ctx.dtype,
            )),
            lambda: self.lambda,
        })
    }
}

impl Method for QgoftConfig {
    const META: MethodMeta = MethodMeta {
        admits: "d_in >= 2",
        regularised: true,
        ..MethodMeta::graft(
            "qgoft",
            "qGOFT",
            Family::Givens,
            "2404.04316",
            "y = (x P_S ... P_1) W + b, P_r of free 2 x 2 maps; loss + lambda sum <a_i, b_i>^2",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if self.lambda >= 0.0 && self.lambda.is_finite() {
            Ok(())
        } else {
            Err(format!(
                "lambda {}: expected a number of at least 0",
                self.lambda
            ))
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        if layer.d_in < 2 {
            Vec::new()
        } else {
            vec![Self::default()]
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_tensor::{Init, Key};

    use super::*;

    fn from_values(values: Vec<f64>) -> Qgoft {
        let pairs = values.len() / 4;
        Qgoft {
            g: Param::from_tensor(bridge::tensor(
                values,
                [pairs, 2, 2],
                &Device::default(),
                DType::F64,
            )),
            lambda: 0.5,
        }
    }

    #[test]
    fn the_penalty_is_the_squared_inner_product_of_the_columns() {
        let penalty = |values| {
            let unused = FrozenBase::new(
                bridge::tensor(vec![0.0], [1, 1], &Device::default(), DType::F64),
                None,
            );
            bridge::values(
                &from_values(values)
                    .penalty(&unused, &Ctx::default())
                    .unwrap(),
            )[0]
        };
        assert_eq!(
            penalty(vec![1.0, 2.0, 3.0, 4.0, 2.0, 0.0, 0.0, 5.0]),
            0.5 * 14.0 * 14.0
        );
        let (sin, cos) = 0.7f64.sin_cos();
        assert!(penalty(vec![cos, -sin, sin, cos]) < 1e-30);
    }

    #[test]
    fn both_forms_agree() {
        let draw = |shape: [usize; 2], role: &str| {
            Init::Normal { std: 1.0 }.tensor::<2>(
                shape,
                &Key::new(4).child(role),
                &Device::default(),
                DType::F64,
            )
        };
        let qgoft = from_values(Init::Normal { std: 1.0 }.values(4 * 12, &Key::new(4)));
        let base = FrozenBase::new(draw([13, 5], "w"), None);
        let x = draw([3, 13], "x");
        let merged = qgoft
            .effective(&base, &Ctx::default())
            .unwrap()
            .forward(x.clone());
        let scale = bridge::values(&merged)
            .iter()
            .fold(1.0f64, |largest, value| largest.max(value.abs()));
        let distance = bridge::values(&(qgoft.forward(x, &base, &Ctx::default()) - merged));
        assert!(
            distance
                .iter()
                .all(|distance| distance.abs() < 1e-13 * scale)
        );
    }

    #[test]
    fn counts_are_the_published_ones() {
        let count = |d_in| {
            QgoftConfig::default()
                .count(&LayerShape::linear("", d_in, 768, false))
                .trainable
        };
        // qGOFT, table 2: q, k, v, o of Llama-2-7B's 32 layers; table 3: q and v of ViT-B/16.
        assert_eq!(32 * 4 * count(4096), 2_096_640);
        assert_eq!(24 * count(768), 73_632);
    }
}
