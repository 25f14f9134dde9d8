//! CapaBoost: several masked copies of one low-rank pair.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, Scaling, check_dropout, positive_rank, refuse_dropout,
};
use engraft_tensor::{Init, Key, bridge};
use rand::seq::index;
use serde::{Deserialize, Serialize};

/// Which entries of a factor a copy uses.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Masks {
    /// floor(density * entries) of them, anywhere.
    Random {
        /// Part that is kept.
        density: f64,
    },
    /// n of every m that follow each other along the inputs of the factor, as sparse tensor cores
    /// take them.
    Structured {
        /// Kept.
        n: usize,
        /// Of how many.
        m: usize,
    },
}

impl Masks {
    /// A mask of zeros and ones over [rows, cols], row-major.
    fn draw(self, [rows, cols]: [usize; 2], key: &Key) -> Vec<f64> {
        let (mut rng, mut mask) = (key.rng(), vec![0.0; rows * cols]);
        match self {
            Self::Random { density } => {
                let kept = (density * (rows * cols) as f64) as usize;
                for at in index::sample(&mut rng, rows * cols, kept) {
                    mask[at] = 1.0;
                }
            }
            Self::Structured { n, m } => {
                for col in 0..cols {
                    for first in (0..rows).step_by(m) {
                        for at in index::sample(&mut rng, m, n) {
                            mask[(first + at) * cols + col] = 1.0;
                        }
                    }
                }
            }
        }
        mask
    }
}

/// Configuration of [`Capaboost`]. The authors' scripts: 2 copies of density 0.5, rank 1 and 8,
/// alpha 16.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CapaboostConfig {
    /// Rank r of the shared pair.
    pub rank: usize,
    /// alpha; see [`Scaling`].
    pub alpha: f64,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Copies d.
    pub copies: usize,
    /// Which entries a copy uses.
    pub masks: Masks,
}

impl Default for CapaboostConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            scaling: Scaling::Classic,
            dropout: 0.0,
            copies: 2,
            masks: Masks::Random { density: 0.5 },
        }
    }
}

/// y = x W + b + s sum_i x (A . P_i) (B . Q_i), i = 1 ... d.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A, B | [d_in, r], [r, d_out] | trained, shared by the copies; B zero at first |
/// | P_i, Q_i | as A and B | zeros and ones, frozen; grown again from the seed |
/// | s | | alpha / r, or alpha / sqrt(r) |
///
/// Song et al., Increasing Model Capacity for Free: A Simple Strategy for Parameter Efficient
/// Fine-tuning, arXiv 2407.01320, section 4: the update has rank up to d r at the parameters of one
/// pair, and at its cost where masks of density 1/d are computed sparsely. Masks as in the authors'
/// `key_code_sample.py` (`equal_per_layer`, `NM_structured`), except that groups of m run along the
/// inputs of each factor and never over the edge of a row. The activation form is one dense LoRA
/// of rank d r on the masked copies side by side: O(tokens d r (d_in + d_out)).
#[derive(Module, Debug)]
pub struct Capaboost {
    /// A, [d_in, r].
    pub a: Param<Tensor<2>>,
    /// B, [r, d_out].
    pub b: Param<Tensor<2>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of A.
    pub dropout: f64,
    /// P, [d, d_in, r].
    a_masks: Tensor<3>,
    /// Q, [d, r, d_out].
    b_masks: Tensor<3>,
}

impl Capaboost {
    /// The masked copies side by side: [d_in, d r] and [d r, d_out], a plain LoRA of scaling s.
    pub fn to_lora(&self) -> (Tensor<2>, Tensor<2>) {
        let a = self.a.val().unsqueeze::<3>() * self.a_masks.clone();
        let b = self.b.val().unsqueeze::<3>() * self.b_masks.clone();
        let ([copies, d_in, rank], [_, _, d_out]) = (a.dims(), b.dims());
        (
            a.swap_dims(0, 1).reshape([d_in, copies * rank]),
            b.reshape([copies * rank, d_out]),
        )
    }
}

impl Adapter for Capaboost {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("capaboost", self.dropout, ctx)?;
        Ok(base.with_low_rank(self.to_lora(), self.scaling))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        base.low_rank(x, self.to_lora(), self.scaling, self.dropout, ctx)
    }
}

impl Graft for CapaboostConfig {
    type Adapter = Capaboost;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        match self.masks {
            Masks::Structured { m, .. } if !layer.d_in.is_multiple_of(m) => Err(format!(
                "groups of {m}: expected a divisor of d_in = {}",
                layer.d_in
            )),
            _ => Ok(()),
        }
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.rank * (layer.d_in + layer.d_out))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Capaboost> {
        let (d_in, d_out, rank) = (base.d_in(), base.d_out(), self.rank);
        let masks = |[rows, cols]: [usize; 2], role: &str| {
            let key = ctx.key.child(role);
            let values = (0..self.copies)
                .flat_map(|copy| self.masks.draw([rows, cols], &key.child(&copy.to_string())))
                .collect();
            bridge::tensor(values, [self.copies, rows, cols], &ctx.device, ctx.dtype)
        };
        Ok(Capaboost {
            a: Param::from_tensor(ctx.tensor(
                Init::KaimingUniform { fan_in: d_in },
                [d_in, rank],
                "a",
            )),
            b: Param::from_tensor(ctx.tensor(Init::ZEROS, [rank, d_out], "b")),
            scaling: self.scaling.factor(self.alpha, rank),
            dropout: self.dropout,
            a_masks: masks([d_in, rank], "a_masks"),
            b_masks: masks([rank, d_out], "b_masks"),
        })
    }
}

impl Method for CapaboostConfig {
    const META: MethodMeta = MethodMeta {
        admits: "any linear layer; with structured masks one whose d_in the groups divide",
        ..MethodMeta::graft(
            "capaboost",
            "CapaBoost",
            Family::Lowrank,
            "2407.01320",
            "y = x W + b + s sum_i x (A . P_i) (B . Q_i), P_i and Q_i static masks",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        if self.copies == 0 {
            return Err("copies 0: expected at least 1".to_owned());
        }
        match self.masks {
            Masks::Random { density } if !(density > 0.0 && density <= 1.0) => {
                Err(format!("density {density}: expected 0 < density <= 1"))
            }
            Masks::Structured { n, m } if n == 0 || n > m || !self.rank.is_multiple_of(m) => {
                Err(format!(
                    "{n} of {m}: expected 0 < n <= m with m a divisor of the rank {}",
                    self.rank
                ))
            }
            _ => Ok(()),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 4,
            alpha: 3.0,
            ..Self::default()
        };
        let mut examples = vec![
            small.clone(),
            Self {
                rank: 3,
                copies: 3,
                masks: Masks::Random { density: 0.4 },
                scaling: Scaling::RankStabilised,
                dropout: 0.1,
                ..small.clone()
            },
        ];
        let structured = Self {
            masks: Masks::Structured { n: 2, m: 4 },
            ..small
        };
        examples.extend(structured.admits(layer).is_ok().then_some(structured));
        examples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{attach, base, forms_differ, normal};

    fn rank(update: &Tensor<2>) -> usize {
        let s = engraft_linalg::svd(&bridge::to_matrix(update)).unwrap().s;
        s.iter().filter(|value| **value > 1e-10 * s[0]).count()
    }

    #[test]
    fn copies_raise_the_rank_at_the_same_parameters() {
        let base = base([16, 12]);
        for (copies, expected) in [(1, 2), (2, 4), (3, 6)] {
            let config = CapaboostConfig {
                rank: 2,
                copies,
                ..CapaboostConfig::default()
            };
            let mut adapter = attach(&config, &base);
            adapter.b = Param::from_tensor(normal([2, 12], "b0"));
            let (a, b) = adapter.to_lora();
            assert_eq!(rank(&a.matmul(b)), expected);
            assert!(forms_differ(&adapter, &base) < 1e-12);
            let counted = config.count(&base.shape("fc")).trainable;
            assert_eq!(counted, 2 * (16 + 12));
        }
    }

    #[test]
    fn masks_keep_what_they_state() {
        let key = Key::new(1);
        let random = Masks::Random { density: 0.3 }.draw([7, 5], &key);
        assert_eq!(random.iter().sum::<f64>(), 10.0);
        let mask = Masks::Structured { n: 2, m: 4 }.draw([8, 3], &key);
        for col in 0..3 {
            for first in [0, 4] {
                let kept: f64 = (0..4).map(|at| mask[(first + at) * 3 + col]).sum();
                assert_eq!(kept, 2.0);
            }
        }
    }
}
