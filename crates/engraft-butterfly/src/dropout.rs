//! Multiplicative dropout: blocks of a rotation replaced by the identity.

use burn::tensor::Tensor;
use engraft_core::Ctx;
use engraft_tensor::bridge;
use rand::RngExt;

use crate::cayley::eye;

/// `share` of the n blocks of one factor, drawn at each training step, replaced by the identity;
/// all blocks in evaluation. `blocks` holds those of all m factors, [m n, b, b].
///
/// Liu et al., arXiv 2311.06243, section 4. The number dropped is share n rounded down, as in the
/// authors' code: a single block is never dropped.
pub(crate) fn drop_blocks(blocks: Tensor<3>, factors: usize, share: f64, ctx: &Ctx) -> Tensor<3> {
    let [all, b, _] = blocks.dims();
    let n = all / factors;
    let dropped = (share * n as f64) as usize;
    let (Some(key), true) = (ctx.key("blocks"), dropped > 0) else {
        return blocks;
    };
    let mut rng = key.rng();
    let factor = rng.random_range(0..factors);
    let mut kept = vec![1.0; all];
    for block in rand::seq::index::sample(&mut rng, n, dropped) {
        kept[factor * n + block] = 0.0;
    }
    let kept = bridge::tensor(kept, [all, 1, 1], &blocks.device(), blocks.dtype());
    let identity = eye(b, &blocks.device(), blocks.dtype());
    blocks * kept.clone() + identity * (kept.neg() + 1.0)
}
