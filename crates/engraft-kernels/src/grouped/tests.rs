use super::*;
use crate::testing::{assert_close, assert_thread_independent, narrow, noise, widen};
use proptest::prelude::*;

/// A, B and an offset.
type Drawn<T> = (Vec<T>, Vec<T>, Option<Vec<T>>);

/// A batch with factors of several ranks; a row of group `ranks.len()` has no update.
struct Batch<T> {
    shape: GroupedRows,
    x: Vec<T>,
    y: Vec<T>,
    factors: Vec<Drawn<T>>,
    rows: Vec<Vec<usize>>,
}

fn batch(shape: GroupedRows, ranks: &[usize], choice: &[usize], seed: u64) -> Batch<f64> {
    let GroupedRows {
        d_in,
        d_out,
        tokens,
    } = shape;
    let draw = |len: usize, at: usize| noise(len, seed ^ (at as u64) << 8);
    let rows = |group| {
        (0..choice.len())
            .filter(|row| choice[*row] == group)
            .collect()
    };
    Batch {
        shape,
        x: draw(choice.len() * tokens * d_in, 1),
        y: draw(choice.len() * tokens * d_out, 2),
        factors: ranks
            .iter()
            .enumerate()
            .map(|(group, &rank)| {
                let at = 3 * group + 3;
                let offset = (group % 2 == 1).then(|| draw(d_out, at + 2));
                (draw(d_in * rank, at), draw(rank * d_out, at + 1), offset)
            })
            .collect(),
        rows: (0..ranks.len()).map(rows).collect(),
    }
}

impl Batch<f64> {
    fn narrow(&self) -> Batch<f32> {
        let factors = self
            .factors
            .iter()
            .map(|(a, b, c)| (narrow(a), narrow(b), c.as_deref().map(narrow)));
        Batch {
            shape: self.shape,
            x: narrow(&self.x),
            y: narrow(&self.y),
            factors: factors.collect(),
            rows: self.rows.clone(),
        }
    }

    /// By loops over tokens, ranks and widths.
    fn reference(&self) -> Vec<f64> {
        let GroupedRows {
            d_in,
            d_out,
            tokens,
        } = self.shape;
        let mut y = self.y.clone();
        for (group, (a, b, offset)) in self.factors.iter().enumerate() {
            let rank = a.len() / d_in;
            for row in &self.rows[group] {
                for t in row * tokens..(row + 1) * tokens {
                    for j in 0..d_out {
                        let mut sum = offset.as_ref().map_or(0.0, |c| c[j]);
                        for r in 0..rank {
                            let narrow: f64 = (0..d_in)
                                .map(|i| self.x[t * d_in + i] * a[i * rank + r])
                                .sum();
                            sum += narrow * b[r * d_out + j];
                        }
                        y[t * d_out + j] += 0.5 * (group + 1) as f64 * sum;
                    }
                }
            }
        }
        y
    }
}

impl<T: Real> Batch<T> {
    fn run(&self) -> Vec<T> {
        let groups: Vec<Group<'_, T>> = self
            .factors
            .iter()
            .zip(&self.rows)
            .enumerate()
            .map(|(group, ((a, b, offset), rows))| Group {
                update: LowRank {
                    a,
                    b,
                    offset: offset.as_deref(),
                    scale: T::from_f64(0.5 * (group + 1) as f64),
                },
                rows,
            })
            .collect();
        let mut y = self.y.clone();
        self.shape.add(&self.x, &mut y, &groups);
        y
    }
}

proptest! {
    #[test]
    fn agrees_with_loops_in_f64(
        d_in in 1usize..40,
        d_out in 1usize..70,
        tokens in 1usize..4,
        ranks in proptest::collection::vec(0usize..35, 0..4),
        choice in proptest::collection::vec(0usize..5, 0..12),
        seed: u64,
    ) {
        let shape = GroupedRows { d_in, d_out, tokens };
        let wide = batch(shape, &ranks, &choice, seed);
        let expected = wide.reference();
        let terms = 2.0 * 35.0 * (d_in + 2) as f64;
        assert_close(&wide.run(), &expected, |_| 1e-15 * terms);
        let narrow = wide.narrow();
        let rounded = Batch {
            x: widen(&narrow.x),
            y: widen(&narrow.y),
            factors: narrow
                .factors
                .iter()
                .map(|(a, b, c)| (widen(a), widen(b), c.as_deref().map(widen)))
                .collect(),
            ..wide
        };
        assert_close(&narrow.run(), &rounded.reference(), |_| 2f64.powi(-24) * terms);
    }
}

#[test]
fn neither_threads_nor_other_rows_change_a_bit() {
    let shape = GroupedRows {
        d_in: 97,
        d_out: 83,
        tokens: 30,
    };
    let choice: Vec<usize> = (0..101).map(|row| row * 7 % 6).collect();
    let mixed = batch(shape, &[8, 3, 16, 1, 33], &choice, 5).narrow();
    assert_thread_independent(|| mixed.run());
    let together = mixed.run();
    let width = shape.tokens * shape.d_out;
    for (row, group) in choice.iter().enumerate() {
        let mut alone = batch(shape, &[8, 3, 16, 1, 33], &choice, 5).narrow();
        alone
            .rows
            .iter_mut()
            .for_each(|rows| rows.retain(|other| other == &row));
        let alone = alone.run();
        assert!(alone[row * width..][..width] == together[row * width..][..width]);
        assert!(*group < 5 || together[row * width..][..width] == mixed.y[row * width..][..width]);
    }
}

#[test]
#[should_panic(expected = "row 1 of 2: expected each position once")]
fn a_row_has_one_group() {
    let update = LowRank {
        a: &[1.0f32],
        b: &[1.0],
        offset: None,
        scale: 1.0,
    };
    let group = Group { update, rows: &[1] };
    let shape = GroupedRows {
        d_in: 1,
        d_out: 1,
        tokens: 1,
    };
    shape.add(&[1.0, 2.0], &mut [0.0; 2], &[group, group]);
}
