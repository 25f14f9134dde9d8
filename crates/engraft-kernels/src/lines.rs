//! Columns of tokens as contiguous lines, and products of two of them.

use crate::Real;
use crate::parallel::{for_each, rows_per_task};
use crate::vector::{LANES, Line, Vector};

/// The transpose of `[tokens, width]` as `[width, groups]` vectors of tokens, the last padded.
pub(crate) fn turn_all<T: Real>(x: &[T], width: usize, lines: &mut Vec<Line<T>>) {
    let groups = (x.len() / width).div_ceil(LANES);
    lines.resize(width * groups, Line::splat(T::ZERO));
    let blocks = rows_per_task(width.div_ceil(LANES), 2 * groups * LANES * LANES).max(1);
    let tasks = lines.chunks_mut(blocks * LANES * groups).enumerate();
    for_each(tasks, |(task, lines)| {
        turn(x, width, task * blocks * LANES, groups, lines);
    });
}

vectors! {
    fn turn<T, V>(x: &[T], width: usize, first: usize, groups: usize, lines: &mut [Line<T>]) {
        for (block, lines) in lines.chunks_mut(LANES * groups).enumerate() {
            let column = first + block * LANES;
            for (group, rows) in x.chunks(LANES * width).enumerate() {
                let mut vectors = [V::splat(T::ZERO); LANES];
                for (vector, row) in vectors.iter_mut().zip(rows.chunks_exact(width)) {
                    *vector = match row[column..].first_chunk() {
                        Some(chunk) => V::load(chunk),
                        None => {
                            let mut chunk = [T::ZERO; LANES];
                            chunk[..width - column].copy_from_slice(&row[column..]);
                            V::load(&chunk)
                        }
                    };
                }
                V::transpose(&mut vectors);
                for (vector, line) in vectors.iter().zip(lines.chunks_exact_mut(groups)) {
                    vector.store(&mut line[group].0);
                }
            }
        }
    }
}

vectors! {
    /// Adds the products of the lines of each entry to its sum.
    pub(crate) fn dots<T, V>(
        left: &[Line<T>],
        right: &[Line<T>],
        groups: usize,
        entries: &[[u32; 2]],
        sums: &mut [T],
    ) {
        for (&[i, j], to) in entries.iter().zip(sums) {
            let left = &left[i as usize * groups..][..groups];
            let right = &right[j as usize * groups..][..groups];
            let mut parts = [V::splat(T::ZERO); 2];
            let (left, left_rest) = left.as_chunks::<2>();
            let (right, right_rest) = right.as_chunks::<2>();
            for (left, right) in left.iter().zip(right) {
                for k in 0..2 {
                    parts[k] = V::load(&left[k].0).mul_add(V::load(&right[k].0), parts[k]);
                }
            }
            for (left, right) in left_rest.iter().zip(right_rest) {
                parts[0] = V::load(&left.0).mul_add(V::load(&right.0), parts[0]);
            }
            *to += parts[0].plus(parts[1]).sum();
        }
    }
}
