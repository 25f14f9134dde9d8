//! A matrix times one plus a product of low rank, entry by entry.

use burn::tensor::Tensor;
use engraft_kernels::{Modulation, Real};

use super::fused::{Input, Kernel, Returned, fused};

/// W . (1 + A B); inputs W, A, B.
#[derive(Debug, Clone)]
struct Hadamard;

fn modulation<'a, T: Real>(x: &[Input<'a, T>]) -> Modulation<'a, T> {
    let ([rows, rank], [_, columns]) = (x[1].dims(), x[2].dims());
    Modulation {
        a: x[1].data,
        b: x[2].data,
        shape: [rows, rank, columns],
    }
}

impl Kernel for Hadamard {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn keeps(&self, input: usize, wanted: &[bool]) -> bool {
        match input {
            0 => wanted[1] || wanted[2],
            _ => true,
        }
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        modulation(x).apply(x[0].data, y);
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let gw = wanted[0].then(|| {
            let mut gw = vec![T::ZERO; gy.len()];
            modulation(x).apply(gy, &mut gw);
            gw
        });
        if !(wanted[1] || wanted[2]) {
            return vec![gw, None, None];
        }
        let (ga, gb) = modulation(x).backward(x[0].data, gy);
        vec![gw, wanted[1].then_some(ga), wanted[2].then_some(gb)]
    }
}

/// W . (1 + A B), entry by entry, for W: [d_in, d_out], A: [d_in, r], B: [r, d_out].
///
/// On flex one pass over W, in strips of rows that stay in cache, 2 (r + 1) d_in d_out flops; backward
/// one pass over W and the gradient, twice as many.
pub fn modulated(weight: Tensor<2>, a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    fused(Hadamard, vec![weight.into(), a.into(), b.into()]).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        composed(inputs.next(), inputs.next(), inputs.next())
    })
}

fn composed(weight: Tensor<2>, a: Tensor<2>, b: Tensor<2>) -> Tensor<2> {
    weight * (a.matmul(b) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for [rows, rank, columns] in [[1, 1, 1], [7, 2, 5], [60, 9, 47]] {
            let shapes: [&[usize]; 3] = [&[rows, columns], &[rows, rank], &[rank, columns]];
            agree(&shapes, rows + columns, |x, fast| {
                let f = if fast { modulated } else { composed };
                f(x[0].matrix(), x[1].matrix(), x[2].matrix())
            });
        }
    }
}
