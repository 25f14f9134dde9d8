//! One division of the source images into disjoint parts, and few-shot draws from one of them.

use crate::DataError;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// Seed of the division; a constant of the protocol, not of a run.
const SPLIT_SEED: u64 = 0x5eed_d161;

/// Where pre-training, train and validation end, as shares of a class; test takes the rest.
const ENDS: [f64; 3] = [0.45, 0.65, 0.75];

/// Disjoint sets of source images, by index and ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// 45%: the base model is trained on these.
    pub pretraining: Vec<usize>,
    /// 20%: adapters are trained on draws from this pool.
    pub train: Vec<usize>,
    /// 10%: hyper-parameters are chosen on these.
    pub validation: Vec<usize>,
    /// 25%: reported accuracy.
    pub test: Vec<usize>,
}

impl Split {
    /// Divides images with these `labels`, every class by the same shares (rounded).
    ///
    /// The division depends on the labels alone. Make it before any domain shift, so that no part
    /// holds a shifted copy of an image of another part.
    pub fn stratified(labels: &[u8]) -> Self {
        let mut parts: [Vec<usize>; 4] = Default::default();
        let mut rng = ChaCha8Rng::seed_from_u64(SPLIT_SEED);
        for mut members in by_class(labels, 0..labels.len()) {
            members.shuffle(&mut rng);
            let end = |share: f64| (share * members.len() as f64).round() as usize;
            let bounds = [0, end(ENDS[0]), end(ENDS[1]), end(ENDS[2]), members.len()];
            for (part, bound) in parts.iter_mut().zip(bounds.windows(2)) {
                part.extend(&members[bound[0]..bound[1]]);
            }
        }
        for part in &mut parts {
            part.sort_unstable();
        }
        let [pretraining, train, validation, test] = parts;
        Self {
            pretraining,
            train,
            validation,
            test,
        }
    }
}

/// Draws `per_class` images of every class of `pool` without replacement, in random order.
///
/// `labels` are those of the whole data set, which `pool` indexes. The draw of `k` labels is
/// contained in the draw of `k + 1` labels with the same seed, so that learning curves are nested.
///
/// # Errors
///
/// [`DataError::TooFewLabels`] if a class of the data set has fewer images in the pool.
///
/// # Panics
///
/// If an index of `pool` is not below `labels.len()`.
pub fn few_shot(
    labels: &[u8],
    pool: &[usize],
    per_class: usize,
    seed: u64,
) -> Result<Vec<usize>, DataError> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut drawn = Vec::new();
    for (class, mut members) in (0..).zip(by_class(labels, pool.iter().copied())) {
        if members.is_empty() && !labels.contains(&class) {
            continue;
        }
        if members.len() < per_class {
            let found = members.len();
            return Err(DataError::TooFewLabels {
                class,
                found,
                expected: per_class,
            });
        }
        members.shuffle(&mut rng);
        drawn.extend(&members[..per_class]);
    }
    drawn.shuffle(&mut rng);
    Ok(drawn)
}

/// The indices of every class, from class 0 to the largest label.
fn by_class(labels: &[u8], indices: impl Iterator<Item = usize>) -> Vec<Vec<usize>> {
    let classes = labels
        .iter()
        .max()
        .map_or(0, |&label| usize::from(label) + 1);
    let mut members = vec![Vec::new(); classes];
    for index in indices {
        members[usize::from(labels[index])].push(index);
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digits;
    use proptest::prelude::*;

    fn parts(split: &Split) -> [&Vec<usize>; 4] {
        [
            &split.pretraining,
            &split.train,
            &split.validation,
            &split.test,
        ]
    }

    proptest! {
        #[test]
        fn parts_are_disjoint_cover_all_and_keep_class_shares(
            labels in prop::collection::vec(0u8..7, 0..400),
        ) {
            let split = Split::stratified(&labels);
            let mut all: Vec<usize> = parts(&split).into_iter().flatten().copied().collect();
            all.sort_unstable();
            prop_assert_eq!(all, (0..labels.len()).collect::<Vec<_>>());
            for class in 0..7 {
                let size = |part: &[usize]| part.iter().filter(|&&i| labels[i] == class).count() as f64;
                let total = labels.iter().filter(|&&l| l == class).count() as f64;
                for (part, share) in parts(&split).into_iter().zip([0.45, 0.2, 0.1, 0.25]) {
                    // Both ends of a part are rounded, each by at most one half.
                    prop_assert!((size(part) - share * total).abs() <= 1.0 + 1e-9);
                }
            }
            prop_assert_eq!(split, Split::stratified(&labels));
        }

        #[test]
        fn few_shot_is_balanced_nested_and_inside_the_pool(seed: u64, k in 0usize..20) {
            let digits = Digits::load().unwrap();
            let pool = Split::stratified(&digits.labels).train;
            let shots = few_shot(&digits.labels, &pool, k, seed).unwrap();
            prop_assert!(shots.iter().all(|i| pool.binary_search(i).is_ok()));
            for class in 0..10 {
                prop_assert_eq!(shots.iter().filter(|&&i| digits.labels[i] == class).count(), k);
            }
            let more = few_shot(&digits.labels, &pool, k + 1, seed).unwrap();
            prop_assert!(shots.iter().all(|i| more.contains(i)));
            let mut unique = shots.clone();
            unique.sort_unstable();
            unique.dedup();
            prop_assert_eq!(unique.len(), shots.len());
            prop_assert_eq!(&shots, &few_shot(&digits.labels, &pool, k, seed).unwrap());
        }
    }

    #[test]
    fn digits_split_has_the_documented_shares() {
        let digits = Digits::load().unwrap();
        let split = Split::stratified(&digits.labels);
        let sizes = parts(&split).map(Vec::len);
        assert_eq!(sizes.iter().sum::<usize>(), 1797);
        for (size, share) in sizes.into_iter().zip([0.45, 0.2, 0.1, 0.25]) {
            assert!((size as f64 / 1797.0 - share).abs() < 0.005);
        }
        // Pins the protocol: another generator or seed would silently change every result.
        assert_eq!(split.test[..8], [1, 13, 17, 24, 30, 31, 32, 45]);
    }

    #[test]
    fn seeds_differ_and_a_small_pool_is_an_error() {
        let digits = Digits::load().unwrap();
        let pool = Split::stratified(&digits.labels).train;
        let draw = |seed| few_shot(&digits.labels, &pool, 5, seed).unwrap();
        assert_ne!(draw(0), draw(1));
        let error = few_shot(&digits.labels, &pool[..20], 10, 0)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("of class 0 in the pool, expected at least 10"),
            "{error}"
        );
        assert!(few_shot(&digits.labels, &[], 1, 0).is_err());
    }
}
