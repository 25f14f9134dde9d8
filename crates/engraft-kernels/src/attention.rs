//! Softmax attention that keeps two numbers a row for its backward pass.

mod head;

use head::{Head, Work};

use crate::fold::{max, sum, sum2};
use crate::parallel::{for_each, rows_per_task};
use crate::product::{Extent, Strided, multiply_add};
use crate::{Real, expect_len};

/// Rows of queries whose scores are held at a time: eight register tiles.
const BLOCK: usize = 48;

/// Work of one exponential, in the unit of [`rows_per_task`].
const EXP: usize = 24;

/// `y = softmax(scale q k^T + mask) v` in each head.
///
/// Arrays are token-major, as projections leave them: `q`, `y` and their gradients are
/// `[batch, queries, heads, width]`, `k` and `v` are `[batch, keys, key_heads, width]`; query head
/// `h` looks at key head `h / (heads / key_heads)`.
///
/// Vaswani et al., arXiv 1706.03762, section 3.2.1; shared key heads: Ainslie et al., arXiv
/// 2305.13245; scores computed again in the backward pass: Dao et al., arXiv 2205.14135. Scores
/// live in blocks of 48 rows, `[48, keys]`, so that memory grows with `queries + keys`. Flops of a
/// head: `4 queries keys width` forward and `10 queries keys width` backward.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention {
    /// Sequences.
    pub batch: usize,
    /// Heads of queries, a multiple of `key_heads`.
    pub heads: usize,
    /// Heads of keys and values.
    pub key_heads: usize,
    /// Tokens that look.
    pub queries: usize,
    /// Tokens that are looked at.
    pub keys: usize,
    /// Numbers of a head.
    pub width: usize,
    /// Multiplies the scores.
    pub scale: f64,
    /// Whether query `i` sees no key after `i + keys - queries`: the last query sees all.
    pub causal: bool,
}

/// Added to the scores: `[batch or 1, heads or 1, queries or 1, keys]`. A row of minus infinities
/// gives NaN.
#[derive(Debug, Clone, Copy)]
pub struct Mask<'a, T> {
    /// The numbers.
    pub values: &'a [T],
    /// Their shape.
    pub shape: [usize; 4],
}

/// What [`Attention::forward`] keeps of each row of scores, `[batch, heads, queries]`.
#[derive(Debug, Clone, PartialEq)]
pub struct RowStatistics<T> {
    /// Largest score.
    pub max: Vec<T>,
    /// `1 / sum e^(score - max)`.
    pub scale: Vec<T>,
}

impl Attention {
    /// Writes `y`.
    ///
    /// # Panics
    ///
    /// Unless every length is that of its shape, `heads` is a multiple of `key_heads`, and there
    /// are keys, at least as many as queries if `causal`.
    pub fn forward<T: Real>(
        &self,
        [q, k, v]: [&[T]; 3],
        mask: Option<Mask<'_, T>>,
        y: &mut [T],
    ) -> RowStatistics<T> {
        self.check([q, k, v], mask);
        expect_len("y", y, q.len());
        let (rows, width) = (self.queries, self.width);
        let group = self.heads / self.key_heads;
        let count = self.batch * self.heads * rows;
        let (mut largest, mut scales) = (vec![T::ZERO; count], vec![T::ZERO; count]);
        let mut heads = vec![T::ZERO; y.len()];
        let task = self.heads_per_task(2 * width + EXP);
        let statistics =
            chunks(&mut largest, task * group * rows).zip(chunks(&mut scales, task * group * rows));
        let tasks = chunks(&mut heads, task * group * rows * width).zip(statistics);
        for_each(tasks.enumerate(), |(index, (y, (max, scale)))| {
            let mut work = Work::new(self);
            let outputs = chunks(y, rows * width).zip(chunks(max, rows).zip(chunks(scale, rows)));
            for (head, (y, (max, scale))) in outputs.enumerate() {
                let index = index * task * group + head;
                let head = self.head(index, [q, k, v], mask);
                if index.is_multiple_of(group) {
                    work.transpose_keys(head);
                }
                forward(head, &mut work, y, max, scale);
            }
        });
        self.interleave(&heads, self.heads, rows, y);
        RowStatistics {
            max: largest,
            scale: scales,
        }
    }

    /// Writes the gradients of `q`, `k` and `v`.
    ///
    /// With `p` the softmax: `gv = p^T gy`, `gs = p (gp - sum_j p gp)` for `gp = gy v^T`,
    /// `gq = scale gs k` and `gk = scale gs^T q`.
    ///
    /// # Panics
    ///
    /// Unless the lengths are those of the forward pass.
    pub fn backward<T: Real>(
        &self,
        [q, k, v]: [&[T]; 3],
        mask: Option<Mask<'_, T>>,
        statistics: &RowStatistics<T>,
        gy: &[T],
        [gq, gk, gv]: [&mut [T]; 3],
    ) {
        self.check([q, k, v], mask);
        expect_len("gy", gy, q.len());
        expect_len("gq", gq, q.len());
        expect_len("gk", gk, k.len());
        expect_len("gv", gv, v.len());
        let (rows, keys, width) = (self.queries, self.keys, self.width);
        let group = self.heads / self.key_heads;
        let count = self.batch * self.heads * rows;
        expect_len("statistics", &statistics.max, count);
        expect_len("statistics", &statistics.scale, count);
        let [mut q_heads, mut k_heads, mut v_heads] =
            [q, k, v].map(|array| vec![T::ZERO; array.len()]);
        let task = self.heads_per_task(5 * width + EXP);
        let pairs = chunks(&mut k_heads, task * keys * width)
            .zip(chunks(&mut v_heads, task * keys * width));
        let tasks = chunks(&mut q_heads, task * group * rows * width).zip(pairs);
        for_each(tasks.enumerate(), |(index, (gq, (gk, gv)))| {
            let mut work = Work::new(self);
            let pairs = chunks(gk, keys * width).zip(chunks(gv, keys * width));
            let outputs = chunks(gq, group * rows * width).zip(pairs);
            for (key_head, (gq, (gk, gv))) in outputs.enumerate() {
                let first = (index * task + key_head) * group;
                for (index, gq) in (first..).zip(chunks(gq, rows * width)) {
                    let head = self.head(index, [q, k, v], mask);
                    if index == first {
                        work.transpose_keys(head);
                        work.transpose_values(head);
                    }
                    let span = index * rows..(index + 1) * rows;
                    let (max, scale) = (&statistics.max[span.clone()], &statistics.scale[span]);
                    let gy = &gy[self.query_start(index)..];
                    backward(
                        head,
                        &mut work,
                        (max, scale),
                        gy,
                        (&mut *gq, &mut *gk, &mut *gv),
                    );
                }
            }
        });
        self.interleave(&q_heads, self.heads, rows, gq);
        self.interleave(&k_heads, self.key_heads, keys, gk);
        self.interleave(&v_heads, self.key_heads, keys, gv);
    }

    #[track_caller]
    fn check<T>(&self, [q, k, v]: [&[T]; 3], mask: Option<Mask<'_, T>>) {
        let Self {
            batch,
            heads,
            key_heads,
            queries,
            keys,
            width,
            ..
        } = *self;
        assert!(
            key_heads > 0 && heads.is_multiple_of(key_heads),
            "heads: found {heads}, expected a multiple of {key_heads}"
        );
        assert!(keys > 0, "keys: found 0, expected at least 1");
        assert!(
            !self.causal || keys >= queries,
            "keys: found {keys}, expected at least the {queries} queries"
        );
        expect_len("q", q, batch * queries * heads * width);
        expect_len("k", k, batch * keys * key_heads * width);
        expect_len("v", v, batch * keys * key_heads * width);
        if let Some(Mask { values, shape }) = mask {
            let full = [batch, heads, queries, keys];
            assert!(
                shape[3] == keys && (0..3).all(|axis| [1, full[axis]].contains(&shape[axis])),
                "mask: found shape {shape:?}, expected {full:?} with 1 for any but the last"
            );
            expect_len("mask", values, shape.iter().product());
        }
    }

    /// Key heads of one task if a score costs `cost`.
    fn heads_per_task(&self, cost: usize) -> usize {
        let scores = self.heads / self.key_heads * self.queries * self.keys;
        rows_per_task(self.batch * self.key_heads, scores.saturating_mul(cost))
    }

    /// Where the queries of head `index` of `[batch, heads]` start.
    fn query_start(&self, index: usize) -> usize {
        let (sequence, head) = (index / self.heads, index % self.heads);
        (sequence * self.queries * self.heads + head) * self.width
    }

    fn head<'a, T: Real>(
        &self,
        index: usize,
        [q, k, v]: [&'a [T]; 3],
        mask: Option<Mask<'a, T>>,
    ) -> Head<'a, T> {
        let (sequence, head) = (index / self.heads, index % self.heads);
        let key_head = head / (self.heads / self.key_heads);
        let keys = (sequence * self.keys * self.key_heads + key_head) * self.width;
        let mask = mask.map(|Mask { values, shape }| {
            let at = |axis: usize, index: usize| if shape[axis] == 1 { 0 } else { index };
            let start = (at(0, sequence) * shape[1] + at(1, head)) * shape[2] * shape[3];
            (&values[start..start + shape[2] * shape[3]], at(2, shape[3]))
        });
        Head {
            shape: *self,
            q: &q[self.query_start(index)..],
            k: &k[keys..],
            v: &v[keys..],
            mask,
        }
    }

    /// `[batch, heads, rows, width]` to `[batch, rows, heads, width]`.
    fn interleave<T: Real>(&self, from: &[T], heads: usize, rows: usize, to: &mut [T]) {
        let width = self.width;
        let task = rows_per_task(self.batch, 4 * heads * rows * width) * heads * rows * width;
        for_each(
            from.chunks(task.max(1)).zip(chunks(to, task)),
            |(from, to)| {
                let sequences = from.chunks(heads * rows * width);
                for (from, to) in sequences.zip(to.chunks_mut(heads * rows * width)) {
                    for (head, from) in from.chunks_exact(rows * width).enumerate() {
                        let rows = to.chunks_exact_mut(heads * width);
                        for (from, to) in from.chunks_exact(width).zip(rows) {
                            to[head * width..][..width].copy_from_slice(from);
                        }
                    }
                }
            },
        );
    }
}

/// [`slice::chunks_mut`] that an empty slice may ask for chunks of 0.
fn chunks<T>(data: &mut [T], len: usize) -> std::slice::ChunksMut<'_, T> {
    data.chunks_mut(len.max(1))
}

simd! {
    fn forward<T, const FUSED: bool>(
        head: Head<'_, T>, work: &mut Work<T>, y: &mut [T], largest: &mut [T], scales: &mut [T],
    ) {
        let Attention { key_heads, queries, width, .. } = head.shape;
        for start in (0..queries).step_by(BLOCK) {
            let rows = BLOCK.min(queries - start);
            let seen = head.seen(start + rows);
            let p = &mut work.p[..rows * seen];
            head.scores::<FUSED>(start, rows, &work.k_t, p);
            for (i, row) in (start..).zip(p.chunks_exact_mut(seen)) {
                let (row, unseen) = row.split_at_mut(head.seen(i + 1));
                let largest_score = max(row);
                for x in &mut *row {
                    *x = (*x - largest_score).exp::<FUSED>();
                }
                unseen.fill(T::ZERO);
                largest[i] = largest_score;
                scales[i] = T::ONE / sum(row, |s, x| s + x);
            }
            let extent = Extent { m: rows, k: seen, n: width };
            let y = &mut y[start * width..(start + rows) * width];
            let p = Strided { data: p, row: seen, column: 1 };
            multiply_add::<T, FUSED>(extent, p, (head.v, key_heads * width), (&mut *y, width));
            for (y, &scale) in y.chunks_exact_mut(width).zip(&scales[start..]) {
                y.iter_mut().for_each(|y| *y *= scale);
            }
        }
    }
}

simd! {
    fn backward<T, const FUSED: bool>(
        head: Head<'_, T>,
        work: &mut Work<T>,
        statistics: (&[T], &[T]),
        gy: &[T],
        gradients: (&mut [T], &mut [T], &mut [T]),
    ) {
        let Attention { heads, key_heads, queries, keys, width, scale, .. } = head.shape;
        let (gq, gk, gv) = gradients;
        let factor = T::from_f64(scale);
        for start in (0..queries).step_by(BLOCK) {
            let rows = BLOCK.min(queries - start);
            let seen = head.seen(start + rows);
            let (p, gp) = (&mut work.p[..rows * seen], &mut work.gp[..rows * seen]);
            head.scores::<FUSED>(start, rows, &work.k_t, p);
            for (i, row) in (start..).zip(p.chunks_exact_mut(seen)) {
                let (row, unseen) = row.split_at_mut(head.seen(i + 1));
                let (largest, scale) = (statistics.0[i], statistics.1[i]);
                for x in row {
                    *x = (*x - largest).exp::<FUSED>() * scale;
                }
                unseen.fill(T::ZERO);
            }
            gp.fill(T::ZERO);
            let gy = (&gy[start * heads * width..], heads * width);
            let from_rows = Strided { data: gy.0, row: gy.1, column: 1 };
            let extent = Extent { m: rows, k: width, n: seen };
            multiply_add::<T, FUSED>(extent, from_rows, (&work.v_t, keys), (&mut *gp, seen));

            let to_keys = Extent { m: seen, k: rows, n: width };
            let columns = Strided { data: p, row: 1, column: seen };
            multiply_add::<T, FUSED>(to_keys, columns, gy, (&mut *gv, width));
            for (p, gp) in p.chunks_exact(seen).zip(gp.chunks_exact_mut(seen)) {
                let mean = sum2(p, gp, |s, p, g| p.mul_add::<FUSED>(g, s));
                for (&p, gp) in p.iter().zip(gp) {
                    *gp = p * (*gp - mean) * factor;
                }
            }
            let to_rows = Extent { m: rows, k: seen, n: width };
            let scores = Strided { data: gp, row: seen, column: 1 };
            let gq = &mut gq[start * width..(start + rows) * width];
            multiply_add::<T, FUSED>(to_rows, scores, (head.k, key_heads * width), (gq, width));
            let columns = Strided { data: gp, row: 1, column: seen };
            let q = (&head.q[start * heads * width..], heads * width);
            multiply_add::<T, FUSED>(to_keys, columns, q, (&mut *gk, width));
        }
    }
}

#[cfg(test)]
mod tests;
