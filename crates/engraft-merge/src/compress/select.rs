//! The largest magnitudes of numbers that come in parts, exactly, without keeping them.

use crate::error::Result;

/// Hands every part of some numbers to a visitor, in the same order each time.
pub(super) type Parts<'a> = dyn FnMut(&mut dyn FnMut(&[f32])) -> Result<()> + 'a;

/// What is kept: all above a magnitude, and the first few of exactly that magnitude.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Selection {
    /// Bits of the magnitude; non-negative numbers are ordered as their bits are.
    threshold: u32,
    ties: u64,
    /// How many are kept: zeros never are.
    pub kept: u64,
    /// The sum of the magnitudes that are kept.
    pub sum: f64,
}

impl Selection {
    /// The `count` numbers of largest magnitude; of equal ones the first.
    pub fn largest(count: u64, parts: &mut Parts) -> Result<Self> {
        let mut high = Buckets::new();
        parts(&mut |part| {
            part.iter()
                .for_each(|x| high.add((magnitude(*x) >> 16) as usize, *x))
        })?;
        let (bucket, left) = high.reach(count);
        let mut low = Buckets::new();
        parts(&mut |part| {
            let inside = part
                .iter()
                .filter(|x| (magnitude(**x) >> 16) as usize == bucket);
            inside.for_each(|x| low.add((magnitude(*x) & 0xffff) as usize, *x));
        })?;
        let (last, ties) = low.reach(left);
        let threshold = (bucket << 16 | last) as u32;
        let above = high.above(bucket).plus(low.above(last));
        // Zeros are left out: they have no sign.
        let ties = if threshold == 0 { 0 } else { ties };
        Ok(Self {
            threshold,
            ties,
            kept: above.count + ties,
            sum: match ties {
                0 => above.sum,
                ties => above.sum + ties as f64 * f64::from(f32::from_bits(threshold)),
            },
        })
    }

    /// Whether the next number is kept.
    pub fn keeps(&mut self, x: f32) -> bool {
        let magnitude = magnitude(x);
        let tie = magnitude == self.threshold && self.ties > 0;
        self.ties -= u64::from(tie);
        magnitude > self.threshold || tie
    }
}

fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    count: u64,
    sum: f64,
}

impl Bucket {
    fn plus(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            sum: self.sum + other.sum,
        }
    }
}

struct Buckets(Vec<Bucket>);

impl Buckets {
    fn new() -> Self {
        Self(vec![Bucket::default(); 1 << 16])
    }

    fn add(&mut self, at: usize, x: f32) {
        let bucket = &mut self.0[at];
        bucket.count += 1;
        bucket.sum += f64::from(x.abs());
    }

    /// The bucket in which the `count`-th from the top lies, and which of that bucket it is; of fewer
    /// numbers the lowest.
    fn reach(&self, mut count: u64) -> (usize, u64) {
        for (at, bucket) in self.0.iter().enumerate().rev() {
            if bucket.count >= count {
                return (at, count);
            }
            count -= bucket.count;
        }
        (0, 0)
    }

    fn above(&self, at: usize) -> Bucket {
        let above = self.0[at + 1..].iter().copied();
        above.fold(Bucket::default(), Bucket::plus)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_largest_are_kept(parts in vec(vec(prop_oneof![-2.0f32..2.0, (-3i8..4).prop_map(f32::from)], 0..30), 1..5), share in 0.0f64..1.0) {
            let all: Vec<f32> = parts.concat();
            let count = (share * all.len() as f64) as usize;
            let mut selection = Selection::largest(count as u64, &mut |visit| {
                parts.iter().for_each(|part| visit(part));
                Ok(())
            }).unwrap();
            let mut sorted: Vec<f32> = all.iter().map(|x| x.abs()).collect();
            sorted.sort_by(|a, b| b.total_cmp(a));
            sorted.truncate(count);
            sorted.retain(|x| *x != 0.0);
            prop_assert_eq!(selection.kept as usize, sorted.len());
            let sum: f64 = sorted.iter().copied().map(f64::from).sum();
            prop_assert!((selection.sum - sum).abs() <= 1e-12 * sum);
            let mut kept: Vec<f32> = all.iter().filter(|x| selection.keeps(**x)).map(|x| x.abs()).collect();
            kept.sort_by(|a, b| b.total_cmp(a));
            prop_assert_eq!(kept, sorted);
        }
    }
}
