//! BOFT: orthogonal fine-tuning by butterfly factorisation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, check_dropout,
};
use engraft_tensor::Init;
use engraft_tensor::ops::{butterfly, butterfly_rows};
use serde::{Deserialize, Serialize};

use crate::blocks::{BlockLayout, Blocks, inadmissible};
use crate::cayley::Cayley;
use crate::dropout::drop_blocks;
use crate::outputs::{Outputs, Retuned};
use crate::skew::Parametrisation;

/// Configuration of [`Boft`]. Defaults: BOFT(2, 8), two factors of blocks of 8, as in most of
/// the paper's tables, trained as in the authors' code. The counts of the paper's tables are those of
/// `parametrisation = "skew"` with `outputs = "scale-and-bias"` (tables 1 and 4) or `"fixed"`
/// (table 2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct BoftConfig {
    /// The blocks: `{ size = b }`, `{ near = b }` or `{ number = n }`.
    pub blocks: Blocks,
    /// Number m of butterfly factors.
    pub factors: usize,
    /// `full` or `skew`.
    pub parametrisation: Parametrisation,
    /// `scale`, `scale-and-bias` or `fixed`.
    pub outputs: Outputs,
    /// Multiplicative dropout: the share of the blocks of one factor, drawn at each step, that is
    /// replaced by the identity in training.
    pub dropout: f64,
}

impl Default for BoftConfig {
    fn default() -> Self {
        Self {
            blocks: Blocks::Size(8),
            factors: 2,
            parametrisation: Parametrisation::Full,
            outputs: Outputs::Scale,
            dropout: 0.0,
        }
    }
}

/// y = (x R) W diag(s) + b + beta with R = B_m ... B_2 B_1, B_i = P_i blockdiag(R_i) P_i^T.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [m, n, w] | trained, zero at first: skew-symmetric blocks Q of w = b^2 or b (b - 1) / 2 values each, see [`Parametrisation`] |
/// | R_i | [n, b, b] | (I - Q)(I + Q)^-1 of the blocks of A_i |
/// | s, beta | `[d_out]` | trained scale and offset of the outputs, one and zero at first, see [`Outputs`] |
/// | P_i | | butterfly permutation: the two halves of a block lie 2^(i-1) half blocks apart |
///
/// n = d_in / b. With m = 1 and s = 1 it is OFT. A token costs O(m d_in b) beside the layer; no
/// d_in x d_in matrix is formed.
///
/// Liu et al., Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization, arXiv
/// 2311.06243, section 4. By default s, and blocks stored whole rather than as their skew-symmetric
/// half, are as in the authors' code; R has m d_in (b - 1) / 2 degrees of freedom, which is what the
/// paper's text counts.
#[derive(Module, Debug)]
pub struct Boft {
    /// A, [m, n, w].
    pub a: Param<Tensor<3>>,
    /// s and beta.
    pub outputs: Retuned,
    /// b.
    pub block_size: usize,
    /// Share of dropped blocks.
    pub dropout: f64,
    #[module(skip)]
    parametrisation: Parametrisation,
}

impl Boft {
    /// The blocks R_i of all factors, [m, n, b, b].
    pub fn factors(&self, ctx: &Ctx) -> Tensor<4> {
        let ([m, n, width], b) = (self.a.dims(), self.block_size);
        let values = self.a.val().reshape([m * n, width]);
        let blocks = self.parametrisation.rotations(Cayley::Exact, values, b);
        drop_blocks(blocks, m, self.dropout, ctx).reshape([m, n, b, b])
    }
}

impl Adapter for Boft {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        let rotated = butterfly_rows(base.weight(), self.factors(ctx));
        Ok(self.outputs.layer(base, rotated))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        self.outputs.apply(base, butterfly(x, self.factors(ctx)))
    }
}

impl Graft for BoftConfig {
    type Adapter = Boft;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        self.blocks.resolve(layer.d_in, self.factors).map(drop)
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let rotation = self
            .blocks
            .resolve(layer.d_in, self.factors)
            .map_or(0, |BlockLayout { number, size }| {
                self.factors * number * self.parametrisation.width(size)
            });
        Counts::trained(rotation + self.outputs.count(layer.d_out))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Boft> {
        let BlockLayout { number, size } = self
            .blocks
            .resolve(base.d_in(), self.factors)
            .map_err(|reason| inadmissible(Self::META.id, base, ctx, reason))?;
        let shape = [self.factors, number, self.parametrisation.width(size)];
        Ok(Boft {
            a: Param::from_tensor(ctx.tensor(Init::ZEROS, shape, "a")),
            outputs: self.outputs.init(base.d_out(), ctx),
            block_size: size,
            dropout: self.dropout,
            parametrisation: self.parametrisation,
        })
    }
}

impl Method for BoftConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("BOFT"),
        admits: "d_in a multiple of the block size b >= 2; with m > 1 factors, b even and d_in a multiple of 2^(m-1) b",
        ..MethodMeta::graft(
            "boft",
            "BOFT",
            Family::Butterfly,
            "2311.06243",
            "y = (x B_m ... B_1) W diag(s) + b + beta, B_i = P_i blockdiag(R_i) P_i^T",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if self.factors == 0 {
            return Err("0 butterfly factors: expected at least 1".to_owned());
        }
        check_dropout(self.dropout)
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let first = |factors: usize| {
            (2..=layer.d_in)
                .map(Blocks::Size)
                .find(|blocks| blocks.resolve(layer.d_in, factors).is_ok())
        };
        let mut examples: Vec<Self> = (1..=3)
            .filter_map(|factors| {
                Some(Self {
                    blocks: first(factors)?,
                    factors,
                    ..Self::default()
                })
            })
            .collect();
        if let Some(last) = examples.last().cloned() {
            examples.push(Self {
                dropout: 0.5,
                ..last.clone()
            });
            examples.push(Self {
                parametrisation: Parametrisation::Skew,
                outputs: Outputs::ScaleAndBias,
                ..last
            });
            examples.push(Self {
                blocks: Blocks::Number(1),
                factors: 1,
                outputs: Outputs::Fixed,
                ..Self::default()
            });
        }
        examples
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::{Bank, Mode};
    use engraft_tensor::bridge;

    use super::*;
    use crate::cayley::eye;
    use crate::testing::{draw, largest};

    fn random(m: usize, n: usize, b: usize, d_out: usize, dropout: f64) -> (Boft, FrozenBase) {
        let boft = Boft {
            a: Param::from_tensor(draw([m, n, b * b], 2, "a")),
            outputs: Retuned {
                s: Some(Param::from_tensor(draw([d_out], 2, "s"))),
                beta: Some(Param::from_tensor(draw([d_out], 2, "beta"))),
            },
            block_size: b,
            dropout,
            parametrisation: Parametrisation::Full,
        };
        (
            boft,
            FrozenBase::new(draw([n * b, d_out], 2, "w"), Some(draw([d_out], 2, "b"))),
        )
    }

    #[test]
    fn the_rotation_is_orthogonal_and_both_forms_agree() {
        let bank = Bank::default();
        for (m, n, b) in [
            (1, 6, 4),
            (2, 8, 4),
            (3, 8, 4),
            (1, 3, 5),
            (4, 8, 2),
            (1, 1, 6),
        ] {
            let (boft, base) = random(m, n, b, 7, 0.5);
            for mode in [Mode::Eval, Mode::Train { seed: 1, step: 2 }] {
                let ctx = Ctx::new(&bank, mode);
                let merged = boft.effective(&base, &ctx).unwrap();
                let x = draw([3, n * b], 2, "x");
                assert!(largest(boft.forward(x.clone(), &base, &ctx) - merged.forward(x)) < 1e-12);
                // With s = 1, R^T R = I: lengths and angles of the columns of W survive.
                let s = boft.outputs.s.as_ref().map(|s| s.val().unsqueeze());
                let unscaled = merged.weight() / s.unwrap();
                let gram = |w: Tensor<2>| w.clone().transpose().matmul(w);
                assert!(largest(gram(unscaled) - gram(base.weight())) < 1e-11);
            }
        }
    }

    #[test]
    fn m_factors_reach_every_output_from_every_input_of_a_group() {
        // Blocks of 2 on a width of 8: three factors connect all coordinates, as in an FFT.
        let (boft, _) = random(3, 4, 2, 8, 0.0);
        let rotate = |m: usize| {
            let identity = eye(8, &boft.a.device(), boft.a.val().dtype()).reshape([8, 8]);
            let factors = boft.factors(&Ctx::default()).narrow(0, 0, m);
            let r = butterfly(identity, factors);
            bridge::values(&r)
                .into_iter()
                .filter(|value| value.abs() > 1e-12)
                .count()
        };
        assert_eq!([rotate(1), rotate(2), rotate(3)], [16, 32, 64]);
    }

    #[test]
    fn dropout_replaces_its_share_of_the_blocks_of_one_factor() {
        let (boft, _) = random(2, 8, 4, 3, 0.3);
        let bank = Bank::default();
        let plain = boft.factors(&Ctx::default());
        let dropped = boft.factors(&Ctx::new(&bank, Mode::Train { seed: 3, step: 0 }));
        let block = |blocks: &Tensor<4>, factor, block| {
            let blocks = blocks.clone().narrow(0, factor, 1).narrow(1, block, 1);
            blocks.reshape([4, 4])
        };
        let changed = [0, 1].map(|factor| {
            let moved = |k: &usize| {
                let apart: Tensor<2> = block(&plain, factor, *k) - block(&dropped, factor, *k);
                largest(apart) > 0.0
            };
            (0..8).filter(moved).count()
        });
        assert!(changed == [2, 0] || changed == [0, 2], "{changed:?}");
    }

    #[test]
    fn counts_are_the_published_ones() {
        let count = |config: &BoftConfig, d_in, d_out| {
            config
                .count(&LayerShape::linear("", d_in, d_out, false))
                .trainable
        };
        let boft = |factors, size, parametrisation, outputs| BoftConfig {
            blocks: Blocks::Size(size),
            factors,
            parametrisation,
            outputs,
            dropout: 0.0,
        };
        let (full, skew) = (Parametrisation::Full, Parametrisation::Skew);
        // PEFT's MetaMathQA benchmark: one factor of blocks of 4 on q and v of Llama-3.2-3B's 28 layers.
        let config = boft(1, 4, full, Outputs::Scale);
        assert_eq!(
            28 * (count(&config, 3072, 3072) + count(&config, 3072, 1024)),
            802_816
        );
        // SVFT, table 1: BOFT(2, 8) on q and v of Gemma-2B's 18 layers and of LLaMA-3-8B's 32 (printed
        // as 1.22M and 4.35M); tables 4 and 9: ViT-B/16 and ViT-L/16, 0.07M, 0.20M and 0.30M.
        let config = BoftConfig::default();
        assert_eq!(
            18 * (count(&config, 2048, 2048) + count(&config, 2048, 256)),
            1_221_120
        );
        assert_eq!(
            32 * (count(&config, 4096, 4096) + count(&config, 4096, 1024)),
            4_358_144
        );
        let config = boft(2, 2, full, Outputs::Fixed);
        assert_eq!(24 * count(&config, 768, 768), 73_728);
        assert_eq!(48 * count(&config, 1024, 1024), 196_608);
        let config = boft(4, 4, skew, Outputs::Fixed);
        assert_eq!(48 * count(&config, 1024, 1024), 294_912);
        // BOFT, tables 1 and 4: all six linear layers of DeBERTaV3-base and of DINOv2-large.
        let all = |config: &BoftConfig, d, layers| {
            layers * (4 * count(config, d, d) + count(config, d, 4 * d) + count(config, 4 * d, d))
        };
        let config = boft(2, 8, skew, Outputs::ScaleAndBias);
        assert_eq!(all(&config, 768, 12), 746_496);
        assert_eq!(all(&config, 1024, 24), 1_990_656);
        let config = boft(4, 4, skew, Outputs::ScaleAndBias);
        assert_eq!(all(&config, 1024, 24), 1_769_472);
        // Table 2: all seven linear layers of Llama-2-7B's 32 (0.12%).
        let config = boft(2, 8, skew, Outputs::Fixed);
        let block = 4 * count(&config, 4096, 4096)
            + 2 * count(&config, 4096, 11008)
            + count(&config, 11008, 4096);
        assert_eq!(32 * block, 7_970_816);
    }
}
