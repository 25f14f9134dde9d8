//! Pruning of tokens and of segments of tokens by importance.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::InitContext;
use engraft_tensor::{Init, bridge};

/// Which segments of each of n tokens are kept; a token without segments is pruned.
#[derive(Module, Debug)]
pub struct PruningMask {
    /// 1 where a segment is kept, else 0, [n, R].
    pub kept: Param<Tensor<2>>,
}

impl PruningMask {
    /// Everything kept.
    pub(crate) fn init(shape: [usize; 2], ctx: &InitContext) -> Self {
        Self {
            kept: frozen(ctx.tensor(Init::ONES, shape, "kept")),
        }
    }

    /// Tokens [n, d] with zeros in the segments that are not kept; each segment is d / R wide.
    pub fn apply(&self, tokens: Tensor<2>) -> Tensor<2> {
        let ([count, width], [_, segments]) = (tokens.dims(), self.kept.dims());
        let kept: Tensor<3> = self.kept.val().unsqueeze_dim(2);
        let kept = kept.expand([count, segments, width / segments]);
        tokens * kept.reshape([count, width])
    }

    /// Keeps what `kept` says, token by token.
    pub(crate) fn keep(&mut self, kept: &[Vec<bool>]) {
        let values = kept.iter().flatten().map(|kept| f64::from(u8::from(*kept)));
        let like = self.kept.val();
        let mask = bridge::tensor(values.collect(), like.dims(), &like.device(), like.dtype());
        set(&mut self.kept, mask);
    }

    /// Tokens and segments that are kept.
    pub fn counts(&self) -> [usize; 2] {
        let [_, segments] = self.kept.dims();
        let kept = bridge::values(&self.kept.val());
        let tokens = kept
            .chunks(segments)
            .filter(|token| token.iter().any(|kept| *kept > 0.0));
        [tokens.count(), kept.iter().sum::<f64>() as usize]
    }
}

/// E |dL/drho|, where tokens and their segments are multiplied by rho = 1, summed over batches.
#[derive(Module, Debug)]
pub struct Importance {
    /// Of each token, `[n]`.
    pub tokens: Param<Tensor<1>>,
    /// Of each segment, [n, R].
    pub segments: Param<Tensor<2>>,
}

impl Importance {
    pub(crate) fn init([count, segments]: [usize; 2], ctx: &InitContext) -> Self {
        Self {
            tokens: frozen(ctx.tensor(Init::ZEROS, [count], "")),
            segments: frozen(ctx.tensor(Init::ZEROS, [count, segments], "")),
        }
    }

    /// Adds a batch: dL/drho of each segment, [n, R].
    pub(crate) fn see(&mut self, gradient: &Tensor<2>) {
        let whole: Tensor<1> = gradient.clone().sum_dim(1).squeeze_dim(1);
        let tokens = self.tokens.val() + whole.abs();
        let segments = self.segments.val() + gradient.clone().abs();
        set(&mut self.tokens, tokens);
        set(&mut self.segments, segments);
    }

    /// What is kept when these shares of the tokens, and of the segments of each that is kept, are
    /// pruned: the least important ones, rounded down, never all.
    pub(crate) fn kept(&self, token_sparsity: f64, segment_sparsity: f64) -> Vec<Vec<bool>> {
        let [_, segments] = self.segments.dims();
        let tokens = highest(&bridge::values(&self.tokens.val()), token_sparsity);
        let scores = bridge::values(&self.segments.val());
        let of_token = |(scores, kept): (&[f64], bool)| match kept {
            true => highest(scores, segment_sparsity),
            false => vec![false; segments],
        };
        scores.chunks(segments).zip(tokens).map(of_token).collect()
    }
}

/// dL/drho of each segment, [n, R], from a gradient of tokens and the tokens where it was taken, [n, d].
pub(crate) fn by_segment(gradient: Tensor<2>, tokens: Tensor<2>, segments: usize) -> Tensor<2> {
    let [count, width] = tokens.dims();
    let products: Tensor<3> = (gradient * tokens).reshape([count, segments, width / segments]);
    products.sum_dim(2).squeeze_dim(2)
}

/// All but the lowest scores; the first of equal ones goes first.
fn highest(scores: &[f64], sparsity: f64) -> Vec<bool> {
    let pruned = ((scores.len() as f64 * sparsity) as usize).min(scores.len() - 1);
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| scores[*a].total_cmp(&scores[*b]));
    let mut kept = vec![true; scores.len()];
    order[..pruned]
        .iter()
        .for_each(|index| kept[*index] = false);
    kept
}

/// A parameter that is stored but not trained.
pub(crate) fn frozen<const D: usize>(value: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(value).set_require_grad(false)
}

/// The tensor outside of any graph.
pub(crate) fn plain<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match tensor.is_autodiff() {
        true => tensor.inner(),
        false => tensor,
    }
}

/// Gives a parameter another value; it stays trained or frozen.
pub(crate) fn set<const D: usize>(param: &mut Param<Tensor<D>>, value: Tensor<D>) {
    let trained = param.is_require_grad();
    let changed = param.clone().map(|old| match old.is_autodiff() {
        true => Tensor::from_inner(plain(value)),
        false => plain(value),
    });
    *param = changed.set_require_grad(trained);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_important_go_and_never_all() {
        assert_eq!(
            highest(&[3.0, 1.0, 2.0, 0.5], 0.5),
            [true, false, true, false]
        );
        assert_eq!(highest(&[3.0, 1.0, 2.0], 0.3), [true; 3]);
        assert_eq!(highest(&[1.0, 1.0], 1.0), [false, true]);
    }
}
