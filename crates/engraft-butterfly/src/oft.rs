//! OFT and COFT: orthogonal fine-tuning with a block-diagonal rotation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Gradient, Graft, Image, InitContext, LayerKind,
    LayerShape, Lookup, Method, MethodMeta, Parts, Patches, Result, check_dropout,
};
use engraft_tensor::Init;
use engraft_tensor::ops::{matmul, rotate, rotate_rows};
use serde::{Deserialize, Serialize};

use crate::blocks::{BlockLayout, Blocks, inadmissible};
use crate::cayley::Cayley;
use crate::dropout::drop_blocks;
use crate::outputs::{Outputs, Retuned};
use crate::skew::Parametrisation;

/// What is rotated of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Convolution {
    /// Its kernel, and so each patch that it sees: W' = R W, as the paper has it.
    #[default]
    Kernel,
    /// The image, as in PEFT 0.21.2's active adapter: its patches at every pixel, without padding, are
    /// rotated and added up in a new image, which the convolution then sees. PEFT does so with the
    /// values of a channel in the order (patch, pixel) where (pixel, patch) is meant, so that they end
    /// up elsewhere. No kernel does the same, not even with R = I; merging makes W' = R W
    /// nevertheless, which is what PEFT does. For adapters trained in PEFT only.
    Image,
}

/// Configuration of [`Oft`]. Defaults: blocks of 32, the exact transform, unconstrained, nothing but
/// the rotation trained. OFT in the tables of the BOFT paper is `outputs = "scale-and-bias"`, in
/// those of qGOFT `parametrisation = "full"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct OftConfig {
    /// The blocks: `{ size = b }`, `{ near = b }` or `{ number = n }`.
    pub blocks: Blocks,
    /// `skew` or `full`.
    pub parametrisation: Parametrisation,
    /// `exact`, or `{ neumann = { terms = k } }`.
    pub cayley: Cayley,
    /// COFT's eps: the radius that Q is projected onto, divided by the square root of the number
    /// of blocks. Without it, Q is unconstrained.
    pub coft_eps: Option<f64>,
    /// Whether all places share one block.
    pub block_share: bool,
    /// `fixed`, `scale` or `scale-and-bias`.
    pub outputs: Outputs,
    /// Multiplicative dropout: the share of the blocks, drawn at each step, that is replaced by the
    /// identity in training.
    pub dropout: f64,
    /// `kernel`, or `image` for convolutions of adapters trained in PEFT.
    pub convolution: Convolution,
}

impl Default for OftConfig {
    fn default() -> Self {
        Self {
            blocks: Blocks::Size(32),
            parametrisation: Parametrisation::Skew,
            cayley: Cayley::Exact,
            coft_eps: None,
            block_share: false,
            outputs: Outputs::Fixed,
            dropout: 0.0,
            convolution: Convolution::Kernel,
        }
    }
}

/// y = (x R) W diag(s) + b + beta, that is W' = R W diag(s), with R block-diagonal and orthogonal. On
/// an embedding, whose inputs are indices, it is the vectors that are rotated: y = (x W) R.
///
/// | symbol | shape | |
/// |---|---|---|
/// | Q | [n, w] | trained, zero at first: skew-symmetric blocks of w = b (b - 1) / 2 or b^2 values each, see [`Parametrisation`] |
/// | R | [n, b, b] | [`Cayley`] of Q |
/// | s, beta | `[d_out]` | trained scale and offset of the outputs, one and zero at first, see [`Outputs`] |
///
/// n = d_in / b blocks, or 1 that all places share. A token costs O(d_in b) beside the layer.
///
/// Qiu et al., Controlling Text-to-Image Diffusion by Orthogonal Finetuning, arXiv 2306.07280,
/// section 3; s is its magnitude fitting. The authors' R = (I + Q)(I - Q)^-1 is this R of -Q; the sign
/// is PEFT's.
///
/// COFT keeps R near the identity. As in the authors' code, it is Q whose Frobenius
/// norm is held within eps / sqrt(n), block by block. The projection is straight through: it acts
/// on the value, and the gradient is the one at the projected value. The stored Q is not
/// overwritten by the projection.
#[derive(Module, Debug)]
pub struct Oft {
    /// Q, [n, w].
    pub q: Param<Tensor<2>>,
    /// s and beta.
    pub outputs: Retuned,
    /// b.
    pub block_size: usize,
    /// Share of dropped blocks.
    pub dropout: f64,
    /// Whether the outputs are rotated, and not the inputs.
    pub rotates_outputs: bool,
    #[module(skip)]
    convolution: Convolution,
    #[module(skip)]
    parametrisation: Parametrisation,
    #[module(skip)]
    cayley: Cayley,
    #[module(skip)]
    coft_eps: Option<f64>,
    /// The shift of the projection held constant, in the surrogate whose derivative the gradient is.
    held: Option<Tensor<3>>,
}

impl Oft {
    /// Q as it is trained, [n, b, b].
    fn skew(&self) -> Tensor<3> {
        self.parametrisation.matrices(self.q.val(), self.block_size)
    }

    /// What the projection adds to Q, detached: nothing inside the ball.
    fn shift(&self, q: Tensor<3>, eps: f64) -> Tensor<3> {
        if let Some(held) = &self.held {
            return held.clone();
        }
        let q = q.detach();
        let radius = eps / (q.dims()[0] as f64).sqrt();
        let norm = (q.clone() * q.clone()).sum_dim(1).sum_dim(2).sqrt();
        q * ((norm.recip() * radius).clamp_max(1.0) - 1.0)
    }

    /// The blocks of R, [n, b, b].
    pub fn blocks(&self, ctx: &Ctx) -> Tensor<3> {
        let (cayley, b) = (self.cayley, self.block_size);
        let blocks = match self.coft_eps {
            Some(eps) => {
                let q = self.skew();
                cayley.rotations(q.clone() + self.shift(q, eps))
            }
            None => self.parametrisation.rotations(cayley, self.q.val(), b),
        };
        drop_blocks(blocks, 1, self.dropout, ctx)
    }
}

impl Adapter for Oft {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        let (weight, blocks) = (base.weight(), self.blocks(ctx));
        let rotated = if self.rotates_outputs {
            rotate(weight, blocks)
        } else {
            rotate_rows(weight, blocks)
        };
        Ok(self.outputs.layer(base, rotated))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let blocks = self.blocks(ctx);
        if self.rotates_outputs {
            let y = rotate(matmul(x, base.weight()), blocks);
            return self.outputs.retune(base, y);
        }
        let rotated = match (ctx.image(), self.convolution) {
            (Some(image), Convolution::Image) => rotate_image(image, blocks),
            _ => rotate(x, blocks),
        };
        self.outputs.apply(base, rotated)
    }

    fn lookup(&self, rows: &Lookup, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        // An embedding has no bias, and only the vectors that occur are rotated.
        let vectors = rows.of(base.weight());
        self.outputs.retune(base, rotate(vectors, self.blocks(ctx)))
    }

    fn surrogate(&self, _: &FrozenBase) -> Self {
        Self {
            held: self.coft_eps.map(|eps| self.shift(self.skew(), eps)),
            ..self.clone()
        }
    }
}

/// The tokens of a convolution whose image was rotated; see [`Convolution::Image`].
fn rotate_image(image: &Image, blocks: Tensor<3>) -> Tensor<2> {
    let every = Patches::of(image.patches.kernel);
    let dims @ [batch, channels, height, width] = image.pixels.dims();
    let [rows, columns] = every.grid([height, width]);
    let (count, pixels) = (rows * columns, every.kernel[0] * every.kernel[1]);
    let misplaced = rotate(every.unfold(image.pixels.clone()), blocks)
        .reshape([batch, count, channels, pixels])
        .swap_dims(1, 2)
        .reshape([batch, channels * pixels, count])
        .swap_dims(1, 2)
        .reshape([batch * count, channels * pixels]);
    image.patches.unfold(every.fold(misplaced, dims))
}

impl OftConfig {
    /// The blocks that are stored for a width of d.
    fn layout(&self, d: usize) -> Result<BlockLayout, String> {
        let BlockLayout { number, size } = self.blocks.resolve(d, 1)?;
        Ok(BlockLayout {
            number: if self.block_share { 1 } else { number },
            size,
        })
    }
}

/// The width that is rotated.
fn width(layer: &LayerShape) -> usize {
    match layer.kind {
        LayerKind::Embedding => layer.d_out,
        LayerKind::Linear | LayerKind::Conv2d { .. } | LayerKind::Experts => layer.d_in,
    }
}

impl Graft for OftConfig {
    type Adapter = Oft;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        self.layout(width(layer)).map(drop)
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let rotation = self
            .layout(width(layer))
            .map_or(0, |BlockLayout { number, size }| {
                number * self.parametrisation.width(size)
            });
        Counts::trained(rotation + self.outputs.count(layer.d_out))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Oft> {
        let layer = LayerShape {
            kind: ctx.kind,
            ..base.shape(ctx.path)
        };
        let BlockLayout { number, size } = self
            .layout(width(&layer))
            .map_err(|reason| inadmissible(Self::META.id, base, ctx, reason))?;
        let shape = [number, self.parametrisation.width(size)];
        Ok(Oft {
            q: Param::from_tensor(ctx.tensor(Init::ZEROS, shape, "q")),
            outputs: self.outputs.init(base.d_out(), ctx),
            block_size: size,
            dropout: self.dropout,
            rotates_outputs: ctx.kind == LayerKind::Embedding,
            convolution: self.convolution,
            parametrisation: self.parametrisation,
            cayley: self.cayley,
            coft_eps: self.coft_eps,
            held: None,
        })
    }
}

impl Method for OftConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("OFT"),
        gradient: Gradient::Surrogate(
            "with coft-eps, the projection onto the ball is straight through; exact otherwise",
        ),
        admits: "d_in (d_out of an embedding) a multiple of the block size, which is at least 2",
        ..MethodMeta::graft(
            "oft",
            "OFT",
            Family::Butterfly,
            "2306.07280",
            "y = (x R) W diag(s) + b + beta, R = blockdiag((I - Q)(I + Q)^-1)",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        self.cayley.validate()?;
        check_dropout(self.dropout)?;
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
                ..small.clone()
            },
            Self {
                blocks: Blocks::Near(4),
                parametrisation: Parametrisation::Full,
                outputs: Outputs::ScaleAndBias,
                coft_eps: Some(0.2),
                ..small.clone()
            },
            Self {
                outputs: Outputs::Scale,
                dropout: 0.5,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests;
