//! A small dense product, the inner loop of the structured ones.

use crate::Real;

/// A matrix whose element `(i, j)` is `data[i * row + j * column]`.
#[derive(Clone, Copy)]
pub(crate) struct Strided<'a, T> {
    pub data: &'a [T],
    pub row: usize,
    pub column: usize,
}

/// `[m, k] x [k, n]`.
#[derive(Clone, Copy)]
pub(crate) struct Extent {
    pub m: usize,
    pub k: usize,
    pub n: usize,
}

/// Rows of a register tile.
const M: usize = 6;

/// Rows of a tile of AVX-512 vectors: eight sums of one vector each hide the latency of a
/// multiply-add.
const WIDE: usize = 8;

/// Rows of the tile that most columns of a product go through.
#[inline(always)]
pub(crate) fn tile_rows<T>() -> usize {
    if size_of::<T>() == 4 && crate::isa() == crate::Isa::Avx512 {
        WIDE
    } else {
        M
    }
}

/// Numbers of a strip of rows that stays in the second cache.
const STRIP: usize = 1 << 15;

/// Rows of a strip of this width: whole tiles, so that none of its rows goes alone.
pub(crate) fn strip_rows<T>(columns: usize) -> usize {
    (STRIP / columns.max(1))
        .max(1)
        .next_multiple_of(tile_rows::<T>())
}

/// `c[i, j] += sum_p a[i, p] b[p, j]`, with rows of `b` and `c` at the given distances.
///
/// Each sum runs in the order of `p` from the value in `c`: the tiling does not change a bit.
/// Meant for operands that fit in the second cache; there is no packing.
#[inline(always)]
pub(crate) fn multiply_add<T: Real, const FUSED: bool>(
    extent: Extent,
    a: Strided<'_, T>,
    b: (&[T], usize),
    c: (&mut [T], usize),
) {
    let Extent { m, k, n } = extent;
    if m == 0 || k == 0 || n == 0 {
        return;
    }
    assert!(
        (m - 1) * a.row + (k - 1) * a.column < a.data.len()
            && (k - 1) * b.1 + n <= b.0.len()
            && (m - 1) * c.1 + n <= c.0.len(),
        "operands of [{m}, {k}] x [{k}, {n}] reach beyond their slices"
    );
    let single = size_of::<T>() == 4;
    let wide = tile_rows::<T>() == WIDE;
    let mut j = 0;
    while n - j >= 16 {
        if wide {
            panel::<T, FUSED, WIDE, 16>(extent, a, b, (&mut *c.0, c.1), j);
        } else {
            panel::<T, FUSED, M, 16>(extent, a, b, (&mut *c.0, c.1), j);
        }
        j += 16;
    }
    while n - j >= 8 {
        if single {
            panel::<T, FUSED, WIDE, 8>(extent, a, b, (&mut *c.0, c.1), j);
        } else {
            panel::<T, FUSED, M, 8>(extent, a, b, (&mut *c.0, c.1), j);
        }
        j += 8;
    }
    while n - j >= 4 {
        panel::<T, FUSED, M, 4>(extent, a, b, (&mut *c.0, c.1), j);
        j += 4;
    }
    while j < n {
        panel::<T, FUSED, M, 1>(extent, a, b, (&mut *c.0, c.1), j);
        j += 1;
    }
}

simd! {
    /// [`multiply_add`] as a call, compiled once for each instruction set: where the product is worth
    /// one, it saves the code of every tile.
    pub(crate) fn accumulate<T, const FUSED: bool>(
        extent: Extent, a: Strided<'_, T>, b: (&[T], usize), c: (&mut [T], usize),
    ) {
        multiply_add::<T, FUSED>(extent, a, b, c);
    }
}

/// Columns `j..j + N` of the product.
#[inline(always)]
fn panel<T: Real, const FUSED: bool, const ROWS: usize, const N: usize>(
    extent: Extent,
    a: Strided<'_, T>,
    b: (&[T], usize),
    c: (&mut [T], usize),
    j: usize,
) {
    let Extent { m, k, .. } = extent;
    let mut i = 0;
    while m - i >= ROWS {
        tile::<T, FUSED, ROWS, N>(k, a, b, (&mut *c.0, c.1), [i, j]);
        i += ROWS;
    }
    while i < m {
        tile::<T, FUSED, 1, N>(k, a, b, (&mut *c.0, c.1), [i, j]);
        i += 1;
    }
}

/// Rows `i..i + ROWS` of columns `j..j + N`, held in registers.
#[inline(always)]
#[expect(
    unsafe_code,
    reason = "the bounds of all three operands are checked once, in `multiply_add`"
)]
fn tile<T: Real, const FUSED: bool, const ROWS: usize, const N: usize>(
    k: usize,
    a: Strided<'_, T>,
    b: (&[T], usize),
    c: (&mut [T], usize),
    [i, j]: [usize; 2],
) {
    let mut sums = [[T::ZERO; N]; ROWS];
    for (r, sums) in sums.iter_mut().enumerate() {
        let start = (i + r) * c.1 + j;
        // SAFETY: `i + r < m` and `j + N <= n`.
        sums.copy_from_slice(unsafe { c.0.get_unchecked(start..start + N) });
    }
    for p in 0..k {
        let start = p * b.1 + j;
        // SAFETY: `p < k` and `j + N <= n`.
        let b = unsafe { b.0.get_unchecked(start..start + N) };
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `i + r < m` and `p < k`.
            let factor = unsafe { *a.data.get_unchecked((i + r) * a.row + p * a.column) };
            for (sum, &b) in sums.iter_mut().zip(b) {
                *sum = factor.mul_add::<FUSED>(b, *sum);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let start = (i + r) * c.1 + j;
        // SAFETY: as above.
        unsafe { c.0.get_unchecked_mut(start..start + N) }.copy_from_slice(sums);
    }
}

/// The transpose of a `[rows, columns]` matrix.
pub(crate) fn transpose<T: Real>(x: &[T], columns: usize) -> Vec<T> {
    let mut out = vec![T::ZERO; x.len()];
    transpose_into(x, columns, &mut out);
    out
}

/// Writes the transpose of a `[rows, columns]` matrix.
#[inline(always)]
pub(crate) fn transpose_into<T: Real>(x: &[T], columns: usize, out: &mut [T]) {
    let rows = x.len() / columns.max(1);
    for (i, row) in x.chunks_exact(columns.max(1)).enumerate() {
        for (j, &value) in row.iter().enumerate() {
            out[j * rows + i] = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, narrow, noise, widen};
    use proptest::prelude::*;

    simd! {
        fn run<T, const FUSED: bool>(extent: Extent, a: Strided<'_, T>, b: &[T], c: &mut [T]) {
            multiply_add::<T, FUSED>(extent, a, (b, extent.n), (c, extent.n));
        }
    }

    proptest! {
        #[test]
        fn agrees_with_three_loops(m in 0usize..20, k in 0usize..20, n in 0usize..70, seed: u64) {
            let [a, b, c] = [m * k, k * n, m * n].map(|len| narrow(&noise(len, seed ^ len as u64)));
            let mut expected = widen(&c);
            for i in 0..m {
                for j in 0..n {
                    let terms = (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b[p * n + j]));
                    expected[i * n + j] += terms.sum::<f64>();
                }
            }
            let tolerance = |_| 2f64.powi(-24) * (k + 1) as f64 * 2.0;
            let extent = Extent { m, k, n };
            let mut rows = c.clone();
            run(extent, Strided { data: &a, row: k, column: 1 }, &b, &mut rows);
            assert_close(&rows, &expected, tolerance);
            let mut columns = c.clone();
            let transposed = transpose(&a, k.max(1));
            run(extent, Strided { data: &transposed, row: 1, column: m }, &b, &mut columns);
            prop_assert_eq!(rows, columns);
        }
    }
}
