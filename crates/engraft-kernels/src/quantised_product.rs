//! Products with a matrix of few bits.

use crate::matmul::{Mat, Onto, matmul};
use crate::quantised::QuantisedMatrix;
use crate::{Real, expect_len, expect_rows};

/// Numbers of a panel: what the second cache holds.
const PANEL: usize = 1 << 18;

/// Fewest rows of a panel, so that the products with it stay products of matrices.
const PANEL_ROWS: usize = 256;

/// `P` stands for the matrix `[rows, columns]`, PyTorch's weight (out, in). It is decoded a panel of rows
/// at a time, so that beside the packed matrix at most 2^18 numbers (or 256 rows) are held.
impl QuantisedMatrix {
    /// `y = x P^T`, or `y += x P^T`, for `x` of `[tokens, columns]` and `y` of `[tokens, rows]`.
    ///
    /// # Panics
    ///
    /// Unless the lengths fit.
    pub fn apply<T: Real>(&self, x: &[T], onto: Onto, y: &mut [T]) {
        let [rows, columns] = self.dims();
        let tokens = expect_rows("x", x, columns);
        expect_len("y", y, tokens * rows);
        if tokens == 0 {
            return;
        }
        let x = Mat::new(x, tokens, columns);
        self.panels(|first, panel| {
            matmul((&mut y[first..], rows), onto, x, panel.t(), T::ONE);
        });
    }

    /// `y = x P`, or `y += x P`, for `x` of `[tokens, rows]` and `y` of `[tokens, columns]`.
    ///
    /// # Panics
    ///
    /// Unless the lengths fit.
    pub fn apply_transposed<T: Real>(&self, x: &[T], onto: Onto, y: &mut [T]) {
        let [rows, columns] = self.dims();
        let tokens = expect_rows("x", x, rows);
        expect_len("y", y, tokens * columns);
        let x = Mat::new(x, tokens, rows);
        self.panels(|first, panel| {
            let onto = match first {
                0 => onto,
                _ => Onto::Present,
            };
            let x = x.narrow(first, panel.rows);
            matmul((y, columns), onto, x, panel, T::ONE);
        });
    }

    /// Calls `run` with the first row and the numbers of each panel.
    fn panels<T: Real>(&self, mut run: impl FnMut(usize, Mat<'_, T>)) {
        let [rows, columns] = self.dims();
        let at_once = (PANEL / columns.max(1)).max(PANEL_ROWS).min(rows.max(1));
        let mut panel = vec![T::ZERO; at_once * columns];
        for first in (0..rows).step_by(at_once) {
            let taken = at_once.min(rows - first);
            let panel = &mut panel[..taken * columns];
            self.decode_rows(first, panel);
            run(first, Mat::new(panel, taken, columns));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, noise};
    use crate::{NumberFormat, Quantisation};
    use proptest::prelude::*;

    fn check(tokens: usize, [rows, columns]: [usize; 2], how: Quantisation, seed: u64) {
        let values = noise(rows * columns, seed);
        let matrix = QuantisedMatrix::new(&values, [rows, columns], how).unwrap();
        let p: Vec<f64> = matrix.decode();
        let (x, g) = (
            noise(tokens * columns, seed ^ 1),
            noise(tokens * rows, seed ^ 2),
        );
        let (mut y, mut gx) = (vec![0.0; g.len()], vec![0.0; x.len()]);
        for t in 0..tokens {
            for i in 0..rows {
                for j in 0..columns {
                    y[t * rows + i] += x[t * columns + j] * p[i * columns + j];
                    gx[t * columns + j] += g[t * rows + i] * p[i * columns + j];
                }
            }
        }
        let bound = 1e-15 * (rows + columns) as f64;
        let (mut found, mut found_gx) = (g.clone(), x.clone());
        matrix.apply(&x, Onto::Nothing, &mut found);
        matrix.apply_transposed(&g, Onto::Nothing, &mut found_gx);
        assert_close(&found, &y, |_| bound);
        assert_close(&found_gx, &gx, |_| bound);
        matrix.apply(&x, Onto::Present, &mut found);
        matrix.apply_transposed(&g, Onto::Present, &mut found_gx);
        let twice = |sums: &[f64]| -> Vec<f64> { sums.iter().map(|sum| 2.0 * sum).collect() };
        assert_close(&found, &twice(&y), |_| 2.0 * bound);
        assert_close(&found_gx, &twice(&gx), |_| 2.0 * bound);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn they_are_those_with_the_decoded_matrix(
            tokens in 0usize..40,
            rows in 1usize..40,
            columns in 1usize..40,
            format in prop::sample::select(NumberFormat::ALL.to_vec()),
            block in 1usize..80,
            double: bool,
            seed: u64,
        ) {
            check(tokens, [rows, columns], Quantisation { format, block, double }, seed);
        }
    }

    #[test]
    fn panels_make_the_whole() {
        // Three panels, the last of two rows; entries of one byte are in two of them.
        let (rows, columns) = (2 * 258 + 2, 1013);
        check(3, [rows, columns], Quantisation::default(), 7);
    }
}
