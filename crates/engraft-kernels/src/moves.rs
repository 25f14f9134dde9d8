//! Sparse sums of spectra.

use crate::Real;
use crate::group::Group;
use crate::vector::Vector;

/// Terms of sparse sums of spectra, by their targets.
pub(crate) struct Moves {
    /// First term of each target, and the end.
    starts: Vec<u32>,
    /// Source and entry of each term.
    terms: Vec<[u32; 2]>,
}

impl Moves {
    /// From two terms (target, source) of each entry.
    pub(crate) fn new(targets: usize, terms: &[[[usize; 2]; 2]]) -> Self {
        let mut starts = vec![0u32; targets + 1];
        for [target, _] in terms.as_flattened() {
            starts[target + 1] += 1;
        }
        for target in 0..targets {
            starts[target + 1] += starts[target];
        }
        let mut next = starts.clone();
        let mut sorted = vec![[0; 2]; 2 * terms.len()];
        for (entry, pair) in terms.iter().enumerate() {
            for &[target, source] in pair {
                sorted[next[target] as usize] = [source as u32, entry as u32];
                next[target] += 1;
            }
        }
        Self {
            starts,
            terms: sorted,
        }
    }
}

/// Sums of `from` with the given factors.
#[inline(always)]
pub(crate) fn gather<T: Real, V: Vector<T>>(
    moves: &Moves,
    c: &[T],
    from: &Group<T>,
    to: &mut Group<T>,
) {
    for (target, range) in moves.starts.windows(2).enumerate() {
        let (mut re, mut im) = (V::splat(T::ZERO), V::splat(T::ZERO));
        for &[source, entry] in &moves.terms[range[0] as usize..range[1] as usize] {
            let c = V::splat(c[entry as usize]);
            let (a, b): (V, V) = from.at(source as usize);
            (re, im) = (a.mul_add(c, re), b.mul_add(c, im));
        }
        to.set(target, (re, im));
    }
}
