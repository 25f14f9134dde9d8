//! GOFT: orthogonal fine-tuning by Givens rotations.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result,
};
use engraft_tensor::Init;
use engraft_tensor::ops::{plane_maps, plane_maps_rows, scaled_columns};
use serde::{Deserialize, Serialize};

use crate::stages::admit_pairs;

/// Configuration of [`Goft`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct GoftConfig {
    /// Whether a scale of the rotated inputs is trained too; the paper's counts are without it.
    pub scale: bool,
}

/// y = ((x R) . c) W + b with R a product of d_in - 1 Givens rotations in log2(d_in) stages.
///
/// | symbol | shape | |
/// |---|---|---|
/// | theta | [d_in - 1] | trained angles in radians, zero at first, in the order of [`plane_maps`] |
/// | G | 2 x 2 | [[cos, -sin], [sin, cos]] of an angle |
/// | c | `[d_in]` | trained, one at first; only with `scale` |
///
/// A token costs O(d_in) beside the layer; no d_in x d_in matrix is formed.
///
/// Ma et al., Parameter Efficient Quasi-Orthogonal Fine-Tuning via Givens Rotation, arXiv
/// 2404.04316. The authors' code stores t with theta = pi tanh(t); here the angles
/// themselves are trained, as in the paper. c is the code's `givens_scaler`.
#[derive(Module, Debug)]
pub struct Goft {
    /// theta, [d_in - 1].
    pub theta: Param<Tensor<1>>,
    /// c, `[d_in]`.
    pub scale: Option<Param<Tensor<1>>>,
}

impl Goft {
    /// The rotations, [4, d_in - 1], as [`plane_maps`] takes them.
    pub fn rotations(&self) -> Tensor<2> {
        let (cos, sin) = (self.theta.val().cos(), self.theta.val().sin());
        Tensor::stack(vec![cos.clone(), sin.clone().neg(), sin, cos], 0)
    }
}

impl Adapter for Goft {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let weight = match &self.scale {
            Some(scale) => base.weight() * scale.val().unsqueeze_dim::<2>(1),
            None => base.weight(),
        };
        Ok(base.with_weight(plane_maps_rows(weight, self.rotations())))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let rotated = plane_maps(x, self.rotations());
        base.forward(match &self.scale {
            Some(scale) => scaled_columns(rotated, scale.val(), None),
            None => rotated,
        })
    }
}

impl Graft for GoftConfig {
    type Adapter = Goft;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_pairs(layer)
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(layer.d_in - 1 + if self.scale { layer.d_in } else { 0 })
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Goft> {
        Ok(Goft {
            theta: Param::from_tensor(ctx.tensor(Init::ZEROS, [base.d_in() - 1], "theta")),
            scale: self
                .scale
                .then(|| Param::from_tensor(ctx.tensor(Init::ONES, [base.d_in()], "scale"))),
        })
    }
}

impl Method for GoftConfig {
    const META: MethodMeta = MethodMeta {
        admits: "d_in >= 2",
        ..MethodMeta::graft(
            "goft",
            "GOFT",
            Family::Givens,
            "2404.04316",
            "y = (x P_S ... P_1) W + b, P_r = prod_k G(2^r k, 2^(r-1) (2k + 1); theta)",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        if layer.d_in < 2 {
            Vec::new()
        } else {
            vec![Self::default(), Self { scale: true }]
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_tensor::{Key, bridge};

    use super::*;

    fn draw<const D: usize>(shape: [usize; D], role: &str) -> Tensor<D> {
        Init::Normal { std: 1.0 }.tensor(
            shape,
            &Key::new(4).child(role),
            &Device::default(),
            DType::F64,
        )
    }

    fn largest(x: Tensor<2>) -> f64 {
        bridge::values(&x)
            .iter()
            .fold(0.0, |largest, value| value.abs().max(largest))
    }

    #[test]
    fn the_rotation_is_orthogonal_and_both_forms_agree() {
        for (d_in, scaled) in [(2, false), (16, false), (13, false), (24, true)] {
            let goft = Goft {
                theta: Param::from_tensor(draw([d_in - 1], "theta")),
                scale: scaled.then(|| Param::from_tensor(draw([d_in], "scale"))),
            };
            let base = FrozenBase::new(draw([d_in, 5], "w"), Some(draw([5], "b")));
            let merged = goft.effective(&base, &Ctx::default()).unwrap();
            let x = draw([3, d_in], "x");
            assert!(
                largest(goft.forward(x.clone(), &base, &Ctx::default()) - merged.forward(x))
                    < 1e-12
            );
            if !scaled {
                let gram = |w: Tensor<2>| w.clone().transpose().matmul(w);
                assert!(largest(gram(merged.weight()) - gram(base.weight())) < 1e-12);
            }
        }
    }

    #[test]
    fn every_unit_vector_is_within_reach() {
        // The paper's argument: the angles that fold a vector into its first coordinate stage by
        // stage. Here for width 5, whose last coordinate waits for the third stage.
        let x = [0.6, -0.3, 0.5, 0.2, -0.1];
        let fold = |a: f64, b: f64| (b.atan2(a), a.hypot(b));
        let ((t01, x0), (t23, x2)) = (fold(x[0], x[1]), fold(x[2], x[3]));
        let (t02, x02) = fold(x0, x2);
        let (t04, norm) = fold(x02, x[4]);
        // R x = |x| e_0 with R = P_3 P_2 P_1 and G = [[cos, -sin], [sin, cos]] of the opposite angles.
        let theta = [t01, t23, t02, t04].map(|t: f64| -t).to_vec();
        let goft = Goft {
            theta: Param::from_tensor(bridge::tensor(theta, [4], &Device::default(), DType::F64)),
            scale: None,
        };
        let column = bridge::tensor(x.to_vec(), [5, 1], &Device::default(), DType::F64);
        let folded = bridge::values(&plane_maps_rows(column, goft.rotations()));
        for (found, expected) in folded.into_iter().zip([norm, 0.0, 0.0, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-15);
        }
    }

    #[test]
    fn counts_are_the_published_ones() {
        let count = |d_in| {
            GoftConfig::default()
                .count(&LayerShape::linear("", d_in, 768, false))
                .trainable
        };
        // qGOFT, table 1: six linear layers of each of DeBERTaV3-base's 12; table 2: q, k, v, o of Llama-2-7B's 32.
        assert_eq!(12 * (5 * count(768) + count(3072)), 82_872);
        assert_eq!(32 * 4 * count(4096), 524_160);
    }
}
