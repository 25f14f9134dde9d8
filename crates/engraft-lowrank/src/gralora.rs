//! GraLoRA: granular low-rank adaptation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, check_dropout, positive_rank, refuse_dropout,
};
use engraft_tensor::Init;
use engraft_tensor::ops::{block_low_rank, block_low_rank_update, matmul};
use serde::{Deserialize, Serialize};

/// Configuration of [`Gralora`]. Paper defaults: rank 32 with 2 x 2 blocks, alpha 2 r.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct GraloraConfig {
    /// Rank r; each block has rank r / k.
    pub rank: usize,
    /// Rank of the plain LoRA beside it (hybrid GraLoRA); 0 for none.
    pub hybrid_rank: usize,
    /// alpha; s = alpha / (r + hybrid rank).
    pub alpha: f64,
    /// k: blocks along each side of W.
    pub blocks: usize,
    /// Probability of zeroing an input in training.
    pub dropout: f64,
}

impl Default for GraloraConfig {
    fn default() -> Self {
        Self {
            rank: 32,
            hybrid_rank: 0,
            alpha: 64.0,
            blocks: 2,
            dropout: 0.0,
        }
    }
}

/// y = x W + b + s (x dW + x A' B'), where dW is k x k blocks, each with a low-rank product of its
/// own: the block from inputs n to outputs j is A_nj B_nj of rank r / k.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [k, d_in / k, r] | trained, random at first; A_nj is columns j r/k ... of A_n |
/// | B | [k, r, d_out / k] | trained, zero at first; B_nj is rows n r/k ... of B_j |
/// | A', B' | [d_in, r'], [r', d_out] | trained, B' zero at first; hybrid only |
/// | s | | alpha / (r + r') |
///
/// Jung et al., GraLoRA: Granular Low-Rank Adaptation for Parameter-Efficient Fine-Tuning, arXiv
/// 2505.20355, section 3 (hybrid: section 3.4). As many parameters as LoRA of rank r + r', and dW
/// has rank up to k r. The paper recommends k = 2 up to rank 32 and k = 4 from rank 64.
///
/// # Cost
/// A token costs r (d_in + d_out), as LoRA: only the r values between A and B change places.
#[derive(Module, Debug)]
pub struct Gralora {
    /// A, [k, d_in / k, r].
    pub a: Param<Tensor<3>>,
    /// B, [k, r, d_out / k].
    pub b: Param<Tensor<3>>,
    /// A', [d_in, r'].
    pub general_a: Option<Param<Tensor<2>>>,
    /// B', [r', d_out].
    pub general_b: Option<Param<Tensor<2>>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs.
    pub dropout: f64,
}

impl Gralora {
    /// A' and B'.
    fn general(&self) -> Option<(Tensor<2>, Tensor<2>)> {
        Some((
            self.general_a.as_ref()?.val(),
            self.general_b.as_ref()?.val(),
        ))
    }
}

impl Adapter for Gralora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("gralora", self.dropout, ctx)?;
        let (a, b) = (self.a.val(), self.b.val());
        let weight = block_low_rank_update(base.weight(), a, b, self.scaling);
        let layer = base.with_weight(weight);
        Ok(match self.general() {
            Some(factors) => layer.with_low_rank(factors, self.scaling),
            None => layer,
        })
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        base.beside(x, self.dropout, ctx, |x, base| {
            let (a, b) = (self.a.val(), self.b.val());
            let y = block_low_rank(x.clone(), base, a, b, self.scaling);
            match self.general() {
                Some((a, b)) => y + matmul(matmul(x, a) * self.scaling, b),
                None => y,
            }
        })
    }
}

impl Graft for GraloraConfig {
    type Adapter = Gralora;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        for (side, size) in [("d_in", layer.d_in), ("d_out", layer.d_out)] {
            if !size.is_multiple_of(self.blocks) {
                return Err(format!(
                    "{} blocks do not divide {side} = {size}",
                    self.blocks
                ));
            }
        }
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained((self.rank + self.hybrid_rank) * (layer.d_in + layer.d_out))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Gralora> {
        let (k, rank, hybrid) = (self.blocks, self.rank, self.hybrid_rank);
        let (d_in, d_out) = (base.d_in(), base.d_out());
        let random = |fan_in| Init::KaimingUniform { fan_in };
        let general = |init: Init, shape: [usize; 2], role: &str| {
            (hybrid > 0).then(|| Param::from_tensor(ctx.tensor(init, shape, role)))
        };
        Ok(Gralora {
            a: Param::from_tensor(ctx.tensor(random(d_in / k), [k, d_in / k, rank], "a")),
            b: Param::from_tensor(ctx.tensor(Init::ZEROS, [k, rank, d_out / k], "b")),
            general_a: general(random(d_in), [d_in, hybrid], "general_a"),
            general_b: general(Init::ZEROS, [hybrid, d_out], "general_b"),
            scaling: self.alpha / (rank + hybrid) as f64,
            dropout: self.dropout,
        })
    }
}

impl Method for GraloraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("GRALORA"),
        admits: "linear layers whose widths the number of blocks divides",
        ..MethodMeta::graft(
            "gralora",
            "GraLoRA",
            Family::Lowrank,
            "2505.20355",
            "y = x W + b + s (x dW + x A' B'), the k x k blocks of dW are A_nj B_nj of rank r / k",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        if self.blocks == 0 || !self.rank.is_multiple_of(self.blocks) {
            return Err(format!(
                "blocks {}: expected a divisor of rank = {}",
                self.blocks, self.rank
            ));
        }
        Ok(())
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let blocks = [4, 3, 2, 1]
            .into_iter()
            .find(|k| layer.d_in.is_multiple_of(*k) && layer.d_out.is_multiple_of(*k))
            .unwrap_or(1);
        let example = |rank, hybrid_rank, blocks, dropout| Self {
            rank,
            hybrid_rank,
            alpha: 3.0,
            blocks,
            dropout,
        };
        vec![
            example(blocks, 0, blocks, 0.0),
            example(2 * blocks, 2, blocks, 0.1),
            example(3, 1, 1, 0.0),
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_linalg::{Matrix, svd};

    use super::*;
    use crate::trial;

    fn rank(matrix: &Matrix) -> usize {
        let values = svd(matrix).unwrap().s;
        values.iter().filter(|s| **s > 1e-12 * values[0]).count()
    }

    #[test]
    fn blocks_have_rank_r_over_k_and_the_update_k_r() {
        let config = GraloraConfig {
            rank: 4,
            blocks: 2,
            alpha: 3.0,
            ..GraloraConfig::default()
        };
        let base = trial::base(18, 14, true);
        let update = trial::update(&trial::moved(&config, &base), &base);
        assert_eq!(rank(&update), 8);
        for (n, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let block = Matrix::from_fn(9, 7, |i, o| update.get(n * 9 + i, j * 7 + o));
            assert_eq!(rank(&block), 2, "block {n}, {j}");
        }
    }

    #[test]
    fn one_block_with_a_hybrid_is_lora() {
        let config = GraloraConfig {
            rank: 2,
            hybrid_rank: 3,
            blocks: 1,
            ..GraloraConfig::default()
        };
        let base = trial::base(9, 7, false);
        let update = trial::update(&trial::moved(&config, &base), &base);
        assert_eq!(rank(&update), 5);
        let layer = LayerShape::linear("", 9, 7, false);
        assert_eq!(config.count(&layer).trainable, 5 * 16);
    }
}
