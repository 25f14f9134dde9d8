//! Low-rank updates of the rows of a batch, each row with factors of its own.

use crate::parallel::{for_each, rows_per_task};
use crate::product::{Extent, Strided, multiply_add};
use crate::{Isa, Real, expect_len, expect_rows, isa};

/// The update `u(x) = s ((x A) B + c)` of one row `x` of `d_in` numbers, of `d_out` numbers.
#[derive(Debug, Clone, Copy)]
pub struct LowRank<'a, T> {
    /// `A`, `[d_in, rank]`.
    pub a: &'a [T],
    /// `B`, `[rank, d_out]`.
    pub b: &'a [T],
    /// `c`, `[d_out]`; without it 0.
    pub offset: Option<&'a [T]>,
    /// `s`.
    pub scale: T,
}

/// The rows of a batch that share an update.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a, T> {
    /// Their update.
    pub update: LowRank<'a, T>,
    /// Their positions; a row consists of one or more tokens.
    pub rows: &'a [usize],
}

/// Widths of a batch of rows that are updated in groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupedRows {
    /// Numbers in a token of the input.
    pub d_in: usize,
    /// Numbers in a token of the output.
    pub d_out: usize,
    /// Tokens in a row of the batch.
    pub tokens: usize,
}

/// Tokens that share the loads of A.
const TOKENS: usize = 2;

/// Tokens whose inputs are read before their outputs are written: in turn, the two streams disturb
/// each other (measured on 1024 x 768 numbers: an eighth longer).
const BLOCK: usize = 32;

/// Partial sums of a token's product with A, to hide the latency of an addition.
const PARTS: usize = 4;

impl GroupedRows {
    /// Adds to every token of `y`, `[rows tokens, d_out]`, the update of its row's group at the same
    /// token of `x`, `[rows tokens, d_in]`. Rows in no group stay as they are and cost nothing.
    ///
    /// `rank (d_in + d_out)` multiply-adds a token; x and y are read and y is written once, the
    /// factors of a group are read once a task. A token's numbers do not depend on the others.
    ///
    /// # Panics
    ///
    /// On factors of other widths, a position beyond the batch, or one that occurs twice.
    pub fn add<T: Real>(self, x: &[T], y: &mut [T], groups: &[Group<'_, T>]) {
        let Self {
            d_in,
            d_out,
            tokens,
        } = self;
        let rows = expect_rows("x", x, d_in * tokens);
        expect_len("y", y, rows * tokens * d_out);
        let ranks: Vec<usize> = groups
            .iter()
            .map(|group| self.rank(&group.update))
            .collect();
        let members: usize = groups.iter().map(|group| group.rows.len()).sum();
        let widest = ranks.iter().copied().max().unwrap_or(0);
        let per_task = rows_per_task(members * tokens, widest * (d_in + d_out));

        let mut blocks: Vec<Option<&mut [T]>> =
            y.chunks_mut((tokens * d_out).max(1)).map(Some).collect();
        let mut pieces = Vec::with_capacity(members);
        for (index, group) in groups.iter().enumerate() {
            for &row in group.rows {
                let block = blocks.get_mut(row).and_then(Option::take);
                let block = block.unwrap_or_else(|| {
                    panic!("row {row} of {rows}: expected each position once, below {rows}")
                });
                let inputs = x[row * tokens * d_in..][..tokens * d_in].chunks(per_task * d_in);
                let outputs = block.chunks_mut(per_task * d_out);
                pieces.extend(
                    inputs
                        .zip(outputs)
                        .map(|(x, y)| Piece { group: index, x, y }),
                );
            }
        }
        let task = (per_task / tokens.max(1)).max(1);
        for_each(pieces.chunks_mut(task), |pieces| {
            for run in pieces.chunk_by_mut(|one, next| one.group == next.group) {
                let group = run[0].group;
                update(self, ranks[group], groups[group].update, run);
            }
        });
    }

    fn rank<T: Real>(self, update: &LowRank<'_, T>) -> usize {
        let rank = expect_rows("a", update.a, self.d_in);
        expect_len("b", update.b, rank * self.d_out);
        if let Some(offset) = update.offset {
            expect_len("offset", offset, self.d_out);
        }
        rank
    }
}

/// Tokens of one row, for one task.
struct Piece<'a, T> {
    group: usize,
    x: &'a [T],
    y: &'a mut [T],
}

simd! {
    fn update<T, const FUSED: bool>(
        shape: GroupedRows,
        rank: usize,
        update: LowRank<'_, T>,
        pieces: &mut [Piece<'_, T>],
    ) {
        let mut tokens: Vec<(&[T], &mut [T])> = pieces
            .iter_mut()
            .flat_map(|piece| piece.x.chunks(shape.d_in).zip(piece.y.chunks_mut(shape.d_out)))
            .collect();
        let mut narrow = vec![T::ZERO; BLOCK.min(tokens.len()) * rank];
        let extent = Extent { m: 1, k: rank, n: shape.d_out };
        for block in tokens.chunks_mut(BLOCK) {
            let narrow = &mut narrow[..block.len() * rank];
            for (some, narrow) in block.chunks(TOKENS).zip(narrow.chunks_mut((TOKENS * rank).max(1))) {
                match some {
                    [(one, _), (two, _)] => project::<T, FUSED, 2>([one, two], update.a, rank, narrow),
                    [(one, _)] => project::<T, FUSED, 1>([one], update.a, rank, narrow),
                    _ => unreachable!("chunks of at most {TOKENS} tokens"),
                }
            }
            for value in &mut *narrow {
                *value *= update.scale;
            }
            for ((_, y), narrow) in block.iter_mut().zip(narrow.chunks(rank.max(1))) {
                let narrow = Strided { data: narrow, row: rank, column: 1 };
                multiply_add::<T, FUSED>(extent, narrow, (update.b, shape.d_out), (y, shape.d_out));
            }
            if let Some(offset) = update.offset {
                for (_, y) in block.iter_mut() {
                    for (y, &c) in y.iter_mut().zip(offset) {
                        *y = c.mul_add::<FUSED>(update.scale, *y);
                    }
                }
            }
        }
    }
}

/// `narrow[t, :] = x_t A`.
#[inline(always)]
fn project<T: Real, const FUSED: bool, const N: usize>(
    x: [&[T]; N],
    a: &[T],
    rank: usize,
    narrow: &mut [T],
) {
    let wide = size_of::<T>() == 4 && isa() == Isa::Avx512;
    let mut j = 0;
    while wide && rank - j >= 16 {
        columns::<T, FUSED, N, 16>(x, a, rank, j, narrow);
        j += 16;
    }
    while rank - j >= 8 {
        columns::<T, FUSED, N, 8>(x, a, rank, j, narrow);
        j += 8;
    }
    while rank - j >= 4 {
        columns::<T, FUSED, N, 4>(x, a, rank, j, narrow);
        j += 4;
    }
    while j < rank {
        columns::<T, FUSED, N, 1>(x, a, rank, j, narrow);
        j += 1;
    }
}

/// Columns `j..j + WIDTH` of [`project`]; every fourth number of a token goes into one sum.
#[inline(always)]
fn columns<T: Real, const FUSED: bool, const N: usize, const WIDTH: usize>(
    x: [&[T]; N],
    a: &[T],
    rank: usize,
    j: usize,
    narrow: &mut [T],
) {
    let d_in = a.len() / rank;
    let mut sums = [[[T::ZERO; WIDTH]; PARTS]; N];
    for start in (0..d_in).step_by(PARTS) {
        let parts = PARTS.min(d_in - start);
        let x = x.map(|x| &x[start..start + parts]);
        let a = &a[start * rank..(start + parts) * rank];
        if parts == PARTS {
            accumulate::<T, FUSED, N, WIDTH>(PARTS, x, a, rank, j, &mut sums);
        } else {
            accumulate::<T, FUSED, N, WIDTH>(parts, x, a, rank, j, &mut sums);
        }
    }
    // As in `fold`: the vectoriser starts at consecutive stores, which this makes.
    let sums = std::hint::black_box(sums);
    for (t, [first, second, third, fourth]) in sums.iter().enumerate() {
        let narrow = &mut narrow[t * rank + j..][..WIDTH];
        for (lane, value) in narrow.iter_mut().enumerate() {
            *value = (first[lane] + second[lane]) + (third[lane] + fourth[lane]);
        }
    }
}

/// `sums[t, part, :] += x_t[part] A[part, j..j + WIDTH]`.
#[inline(always)]
fn accumulate<T: Real, const FUSED: bool, const N: usize, const WIDTH: usize>(
    parts: usize,
    x: [&[T]; N],
    a: &[T],
    rank: usize,
    j: usize,
    sums: &mut [[[T; WIDTH]; PARTS]; N],
) {
    for part in 0..parts {
        let a: &[T; WIDTH] = a[part * rank + j..][..WIDTH]
            .try_into()
            .expect("cut to WIDTH");
        for t in 0..N {
            for lane in 0..WIDTH {
                sums[t][part][lane] = x[t][part].mul_add::<FUSED>(a[lane], sums[t][part][lane]);
            }
        }
    }
}

#[cfg(test)]
mod tests;
