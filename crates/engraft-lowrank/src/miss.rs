//! MiSS: matrix shard sharing, with its variants Bat and Mini.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, check_dropout, positive_rank, refuse_dropout,
};
use engraft_tensor::Init;
use engraft_tensor::ops::{shard_update, shards};
use serde::{Deserialize, Serialize};

/// What the shared shard is and how it acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MissVariant {
    /// One shard D, [r, d_out], added to every block of r rows of W.
    #[default]
    Balance,
    /// A square shard for each block of r columns of W, which also multiplies W.
    Bat,
    /// One shard [r, width] repeated along the columns too; `width` divides d_out.
    Mini {
        /// Columns of the shard.
        width: usize,
    },
}

/// Configuration of [`Miss`]. Paper default: rank 64.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MissConfig {
    /// Rank r: rows of the shard.
    pub rank: usize,
    /// Which shards.
    pub variant: MissVariant,
    /// Probability of zeroing an input of the update in training; not with `bat`, whose update
    /// multiplies W.
    pub dropout: f64,
}

impl Default for MissConfig {
    fn default() -> Self {
        Self {
            rank: 64,
            variant: MissVariant::Balance,
            dropout: 0.0,
        }
    }
}

/// y = x W + b + fold(x) D, where fold(x) adds the inputs i, i + r, i + 2 r, ...: every block of r
/// rows of W receives the same shard D.
///
/// | symbol | shape | |
/// |---|---|---|
/// | D | [r, d_out] | trained, zero at first (balance) |
/// | D | [r, width] | the same, repeated d_out / width times along the columns (mini) |
/// | D | [d_out / r, r, r] | trained, zero at first (bat) |
///
/// Bat: with the blocks W_ij [r inputs, r outputs] of W, W'_ij = W_ij + D_j^T W_ij + D_j^T: the
/// update depends on W, and its rank is not bounded by r.
///
/// Kang and Yin, MiSS (first versions: Bone, block-affine), arXiv 2409.15371, section 3. A
/// remainder of d_in modulo r takes the first rows of D. The layout of Bat's shards is PEFT's.
///
/// # Cost
/// A token costs d_in + r d_out beside the base, r (width) with mini. Bat forms the weight in
/// `forward` too: r d_in d_out once, where transforming T tokens for each block of outputs would
/// cost T d_in d_out and d_out / r times the memory of x.
#[derive(Module, Debug)]
pub struct Miss {
    /// D, [1, r, d_out], [1, r, width] or [d_out / r, r, r].
    pub shards: Param<Tensor<3>>,
    /// Dropout probability on the inputs of the update.
    pub dropout: f64,
    #[module(skip)]
    variant: MissVariant,
}

impl Miss {
    /// The one shard, [r, columns].
    fn shard(&self) -> Tensor<2> {
        self.shards.val().squeeze_dim::<2>(0)
    }

    /// The changed weight, [d_in, d_out].
    fn weight(&self, base: &FrozenBase) -> Tensor<2> {
        if self.variant != MissVariant::Bat {
            return shard_update(base.weight(), self.shard());
        }
        let (d_in, d_out) = (base.d_in(), base.d_out());
        let [_, rank, _] = self.shards.dims();
        let blocks = [d_in / rank, rank, d_out / rank, rank];
        // [input block, output block, input, output] within blocks.
        let w = base.weight().reshape(blocks).swap_dims(1, 2);
        let d = self.shards.val().swap_dims(1, 2).unsqueeze::<4>();
        let update = d.clone().matmul(w) + d;
        base.weight() + update.swap_dims(1, 2).reshape([d_in, d_out])
    }
}

impl Adapter for Miss {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("miss", self.dropout, ctx)?;
        Ok(base.with_weight(self.weight(base)))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        if self.variant == MissVariant::Bat {
            return base.with_weight(self.weight(base)).forward(x);
        }
        let times = base.d_out() / self.shards.dims()[2];
        base.beside(x, self.dropout, ctx, |x, base| {
            shards(x, base, self.shard(), times)
        })
    }
}

impl MissConfig {
    /// The shape of the shards.
    fn shape(&self, d_out: usize) -> [usize; 3] {
        match self.variant {
            MissVariant::Balance => [1, self.rank, d_out],
            MissVariant::Bat => [d_out / self.rank, self.rank, self.rank],
            MissVariant::Mini { width } => [1, self.rank, width],
        }
    }
}

impl Graft for MissConfig {
    type Adapter = Miss;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        if self.rank > layer.d_in {
            return Err(format!(
                "rank {}: expected at most d_in = {}",
                self.rank, layer.d_in
            ));
        }
        let divides = |what: &str, number: usize, side: &str, size: usize| {
            if size.is_multiple_of(number) {
                Ok(())
            } else {
                Err(format!("{what} {number} does not divide {side} = {size}"))
            }
        };
        match self.variant {
            MissVariant::Balance => Ok(()),
            MissVariant::Bat => {
                divides("rank", self.rank, "d_in", layer.d_in)?;
                divides("rank", self.rank, "d_out", layer.d_out)
            }
            MissVariant::Mini { width } => divides("width", width, "d_out", layer.d_out),
        }
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.shape(layer.d_out).iter().product())
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Miss> {
        Ok(Miss {
            shards: Param::from_tensor(ctx.tensor(Init::ZEROS, self.shape(base.d_out()), "shards")),
            dropout: self.dropout,
            variant: self.variant,
        })
    }
}

impl Method for MissConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("MISS"),
        admits: "rank at most d_in; bat: rank divides both widths; mini: width divides d_out",
        ..MethodMeta::graft(
            "miss",
            "MiSS",
            Family::Lowrank,
            "2409.15371",
            "y = x W + b + fold(x) D; bat: W'_ij = W_ij + D_j^T W_ij + D_j^T",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        match self.variant {
            MissVariant::Bat if self.dropout > 0.0 => Err(format!(
                "dropout {} with `bat`: expected 0, its update has no input of its own",
                self.dropout
            )),
            MissVariant::Mini { width: 0 } => Err("width 0: expected at least 1 column".to_owned()),
            _ => Ok(()),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let square = [4, 3, 1]
            .into_iter()
            .find(|size| layer.d_in.is_multiple_of(*size) && layer.d_out.is_multiple_of(*size))
            .unwrap_or(1);
        let width = [5, 4, 3, 1]
            .into_iter()
            .find(|width| layer.d_out.is_multiple_of(*width))
            .unwrap_or(1);
        let rank = layer.d_in.min(5);
        let example = |rank, variant, dropout| Self {
            rank,
            variant,
            dropout,
        };
        vec![
            example(rank, MissVariant::Balance, 0.0),
            example(layer.d_in.min(3), MissVariant::Balance, 0.2),
            example(square, MissVariant::Bat, 0.0),
            example(rank, MissVariant::Mini { width }, 0.0),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{counts, llama_3b_qv};
    use crate::trial;

    fn config(rank: usize, variant: MissVariant) -> MissConfig {
        MissConfig {
            rank,
            variant,
            dropout: 0.0,
        }
    }

    #[test]
    fn every_block_of_rows_receives_the_same_shard() {
        let base = trial::base(11, 6, true);
        for (variant, width) in [
            (MissVariant::Balance, 6),
            (MissVariant::Mini { width: 2 }, 2),
        ] {
            let miss = trial::moved(&config(4, variant), &base);
            let update = trial::update(&miss, &base);
            let shard = engraft_tensor::bridge::to_matrix(&miss.shard());
            for i in 0..11 {
                for j in 0..6 {
                    assert!((update.get(i, j) - shard.get(i % 4, j % width)).abs() < 1e-15);
                }
            }
        }
    }

    #[test]
    fn bat_multiplies_each_block_by_its_shard() {
        let base = trial::base(6, 4, false);
        let miss = trial::moved(&config(2, MissVariant::Bat), &base);
        let update = trial::update(&miss, &base);
        let w = engraft_tensor::bridge::to_matrix(&base.weight());
        let d = engraft_tensor::bridge::values(&miss.shards.val());
        for i in 0..6 {
            for j in 0..4 {
                let d = |k: usize| d[(j / 2 * 2 + k) * 2 + i % 2];
                let own: f64 = (0..2).map(|k| d(k) * w.get(i / 2 * 2 + k, j)).sum();
                assert!((update.get(i, j) - own - d(j % 2)).abs() < 1e-14);
            }
        }
    }

    #[test]
    fn counts_are_the_published_ones() {
        // PEFT's MetaMathQA benchmark on q and v of Llama-3.2-3B, rank 64.
        let count = |variant| counts(&config(64, variant), &llama_3b_qv()).all_trained();
        assert_eq!(count(MissVariant::Bat), 7_340_032);
        assert_eq!(count(MissVariant::Balance), 7_340_032);
        assert_eq!(count(MissVariant::Mini { width: 64 }), 229_376);
    }
}
