//! The k-th largest magnitude, exactly, of matrices that are read strip by strip.
//!
//! The bits of a finite |x| order as integers. One pass counts their upper 16 bits and a second the
//! lower 15 of those in the one bucket that matters (radix selection); a third places the ties, if
//! only some of them are to be kept. Counts are integers: no order of threads changes them.

use std::collections::HashMap;

use rayon::prelude::*;

use super::rows::{Rows, each_strip, strips};
use crate::error::Result;

/// Lower bits, of the 31 that a magnitude has.
const LOW: u32 = 15;
const BUCKETS: usize = 1 << (31 - LOW);
const FINE: usize = 1 << LOW;

/// Which magnitudes are the largest so many: those above a value, and those equal to it at places before
/// a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    /// Bits of the smallest magnitude within.
    bits: u32,
    /// Place in the row-major matrix at which those equal to it are no longer within.
    limit: u64,
}

impl Cut {
    pub(super) const NONE: Self = Self {
        bits: u32::MAX,
        limit: 0,
    };
    pub(super) const ALL: Self = Self {
        bits: 0,
        limit: u64::MAX,
    };

    /// Whether a number at a place is one of the largest.
    pub(super) fn includes(self, x: f32, place: u64) -> bool {
        let bits = magnitude(x);
        bits > self.bits || (bits == self.bits && place < self.limit)
    }
}

/// Bits of |x|.
fn magnitude(x: f32) -> u32 {
    x.abs().to_bits()
}

/// One count that is being searched.
#[derive(Debug, Clone)]
enum Search {
    /// In the buckets of upper bits.
    Coarse,
    /// The `rest` largest of one bucket, by their lower bits.
    Fine {
        bucket: u32,
        rest: u64,
        counts: Vec<u64>,
    },
    /// The first `rest` of those with these bits, and the limits that follow from it.
    Ties {
        bits: u32,
        rest: u64,
        limits: HashMap<String, u64>,
    },
    Found(Cut),
}

/// Finds the cuts after which so many of the largest magnitudes are within, over one matrix or several.
pub(super) struct Selection<F> {
    /// From how many numbers there are, how many the cuts leave.
    wanted: F,
    coarse: Vec<u64>,
    searches: [Search; 2],
}

impl<F: Fn(u64) -> [u64; 2]> Selection<F> {
    pub(super) fn new(wanted: F) -> Self {
        Self {
            wanted,
            coarse: vec![0; BUCKETS],
            searches: [Search::Coarse, Search::Coarse],
        }
    }

    /// Sees a matrix: every one once in a pass, in the same order in each.
    pub(super) fn observe(&mut self, name: &str, rows: &dyn Rows) -> Result<()> {
        if let [Search::Coarse, _] = self.searches {
            let all = |bits: u32| Some((bits >> LOW) as usize);
            add(&mut self.coarse, &histogram(rows, BUCKETS, all)?);
            return Ok(());
        }
        for search in &mut self.searches {
            match search {
                Search::Fine { bucket, counts, .. } => {
                    let low =
                        |bits: u32| (bits >> LOW == *bucket).then_some(bits as usize & (FINE - 1));
                    add(counts, &histogram(rows, FINE, low)?);
                }
                Search::Ties { bits, rest, limits } => {
                    let (limit, left) = place_of_tie(rows, *bits, *rest)?;
                    *rest = left;
                    limits.insert(name.to_owned(), limit);
                }
                Search::Coarse | Search::Found(_) => {}
            }
        }
        Ok(())
    }

    /// Ends a pass; whether another is needed.
    pub(super) fn advance(&mut self) -> bool {
        let Self {
            wanted,
            coarse,
            searches,
        } = self;
        let total: u64 = coarse.iter().sum();
        let wanted = wanted(total);
        for (search, wanted) in searches.iter_mut().zip(wanted) {
            *search = match std::mem::replace(search, Search::Found(Cut::NONE)) {
                Search::Coarse if wanted == 0 => Search::Found(Cut::NONE),
                Search::Coarse if wanted >= total => Search::Found(Cut::ALL),
                Search::Coarse => {
                    let (bucket, rest) = within(coarse, wanted);
                    Search::Fine {
                        bucket: bucket as u32,
                        rest,
                        counts: vec![0; FINE],
                    }
                }
                Search::Fine {
                    bucket,
                    rest,
                    counts,
                } => {
                    let (low, rest) = within(&counts, rest);
                    let bits = bucket << LOW | low as u32;
                    // Which zeros are kept makes no difference.
                    match bits == 0 || rest == counts[low] {
                        true => Search::Found(Cut {
                            bits,
                            limit: u64::MAX,
                        }),
                        false => Search::Ties {
                            bits,
                            rest,
                            limits: HashMap::new(),
                        },
                    }
                }
                found => found,
            };
        }
        searches.iter().any(|search| match search {
            Search::Coarse | Search::Fine { .. } => true,
            Search::Ties { limits, .. } => limits.is_empty(),
            Search::Found(_) => false,
        })
    }

    /// The cuts of a matrix that was seen.
    pub(super) fn cuts(&self, name: &str) -> [Cut; 2] {
        [0, 1].map(|at| match &self.searches[at] {
            Search::Found(cut) => *cut,
            Search::Ties { bits, limits, .. } => Cut {
                bits: *bits,
                limit: limits.get(name).copied().unwrap_or(0),
            },
            Search::Coarse | Search::Fine { .. } => Cut::NONE,
        })
    }
}

/// The cuts of one matrix alone.
pub(super) fn cuts(rows: &dyn Rows, wanted: impl Fn(u64) -> [u64; 2]) -> Result<[Cut; 2]> {
    let mut selection = Selection::new(wanted);
    loop {
        selection.observe("", rows)?;
        if !selection.advance() {
            return Ok(selection.cuts(""));
        }
    }
}

/// From the highest down: the bucket in which the `wanted`-th lies, and how many of it are wanted.
fn within(counts: &[u64], wanted: u64) -> (usize, u64) {
    let mut rest = wanted;
    for (bucket, count) in counts.iter().enumerate().rev() {
        if rest <= *count {
            return (bucket, rest);
        }
        rest -= count;
    }
    (0, rest)
}

fn histogram(
    rows: &dyn Rows,
    buckets: usize,
    bucket: impl Fn(u32) -> Option<usize> + Sync,
) -> Result<Vec<u64>> {
    let zeros = || vec![0u64; buckets];
    let count = |mut counts: Vec<u64>, strip| {
        for x in rows.strip(strip)? {
            if let Some(bucket) = bucket(magnitude(x)) {
                counts[bucket] += 1;
            }
        }
        Ok(counts)
    };
    let strips = strips(rows.shape()).into_par_iter();
    strips.try_fold(zeros, count).try_reduce(zeros, |mut a, b| {
        add(&mut a, &b);
        Ok(a)
    })
}

fn add(into: &mut [u64], counts: &[u64]) {
    into.iter_mut().zip(counts).for_each(|(a, b)| *a += b);
}

/// The place after the `wanted`-th number with these bits, and how many are still wanted after this matrix.
fn place_of_tie(rows: &dyn Rows, bits: u32, wanted: u64) -> Result<(u64, u64)> {
    if wanted == 0 {
        return Ok((0, 0));
    }
    let shape = rows.shape();
    let equal = |x: &f32| magnitude(*x) == bits;
    let counts = each_strip(shape, |strip| {
        Ok(rows.strip(strip)?.iter().filter(|x| equal(x)).count() as u64)
    })?;
    let mut rest = wanted;
    for (strip, count) in strips(shape).into_iter().zip(counts) {
        if rest <= count {
            let start = (strip.start * shape.1) as u64;
            let numbers = rows.strip(strip)?;
            let mut ties = numbers.iter().enumerate().filter(|(_, x)| equal(x));
            let last = ties.nth(rest as usize - 1).map_or(0, |(at, _)| at as u64);
            return Ok((start + last + 1, 0));
        }
        rest -= count;
    }
    Ok((u64::MAX, rest))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::update::Dense;

    /// Numbers with ties, zeros and both signs.
    fn numbers() -> impl Strategy<Value = Vec<f32>> {
        vec(
            prop_oneof![(-3i8..4).prop_map(|x| f32::from(x) * 0.25), -1e-3f32..1e3],
            1..60,
        )
    }

    /// The places of the `wanted` largest, by sorting.
    fn largest(numbers: &[f32], wanted: usize) -> Vec<usize> {
        let mut places: Vec<usize> = (0..numbers.len()).collect();
        places.sort_by(|a, b| {
            numbers[*b]
                .abs()
                .total_cmp(&numbers[*a].abs())
                .then(a.cmp(b))
        });
        let mut kept: Vec<usize> = places[..wanted]
            .iter()
            .copied()
            .filter(|at| numbers[*at] != 0.0)
            .collect();
        kept.sort_unstable();
        kept
    }

    fn kept(numbers: &[f32], cut: Cut) -> Vec<usize> {
        let within = |at: &usize| numbers[*at] != 0.0 && cut.includes(numbers[*at], *at as u64);
        (0..numbers.len()).filter(within).collect()
    }

    proptest! {
        #[test]
        fn cuts_are_those_of_sorting(numbers in numbers(), first in 0.0..=1.0, second in 0.0..=1.0) {
            let n = numbers.len();
            let wanted = [first, second].map(|part| (part * n as f64) as u64);
            let rows = Dense::new(n, 1, numbers.clone()).unwrap();
            for (cut, wanted) in cuts(&rows, |_| wanted).unwrap().into_iter().zip(wanted) {
                prop_assert_eq!(kept(&numbers, cut), largest(&numbers, wanted as usize));
            }
        }

        #[test]
        fn several_matrices_are_one_in_their_order(a in numbers(), b in numbers(), part in 0.0..=1.0) {
            let both = [a.clone(), b.clone()].concat();
            let wanted = |n: u64| [0, (part * n as f64) as u64];
            let mut selection = Selection::new(wanted);
            loop {
                for (name, numbers) in [("a", &a), ("b", &b)] {
                    let rows = Dense::new(1, numbers.len(), numbers.clone()).unwrap();
                    selection.observe(name, &rows).unwrap();
                }
                if !selection.advance() {
                    break;
                }
            }
            let mut found = kept(&a, selection.cuts("a")[1]);
            found.extend(kept(&b, selection.cuts("b")[1]).iter().map(|at| at + a.len()));
            prop_assert_eq!(found, largest(&both, wanted(both.len() as u64)[1] as usize));
        }
    }

    #[test]
    fn matrices_of_several_strips() {
        let numbers: Vec<f32> = (0..3 << 20)
            .map(|x: u32| (x.wrapping_mul(2_654_435_761) >> 24) as f32)
            .collect();
        let rows = Dense::new(3 << 10, 1 << 10, numbers.clone()).unwrap();
        for wanted in [1, 100_000, 2_000_000] {
            let [_, cut] = cuts(&rows, |_| [0, wanted]).unwrap();
            assert_eq!(kept(&numbers, cut), largest(&numbers, wanted as usize));
        }
    }
}
