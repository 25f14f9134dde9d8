//! Division of elementwise work among threads.

use crate::expect_len;
use crate::parallel::{for_each, rows_per_task};

/// `run(x, y)` on runs of both slices; an element costs `cost`, in the unit of [`rows_per_task`].
#[track_caller]
pub(crate) fn map<T: Send + Sync>(
    x: &[T],
    y: &mut [T],
    cost: usize,
    run: impl Fn(&[T], &mut [T]) + Send + Sync,
) {
    expect_len("y", y, x.len());
    let chunk = rows_per_task(x.len(), cost);
    for_each(x.chunks(chunk).zip(y.chunks_mut(chunk)), |(x, y)| run(x, y));
}

/// `run(x, gy, gx)` on runs of the three slices.
#[track_caller]
pub(crate) fn map_backward<T: Send + Sync>(
    x: &[T],
    gy: &[T],
    gx: &mut [T],
    cost: usize,
    run: impl Fn(&[T], &[T], &mut [T]) + Send + Sync,
) {
    expect_len("gy", gy, x.len());
    expect_len("gx", gx, x.len());
    let chunk = rows_per_task(x.len(), cost);
    let tasks = x
        .chunks(chunk)
        .zip(gy.chunks(chunk))
        .zip(gx.chunks_mut(chunk));
    for_each(tasks, |((x, gy), gx)| run(x, gy, gx));
}
