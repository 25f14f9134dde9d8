//! One parallel stage of Givens rotations, or of free 2 x 2 matrices.

use crate::parallel::{chunks_mut, for_each, reduce, rows_per_partial, rows_per_task};
use crate::{Real, expect_rows};

/// Work of one pair of a row, in the unit of [`rows_per_task`]: pairs do not vectorise.
const COST: usize = 32;

/// In every row of `x` `[rows, width]` and for every pair `(i, j)` of columns with its matrix
/// `[a, b, c, d]`: `(x_i, x_j) <- (x_i, x_j) [[a, b], [c, d]] = (a x_i + c x_j, b x_i + d x_j)`.
///
/// A rotation by `t` is `[cos t, sin t, -sin t, cos t]` (or its transpose); free matrices are those
/// of quasi-Givens tuning. A stage of GOFT pairs disjoint columns, and `log2(width)` stages rotate
/// any vector into any other of its length (Ma et al., arXiv 2404.04316, section 3).
///
/// # Panics
///
/// Unless there is a matrix for each pair, the columns are below `width` and none is in two pairs,
/// and `width` divides the length of `x`.
pub fn givens_stage<T: Real>(x: &mut [T], width: usize, pairs: &[[usize; 2]], matrices: &[[T; 4]]) {
    let rows = check(x, width, pairs, matrices);
    let chunk = rows_per_task(rows, pairs.len() * COST) * width;
    for_each(x.chunks_mut(chunk), |x| forward(x, width, pairs, matrices));
}

/// Turns `g` from the gradient of a stage's output into that of its input `x`, and returns the
/// gradient of its matrices.
///
/// With `(g_i, g_j)` of the output: `gx_i = a g_i + b g_j`, `gx_j = c g_i + d g_j`, and the matrix
/// gets `sum_rows [x_i g_i, x_i g_j, x_j g_i, x_j g_j]`.
///
/// # Panics
///
/// As [`givens_stage`], and unless `x` and `g` have one length.
pub fn givens_stage_backward<T: Real>(
    x: &[T],
    g: &mut [T],
    width: usize,
    pairs: &[[usize; 2]],
    matrices: &[[T; 4]],
) -> Vec<[T; 4]> {
    let rows = check(g, width, pairs, matrices);
    crate::expect_len("x", x, g.len());
    let task = rows_per_partial(rows, 2 * pairs.len() * COST);
    let outputs = chunks_mut(g, task * width);
    let sums = reduce(rows, task, 4 * pairs.len(), outputs, |range, sums, g| {
        let x = &x[range.start * width..range.end * width];
        backward(x, g, width, pairs, matrices, sums.as_chunks_mut().0);
    });
    sums.as_chunks().0.to_vec()
}

/// Checks the shapes and that pairs are disjoint, which the backward pass needs; returns the rows.
#[track_caller]
fn check<T>(x: &[T], width: usize, pairs: &[[usize; 2]], matrices: &[[T; 4]]) -> usize {
    let rows = expect_rows("x", x, width);
    let (found, expected) = (matrices.len(), pairs.len());
    assert!(
        found == expected,
        "matrices: found {found}, expected {expected}, one a pair"
    );
    let mut used = vec![false; width];
    for &column in pairs.as_flattened() {
        assert!(
            column < width,
            "pairs: found column {column}, expected one below {width}"
        );
        assert!(
            !used[column],
            "pairs: found column {column} twice, expected disjoint pairs"
        );
        used[column] = true;
    }
    rows
}

simd! {
    fn forward<T, const FUSED: bool>(
        x: &mut [T], width: usize, pairs: &[[usize; 2]], matrices: &[[T; 4]],
    ) {
        for x in x.chunks_exact_mut(width) {
            for (&[i, j], &[a, b, c, d]) in pairs.iter().zip(matrices) {
                let (xi, xj) = (x[i], x[j]);
                x[i] = a.mul_add::<FUSED>(xi, c * xj);
                x[j] = b.mul_add::<FUSED>(xi, d * xj);
            }
        }
    }
}

simd! {
    fn backward<T, const FUSED: bool>(
        x: &[T],
        g: &mut [T],
        width: usize,
        pairs: &[[usize; 2]],
        matrices: &[[T; 4]],
        sums: &mut [[T; 4]],
    ) {
        for (x, g) in x.chunks_exact(width).zip(g.chunks_exact_mut(width)) {
            let stage = pairs.iter().zip(matrices).zip(&mut *sums);
            for ((&[i, j], &[a, b, c, d]), sum) in stage {
                let (xi, xj, gi, gj) = (x[i], x[j], g[i], g[j]);
                g[i] = a.mul_add::<FUSED>(gi, b * gj);
                g[j] = c.mul_add::<FUSED>(gi, d * gj);
                *sum = [
                    xi.mul_add::<FUSED>(gi, sum[0]),
                    xi.mul_add::<FUSED>(gj, sum[1]),
                    xj.mul_add::<FUSED>(gi, sum[2]),
                    xj.mul_add::<FUSED>(gj, sum[3]),
                ];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise};
    use proptest::prelude::*;

    fn matrices(pairs: usize, seed: u64) -> Vec<[f32; 4]> {
        narrow(&noise(4 * pairs, seed)).as_chunks().0.to_vec()
    }

    /// Disjoint pairs at distance `width / 2`, in a scattered order.
    fn pairs(width: usize) -> Vec<[usize; 2]> {
        (0..width / 2).rev().map(|i| [i + width / 2, i]).collect()
    }

    proptest! {
        #[test]
        fn is_the_product_with_its_dense_matrix(rows in 0usize..12, width in 1usize..40, seed: u64) {
            let (pairs, matrices) = (pairs(width), matrices(width / 2, seed));
            let mut dense = vec![0.0; width * width];
            (0..width).for_each(|i| dense[i * width + i] = 1.0);
            for (&[i, j], m) in pairs.iter().zip(&matrices) {
                for (at, value) in [i * width + i, i * width + j, j * width + i, j * width + j].into_iter().zip(m) {
                    dense[at] = f64::from(*value);
                }
            }
            let (x, gy) = (narrow(&noise(rows * width, seed ^ 1)), narrow(&noise(rows * width, seed ^ 2)));
            let (mut y, mut gx, mut gm) = (vec![0.0; x.len()], vec![0.0; x.len()], vec![0.0; width * width]);
            for t in 0..rows {
                for i in 0..width {
                    for j in 0..width {
                        let (input, output) = (f64::from(x[t * width + i]), f64::from(gy[t * width + j]));
                        y[t * width + j] += input * dense[i * width + j];
                        gx[t * width + i] += output * dense[i * width + j];
                        gm[i * width + j] += input * output;
                    }
                }
            }
            let mut found = x.clone();
            givens_stage(&mut found, width, &pairs, &matrices);
            assert_close(&found, &y, |_| 2f64.powi(-22));
            let mut found = gy.clone();
            let gradient = givens_stage_backward(&x, &mut found, width, &pairs, &matrices);
            assert_close(&found, &gx, |_| 2f64.powi(-22));
            let expected: Vec<f64> = pairs
                .iter()
                .flat_map(|&[i, j]| [i * width + i, i * width + j, j * width + i, j * width + j])
                .map(|at| gm[at])
                .collect();
            assert_close(gradient.as_flattened(), &expected, |_| 2f64.powi(-23) * (rows + 1) as f64);
        }

        #[test]
        fn rotations_keep_lengths_and_are_undone_by_their_transposes(rows in 1usize..6, seed: u64) {
            let (width, angles) = (32, noise(16, seed));
            let rotation = |sign: f64| angles.iter().map(move |t| {
                let (sin, cos) = (4.0 * t).sin_cos();
                [cos, sign * sin, -sign * sin, cos]
            }).collect::<Vec<_>>();
            let start = noise(rows * width, !seed);
            let mut x = start.clone();
            givens_stage(&mut x, width, &pairs(width), &rotation(1.0));
            let length = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
            prop_assert!((length(&x) - length(&start)).abs() < 1e-12 * length(&start));
            givens_stage(&mut x, width, &pairs(width), &rotation(-1.0));
            assert_close(&x, &start, |_| 1e-15 * 4.0);
        }
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let (x, gy) = (narrow(&noise(3001 * 65, 1)), narrow(&noise(3001 * 65, 2)));
        let (pairs, matrices) = (pairs(65), matrices(32, 3));
        assert_thread_independent(|| {
            let (mut y, mut gx) = (x.clone(), gy.clone());
            givens_stage(&mut y, 65, &pairs, &matrices);
            let gm = givens_stage_backward(&x, &mut gx, 65, &pairs, &matrices);
            [y, gx, gm.into_flattened()].concat()
        });
    }

    #[test]
    fn empty_stages_change_nothing() {
        let mut x = [1.0f32, f32::NAN];
        givens_stage(&mut x, 2, &[], &[]);
        assert_eq!(x[0], 1.0);
        assert!(givens_stage_backward(&x, &mut [0.0; 2], 2, &[], &[]).is_empty());
        assert_eq!(
            givens_stage_backward::<f32>(&[], &mut [], 2, &[[0, 1]], &[[1.0; 4]]),
            [[0.0; 4]]
        );
    }

    #[test]
    #[should_panic(expected = "found column 1 twice, expected disjoint pairs")]
    fn pairs_are_disjoint() {
        givens_stage(&mut [0.0f32; 3], 3, &[[0, 1], [1, 2]], &[[1.0; 4]; 2]);
    }
}
