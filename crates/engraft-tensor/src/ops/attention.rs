//! Softmax attention with its own kernel.

use burn::tensor::{Tensor, TensorData, activation};
use engraft_kernels::{Attention, Mask, Real, RowStatistics};

use super::fused::{Input, Kernel, Operand, Returned, fused};

/// How [`attention`] weighs.
#[derive(Debug, Clone, Default)]
pub struct Weighing {
    /// Multiplies the scores; `None` is 1 / sqrt(width).
    pub scale: Option<f64>,
    /// Whether query i sees no key after i + keys - queries: the last query sees all.
    pub causal: bool,
    /// Added to the scores, [batch or 1, heads or 1, queries or 1, keys]; a constant, to which no
    /// gradient flows.
    pub mask: Option<Tensor<4>>,
}

/// Inputs q, k, v and, perhaps, a mask.
#[derive(Debug, Clone)]
struct Fused {
    scale: f64,
    causal: bool,
}

impl Fused {
    fn on<T>(&self, x: &[Input<'_, T>]) -> Attention {
        let (q, k) = (x[0].shape, x[1].shape);
        Attention {
            batch: q[0],
            heads: q[2],
            key_heads: k[2],
            queries: q[1],
            keys: k[1],
            width: q[3],
            scale: self.scale,
            causal: self.causal,
        }
    }
}

fn mask<'a, T: Real>(x: &[Input<'a, T>]) -> Option<Mask<'a, T>> {
    x.get(3).map(|mask| Mask {
        values: mask.data,
        shape: mask.shape.try_into().expect("of rank 4"),
    })
}

impl Kernel for Fused {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        let inputs = [0, 1, 2].map(|at| x[at].data);
        let RowStatistics { max, scale } = self.on(x).forward(inputs, mask(x), y);
        vec![max, scale]
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        saved: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let inputs = [0, 1, 2].map(|at| x[at].data);
        let statistics = RowStatistics {
            max: saved[0].clone(),
            scale: saved[1].clone(),
        };
        let [mut gq, mut gk, mut gv] = inputs.map(|input| vec![T::ZERO; input.len()]);
        let gradients = [&mut gq, &mut gk, &mut gv].map(Vec::as_mut_slice);
        self.on(x)
            .backward(inputs, mask(x), &statistics, gy, gradients);
        let mut gradients = vec![Some(gq), Some(gk), Some(gv), None];
        gradients.truncate(wanted.len());
        gradients
    }
}

/// softmax(scale q k^T + mask) v in each head, for q: [batch, queries, heads, width] and k, v:
/// [batch, keys, key heads, width], as projections leave them; query head h looks at key head
/// h / (heads / key heads). The result has the shape of q.
///
/// Vaswani et al., arXiv 1706.03762, section 3.2.1. On flex the kernel of
/// [`engraft_kernels::Attention`]: scores of a few rows at a time, two numbers a row kept beside q, k
/// and v. Elsewhere a composition, which keeps [batch, heads, queries, keys].
///
/// # Panics
/// Unless the shapes fit, the heads are a multiple of the key heads, and there are keys, at least
/// as many as queries if causal.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, weighing: Weighing) -> Tensor<4> {
    let Weighing {
        scale,
        causal,
        mask,
    } = weighing;
    let scale = scale.unwrap_or_else(|| (q.dims()[3] as f64).sqrt().recip());
    let mut inputs: Vec<Operand> = vec![q.into(), k.into(), v.into()];
    inputs.extend(mask.map(|mask| mask.detach().into()));
    fused(Fused { scale, causal }, inputs).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        let [q, k, v] = [(); 3].map(|()| inputs.next());
        composed([q, k, v], scale, causal, inputs.optional())
    })
}

fn composed(
    [q, k, v]: [Tensor<4>; 3],
    scale: f64,
    causal: bool,
    mask: Option<Tensor<4>>,
) -> Tensor<4> {
    let ([batch, queries, heads, width], [_, keys, key_heads, _]) = (q.dims(), k.dims());
    let spread = |x: Tensor<4>| {
        let shape = [batch, key_heads, heads / key_heads, keys, width];
        let x = x.swap_dims(1, 2).unsqueeze_dim::<5>(2).expand(shape);
        x.reshape([batch, heads, keys, width])
    };
    let mut scores = (q.swap_dims(1, 2) * scale).matmul(spread(k).swap_dims(2, 3));
    if let Some(mask) = mask {
        scores = scores + mask;
    }
    if causal {
        let unseen = (0..queries * keys).map(|at| at % keys > at / keys + keys - queries);
        let values = unseen.map(|unseen| if unseen { f64::NEG_INFINITY } else { 0.0 });
        let data = TensorData::new(values.collect(), [1, 1, queries, keys]);
        let dtype = scores.dtype();
        let unseen = Tensor::from_data(data.convert_dtype(dtype), (&scores.device(), dtype));
        scores = scores + unseen;
    }
    activation::softmax(scores, 3)
        .matmul(spread(v))
        .swap_dims(1, 2)
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for ([batch, queries, keys], [heads, key_heads, width]) in [
            ([1, 1, 1], [1, 1, 1]),
            ([2, 5, 7], [4, 2, 3]),
            ([1, 53, 60], [3, 1, 9]),
        ] {
            let (q, k) = (
                [batch, queries, heads, width],
                [batch, keys, key_heads, width],
            );
            for (causal, masked) in [(false, false), (true, false), (false, true)] {
                agree(&[&q, &k, &k], 16 * width + keys + queries, |x, fast| {
                    let [q, k, v] = [0, 1, 2].map(|at| x[at].tensor::<4>());
                    let mask = masked.then(|| {
                        let first = k.clone().detach().narrow(2, 0, 1).narrow(3, 0, 1);
                        first.reshape([batch, 1, 1, keys])
                    });
                    let weighing = Weighing {
                        scale: Some(0.7),
                        causal,
                        mask: mask.clone(),
                    };
                    match fast {
                        true => attention(q, k, v, weighing),
                        false => composed([q, k, v], 0.7, causal, mask),
                    }
                });
            }
        }
    }
}
