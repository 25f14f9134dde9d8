//! What a step does to the numbers at their places, once it is known what it keeps.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

use super::select::Cut;
use super::sparsify::{Della, Random};

/// A rule that says which entries of a matrix stay, and times what, from their values and places.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Rule {
    /// Those within `kept` and not within `outliers`.
    Band { outliers: Cut, kept: Cut },
    /// Those whose draw is below the density.
    Random { draws: Draws, of: Random },
    /// Those whose draw is below the probability of their rank.
    Della { draws: Draws, of: Della },
}

/// A number from 0 to 1 for every place, the same whoever asks and in whatever order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Draws([u8; 32]);

impl Draws {
    /// Those of a step for a tensor of an adapter.
    pub(super) fn new(seed: u64, step: usize, adapter: &str, module: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"engraft-merge: sparsify");
        for part in [
            &seed.to_le_bytes()[..],
            &(step as u64).to_le_bytes(),
            adapter.as_bytes(),
            module.as_bytes(),
        ] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }

    /// From a place on.
    fn from(self, place: u64) -> impl Iterator<Item = f64> {
        let mut rng = ChaCha8Rng::from_seed(self.0);
        rng.set_word_pos(place.into());
        std::iter::from_fn(move || Some(f64::from(rng.next_u32()) / 2f64.powi(32)))
    }
}

impl Rule {
    /// Applies to a strip of whole rows that starts at a place.
    pub(super) fn apply(&self, start: u64, columns: usize, strip: &mut [f32]) {
        match self {
            Self::Band { outliers, kept } => {
                for (place, x) in (start..).zip(strip) {
                    if !kept.includes(*x, place) || outliers.includes(*x, place) {
                        *x = 0.0;
                    }
                }
            }
            Self::Random { draws, of } => {
                for (x, draw) in strip.iter_mut().zip(draws.from(start)) {
                    *x = drawn(*x, draw, of.density, of.rescale);
                }
            }
            Self::Della { draws, of } => {
                let mut draws = draws.from(start);
                for row in strip.chunks_mut(columns.max(1)) {
                    let mut order: Vec<usize> = (0..row.len()).collect();
                    order.sort_by(|a, b| row[*a].abs().total_cmp(&row[*b].abs()));
                    let mut probability = vec![of.density; row.len()];
                    let last = (row.len() - 1) as f64;
                    for (rank, place) in order.into_iter().enumerate().filter(|_| last > 0.0) {
                        probability[place] += of.window * (rank as f64 / last - 0.5);
                    }
                    for ((x, probability), draw) in row.iter_mut().zip(probability).zip(&mut draws)
                    {
                        *x = drawn(*x, draw, probability, of.rescale);
                    }
                }
            }
        }
    }
}

/// x, divided by its probability if asked, where the draw lets it stay.
fn drawn(x: f32, draw: f64, probability: f64, rescale: bool) -> f32 {
    match draw < probability {
        true if rescale => (f64::from(x) / probability) as f32,
        true => x,
        false => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn random(density: f64, seed: u64) -> Rule {
        let of = Random {
            density,
            rescale: true,
            seed,
        };
        Rule::Random {
            draws: Draws::new(seed, 0, "a", "m"),
            of,
        }
    }

    fn della(density: f64, window: f64, seed: u64) -> Rule {
        let of = Della {
            density,
            window,
            rescale: true,
            seed,
        };
        Rule::Della {
            draws: Draws::new(seed, 0, "a", "m"),
            of,
        }
    }

    fn applied(rule: &Rule, numbers: &[f32], columns: usize) -> Vec<f32> {
        let mut numbers = numbers.to_vec();
        rule.apply(0, columns, &mut numbers);
        numbers
    }

    /// Numbers that are all different and not ordered.
    fn numbers(count: usize) -> Vec<f32> {
        (0..count)
            .map(|x| 1.0 + ((x * 7919) % 101) as f32)
            .collect()
    }

    proptest! {
        #[test]
        fn strips_of_any_height_give_the_same(seed: u64, height in 1usize..9, density in 0.1..0.9) {
            let (rows, columns) = (20, 7);
            for rule in [random(density, seed), della(density, 0.1, seed)] {
                let whole = applied(&rule, &numbers(rows * columns), columns);
                let mut parts = numbers(rows * columns);
                for (at, strip) in parts.chunks_mut(height * columns).enumerate() {
                    rule.apply((at * height * columns) as u64, columns, strip);
                }
                prop_assert_eq!(parts, whole);
            }
        }

        #[test]
        fn what_stays_is_divided_by_its_probability(seed: u64, density in 0.05..1.0) {
            let given = numbers(200);
            for (x, y) in given.iter().zip(applied(&random(density, seed), &given, 10)) {
                prop_assert!(y == 0.0 || y == (f64::from(*x) / density) as f32);
            }
        }
    }

    #[test]
    fn expectations_are_what_was_given() {
        let (given, rounds) = (numbers(60), 4000);
        for of in [|seed| random(0.3, seed), |seed| della(0.5, 0.4, seed)] {
            let mut mean = vec![0.0; 60];
            for seed in 0..rounds {
                let found = applied(&of(seed), &given, 20);
                let terms = mean.iter_mut().zip(found);
                terms.for_each(|(mean, x)| *mean += f64::from(x) / rounds as f64);
            }
            for (mean, x) in mean.iter().zip(&given) {
                // Probability 0.3 at least: a standard deviation of 1.53 x / sqrt(rounds), five of them.
                let bound = 5.0 * 1.53 * f64::from(*x) / (rounds as f64).sqrt();
                assert!((mean - f64::from(*x)).abs() <= bound, "{mean} {x}");
            }
        }
    }

    #[test]
    fn probabilities_rise_with_the_rank_in_the_row() {
        let (given, rounds, columns) = (numbers(40), 4000, 20);
        let mut stayed = [0.0; 40];
        for seed in 0..rounds {
            let found = applied(&della(0.5, 0.8, seed), &given, columns);
            let kept = stayed.iter_mut().zip(found);
            kept.for_each(|(stayed, x)| *stayed += f64::from(u8::from(x != 0.0)) / rounds as f64);
        }
        for (place, stayed) in stayed.iter().enumerate() {
            let row = &given[place / columns * columns..][..columns];
            let rank = row.iter().filter(|x| **x < given[place]).count();
            let expected = 0.1 + 0.8 * rank as f64 / 19.0;
            assert!(
                (stayed - expected).abs() < 5.0 * 0.5 / (rounds as f64).sqrt(),
                "{stayed} {expected}"
            );
        }
        // A row of one entry stays with the density.
        let kept = (0..rounds).filter(|seed| applied(&della(0.5, 0.8, *seed), &[1.0], 1)[0] != 0.0);
        let part = kept.count() as f64 / rounds as f64;
        assert!((part - 0.5).abs() < 5.0 * 0.5 / (rounds as f64).sqrt());
    }

    #[test]
    fn seeds_adapters_modules_and_steps_draw_apart() {
        let first = Draws::new(1, 0, "a", "m");
        assert_eq!(first, Draws::new(1, 0, "a", "m"));
        for other in [
            Draws::new(2, 0, "a", "m"),
            Draws::new(1, 1, "a", "m"),
            Draws::new(1, 0, "am", ""),
            Draws::new(1, 0, "a", "n"),
        ] {
            assert!(
                first
                    .from(0)
                    .zip(other.from(0))
                    .take(8)
                    .any(|(a, b)| a != b)
            );
        }
        let later: Vec<f64> = first.from(1000).take(50).collect();
        assert_eq!(later, first.from(0).skip(1000).take(50).collect::<Vec<_>>());
    }
}
