//! Block-diagonal hyperplane reflections, exact and relaxed.

use burn::tensor::Tensor;
use engraft_kernels::{RankOneBlocks, Real};

use super::fused::{Input, Kernel, Operand, Returned, fused};

/// x H; inputs x: [tokens, n b], u: [n, b] and, if H is relaxed, v: [n, b].
#[derive(Debug, Clone)]
struct Reflect;

/// The vectors at unit length, one array after the other, and the inverse lengths of their rows.
fn units<T: Real>(vectors: &[Input<'_, T>]) -> (Vec<T>, Vec<f64>) {
    let size = vectors[0].shape[1];
    let rows = vectors
        .iter()
        .flat_map(|vectors| vectors.data.chunks_exact(size));
    let scales: Vec<f64> = rows
        .clone()
        .map(|row| {
            let square: f64 = row.iter().map(|x| x.to_f64() * x.to_f64()).sum();
            square.sqrt().recip()
        })
        .collect();
    let units = rows
        .zip(&scales)
        .flat_map(|(row, scale)| row.iter().map(move |x| T::from_f64(x.to_f64() * scale)));
    (units.collect(), scales)
}

fn blocks<T>(vectors: &[Input<'_, T>]) -> RankOneBlocks<'static> {
    RankOneBlocks {
        blocks: vectors[0].shape[0],
        size: vectors[0].shape[1],
        weights: if vectors.len() == 1 {
            &[-2.0]
        } else {
            &[-1.0, 1.0]
        },
    }
}

impl Kernel for Reflect {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        blocks(&x[1..]).apply(x[0].data, &units(&x[1..]).0, y);
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        _: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let shape = blocks(&x[1..]);
        let (units, scales) = units(&x[1..]);
        let mut gx = vec![T::ZERO; gy.len()];
        let mut gu = shape.backward(x[0].data, &units, gy, &mut gx);
        // Of u / |u|: what is orthogonal to u, by 1 / |u|.
        let rows = units
            .chunks_exact(shape.size)
            .zip(gu.chunks_exact_mut(shape.size));
        for ((u, gu), scale) in rows.zip(scales) {
            let products = u.iter().zip(&*gu).map(|(u, gu)| u.to_f64() * gu.to_f64());
            let along: f64 = products.sum();
            for (gu, u) in gu.iter_mut().zip(u) {
                *gu = T::from_f64(scale * (gu.to_f64() - along * u.to_f64()));
            }
        }
        let gradients = gu.chunks_exact(shape.width()).map(|gu| Some(gu.to_vec()));
        std::iter::once(Some(gx)).chain(gradients).collect()
    }
}

/// x H for tokens x: [tokens, n b] and H = blockdiag(H_1, ..., H_n) with
/// H_k = I - 2 u u^T / |u|^2, or, where there is a v, H_k = I - u u^T / |u|^2 + v v^T / |v|^2, of the
/// rows of u and v: [n, b]. One pass over x forward and one over x and the gradient backward.
pub fn reflect(x: Tensor<2>, u: Tensor<2>, v: Option<Tensor<2>>) -> Tensor<2> {
    let mut inputs: Vec<Operand> = vec![x.into(), u.into()];
    inputs.extend(v.map(Operand::from));
    fused(Reflect, inputs).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        composed(inputs.next(), inputs.next(), inputs.optional())
    })
}

fn composed(x: Tensor<2>, u: Tensor<2>, v: Option<Tensor<2>>) -> Tensor<2> {
    let along = project(x.clone(), u);
    match v {
        None => x - along * 2.0,
        Some(v) => x.clone() - along + project(x, v),
    }
}

/// Each block of each row of x [tokens, n b] projected onto its vector of u [n, b].
fn project(x: Tensor<2>, u: Tensor<2>) -> Tensor<2> {
    let [tokens, d] = x.dims();
    let [n, b] = u.dims();
    let inverse_square = (u.clone() * u.clone()).sum_dim(1).recip().unsqueeze_dim(0);
    let u: Tensor<3> = u.unsqueeze_dim(0);
    let along = (x.reshape([tokens, n, b]) * u.clone()).sum_dim(2) * inverse_square;
    (along * u).reshape([tokens, d])
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for [tokens, n, b] in [[1, 1, 2], [7, 3, 5], [33, 2, 40]] {
            let shapes: [&[usize]; 3] = [&[tokens, n * b], &[n, b], &[n, b]];
            for relaxed in [false, true] {
                let used = if relaxed { 3 } else { 2 };
                agree(&shapes[..used], 4 * (tokens + b), |x, fast| {
                    let f = if fast { reflect } else { composed };
                    f(x[0].matrix(), x[1].matrix(), relaxed.then(|| x[2].matrix()))
                });
            }
        }
    }
}
