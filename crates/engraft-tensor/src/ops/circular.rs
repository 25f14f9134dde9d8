//! Products with circulant blocks, through Fourier transforms.

use burn::tensor::Tensor;
use engraft_kernels::{CirculantBlocks, Mat, Real};

use super::fused::Input;
use super::update::{Seen, Update, changed, dense, updated, zeros_like};

/// U = s C(w), cut to the widths of the layer.
#[derive(Debug, Clone)]
struct Circular {
    blocks: CirculantBlocks,
    scaling: f64,
}

impl Circular {
    /// The blocks of kernels [m, n, b] for a layer [width_in, width_out].
    fn new(
        [outputs, inputs, size]: [usize; 3],
        [width_in, width_out]: [usize; 2],
        scaling: f64,
    ) -> Self {
        let blocks = CirculantBlocks {
            width_in,
            width_out,
            inputs,
            outputs,
            size,
        };
        Self { blocks, scaling }
    }

    /// U.
    fn dense(&self, w: Tensor<3>) -> Tensor<2> {
        let CirculantBlocks {
            width_in,
            width_out,
            ..
        } = self.blocks;
        circulant_matrix(w * self.scaling)
            .narrow(0, 0, width_in)
            .narrow(1, 0, width_out)
    }
}

impl Update for Circular {
    fn width(&self, _: &[&[usize]]) -> usize {
        self.blocks.width_out
    }

    fn add<T: Real>(&self, seen: Seen<'_, T>, y: &mut [T]) -> Vec<Vec<T>> {
        self.blocks
            .apply(seen.x.data, seen.params[0].data, self.scaling, y);
        Vec::new()
    }

    fn add_backward<T: Real>(
        &self,
        seen: Seen<'_, T>,
        g: &[T],
        gx: Option<&mut [T]>,
        trained: bool,
    ) -> Vec<Vec<T>> {
        let mut gv = trained.then(|| zeros_like(&seen.params[0]));
        let given = [seen.x.data, seen.params[0].data, g];
        self.blocks
            .backward(given, self.scaling, gx, gv.as_deref_mut());
        gv.into_iter().collect()
    }

    fn matrix<T: Real>(&self, w: Input<'_, T>, params: &[Input<'_, T>]) -> Vec<T> {
        let mut y = w.data.to_vec();
        self.blocks.add_matrix(params[0].data, self.scaling, &mut y);
        y
    }

    fn matrix_backward<T: Real>(&self, params: &[Input<'_, T>], g: Mat<'_, T>) -> Vec<Vec<T>> {
        let mut gv = zeros_like(&params[0]);
        self.blocks.diagonal_sums(g.data, self.scaling, &mut gv);
        vec![gv]
    }
}

/// y = s x C(w) for tokens x: [tokens, d_in] and kernels w: [m, n, b], y: [tokens, d_out]; d_in is
/// at most n b and d_out at most m b, and C(w) is cut to them.
///
/// C(w) has m n circulant blocks of side b: the one from input block n to output block m has
/// w[m, n, (r - s) mod b] in row r and column s, so that w is its first column. On flex the product
/// goes through Fourier transforms of length b, in O(tokens ((n + m) b log b + n m b)), and one
/// backward pass transforms g once for both gradients; elsewhere C(w) is formed.
pub fn circular(x: Tensor<2>, w: Tensor<3>, d_out: usize, scaling: f64) -> Tensor<2> {
    let update = Circular::new(w.dims(), [x.dims()[1], d_out], scaling);
    let matrix = update.clone();
    updated(update, x, vec![w.into()], None, |x, params, base| {
        dense(x, matrix.dense(params.next()), base)
    })
}

/// y = x (W + s C(w)) + b for tokens x: [tokens, d_in], W: [d_in, d_out], b: `[d_out]` and kernels
/// as for [`circular`], whose product is added to the frozen one in place. Chen et al., arXiv
/// 2407.19342, section 3.
///
/// Measured on one AVX-512 core for 512 tokens, 768 x 768 and b = 256 (f32): 0.3 ms forward and 0.55
/// ms backward beside products of 3 ms; C(w) as a matrix would take a third product for the gradient
/// of w. The products of the spectra take 2 / b of the dense product's multiply-adds, so that blocks
/// of a few numbers cost more than that.
pub fn circular_linear(
    x: Tensor<2>,
    (weight, bias): (Tensor<2>, Option<Tensor<1>>),
    w: Tensor<3>,
    scaling: f64,
) -> Tensor<2> {
    let update = Circular::new(w.dims(), weight.dims(), scaling);
    let matrix = update.clone();
    let base = Some((weight, bias));
    updated(update, x, vec![w.into()], base, |x, params, base| {
        dense(x, matrix.dense(params.next()), base)
    })
}

/// W + s C(w), cut to W: [d_in, d_out]; see [`circular`]. One copy of W and one pass over it.
pub fn circular_weight(weight: Tensor<2>, w: Tensor<3>, scaling: f64) -> Tensor<2> {
    let update = Circular::new(w.dims(), weight.dims(), scaling);
    let matrix = update.clone();
    changed(update, weight, vec![w.into()], |params| {
        matrix.dense(params.next())
    })
}

/// C(w) itself, [n b, m b].
///
/// Rows of b + 1 entries cut from a periodic sequence move by one against the period, which makes
/// the sums r + s; reversing the columns turns them into differences.
fn circulant_matrix(w: Tensor<3>) -> Tensor<2> {
    let [m, n, b] = w.dims();
    let periodic = w.repeat_dim(2, b + 2).narrow(2, 1, b * (b + 1));
    let sums: Tensor<4> = periodic.reshape([m, n, b, b + 1]).narrow(3, 0, b);
    sums.flip([3]).permute([1, 2, 0, 3]).reshape([n * b, m * b])
}

#[cfg(test)]
mod tests {
    use super::super::testing::agree;
    use super::*;

    #[test]
    fn values_and_gradients_equal_the_dense_product() {
        for ([m, n, b], [less_in, less_out]) in [
            ([2, 3, 5], [0, 0]),
            ([1, 1, 1], [0, 0]),
            ([3, 1, 8], [3, 7]),
        ] {
            let [d_in, d_out] = [n * b - less_in, m * b - less_out];
            let matrix = |w: Tensor<3>| Circular::new([m, n, b], [d_in, d_out], 0.5).dense(w);
            let (x, w) = ([37, d_in], [m, n, b]);
            agree(&[&x, &w], 37 + d_in, |inputs, fast| {
                let (x, w) = (inputs[0].matrix(), inputs[1].tensor());
                match fast {
                    true => circular(x, w, d_out, 0.5),
                    false => dense(x, matrix(w), None),
                }
            });
            agree(
                &[&x, &w, &[d_in, d_out], &[d_out]],
                37 + d_in,
                |inputs, fast| {
                    let (x, w) = (inputs[0].matrix(), inputs[1].tensor());
                    let (weight, bias) = (inputs[2].matrix(), Some(inputs[3].vector()));
                    match fast {
                        true => circular_linear(x, (weight, bias), w, 0.5),
                        false => dense(x, matrix(w), Some((weight, bias))),
                    }
                },
            );
            agree(&[&[d_in, d_out], &w], d_in, |inputs, fast| {
                let (weight, w) = (inputs[0].matrix(), inputs[1].tensor());
                match fast {
                    true => circular_weight(weight, w, 0.5),
                    false => weight + matrix(w),
                }
            });
        }
    }
}
