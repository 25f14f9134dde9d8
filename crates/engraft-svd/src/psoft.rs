//! PSOFT: orthogonal fine-tuning in the principal subspace.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, admit_rank, check_dropout, dropout, positive_rank, refuse_dropout,
};
use engraft_tensor::Init;
use engraft_tensor::cayley::{Cayley, skew_from_upper};
use serde::{Deserialize, Serialize};

use crate::spectrum::{frozen, identity, leading, tensor};

/// How R is made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PsoftRotation {
    /// R = (I - Q)(I + Q)^-1, orthogonal to rounding.
    Exact,
    /// Truncated Neumann series of the same.
    Neumann {
        /// Number of terms, at least 2.
        terms: usize,
        /// Bound in (0, 1) on the Frobenius norm of Q, which is scaled down to it beyond.
        #[serde(default)]
        bound: Option<f64>,
    },
    /// Any matrix: R itself is trained.
    Free,
}

/// How the singular values are shared between A and B.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PsoftSplit {
    /// A = U_r, B = S_r V_r^T: with A orthonormal, an orthogonal R keeps norms and angles.
    #[default]
    Orthonormal,
    /// A = U_r S_r^1/2, B = S_r^1/2 V_r^T, as in PiSSA.
    Symmetric,
}

/// Configuration of [`Psoft`]. Rank 32 as in PEFT; the paper goes from 46 (base models) to 424.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PsoftConfig {
    /// Rank r, at most min(d_in, d_out).
    pub rank: usize,
    /// alpha, with s = alpha / r; the rank if left out. A B is divided by s, so that s cancels.
    pub alpha: Option<f64>,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// How R is made: `exact`, `{ neumann = { terms = 5 } }` or `free`.
    pub rotation: PsoftRotation,
    /// Whether the input side of R has a trained magnitude.
    pub magnitude_in: bool,
    /// Whether the output side of R has a trained magnitude.
    pub magnitude_out: bool,
    /// How A and B share the singular values.
    pub split: PsoftSplit,
    /// Power iterations of the randomised SVD; 0 for the exact one.
    pub niter: usize,
}

impl Default for PsoftConfig {
    fn default() -> Self {
        Self {
            rank: 32,
            alpha: None,
            dropout: 0.0,
            rotation: PsoftRotation::Exact,
            magnitude_in: true,
            magnitude_out: true,
            split: PsoftSplit::Orthonormal,
            niter: 0,
        }
    }
}

/// y = x W + b + s x A (diag(m_in) R diag(m_out) - I) B, with s A B = U_r S_r V_r^T.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A, B | [d_in, r], [r, d_out] | frozen, in the adapter file |
/// | Q | [1, r (r - 1) / 2] | trained upper triangle of a skew matrix, zero at first; R = (I - Q)(I + Q)^-1 |
/// | R | [r, r] | trained itself with `free`, I at first |
/// | m_in, m_out | `[r]` | trained magnitudes, the paper's alpha and beta, one at first |
///
/// Wu et al., PSOFT: Efficient Orthogonal Fine-Tuning with Principal Subspace Adaptation, arXiv
/// 2505.11235, sections 4.1 and 4.2. Equal to PEFT 0.21.2's `psoft`. The residual needs no
/// separate weight: W - s A B + s A R B = W + s A (R - I) B. R mixes singular directions, so that
/// what Q means depends on their signs: A and B are stored. The activation form costs
/// O(tokens (d_in d_out + r (d_in + d_out + r)) + r^3).
#[derive(Module, Debug)]
pub struct Psoft {
    /// A, [d_in, r].
    pub a: Param<Tensor<2>>,
    /// B, [r, d_out].
    pub b: Param<Tensor<2>>,
    /// Q's upper triangle row by row, [1, r (r - 1) / 2].
    pub q: Option<Param<Tensor<2>>>,
    /// R, [r, r], where it is free.
    pub r: Option<Param<Tensor<2>>>,
    /// m_in, `[r]`.
    pub magnitude_in: Option<Param<Tensor<1>>>,
    /// m_out, `[r]`.
    pub magnitude_out: Option<Param<Tensor<1>>>,
    /// Terms of the Neumann series; none for the exact transform.
    terms: Option<usize>,
    /// Bound on the norm of Q.
    bound: Option<f64>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of A.
    pub dropout: f64,
}

impl Psoft {
    /// R, [r, r].
    fn rotation(&self) -> Tensor<2> {
        let rank = self.a.dims()[1];
        match (&self.q, &self.r) {
            (Some(q), _) => {
                let packed = match self.bound {
                    Some(bound) => bounded(q.val(), bound),
                    None => q.val(),
                };
                let rotations = match self.terms {
                    // The series is that of (I + Q)(I - Q)^-1.
                    Some(terms) => {
                        Cayley::Neumann { terms }.rotations(skew_from_upper(-packed, rank))
                    }
                    None => Cayley::Exact.rotations(skew_from_upper(packed, rank)),
                };
                rotations.squeeze_dim::<2>(0)
            }
            (None, Some(r)) => r.val(),
            (None, None) => unreachable!("one of them is made at the start"),
        }
    }

    /// z (diag(m_in) R diag(m_out) - I) for rows z [tokens, r].
    fn turn(&self, z: Tensor<2>) -> Tensor<2> {
        let scaled = |z: Tensor<2>, by: &Option<Param<Tensor<1>>>| match by {
            Some(magnitude) => z * magnitude.val().unsqueeze(),
            None => z,
        };
        let turned = scaled(z.clone(), &self.magnitude_in).matmul(self.rotation());
        scaled(turned, &self.magnitude_out) - z
    }
}

/// The packed triangle scaled so that the skew matrix has a Frobenius norm of at most `bound`.
fn bounded(packed: Tensor<2>, bound: f64) -> Tensor<2> {
    // Every entry occurs twice. At zero the root has no derivative, and the bound does not act.
    let squares = (packed.clone() * packed.clone()).sum() * 2.0;
    let norm = squares.clamp_min(bound * bound * 1e-4).sqrt();
    let factor = ((norm + 1e-12).recip() * bound).clamp_max(1.0);
    packed * factor.unsqueeze()
}

impl Adapter for Psoft {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("psoft", self.dropout, ctx)?;
        let update = (self.turn(self.a.val()) * self.scaling).matmul(self.b.val());
        Ok(base.with_weight(base.weight() + update))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let narrow = dropout(x.clone(), self.dropout, ctx).matmul(self.a.val());
        base.forward(x) + (self.turn(narrow) * self.scaling).matmul(self.b.val())
    }
}

impl Graft for PsoftConfig {
    type Adapter = Psoft;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_rank(self.rank, layer.max_rank())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let rank = self.rank;
        let core = match self.rotation {
            PsoftRotation::Free => rank * rank,
            _ => rank * (rank - 1) / 2,
        };
        let magnitudes = usize::from(self.magnitude_in) + usize::from(self.magnitude_out);
        Counts::with_frozen(core + magnitudes * rank, rank * (layer.d_in + layer.d_out))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Psoft> {
        let rank = self.rank;
        let scaling = self.alpha.unwrap_or(rank as f64) / rank as f64;
        let principal = leading(base, rank, self.niter, ctx)?;
        let power = |exponent: f64| -> Vec<f64> {
            let scaled = principal.s.iter().map(|value| value / scaling);
            scaled.map(|value| value.powf(exponent)).collect()
        };
        let (left, right) = match self.split {
            PsoftSplit::Orthonormal => (0.0, 1.0),
            PsoftSplit::Symmetric => (0.5, 0.5),
        };
        let a = principal.u.scale_columns(&power(left));
        let b = principal.vt.scale_rows(&power(right));
        let trained = |init, role: &str| Param::from_tensor(ctx.tensor(init, [rank], role));
        let (terms, bound, is_free) = match self.rotation {
            PsoftRotation::Exact => (None, None, false),
            PsoftRotation::Neumann { terms, bound } => (Some(terms), bound, false),
            PsoftRotation::Free => (None, None, true),
        };
        Ok(Psoft {
            a: frozen(tensor(&a.map_err(|error| ctx.numeric(error))?, ctx)),
            b: frozen(tensor(&b.map_err(|error| ctx.numeric(error))?, ctx)),
            q: (!is_free).then(|| {
                Param::from_tensor(ctx.tensor(Init::ZEROS, [1, rank * (rank - 1) / 2], "q"))
            }),
            r: is_free.then(|| Param::from_tensor(identity(rank, &ctx.device, ctx.dtype))),
            magnitude_in: self
                .magnitude_in
                .then(|| trained(Init::ONES, "magnitude_in")),
            magnitude_out: self
                .magnitude_out
                .then(|| trained(Init::ONES, "magnitude_out")),
            terms,
            bound,
            scaling,
            dropout: self.dropout,
        })
    }
}

impl Method for PsoftConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("PSOFT"),
        admits: "a linear layer with min(d_in, d_out) of at least the rank",
        ..MethodMeta::graft(
            "psoft",
            "PSOFT",
            Family::Svd,
            "2505.11235",
            "y = x W + b + s x A (diag(m_in) R diag(m_out) - I) B, s A B = U_r S_r V_r^T, R orthogonal",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        if self.rank == 1 && self.rotation != PsoftRotation::Free {
            return Err("rank 1: a rotation of one dimension is the identity; expected at least 2, or rotation = \"free\"".to_owned());
        }
        if let Some(alpha) = self
            .alpha
            .filter(|alpha| !(alpha.is_finite() && *alpha > 0.0))
        {
            return Err(format!(
                "alpha {alpha}: expected a positive number, because the singular values are divided by it"
            ));
        }
        match self.rotation {
            PsoftRotation::Neumann { terms, bound } => {
                Cayley::Neumann { terms }.validate()?;
                match bound {
                    Some(bound) if !(bound > 0.0 && bound < 1.0) => {
                        Err(format!("bound {bound}: expected 0 < bound < 1"))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let most = layer.max_rank();
        let free = Self {
            rank: most.min(3),
            rotation: PsoftRotation::Free,
            split: PsoftSplit::Symmetric,
            alpha: Some(5.0),
            niter: 2,
            ..Self::default()
        };
        if most < 2 {
            return vec![free];
        }
        let small = Self {
            rank: most.min(3),
            ..Self::default()
        };
        let series = |terms, bound| Self {
            rotation: PsoftRotation::Neumann { terms, bound },
            ..small.clone()
        };
        vec![
            free,
            small.clone(),
            series(2, None),
            Self {
                rank: most.min(7),
                magnitude_in: false,
                magnitude_out: false,
                dropout: 0.1,
                ..series(5, Some(0.05))
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::{attach, base, draw, forms_differ, largest};

    #[test]
    fn a_rotation_keeps_the_spectrum_and_the_principal_subspace() {
        let base = base([9, 7]);
        let mut adapter = attach(
            &PsoftConfig {
                rank: 4,
                alpha: Some(6.0),
                ..PsoftConfig::default()
            },
            &base,
        );
        adapter.q = Some(Param::from_tensor(draw([1, 6], "q")));
        assert!(forms_differ(&adapter, &base) < 1e-12);
        let moved = adapter.effective(&base, &Ctx::default()).unwrap().weight();
        assert!(largest(moved.clone() - base.weight()) > 0.1);
        let spectrum =
            |weight: &Tensor<2>| engraft_linalg::svd(&bridge::to_matrix(weight)).unwrap().s;
        for (before, after) in spectrum(&base.weight()).iter().zip(spectrum(&moved)) {
            assert!((before - after).abs() < 1e-12);
        }
        // What is orthogonal to the principal inputs sees the old weight.
        let a = adapter.a.val();
        let x = draw([5, 9], "x");
        let rest = x.clone() - x.matmul(a.clone()).matmul(a.transpose());
        assert!(largest(rest.clone().matmul(moved) - rest.matmul(base.weight())) < 1e-12);
    }

    #[test]
    fn a_bounded_series_has_a_bounded_matrix_and_is_nearly_orthogonal() {
        let large = draw([1, 6], "q") * 10.0;
        let held = bridge::values(&bounded(large, 0.5));
        let norm = (2.0 * held.iter().map(|q| q * q).sum::<f64>()).sqrt();
        assert!((norm - 0.5).abs() < 1e-9, "{norm}");
        let small = draw([1, 6], "q") * 1e-3;
        assert_eq!(largest(bounded(small.clone(), 0.5) - small), 0.0);
    }

    #[test]
    fn counts_are_the_published_ones() {
        let psoft = |rank, is_strict: bool| PsoftConfig {
            rank,
            magnitude_in: !is_strict,
            magnitude_out: !is_strict,
            ..PsoftConfig::default()
        };
        let of = |config: PsoftConfig| {
            config
                .count(&LayerShape::linear("fc", 768, 768, true))
                .trainable
        };
        // DeBERTaV3-base and ViT-B/16, 6 layers of 12 blocks.
        assert_eq!(72 * of(psoft(46, false)), 81_144);
        // LLaMA-3.2-3B, 7 layers of 28 blocks; LLaMA-3.1-8B, 5 of 32.
        assert_eq!(28 * 7 * of(psoft(352, false)), 12_246_080);
        assert_eq!(28 * 7 * of(psoft(352, true)), 12_108_096);
        assert_eq!(28 * 7 * of(psoft(248, true)), 6_003_088);
        assert_eq!(32 * 5 * of(psoft(424, false)), 14_483_840);
    }
}
