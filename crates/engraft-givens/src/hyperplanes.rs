//! Block-diagonal reflections at hyperplanes, exact and relaxed.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{InitContext, LayerShape};
use engraft_tensor::Init;
use engraft_tensor::ops::reflect;
use serde::{Deserialize, Serialize};

/// Which sides of a weight are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sides {
    /// The inputs: x H W.
    Input,
    /// The outputs: x W H.
    Output,
    /// Both: x H W H~.
    Both,
}

impl Sides {
    /// Whether the inputs and the outputs are among them.
    pub(crate) fn acts(self) -> [bool; 2] {
        [self != Self::Output, self != Self::Input]
    }

    /// The widths that are multiplied.
    pub(crate) fn widths(self, layer: &LayerShape) -> impl Iterator<Item = usize> {
        [layer.d_in, layer.d_out]
            .into_iter()
            .zip(self.acts())
            .filter_map(|(width, acts)| acts.then_some(width))
    }
}

/// Whether `width` falls into `blocks` blocks of at least 2, less than which leaves nothing to
/// reflect at: the reason if not.
pub(crate) fn admit_blocks(blocks: usize, width: usize) -> Result<(), String> {
    let fits = |blocks: &usize| *blocks > 0 && width.is_multiple_of(*blocks) && width / blocks >= 2;
    if fits(&blocks) {
        return Ok(());
    }
    let nearest = (1..=width)
        .filter(fits)
        .min_by_key(|choice| choice.abs_diff(blocks));
    Err(match nearest {
        Some(near) => format!(
            "{blocks} blocks do not cut a width of {width} into equal parts of at least 2; the nearest number that does is {near}"
        ),
        None => format!("a width of {width} has no hyperplane to reflect at; expected at least 2"),
    })
}

/// H = blockdiag(H_1, ..., H_n) with H_k = I - 2 u u^T / |u|^2, or, where there is a v,
/// H_k = I - u u^T / |u|^2 + v v^T / |v|^2. H is symmetric.
///
/// The first is the reflection at the hyperplane normal to u. The second is the identity where v is
/// parallel to u and at most sqrt(2) from it in Frobenius norm otherwise.
#[derive(Module, Debug)]
pub struct Hyperplanes {
    /// u, [n, b], one row for each block of b = d / n coordinates.
    pub u: Param<Tensor<2>>,
    /// v, [n, b].
    pub v: Option<Param<Tensor<2>>>,
}

impl Hyperplanes {
    /// `blocks` blocks on a width of d: u from U(-1/sqrt(b), 1/sqrt(b)), and v = -u if `relaxed`.
    pub(crate) fn new(
        blocks: usize,
        width: usize,
        relaxed: bool,
        role: &str,
        ctx: &InitContext,
    ) -> Self {
        let size = width / blocks;
        let init = Init::KaimingUniform { fan_in: size };
        let u: Tensor<2> = ctx.tensor(init, [blocks, size], role);
        Self {
            v: relaxed.then(|| Param::from_tensor(u.clone().neg())),
            u: Param::from_tensor(u),
        }
    }

    /// x H for tokens x [tokens, d], in O(tokens d).
    pub fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        reflect(x, self.u.val(), self.v.as_ref().map(|v| v.val()))
    }

    /// H W for a weight [d, d_out], in O(d d_out).
    pub fn apply_rows(&self, weight: Tensor<2>) -> Tensor<2> {
        self.apply(weight.transpose()).transpose()
    }
}
