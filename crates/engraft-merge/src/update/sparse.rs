//! Changes at a few places.

/// Values at places of a row-major matrix, in ascending order and each place once.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sparse {
    places: Vec<u64>,
    values: Vec<f32>,
}

/// How the places of two sparse updates lie to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overlap {
    /// Places of the first.
    pub first: usize,
    /// Places of the second.
    pub second: usize,
    /// Places of both.
    pub both: usize,
    /// Places of both where their signs differ.
    pub conflicts: usize,
}

impl Overlap {
    /// Intersection over union, 1 for two empty ones.
    #[must_use]
    pub fn jaccard(&self) -> f64 {
        match self.first + self.second - self.both {
            0 => 1.0,
            union => self.both as f64 / union as f64,
        }
    }
}

impl Sparse {
    /// Entries in any order; those at one place add up.
    #[must_use]
    pub fn new(mut entries: Vec<(u64, f32)>) -> Self {
        entries.sort_unstable_by_key(|(place, _)| *place);
        let mut sparse = Self::default();
        for (place, value) in entries {
            match sparse.places.last() {
                Some(last) if *last == place => {
                    *sparse.values.last_mut().expect("one each") += value
                }
                _ => {
                    sparse.places.push(place);
                    sparse.values.push(value);
                }
            }
        }
        sparse
    }

    /// The entries of a dense matrix that are not zero.
    #[must_use]
    pub fn of_dense(dense: &[f32]) -> Self {
        let kept = dense.iter().enumerate().filter(|(_, x)| **x != 0.0);
        let (places, values) = kept.map(|(at, x)| (at as u64, *x)).unzip();
        Self { places, values }
    }

    /// How many entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether it changes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// The places, ascending.
    #[must_use]
    pub fn places(&self) -> &[u64] {
        &self.places
    }

    /// The values at the places.
    #[must_use]
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The entries.
    pub fn entries(&self) -> impl Iterator<Item = (u64, f32)> {
        self.places.iter().copied().zip(self.values.iter().copied())
    }

    /// c S.
    #[must_use]
    pub fn scaled(&self, c: f64) -> Self {
        Self {
            places: self.places.clone(),
            values: self
                .values
                .iter()
                .map(|x| (f64::from(*x) * c) as f32)
                .collect(),
        }
    }

    /// The sum of two.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self::new(self.entries().chain(other.entries()).collect())
    }

    /// S^T, of a matrix of `[rows, columns]`.
    #[must_use]
    pub fn transposed(&self, rows: usize, columns: usize) -> Self {
        let (rows, columns) = (rows as u64, columns as u64);
        let turned = self
            .entries()
            .map(|(place, value)| (place % columns * rows + place / columns, value));
        Self::new(turned.collect())
    }

    /// How the places lie to another's.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> Overlap {
        let mut overlap = Overlap {
            first: self.len(),
            second: other.len(),
            ..Overlap::default()
        };
        let mut theirs = other.entries().peekable();
        for (place, value) in self.entries() {
            while theirs.next_if(|(at, _)| *at < place).is_some() {}
            if let Some((_, their)) = theirs.next_if(|(at, _)| *at == place) {
                overlap.both += 1;
                overlap.conflicts += usize::from(value * their < 0.0);
            }
        }
        overlap
    }

    /// `dense += S` for the numbers of a row-major matrix from place `start`.
    pub fn add_to(&self, start: u64, dense: &mut [f32]) {
        let end = start + dense.len() as u64;
        let from = self.places.partition_point(|place| *place < start);
        let to = self.places.partition_point(|place| *place < end);
        for (place, value) in self.places[from..to].iter().zip(&self.values[from..to]) {
            dense[(place - start) as usize] += value;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn entries() -> impl Strategy<Value = Vec<(u64, f32)>> {
        vec((0u64..50, -4i8..5), 0..40)
            .prop_map(|list| list.into_iter().map(|(at, x)| (at, f32::from(x))).collect())
    }

    fn dense(entries: &[(u64, f32)]) -> Vec<f32> {
        let mut dense = vec![0.0; 50];
        entries.iter().for_each(|(at, x)| dense[*at as usize] += x);
        dense
    }

    proptest! {
        #[test]
        fn sums_and_overlaps_are_those_of_dense_matrices(a in entries(), b in entries(), cut in 0usize..50) {
            let (x, y) = (Sparse::new(a.clone()), Sparse::new(b.clone()));
            let mut sum = vec![0.0; 50];
            x.plus(&y).add_to(0, &mut sum);
            let expected: Vec<f32> = dense(&a).iter().zip(dense(&b)).map(|(a, b)| a + b).collect();
            prop_assert_eq!(&sum, &expected);
            let mut part = vec![0.0; 50 - cut];
            x.add_to(cut as u64, &mut part);
            prop_assert_eq!(&part, &dense(&a)[cut..]);
            let both = |at: &u64| x.places().contains(at) && y.places().contains(at);
            let overlap = x.overlap(&y);
            prop_assert_eq!(overlap.both, (0..50).filter(both).count());
            let signs = (0..50usize).filter(|at| dense(&a)[*at] * dense(&b)[*at] < 0.0);
            prop_assert_eq!(overlap.conflicts, signs.count());
            let nonzero = Sparse::of_dense(&dense(&a));
            prop_assert!(nonzero.values().iter().all(|x| *x != 0.0));
            let mut again = vec![0.0; 50];
            nonzero.add_to(0, &mut again);
            prop_assert_eq!(again, dense(&a));
        }
    }
}
