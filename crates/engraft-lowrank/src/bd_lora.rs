//! BD-LoRA: LoRA with one block-diagonal factor.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, Scaling, check_dropout, dropout, positive_rank, refuse_dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

/// The factor that is block-diagonal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockDiagonal {
    /// A: for layers whose inputs are divided among devices (attention output, down projection).
    A,
    /// B: for layers whose outputs are divided (query, key, value, up and gate projections).
    #[default]
    B,
    /// Neither: plain LoRA, on layers that are not divided.
    Neither,
}

/// Configuration of [`BdLora`]. Rank 8, alpha 16 as LoRA; the number of blocks is the number of
/// devices that a server divides the layer among (8 in the paper).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct BdLoraConfig {
    /// Rank r.
    pub rank: usize,
    /// alpha; see [`Scaling`].
    pub alpha: f64,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Whether an offset c is trained behind B.
    pub bias: bool,
    /// Blocks n; they divide the rank and the block-diagonal factor's outer width.
    pub blocks: usize,
    /// Which factor is block-diagonal.
    pub block_diagonal: BlockDiagonal,
}

impl Default for BdLoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            scaling: Scaling::Classic,
            dropout: 0.0,
            bias: false,
            blocks: 8,
            block_diagonal: BlockDiagonal::B,
        }
    }
}

impl BdLoraConfig {
    /// Blocks of A and of B.
    fn blocks(&self) -> [usize; 2] {
        match self.block_diagonal {
            BlockDiagonal::A => [self.blocks, 1],
            BlockDiagonal::B => [1, self.blocks],
            BlockDiagonal::Neither => [1, 1],
        }
    }
}

/// y = x W + b + s (x A B + c), A or B = diag(D_1, ..., D_n).
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [d_in, r], or [d_in / n, r] of which block i is columns i r/n to (i+1) r/n | trained, random at first |
/// | B | [r, d_out], or [r / n, d_out] of which block i is columns i d_out/n to (i+1) d_out/n | trained, zero at first |
/// | c | `[d_out]` | trained, zero at first; only with `bias` |
/// | s | | alpha / r, or alpha / sqrt(r) |
///
/// Wang et al., Block-Diagonal LoRA for Eliminating Communication Overhead in Tensor Parallel LoRA
/// Serving, arXiv 2510.23346, section 3. As in PEFT, a block-diagonal A starts at
/// U(-sqrt(6 n / d_in), sqrt(6 n / d_in)), a dense one as LoRA's. The activation form multiplies
/// block by block: the block-diagonal factor costs 1/n of a dense one.
#[derive(Module, Debug)]
pub struct BdLora {
    /// A's blocks side by side, [d_in / n, r].
    pub a: Param<Tensor<2>>,
    /// B's blocks side by side, [r / n, d_out].
    pub b: Param<Tensor<2>>,
    /// c, `[d_out]`.
    pub c: Option<Param<Tensor<1>>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of A.
    pub dropout: f64,
    a_blocks: usize,
    b_blocks: usize,
}

/// Blocks side by side, [m, n w], as a stack [n, m, w].
fn stack(blocks: Tensor<2>, n: usize) -> Tensor<3> {
    let [m, width] = blocks.dims();
    blocks.reshape([m, n, width / n]).swap_dims(0, 1)
}

/// x diag(D_1, ..., D_n): x [tokens, n m], blocks [m, n w], result [tokens, n w].
fn times_diagonal(x: Tensor<2>, blocks: Tensor<2>, n: usize) -> Tensor<2> {
    if n == 1 {
        return x.matmul(blocks);
    }
    let ([tokens, _], [m, width]) = (x.dims(), blocks.dims());
    let parts = x.reshape([tokens, n, m]).swap_dims(0, 1);
    parts
        .matmul(stack(blocks, n))
        .swap_dims(0, 1)
        .reshape([tokens, width])
}

impl Adapter for BdLora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("bd-lora", self.dropout, ctx)?;
        let (a, b, n) = (self.a.val(), self.b.val(), self.a_blocks);
        let update = if n == 1 {
            times_diagonal(a, b, self.b_blocks)
        } else {
            let [rank, d_out] = b.dims();
            stack(a, n)
                .matmul(b.reshape([n, rank / n, d_out]))
                .reshape([base.d_in(), d_out])
        };
        let c = self.c.as_ref().map(|c| c.val() * self.scaling);
        let bias = match (base.bias.clone(), c) {
            (Some(bias), Some(c)) => Some(bias + c),
            (bias, c) => bias.or(c),
        };
        Ok(FrozenBase::new(base.weight() + update * self.scaling, bias))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let dropped = dropout(x.clone(), self.dropout, ctx);
        let narrow = times_diagonal(dropped, self.a.val(), self.a_blocks) * self.scaling;
        let y = base.forward(x) + times_diagonal(narrow, self.b.val(), self.b_blocks);
        match &self.c {
            Some(c) => y + (c.val() * self.scaling).unsqueeze(),
            None => y,
        }
    }
}

impl Graft for BdLoraConfig {
    type Adapter = BdLora;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        let (what, width) = match self.block_diagonal {
            BlockDiagonal::A => ("d_in", layer.d_in),
            BlockDiagonal::B => ("d_out", layer.d_out),
            BlockDiagonal::Neither => return Ok(()),
        };
        if width.is_multiple_of(self.blocks) {
            Ok(())
        } else {
            Err(format!(
                "{} blocks: expected a divisor of {what} = {width}",
                self.blocks
            ))
        }
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let [a, b] = self.blocks();
        let offset = if self.bias { layer.d_out } else { 0 };
        Counts::trained(self.rank * (layer.d_in / a) + (self.rank / b) * layer.d_out + offset)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<BdLora> {
        let ([a_blocks, b_blocks], d_out) = (self.blocks(), base.d_out());
        let inputs = base.d_in() / a_blocks;
        let start = match self.block_diagonal {
            BlockDiagonal::A => Init::Uniform {
                bound: (6.0 / inputs as f64).sqrt(),
            },
            _ => Init::KaimingUniform { fan_in: inputs },
        };
        Ok(BdLora {
            a: Param::from_tensor(ctx.tensor(start, [inputs, self.rank], "a")),
            b: Param::from_tensor(ctx.tensor(Init::ZEROS, [self.rank / b_blocks, d_out], "b")),
            c: self
                .bias
                .then(|| Param::from_tensor(ctx.tensor(Init::ZEROS, [d_out], "c"))),
            scaling: self.scaling.factor(self.alpha, self.rank),
            dropout: self.dropout,
            a_blocks,
            b_blocks,
        })
    }
}

impl Method for BdLoraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        admits: "a linear layer whose d_in (A) or d_out (B) the blocks divide",
        ..MethodMeta::graft(
            "bd-lora",
            "BD-LoRA",
            Family::Lowrank,
            "2510.23346",
            "y = x W + b + s (x A B + c), A or B block-diagonal",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        let divided = self.block_diagonal != BlockDiagonal::Neither;
        if self.blocks == 0 || (divided && !self.rank.is_multiple_of(self.blocks)) {
            return Err(format!(
                "{} blocks: expected a divisor of the rank {}",
                self.blocks, self.rank
            ));
        }
        Ok(())
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let dividing = |width: usize| {
            (1..=3)
                .rev()
                .find(|n| width.is_multiple_of(*n))
                .unwrap_or(1)
        };
        let of = |block_diagonal, blocks: usize| Self {
            rank: 2 * blocks,
            alpha: 3.0,
            blocks,
            block_diagonal,
            ..Self::default()
        };
        vec![
            of(BlockDiagonal::A, dividing(layer.d_in)),
            Self {
                scaling: Scaling::RankStabilised,
                bias: true,
                ..of(BlockDiagonal::B, dividing(layer.d_out))
            },
            Self {
                dropout: 0.1,
                ..of(BlockDiagonal::Neither, 1)
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::{attach, base, forms_differ, normal};

    #[test]
    fn blocks_do_not_mix_inputs_or_outputs() {
        let base = base([12, 6]);
        for block_diagonal in [BlockDiagonal::A, BlockDiagonal::B] {
            let config = BdLoraConfig {
                rank: 6,
                blocks: 3,
                block_diagonal,
                ..BdLoraConfig::default()
            };
            let mut adapter = attach(&config, &base);
            adapter.b = Param::from_tensor(normal(adapter.b.val().dims(), "b"));
            assert!(forms_differ(&adapter, &base) < 1e-12);
            // With only the first block of the other factor, the update has the first third alone.
            let keep = |x: Tensor<2>, dim: usize| {
                let dims = x.dims();
                let third = x.narrow(dim, 0, dims[dim] / 3);
                let mut rest = dims;
                rest[dim] -= dims[dim] / 3;
                let zeros = Tensor::zeros(rest, (&third.device(), third.dtype()));
                Tensor::cat(vec![third, zeros], dim)
            };
            match block_diagonal {
                BlockDiagonal::A => {
                    adapter.b = Param::from_tensor(keep(adapter.b.val(), 0));
                }
                _ => adapter.a = Param::from_tensor(keep(adapter.a.val(), 1)),
            }
            let changed =
                adapter.effective(&base, &Ctx::default()).unwrap().weight() - base.weight();
            let values = bridge::to_matrix(&changed);
            for i in 0..12 {
                for j in 0..6 {
                    let inside = match block_diagonal {
                        BlockDiagonal::A => i < 4,
                        _ => j < 2,
                    };
                    assert_eq!(
                        values.get(i, j) != 0.0,
                        inside,
                        "{block_diagonal:?} {i} {j}"
                    );
                }
            }
        }
    }
}
