//! How many terms of a decomposition to keep, from its spectrum.

/// The fewest leading terms that hold `fraction` of the energy sum_k s_k^2 = `total`; all of them
/// where the given ones do not.
pub fn energy_rank(s: &[f64], total: f64, fraction: f64) -> usize {
    let mut held = 0.0;
    // An energy that is all there is may be missed by rounding.
    let wanted = fraction * total * (1.0 - 1e-12);
    s.iter()
        .position(|value| {
            held += value * value;
            held >= wanted
        })
        .map_or(s.len(), |last| last + 1)
}

/// The terms before the elbow of a non-increasing spectrum: the value farthest below the straight
/// line from the first to the last. All of them where none is below it; at least one otherwise.
pub fn elbow_rank(s: &[f64]) -> usize {
    let (Some(first), Some(last)) = (s.first(), s.last()) else {
        return 0;
    };
    let steps = (s.len() - 1).max(1) as f64;
    let depth = |k: usize| first + (last - first) * k as f64 / steps - s[k];
    let elbow = (0..s.len())
        .max_by(|&a, &b| depth(a).total_cmp(&depth(b)))
        .filter(|&k| depth(k) > 1e-12 * first);
    elbow.map_or(s.len(), |k| k.max(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cliff_is_the_elbow() {
        assert_eq!(elbow_rank(&[10.0, 9.0, 8.0, 1.0, 0.9, 0.8]), 3);
        assert_eq!(elbow_rank(&[10.0, 1.0, 0.9, 0.8]), 1);
        assert_eq!(elbow_rank(&[3.0, 2.0, 1.0]), 3);
        assert_eq!(elbow_rank(&[2.0, 2.0, 2.0]), 3);
        assert_eq!((elbow_rank(&[2.0]), elbow_rank(&[])), (1, 0));
    }

    #[test]
    fn energy_counts_squares() {
        let s = [3.0, 2.0, 1.0];
        assert_eq!(energy_rank(&s, 14.0, 9.0 / 14.0), 1);
        assert_eq!(energy_rank(&s, 14.0, 0.65), 2);
        assert_eq!(energy_rank(&s, 14.0, 1.0), 3);
        // A truncated spectrum that never gets there is kept whole.
        assert_eq!(energy_rank(&s[..2], 14.0, 0.95), 2);
    }

    proptest! {
        #[test]
        fn both_rules_keep_a_leading_part(
            mut s in prop::collection::vec(0.01f64..10.0, 1..30), fraction in 0.01f64..1.0, scale in 0.1f64..10.0,
        ) {
            s.sort_by(|a, b| b.total_cmp(a));
            let total: f64 = s.iter().map(|value| value * value).sum();
            let kept = energy_rank(&s, total, fraction);
            let energy = |k: usize| s[..k].iter().map(|value| value * value).sum::<f64>();
            prop_assert!(energy(kept) >= fraction * total * (1.0 - 1e-9));
            prop_assert!(energy(kept - 1) < fraction * total * (1.0 + 1e-9));
            prop_assert!((1..=s.len()).contains(&elbow_rank(&s)));
            // Neither depends on the size of the weight.
            let scaled: Vec<f64> = s.iter().map(|value| value * scale).collect();
            prop_assert_eq!(energy_rank(&scaled, total * scale * scale, fraction), kept);
        }
    }
}
