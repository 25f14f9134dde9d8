//! Matrices of circulant blocks in full.

use crate::circular::CirculantBlocks;
use crate::parallel::{for_each, rows_per_task};
use crate::{Real, expect_len};

impl CirculantBlocks {
    /// `matrix += s C(w)` for a matrix of `[width_in, width_out]`: `b` windows of a doubled kernel.
    ///
    /// # Panics
    ///
    /// Unless the lengths fit.
    pub fn add_matrix<T: Real>(self, w: &[T], scale: f64, matrix: &mut [T]) {
        let Self {
            width_in,
            width_out,
            inputs,
            size,
            ..
        } = self;
        expect_len("w", w, inputs * self.outputs * size);
        expect_len("matrix", matrix, width_in * width_out);
        let scale = T::from_f64(scale);
        let mut doubled = Vec::with_capacity(2 * w.len());
        for kernel in w.chunks_exact(size) {
            doubled.extend((0..2 * size).map(|u| kernel[(2 * size - u) % size] * scale));
        }
        let rows = rows_per_task(width_in, width_out);
        for_each(
            matrix.chunks_mut(rows * width_out).enumerate(),
            |(task, matrix)| {
                for (row, line) in matrix.chunks_exact_mut(width_out).enumerate() {
                    let (n, r) = ((task * rows + row) / size, (task * rows + row) % size);
                    for (m, line) in line.chunks_mut(size).enumerate() {
                        let window = &doubled[2 * size * (m * inputs + n) + size - r..];
                        for (to, &value) in line.iter_mut().zip(window) {
                            *to += value;
                        }
                    }
                }
            },
        );
    }

    /// The adjoint of [`add_matrix`](Self::add_matrix): sums of `s gm` along the diagonals of every
    /// block.
    ///
    /// # Panics
    ///
    /// As [`add_matrix`](Self::add_matrix).
    pub fn diagonal_sums<T: Real>(self, gm: &[T], scale: f64, gw: &mut [T]) {
        let Self {
            width_in,
            width_out,
            inputs,
            outputs,
            size,
        } = self;
        expect_len("gm", gm, width_in * width_out);
        expect_len("gw", gw, inputs * outputs * size);
        let scale = T::from_f64(scale);
        let mut doubled = vec![T::ZERO; 2 * gw.len()];
        let blocks = gm
            .chunks(size * width_out)
            .zip(doubled.chunks_mut(2 * outputs * size));
        for_each(blocks, |(gm, doubled)| {
            for (r, line) in gm.chunks_exact(width_out).enumerate() {
                for (line, sums) in line.chunks(size).zip(doubled.chunks_exact_mut(2 * size)) {
                    for (sum, &value) in sums[size - r..].iter_mut().zip(line) {
                        *sum += value;
                    }
                }
            }
        });
        for (at, gw) in gw.chunks_exact_mut(size).enumerate() {
            let doubled = &doubled[2 * size * (at % inputs * outputs + at / inputs)..][..2 * size];
            for (j, gw) in gw.iter_mut().enumerate() {
                let u = (size - j) % size;
                *gw = (doubled[u] + doubled[size + u]) * scale;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, noise};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn is_the_definition_and_its_adjoint(
            inputs in 1usize..4,
            outputs in 1usize..4,
            size in 1usize..21,
            cut in (0usize..20, 0usize..20),
            seed: u64,
        ) {
            let shape = CirculantBlocks {
                width_in: inputs * size - cut.0 % size,
                width_out: outputs * size - cut.1 % size,
                inputs,
                outputs,
                size,
            };
            let w = noise(inputs * outputs * size, seed);
            let start = noise(shape.width_in * shape.width_out, seed ^ 1);
            let (mut matrix, mut sums) = (start.clone(), vec![0.0; w.len()]);
            for i in 0..shape.width_in {
                for j in 0..shape.width_out {
                    let lag = (i % size + size - j % size) % size;
                    let (place, at) = (i * shape.width_out + j, (j / size * inputs + i / size) * size + lag);
                    matrix[place] += 0.5 * w[at];
                    sums[at] += 0.5 * start[place];
                }
            }
            let (mut found, mut found_sums) = (start.clone(), vec![1.0; w.len()]);
            shape.add_matrix(&w, 0.5, &mut found);
            shape.diagonal_sums(&start, 0.5, &mut found_sums);
            assert_close(&found, &matrix, |_| 1e-15);
            assert_close(&found_sums, &sums, |_| 1e-14 * size as f64);
        }
    }
}
