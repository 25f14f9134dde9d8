//! Division of rows among threads, by shape alone.

use crate::Real;
use rayon::prelude::*;
use std::ops::Range;

/// Work below which starting threads costs more than it saves.
///
/// The unit is one multiply-add in one vector lane. Measured with GELU on two AVX-512 cores: handing
/// work to a sleeping thread takes about 20 microseconds, and from 50 microseconds of work on (130,000
/// numbers of 32 units each) two threads are ahead of one.
const THRESHOLD: usize = 1 << 22;

/// Work of one task: small enough to balance, large enough to hide its hand-over.
const TASK: usize = 1 << 19;

/// Largest number of partial sums that a reduction keeps.
const PARTIALS: usize = 16;

/// Rows of one task if every row costs `cost`.
pub(crate) fn rows_per_task(rows: usize, cost: usize) -> usize {
    if rows.saturating_mul(cost) < THRESHOLD {
        rows.max(1)
    } else {
        (TASK / cost.max(1)).max(1)
    }
}

/// Runs every task, on the calling thread if there is only one.
pub(crate) fn for_each<I>(tasks: I, run: impl Fn(I::Item) + Send + Sync)
where
    I: ExactSizeIterator,
    I::Item: Send,
{
    if tasks.len() <= 1 || rayon::current_num_threads() == 1 {
        tasks.for_each(run);
    } else {
        tasks.collect::<Vec<_>>().into_par_iter().for_each(run);
    }
}

/// Sums the contributions of all rows to an array of `len` numbers.
///
/// `run` adds the rows of a range to a partial sum; partial sums are added in the order of rows.
/// `outputs` are what `run` writes beside the sum, one a task of `rows_per_partial` rows.
pub(crate) fn reduce<T: Real, O: Send>(
    rows: usize,
    rows_per_partial: usize,
    len: usize,
    outputs: impl ExactSizeIterator<Item = O>,
    run: impl Fn(Range<usize>, &mut [T], O) + Send + Sync,
) -> Vec<T> {
    let tasks = rows.div_ceil(rows_per_partial).max(1);
    let mut partials = vec![T::ZERO; tasks * len];
    for_each(
        parts(&mut partials, len, tasks)
            .into_iter()
            .zip(outputs)
            .enumerate(),
        |(task, (sum, output))| {
            let start = task * rows_per_partial;
            run(start..rows.min(start + rows_per_partial), sum, output);
        },
    );
    let mut total = partials.split_off((tasks - 1) * len);
    for partial in partials.chunks(len.max(1)).rev() {
        for (sum, &term) in total.iter_mut().zip(partial) {
            *sum += term;
        }
    }
    total
}

/// `count` chunks of `len` numbers; those beyond the end of the data are shorter or empty.
pub(crate) fn parts<T>(mut data: &mut [T], len: usize, count: usize) -> Vec<&mut [T]> {
    let next = |_| {
        data.split_off_mut(..len.min(data.len()))
            .unwrap_or_default()
    };
    (0..count).map(next).collect()
}

/// Rows of one partial sum of [`reduce`] if every row costs `cost`.
pub(crate) fn rows_per_partial(rows: usize, cost: usize) -> usize {
    rows_per_task(rows, cost)
        .max(rows.div_ceil(PARTIALS))
        .max(1)
}

/// The chunks of an output of [`reduce`], one of length 0 if it is empty.
pub(crate) fn chunks_mut<T>(
    output: &mut [T],
    len: usize,
) -> impl ExactSizeIterator<Item = &mut [T]> {
    let chunks: Vec<_> = if output.is_empty() {
        vec![output]
    } else {
        output.chunks_mut(len).collect()
    };
    chunks.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_in_one_task_and_small_work_is_one_task() {
        assert_eq!(rows_per_task(100, 10), 100);
        assert_eq!(rows_per_task(1 << 20, 64), TASK / 64);
        assert_eq!(rows_per_task(10, usize::MAX), 1);
        assert!(rows_per_task(0, 0) > 0);
        for (rows, cost) in [(0, 5), (1, 1 << 24), (1000, 1 << 20), (12_345, 1000)] {
            let per = rows_per_partial(rows, cost);
            let outputs = vec![(); rows.div_ceil(per).max(1)];
            let sum = reduce(
                rows,
                per,
                2,
                outputs.into_iter(),
                |range, sum: &mut [f64], ()| {
                    sum[0] += range.len() as f64;
                    sum[1] += range.sum::<usize>() as f64;
                },
            );
            assert_eq!(sum, [rows as f64, (0..rows).sum::<usize>() as f64]);
        }
    }
}
