//! Dense products.
//!
//! faer's sequential product on blocks of the result, one task a block: measured ahead of every
//! library's own threading (512 tokens, f32, two AVX-512 cores, best of 60, GFLOP/s; n: stored as read,
//! t: transposed):
//!
//! | product | here | faer 0.24, threaded | gemm 0.19, threaded | MKL |
//! |---|---|---|---|---|
//! | nn 512 x 768 x 768 | 414 | 407 | 379 | 173 |
//! | nt 512 x 768 x 768 | 399 | 390 | 316 | 172 |
//! | tn 512 x 768 x 768 | 407 | 378 | 357 | 170 |
//! | nn 512 x 768 x 3072 | 398 | 325 | 332 | 151 |
//! | nt 512 x 3072 x 768 | 392 | 373 | 199 | 177 |
//! | tn 512 x 3072 x 768 | 364 | 368 | 332 | 180 |
//!
//! Products with a side of at most 16 have their own loops, which take about half of faer's time there.
//! Tasks divide the columns of the result first, because then nothing is packed twice, and they are
//! stolen, so that a core that another program uses holds nothing up.

use crate::parallel::for_each;
use crate::skinny::Short;
use crate::{Real, expect_len};
use faer::linalg::matmul::matmul as faer_matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// A `[rows, columns]` matrix in a slice: element `(i, j)` is `data[i * row + j * column]`.
#[derive(Debug, Clone, Copy)]
pub struct Mat<'a, T> {
    /// The numbers.
    pub data: &'a [T],
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Distance of neighbours in a column.
    pub row: usize,
    /// Distance of neighbours in a row.
    pub column: usize,
}

impl<'a, T> Mat<'a, T> {
    /// Row-major numbers.
    ///
    /// # Panics
    ///
    /// Unless there are `rows * columns` of them.
    #[track_caller]
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
        expect_len("matrix", data, rows * columns);
        Self {
            data,
            rows,
            columns,
            row: columns,
            column: 1,
        }
    }

    /// The transpose, without moving a number.
    pub fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row: self.column,
            column: self.row,
        }
    }

    /// Columns `start..start + count`.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    #[track_caller]
    pub fn narrow(self, start: usize, count: usize) -> Self {
        assert!(
            start + count <= self.columns,
            "found columns {start}..{}, expected at most {}",
            start + count,
            self.columns
        );
        let data = self.data.get(start * self.column..).unwrap_or_default();
        Self {
            data,
            columns: count,
            ..self
        }
    }

    #[track_caller]
    fn check(&self, name: &str) {
        let reached = match (self.rows, self.columns) {
            (0, _) | (_, 0) => 0,
            (rows, columns) => (rows - 1) * self.row + (columns - 1) * self.column + 1,
        };
        let found = self.data.len();
        assert!(
            found >= reached,
            "{name}: found {found} numbers, expected at least {reached}"
        );
    }
}

/// What a product does with the numbers that are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onto {
    /// Overwrites them.
    Nothing,
    /// Adds to them.
    Present,
}

/// Multiply-adds below which a second thread does not pay: about 40 microseconds of one core.
const PARALLEL: usize = 1 << 22;

/// Columns and rows of the result in one task: two packed panels of faer's, and enough rows for the
/// packing to vanish.
const BLOCK: [usize; 2] = [192, 512];

/// `c <- alpha a b`, or `c <- c + alpha a b`; c: `[m, n]` row-major, with rows `stride` apart.
///
/// The order in which products are added depends on the shape alone, not on the number of threads.
///
/// # Panics
///
/// Unless the shapes fit.
#[track_caller]
pub fn matmul<T: Real>(c: (&mut [T], usize), onto: Onto, a: Mat<'_, T>, b: Mat<'_, T>, alpha: T) {
    let (c, stride) = c;
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert!(
        k == b.rows,
        "found {m} x {k} times {} x {n}, expected one inner length",
        b.rows
    );
    a.check("a");
    b.check("b");
    assert!(
        m == 0 || n == 0 || (stride >= n && c.len() >= (m - 1) * stride + n),
        "c: found {} numbers in rows {stride} apart, expected {m} rows of {n}",
        c.len()
    );
    if let Some(short) = Short::side(&a, &b) {
        if onto == Onto::Nothing {
            c.chunks_mut(stride)
                .take(m)
                .for_each(|row| row[..n].fill(T::ZERO));
        }
        return short.add((c, stride), a, b, alpha);
    }
    #[expect(unsafe_code, reason = "the target was checked")]
    // SAFETY: m rows of n numbers, `stride >= n` apart, are inside `c`: no two elements are one.
    unsafe {
        run((c.as_mut_ptr(), stride), onto, a, b, alpha);
    }
}

/// `alpha a b`, `[m, n]` row-major, written once into fresh memory.
///
/// # Panics
///
/// Unless the shapes fit.
#[track_caller]
#[expect(
    unsafe_code,
    reason = "the product writes every number of memory that nothing has filled before"
)]
pub fn multiplied<T: Real>(a: Mat<'_, T>, b: Mat<'_, T>, alpha: T) -> Vec<T> {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    assert!(
        k == b.rows,
        "found {m} x {k} times {} x {n}, expected one inner length",
        b.rows
    );
    a.check("a");
    b.check("b");
    let short = Short::side(&a, &b);
    if k == 0 || short.is_some() {
        let mut c = vec![T::ZERO; m * n];
        if let Some(short) = short {
            short.add((&mut c, n), a, b, alpha);
        }
        return c;
    }
    let mut c = Vec::with_capacity(m * n);
    // SAFETY: there is room for m n numbers, all of which the product writes, reading none.
    unsafe {
        run((c.as_mut_ptr(), n), Onto::Nothing, a, b, alpha);
        c.set_len(m * n);
    }
    c
}

/// Where a product goes.
#[derive(Clone, Copy)]
struct Target<T> {
    first: *mut T,
    stride: usize,
}

#[expect(unsafe_code, reason = "tasks write disjoint blocks behind one pointer")]
// SAFETY: a pointer is only followed inside `product_of_block`, by the promise of `run`.
unsafe impl<T: Send> Send for Target<T> {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above.
unsafe impl<T: Send> Sync for Target<T> {}

/// The product, in blocks that depend on the shape alone.
///
/// # Safety
///
/// `c` points to `a.rows` rows of `b.columns` numbers, `stride >= b.columns` apart, that may be
/// written and, with [`Onto::Present`], read; `check` passed on both operands, whose inner lengths
/// are equal.
#[expect(unsafe_code, reason = "faer takes pointers")]
unsafe fn run<T: Real>(
    (first, stride): (*mut T, usize),
    onto: Onto,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    alpha: T,
) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    if m == 0 || n == 0 {
        return;
    }
    let parallel = m.saturating_mul(k).saturating_mul(n) >= PARALLEL;
    let [wide, high] = if parallel { BLOCK } else { [n, m] };
    let (across, down) = (n.div_ceil(wide), m.div_ceil(high));
    let target = Target { first, stride };
    for_each(0..across * down, |task| {
        let (row, column) = (task / across * high, task % across * wide);
        let size = [high.min(m - row), wide.min(n - column)];
        // SAFETY: the caller's promise; blocks of different tasks have no number in common.
        unsafe { product_of_block(target, [row, column], size, onto, a, b, alpha) };
    });
}

/// The numbers `[row.., column..]` of the product, `size` of them.
///
/// # Safety
///
/// As [`run`], for this block.
#[expect(unsafe_code, reason = "faer's views of memory that the caller checked")]
unsafe fn product_of_block<T: Real>(
    target: Target<T>,
    [row, column]: [usize; 2],
    [rows, columns]: [usize; 2],
    onto: Onto,
    a: Mat<'_, T>,
    b: Mat<'_, T>,
    alpha: T,
) {
    let beta = match onto {
        Onto::Nothing => Accum::Replace,
        Onto::Present => Accum::Add,
    };
    let inner = a.columns;
    // SAFETY: `check` found the last element of both operands inside their slices, and the block is
    // inside the result; `c` is the caller's promise.
    unsafe {
        let start = target.first.add(row * target.stride + column);
        let c = MatMut::from_raw_parts_mut(start, rows, columns, target.stride as isize, 1);
        let view = |m: Mat<'_, T>, skipped: usize, [rows, columns]: [usize; 2]| {
            let first = m.data.as_ptr().wrapping_add(skipped);
            MatRef::from_raw_parts(first, rows, columns, m.row as isize, m.column as isize)
        };
        let left = view(a, row * a.row, [rows, inner]);
        let right = view(b, column * b.column, [inner, columns]);
        faer_matmul(c, beta, left, right, alpha, Par::Seq);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, assert_thread_independent, narrow, noise, widen};
    use proptest::prelude::*;

    fn reference(a: Mat<'_, f64>, b: Mat<'_, f64>) -> Vec<f64> {
        let mut c = vec![0.0; a.rows * b.columns];
        for i in 0..a.rows {
            for p in 0..a.columns {
                for j in 0..b.columns {
                    c[i * b.columns + j] +=
                        a.data[i * a.row + p * a.column] * b.data[p * b.row + j * b.column];
                }
            }
        }
        c
    }

    /// Stored `[rows, columns]`, or stored transposed.
    fn stored<T>(data: &[T], rows: usize, columns: usize, transposed: bool) -> Mat<'_, T> {
        if transposed {
            Mat::new(data, columns, rows).t()
        } else {
            Mat::new(data, rows, columns)
        }
    }

    proptest! {
        #[test]
        fn agrees_with_loops_in_f64(m in 0usize..40, k in 0usize..40, n in 0usize..40, ta: bool, tb: bool, present: bool, seed: u64) {
            let (a, b) = (narrow(&noise(m * k, seed)), narrow(&noise(k * n, !seed)));
            let start = narrow(&noise(m * n, seed ^ 5));
            let (wide_a, wide_b) = (widen(&a), widen(&b));
            let mut expected = reference(stored(&wide_a, m, k, ta), stored(&wide_b, k, n, tb));
            expected.iter_mut().zip(&start).for_each(|(c, start)| {
                *c = 0.5 * *c + if present { f64::from(*start) } else { 0.0 };
            });
            let onto = if present { Onto::Present } else { Onto::Nothing };
            let mut found = start.clone();
            matmul((&mut found, n), onto, stored(&a, m, k, ta), stored(&b, k, n, tb), 0.5);
            assert_close(&found, &expected, |_| 2f64.powi(-23) * (k + 2) as f64);
            let mut found = widen(&start);
            matmul((&mut found, n), onto, stored(&wide_a, m, k, ta), stored(&wide_b, k, n, tb), 0.5);
            assert_close(&found, &expected, |_| 1e-15 * (k + 2) as f64);
            if !present {
                prop_assert_eq!(multiplied(stored(&wide_a, m, k, ta), stored(&wide_b, k, n, tb), 0.5), found);
            }
        }
    }

    #[test]
    fn large_products_are_right_in_every_layout_and_do_not_depend_on_threads() {
        let [m, k, n] = [257, 130, 193];
        let (a, b) = (narrow(&noise(m * k, 1)), narrow(&noise(k * n, 2)));
        let (wide_a, wide_b) = (widen(&a), widen(&b));
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
            let product = || {
                let mut c = vec![0.0f32; m * n];
                let (a, b) = (stored(&a, m, k, ta), stored(&b, k, n, tb));
                matmul((&mut c, n), Onto::Nothing, a, b, 1.0);
                c
            };
            let expected = reference(stored(&wide_a, m, k, ta), stored(&wide_b, k, n, tb));
            assert_close(&product(), &expected, |_| 2f64.powi(-23) * k as f64);
            assert_thread_independent(product);
        }
    }

    #[test]
    fn a_block_of_a_larger_matrix_is_written_and_read_in_place() {
        let a: Vec<f64> = (0..6).map(f64::from).collect();
        let mut c = vec![9.0; 8];
        let columns = Mat::new(&a, 2, 3).narrow(1, 2);
        matmul(
            (&mut c[1..], 4),
            Onto::Nothing,
            columns,
            Mat::new(&[1.0, 0.0, 0.0, 1.0], 2, 2),
            1.0,
        );
        assert_eq!(c, [9.0, 1.0, 2.0, 9.0, 9.0, 4.0, 5.0, 9.0]);
    }

    #[test]
    #[should_panic(expected = "found 2 x 3 times 2 x 2, expected one inner length")]
    fn shapes_are_checked() {
        let (a, b) = ([0.0f32; 6], [0.0f32; 4]);
        matmul(
            (&mut [0.0; 4], 2),
            Onto::Nothing,
            Mat::new(&a, 2, 3),
            Mat::new(&b, 2, 2),
            1.0,
        );
    }
}
