//! Sums over rows.

use crate::parallel::{reduce, rows_per_partial};
use crate::{Real, expect_rows};

/// `sum_t g[t, j]` for every column of a `[rows, width]` array: the gradient of a bias.
///
/// # Panics
///
/// Unless `width` divides the length of `g`.
pub fn column_sums<T: Real>(g: &[T], width: usize) -> Vec<T> {
    let rows = expect_rows("g", g, width);
    let task = rows_per_partial(rows, width);
    let outputs = vec![(); rows.div_ceil(task).max(1)];
    reduce(rows, task, width, outputs.into_iter(), |range, sum, ()| {
        for row in g[range.start * width..range.end * width].chunks_exact(width) {
            for (sum, &g) in sum.iter_mut().zip(row) {
                *sum += g;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise};

    #[test]
    fn every_column_is_summed_in_the_order_of_rows() {
        assert_eq!(column_sums(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 2), [9.0, 12.0]);
        assert_eq!(column_sums::<f32>(&[], 3), [0.0; 3]);
        let g = narrow(&noise(8001 * 33, 1));
        let mut expected = vec![0.0; 33];
        for row in g.chunks_exact(33) {
            expected
                .iter_mut()
                .zip(row)
                .for_each(|(sum, &g)| *sum += f64::from(g));
        }
        assert_close(&column_sums(&g, 33), &expected, |_| 8001.0 * 2f64.powi(-24));
        assert_thread_independent(|| column_sums(&g, 33));
    }
}
