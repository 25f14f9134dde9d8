//! OFT and COFT: orthogonal fine-tuning with a block-diagonal rotation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Gradient, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::blocks::{BlockLayout, Blocks, inadmissible};
use crate::cayley::{Cayley, skew_from_upper};
use crate::rotation::{rotate, rotate_rows};

/// Configuration of [`Oft`]. Defaults: blocks of 32, the exact transform, unconstrained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct OftConfig {
    /// The blocks: `{ size = b }` or `{ number = n }`.
    pub blocks: Blocks,
    /// `exact`, or `{ neumann = { terms = k } }`.
    pub cayley: Cayley,
    /// COFT's eps: the radius that Q is projected onto, divided by the square root of the number
    /// of blocks. Without it, Q is unconstrained.
    pub coft_eps: Option<f64>,
    /// Whether all places share one block.
    pub block_share: bool,
}

impl Default for OftConfig {
    fn default() -> Self {
        Self {
            blocks: Blocks::Size(32),
            cayley: Cayley::Exact,
            coft_eps: None,
            block_share: false,
        }
    }
}

/// y = (x R) W + b, that is W' = R W, with R block-diagonal and orthogonal.
///
/// | symbol | shape | |
/// |---|---|---|
/// | Q | [n, b (b - 1) / 2] | trained; the strictly upper triangle of each skew-symmetric block, row by row; zero at first |
/// | R | [n, b, b] | [`Cayley`] of Q |
///
/// n = d_in / b blocks, or 1 that all places share. A token costs O(d_in b) beside the layer.
///
/// Qiu et al., Controlling Text-to-Image Diffusion by Orthogonal Finetuning, arXiv 2306.07280,
/// section 3. The authors' R = (I + Q)(I - Q)^-1 is this R of -Q; the sign is PEFT's.
///
/// COFT keeps R near the identity. As in the authors' code, it is Q whose Frobenius
/// norm is held within eps / sqrt(n), block by block. The projection is straight through: it acts
/// on the value, and the gradient is the one at the projected value. The stored Q is not
/// overwritten by the projection.
#[derive(Module, Debug)]
pub struct Oft {
    /// Q, [n, b (b - 1) / 2].
    pub q: Param<Tensor<2>>,
    /// b.
    pub block_size: usize,
    #[module(skip)]
    cayley: Cayley,
    #[module(skip)]
    coft_eps: Option<f64>,
    /// The shift of the projection held constant, in the surrogate whose derivative the gradient is.
    held: Option<Tensor<2>>,
}

impl Oft {
    /// An adapter from its parameter.
    pub fn new(q: Tensor<2>, block_size: usize, cayley: Cayley, coft_eps: Option<f64>) -> Self {
        Self {
            q: Param::from_tensor(q),
            block_size,
            cayley,
            coft_eps,
            held: None,
        }
    }

    /// What the projection adds to Q, detached: nothing inside the ball.
    fn shift(&self, eps: f64) -> Tensor<2> {
        if let Some(held) = &self.held {
            return held.clone();
        }
        let q = self.q.val().detach();
        let radius = eps / (q.dims()[0] as f64).sqrt();
        // The packed triangle holds half of a block's squares.
        let norm = ((q.clone() * q.clone()).sum_dim(1) * 2.0).sqrt();
        q * ((norm.recip() * radius).clamp_max(1.0) - 1.0)
    }

    /// The blocks of R, [n, b, b].
    pub fn blocks(&self) -> Tensor<3> {
        let q = match self.coft_eps {
            Some(eps) => self.q.val() + self.shift(eps),
            None => self.q.val(),
        };
        self.cayley.rotations(skew_from_upper(q, self.block_size))
    }
}

impl Adapter for Oft {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        Ok(base.with_weight(rotate_rows(base.weight.clone(), self.blocks())))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        base.forward(rotate(x, self.blocks()))
    }

    fn surrogate(&self, _: &FrozenBase) -> Self {
        Self {
            held: self.coft_eps.map(|eps| self.shift(eps)),
            ..self.clone()
        }
    }
}

impl OftConfig {
    fn layout(&self, d_in: usize) -> Result<BlockLayout, String> {
        let BlockLayout { number, size } = self.blocks.resolve(d_in, 1)?;
        Ok(BlockLayout {
            number: if self.block_share { 1 } else { number },
            size,
        })
    }
}

impl Graft for OftConfig {
    type Adapter = Oft;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        self.layout(layer.d_in).map(drop)
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(
            self.layout(layer.d_in)
                .map_or(0, |BlockLayout { number, size }| {
                    number * size * (size - 1) / 2
                }),
        )
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Oft> {
        let BlockLayout { number, size } = self
            .layout(base.d_in())
            .map_err(|reason| inadmissible(Self::META.id, base, ctx, reason))?;
        Ok(Oft::new(
            ctx.tensor(Init::ZEROS, [number, size * (size - 1) / 2], "q"),
            size,
            self.cayley,
            self.coft_eps,
        ))
    }
}

impl Method for OftConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("OFT"),
        gradient: Gradient::Surrogate(
            "with coft-eps, the projection onto the ball is straight through; exact otherwise",
        ),
        admits: "d_in a multiple of the block size, which is at least 2",
        ..MethodMeta::graft(
            "oft",
            "OFT",
            Family::Butterfly,
            "2306.07280",
            "y = (x R) W + b, R = blockdiag((I - Q)(I + Q)^-1)",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        self.cayley.validate()?;
        match self.coft_eps {
            Some(eps) if !(eps > 0.0 && eps.is_finite()) => {
                Err(format!("coft-eps {eps}: expected a positive number"))
            }
            _ => Ok(()),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let Some(size) = (2..=layer.d_in).find(|&size| layer.d_in.is_multiple_of(size)) else {
            return Vec::new();
        };
        let small = Self {
            blocks: Blocks::Size(size),
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                blocks: Blocks::Number(1),
                block_share: true,
                ..small.clone()
            },
            Self {
                block_share: true,
                cayley: Cayley::Neumann { terms: 5 },
                ..small.clone()
            },
            Self {
                cayley: Cayley::Neumann { terms: 2 },
                ..small.clone()
            },
            Self {
                coft_eps: Some(0.1),
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::{draw, largest};

    #[test]
    fn the_rotation_is_orthogonal_and_both_forms_agree() {
        for (cayley, coft_eps, n) in [
            (Cayley::Exact, None, 3),
            (Cayley::Exact, Some(0.3), 3),
            (Cayley::Neumann { terms: 5 }, None, 3),
            (Cayley::Exact, None, 1),
        ] {
            let oft = Oft::new(draw([n, 6], 1, "q"), 4, cayley, coft_eps);
            let base = FrozenBase::new(draw([12, 5], 1, "w"), Some(draw([5], 1, "b")));
            let x = draw([7, 12], 1, "x");
            let merged = oft.effective(&base, &Ctx::default()).unwrap();
            assert!(
                largest(oft.forward(x.clone(), &base, &Ctx::default()) - merged.forward(x)) < 1e-12
            );
            if cayley == Cayley::Exact {
                // R^T R = I: angles between the columns of W survive.
                let gram = |w: Tensor<2>| w.clone().transpose().matmul(w);
                assert!(largest(gram(merged.weight) - gram(base.weight)) < 1e-12);
            }
        }
    }

    #[test]
    fn coft_scales_the_blocks_outside_the_ball_and_no_other() {
        let q = bridge::tensor(
            vec![3.0, 0.0, 4.0, 0.1, 0.0, 0.1],
            [2, 3],
            &Device::default(),
            DType::F64,
        );
        let oft = Oft::new(q.clone(), 3, Cayley::Exact, Some(1.0));
        let projected = bridge::values(&(q + oft.shift(1.0)));
        // |Q|_F = 5 sqrt(2) becomes 1 / sqrt(2 blocks).
        for (found, expected) in projected.into_iter().zip([0.3, 0.0, 0.4, 0.1, 0.0, 0.1]) {
            assert!((found - expected).abs() < 1e-15);
        }
    }

    #[test]
    fn counts_are_the_published_ones() {
        let count = |config: &OftConfig, d_in, d_out| {
            config
                .count(&LayerShape::linear("", d_in, d_out, false))
                .trainable
        };
        // PEFT's MetaMathQA benchmark: 32 blocks on q and v of Llama-3.2-3B's 28 layers.
        let config = OftConfig {
            blocks: Blocks::Number(32),
            ..OftConfig::default()
        };
        assert_eq!(
            28 * (count(&config, 3072, 3072) + count(&config, 3072, 1024)),
            8_171_520
        );
        // PSOFT, table 2: blocks of 32 on the six linear layers of each of DeBERTaV3-base's 12.
        let config = OftConfig::default();
        assert_eq!(
            12 * (5 * count(&config, 768, 768) + count(&config, 3072, 768)),
            1_285_632
        );
        let shared = OftConfig {
            block_share: true,
            ..config
        };
        assert_eq!(count(&shared, 768, 768), 32 * 31 / 2);
    }
}
