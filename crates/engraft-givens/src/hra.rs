//! HRA: Householder reflection adaptation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, AtInit, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result, positive_rank,
};
use engraft_tensor::ops::{low_rank, low_rank_update, matmul};
use engraft_tensor::{Init, bridge, compact};
use serde::{Deserialize, Serialize};

/// How orthogonal to each other the normals of the reflections are kept.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Orthogonality {
    /// Not at all: lambda = 0.
    #[default]
    Free,
    /// By the penalty lambda |I - U^T U|_F^2 of unit columns on the loss of each layer.
    Penalty {
        /// Weight of the penalty.
        lambda: f64,
    },
    /// Exactly, by Gram-Schmidt: lambda = infinity.
    GramSchmidt,
}

/// Configuration of [`Hra`]. Defaults: 8 free reflections, as in PEFT and in most of the paper's
/// tables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct HraConfig {
    /// Number r of reflections.
    pub rank: usize,
    /// `free`, `{ penalty = { lambda = ... } }` or `gram-schmidt`.
    pub orthogonality: Orthogonality,
}

impl Default for HraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            orthogonality: Orthogonality::Free,
        }
    }
}

/// y = (x R) W + b with the product R = H_r ... H_2 H_1 of reflections H_k = I - 2 u_k u_k^T / |u_k|^2.
///
/// | symbol | shape | |
/// |---|---|---|
/// | U | [d_in, r] | trained; its columns u_k are the normals, U(-1/sqrt(r), 1/sqrt(r)) at first |
/// | T | [r, r] | R = I - U T U^T of unit columns |
///
/// R W is written as W H_1 ... H_r of PyTorch's W. Two by two, the columns are equal at first, so that
/// their reflections cancel and R = I; with an odd number of them (one reflection always remains)
/// and with Gram-Schmidt (which equal columns defy) they are all drawn, and the adapted model starts
/// elsewhere.
///
/// Gram-Schmidt makes R = I - 2 Q Q^T of orthonormal Q with the span of U; it is evaluated as
/// I - 2 U (U^T U)^-1 U^T, which is the same, but loses the square of U's condition where
/// Gram-Schmidt loses the condition.
///
/// A token costs 2 (d_in + d_out) r operations beside the layer: R W = W - U (T U^T W) is an update of
/// rank r, applied as (x U) (T U^T W). T is made from U^T U, and T U^T W from the frozen W, once for
/// all tokens, in O(d_in r^2 + r^3 log r) and d_in d_out r. No d_in x d_in matrix is formed.
///
/// Yuan, Liu and Xu, Bridging The Gap between Low-rank and Orthogonal Adaptation via Householder
/// Reflection Adaptation, arXiv 2405.17484, section 3, with its orthogonality regulariser. The
/// init is PEFT's.
#[derive(Module, Debug)]
pub struct Hra {
    /// U, [d_in, r].
    pub u: Param<Tensor<2>>,
    /// How its columns are kept apart.
    #[module(skip)]
    pub orthogonality: Orthogonality,
}

impl Hra {
    /// U with unit columns, [d_in, r], and T, [r, r], of R = I - U T U^T.
    pub fn compact(&self) -> [Tensor<2>; 2] {
        let u = self.units();
        let t = match self.orthogonality {
            Orthogonality::GramSchmidt => compact::span(&u),
            Orthogonality::Free | Orthogonality::Penalty { .. } => compact::product(&u),
        };
        [u, t]
    }

    /// The factors U, [d_in, r], and T U^T W, [r, d_out], of W - R W.
    fn update(&self, base: &FrozenBase) -> (Tensor<2>, Tensor<2>) {
        let [u, t] = self.compact();
        let turned = matmul(matmul(t, u.clone().transpose()), base.weight());
        (u, turned)
    }

    fn units(&self) -> Tensor<2> {
        let u = self.u.val();
        let norm = (u.clone() * u.clone()).sum_dim(0).sqrt();
        u / norm
    }
}

impl Adapter for Hra {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let (u, turned) = self.update(base);
        let weight = base.weight();
        Ok(base.with_weight(low_rank_update(weight, u, turned, -1.0)))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let (u, turned) = self.update(base);
        low_rank(x, base.weight(), base.bias.clone(), u, turned, -1.0)
    }

    fn penalty(&self, _: &FrozenBase, _: &Ctx) -> Option<Tensor<1>> {
        let Orthogonality::Penalty { lambda } = self.orthogonality else {
            return None;
        };
        let u = self.units();
        // Each pair of columns stands twice in the square, and the diagonal of U^T U is one.
        let inner = u.clone().transpose().matmul(u).tril(-1);
        Some((inner.clone() * inner).sum() * (2.0 * lambda))
    }
}

impl HraConfig {
    /// Whether equal pairs of columns make the start the identity.
    fn is_paired(&self) -> bool {
        self.rank.is_multiple_of(2) && self.orthogonality != Orthogonality::GramSchmidt
    }
}

impl Graft for HraConfig {
    type Adapter = Hra;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        if layer.d_in < 2 {
            return Err(
                "one input has no hyperplane to reflect at; expected d_in of at least 2".to_owned(),
            );
        }
        if self.orthogonality == Orthogonality::GramSchmidt && self.rank > layer.d_in {
            return Err(format!(
                "rank {} with Gram-Schmidt: expected at most d_in = {}",
                self.rank, layer.d_in
            ));
        }
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(layer.d_in * self.rank)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Hra> {
        let (d_in, r) = (base.d_in(), self.rank);
        let drawn = if self.is_paired() { r / 2 } else { r };
        let values =
            Init::KaimingUniform { fan_in: drawn }.values(d_in * drawn, &ctx.key.child("u"));
        let repeated = values
            .into_iter()
            .flat_map(|value| std::iter::repeat_n(value, r / drawn))
            .collect();
        Ok(Hra {
            u: Param::from_tensor(bridge::tensor(repeated, [d_in, r], &ctx.device, ctx.dtype)),
            orthogonality: self.orthogonality,
        })
    }
}

impl Method for HraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("HRA"),
        regularised: true,
        admits: "d_in >= 2; with Gram-Schmidt, rank <= d_in",
        ..MethodMeta::graft(
            "hra",
            "HRA",
            Family::Givens,
            "2405.17484",
            "y = (x H_r ... H_1) W + b, H_k = I - 2 u_k u_k^T / |u_k|^2",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        match self.orthogonality {
            Orthogonality::Penalty { lambda } if !(lambda >= 0.0 && lambda.is_finite()) => {
                Err(format!("lambda {lambda}: expected a number of at least 0"))
            }
            _ => Ok(()),
        }
    }

    fn at_init(&self) -> AtInit {
        if self.is_paired() {
            AtInit::Identity
        } else {
            AtInit::NotIdentity
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let free = |rank| Self {
            rank,
            orthogonality: Orthogonality::Free,
        };
        [
            free(2),
            free(3),
            Self {
                rank: 4,
                orthogonality: Orthogonality::Penalty { lambda: 0.1 },
            },
            Self {
                rank: 3,
                orthogonality: Orthogonality::GramSchmidt,
            },
        ]
        .into_iter()
        .filter(|config| config.admits(layer).is_ok())
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{draw, forms_apart, largest};

    fn random(r: usize, orthogonality: Orthogonality) -> (Hra, FrozenBase) {
        let hra = Hra {
            u: Param::from_tensor(draw([13, r], 3, "u")),
            orthogonality,
        };
        let base = FrozenBase::new(draw([13, 7], 3, "w"), Some(draw([7], 3, "b")));
        (hra, base)
    }

    #[test]
    fn both_forms_agree_and_angles_survive() {
        for (r, orthogonality) in [
            (1, Orthogonality::Free),
            (5, Orthogonality::Free),
            (20, Orthogonality::Free),
            (6, Orthogonality::GramSchmidt),
        ] {
            let (hra, base) = random(r, orthogonality);
            assert!(forms_apart(&hra, &base) < 1e-12);
            let merged = hra.effective(&base, &Ctx::default()).unwrap();
            let gram = |w: Tensor<2>| w.clone().transpose().matmul(w);
            assert!(largest(gram(merged.weight()) - gram(base.weight())) < 1e-12);
            // No other direction than the span of U moves: R - I has rank at most r.
            if r < 13 {
                let change = merged.weight() - base.weight();
                let [u, _] = Hra {
                    orthogonality: Orthogonality::GramSchmidt,
                    ..hra
                }
                .compact();
                let onto = u.clone().matmul(compact::span(&u)).matmul(u.transpose()) * 0.5;
                assert!(largest(change.clone() - onto.matmul(change)) < 1e-11);
            }
        }
    }

    #[test]
    fn gram_schmidt_is_the_product_of_orthogonal_reflections() {
        let (free, base) = random(2, Orthogonality::Free);
        // The second normal less its part along the first.
        let [u, _] = free.compact();
        let (first, second) = (u.clone().narrow(1, 0, 1), u.narrow(1, 1, 1));
        let second = second.clone()
            - first
                .clone()
                .matmul(first.clone().transpose().matmul(second));
        let orthogonal = Hra {
            u: Param::from_tensor(Tensor::cat(vec![first, second], 1)),
            ..free.clone()
        };
        let spanning = Hra {
            orthogonality: Orthogonality::GramSchmidt,
            ..free
        };
        let weight = |hra: &Hra| hra.effective(&base, &Ctx::default()).unwrap().weight();
        assert!(largest(weight(&orthogonal) - weight(&spanning)) < 1e-13);
        let penalty = |hra: &Hra, orthogonality| {
            let hra = Hra {
                orthogonality,
                ..hra.clone()
            };
            hra.penalty(&base, &Ctx::default()).map(largest)
        };
        let weighted = Orthogonality::Penalty { lambda: 1.0 };
        assert!(penalty(&orthogonal, weighted).unwrap() < 1e-28);
        assert!(penalty(&spanning, weighted).unwrap() > 1e-3);
        assert_eq!(penalty(&spanning, Orthogonality::Free), None);
    }

    #[test]
    fn counts_are_r_for_each_input() {
        // PEFT's MetaMathQA benchmark has no HRA run: the formula r d_in on q and v of Llama-2-7B.
        let layer = LayerShape::linear("", 4096, 4096, false);
        assert_eq!(64 * HraConfig::default().count(&layer).trainable, 2_097_152);
    }
}
