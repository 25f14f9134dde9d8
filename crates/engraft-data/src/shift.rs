//! Domains: fixed changes of images or labels to which a pre-trained model is adapted.

use crate::{DataError, Dataset, Examples};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Seed of the noise; a constant of the domain, not of a run.
const NOISE_SEED: u64 = 0x0015_e5ee_d000;
/// Standard deviation of the noise, in units of the range of a pixel.
const NOISE: f32 = 0.2;

/// A fixed change of the task; every domain is reproducible from the source images alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Domain {
    /// The source images as they are.
    Upright,
    /// Rotated by 90 degrees counter-clockwise: `y[i, j] = x[j, width - 1 - i]`.
    QuarterTurn,
    /// `y = clip(1 - x + 0.2 n, 0, 1)`, `n` standard normal, seeded by the index of the image.
    InvertedNoisy,
    /// Half of the classes exchanged: the odd labels move one place along the cycle
    /// `1 -> 3 -> 5 -> ... -> 1`, the even labels and all images stay.
    Relabelled,
    /// Moved by one pixel to the right and down; 0 enters at the edges.
    Shifted,
    /// Left and right exchanged: `y[i, j] = x[i, width - 1 - j]`.
    Mirrored,
}

impl Domain {
    /// Every domain, in the order of the documentation.
    pub const ALL: [Self; 6] = [
        Self::Upright,
        Self::QuarterTurn,
        Self::InvertedNoisy,
        Self::Relabelled,
        Self::Shifted,
        Self::Mirrored,
    ];

    /// Name in configurations and tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upright => "upright",
            Self::QuarterTurn => "quarter-turn",
            Self::InvertedNoisy => "inverted-noisy",
            Self::Relabelled => "relabelled",
            Self::Shifted => "shifted",
            Self::Mirrored => "mirrored",
        }
    }

    /// The images of `source` at `indices`, in that order and in this domain.
    ///
    /// # Panics
    ///
    /// If an index is not below `source.len()`.
    pub fn apply(self, source: &Dataset, indices: &[usize]) -> Examples {
        let (height, width) = match self {
            Self::QuarterTurn => (source.width, source.height),
            _ => (source.height, source.width),
        };
        let images = indices
            .iter()
            .flat_map(|&i| self.image(source, i))
            .collect();
        let labels = indices
            .iter()
            .map(|&i| self.label(source.labels[i], source.classes));
        Examples {
            images,
            labels: labels.collect(),
            height,
            width,
        }
    }

    fn image(self, source: &Dataset, index: usize) -> Vec<f32> {
        let (image, height, width) = (source.image(index), source.height, source.width);
        // The image of `rows` x `columns` whose pixel (i, j) is `pixel(i, j)`.
        let build = |rows, columns, pixel: &dyn Fn(usize, usize) -> f32| {
            (0..rows * columns)
                .map(|k| pixel(k / columns, k % columns))
                .collect()
        };
        match self {
            Self::Upright | Self::Relabelled => image.to_vec(),
            Self::QuarterTurn => build(width, height, &|i, j| image[j * width + width - 1 - i]),
            Self::Mirrored => build(height, width, &|i, j| image[i * width + width - 1 - j]),
            Self::Shifted => build(height, width, &|i, j| match (i, j) {
                (0, _) | (_, 0) => 0.0,
                _ => image[(i - 1) * width + j - 1],
            }),
            Self::InvertedNoisy => {
                let mut rng = ChaCha8Rng::seed_from_u64(NOISE_SEED);
                rng.set_stream(index as u64);
                let noise = Normal::new(0.0, NOISE)
                    .expect("the deviation is finite")
                    .sample_iter(rng);
                image
                    .iter()
                    .zip(noise)
                    .map(|(x, n)| (1.0 - x + n).clamp(0.0, 1.0))
                    .collect()
            }
        }
    }

    fn label(self, label: u8, classes: usize) -> u8 {
        if self != Self::Relabelled || label.is_multiple_of(2) {
            return label;
        }
        if usize::from(label) + 2 < classes {
            label + 2
        } else {
            1
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Domain {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        Self::ALL
            .into_iter()
            .find(|domain| domain.name() == name)
            .ok_or_else(|| {
                let names = Self::ALL.map(Self::name);
                let nearest = names
                    .into_iter()
                    .min_by_key(|known| strsim::levenshtein(known, name));
                DataError::UnknownDomain {
                    found: name.to_owned(),
                    nearest: nearest.expect("there are domains"),
                    known: names.join(", "),
                }
            })
    }
}

impl TryFrom<String> for Domain {
    type Error = DataError;

    fn try_from(name: String) -> Result<Self, DataError> {
        name.parse()
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> Self {
        domain.name().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digits;

    fn tiny() -> Dataset {
        let images = vec![0.1, 0.2, 0.3, 0.4, 0.5, 0.6];
        Dataset {
            images,
            labels: vec![1],
            height: 2,
            width: 3,
            classes: 10,
        }
    }

    #[test]
    fn geometry_is_as_documented() {
        let turned = Domain::QuarterTurn.apply(&tiny(), &[0]);
        assert_eq!((turned.height, turned.width), (3, 2));
        assert_eq!(turned.images, [0.3, 0.6, 0.2, 0.5, 0.1, 0.4]);
        assert_eq!(
            Domain::Mirrored.apply(&tiny(), &[0]).images,
            [0.3, 0.2, 0.1, 0.6, 0.5, 0.4]
        );
        assert_eq!(
            Domain::Shifted.apply(&tiny(), &[0]).images,
            [0.0, 0.0, 0.0, 0.0, 0.1, 0.2]
        );
        assert_eq!(Domain::Upright.apply(&tiny(), &[0, 0]).images.len(), 12);
    }

    #[test]
    fn four_quarter_turns_and_two_mirrorings_are_the_identity() {
        let digits = Digits::load().unwrap();
        let indices: Vec<usize> = (0..digits.len()).collect();
        for (domain, times) in [(Domain::QuarterTurn, 4), (Domain::Mirrored, 2)] {
            let mut data = digits.clone();
            for _ in 0..times {
                data.images = domain.apply(&data, &indices).images;
            }
            assert_eq!(data, digits);
        }
    }

    #[test]
    fn noise_depends_on_the_image_alone_and_is_clipped() {
        let digits = Digits::load().unwrap();
        let both = Domain::InvertedNoisy.apply(&digits, &[5, 900]);
        let one = Domain::InvertedNoisy.apply(&digits, &[900]);
        assert_eq!(both.gather(&[1]), one);
        let all = Domain::InvertedNoisy.apply(&digits, &(0..digits.len()).collect::<Vec<_>>());
        assert!(all.images.iter().all(|p| (0.0..=1.0).contains(p)));
        // Pixels in mid-range are hardly clipped, so that their residual has the stated deviation.
        let residual = all.images.iter().zip(&digits.images);
        let mid: Vec<f32> = residual
            .filter(|(_, x)| **x == 0.5)
            .map(|(y, x)| y + x - 1.0)
            .collect();
        let variance = mid.iter().map(|r| r * r).sum::<f32>() / mid.len() as f32;
        assert!(
            (variance.sqrt() - NOISE).abs() < 0.01,
            "{} of {}",
            variance.sqrt(),
            mid.len()
        );
    }

    #[test]
    fn half_of_the_classes_are_permuted_without_fixed_point() {
        for classes in [4usize, 5, 10] {
            let map: Vec<u8> = (0..classes as u8)
                .map(|l| Domain::Relabelled.label(l, classes))
                .collect();
            let moved = map
                .iter()
                .enumerate()
                .filter(|(l, m)| *l != usize::from(**m))
                .count();
            assert_eq!(moved, classes / 2);
            let mut sorted = map.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..classes as u8).collect::<Vec<_>>());
        }
        assert_eq!(Domain::Relabelled.apply(&tiny(), &[0]).labels, [3]);
        assert_eq!(
            Domain::Relabelled.apply(&tiny(), &[0]).images,
            tiny().images
        );
    }

    #[test]
    fn names_round_trip_and_errors_name_the_nearest() {
        for domain in Domain::ALL {
            assert_eq!(domain.name().parse::<Domain>().unwrap(), domain);
            let json = serde_json::to_string(&domain).unwrap();
            assert_eq!(json, format!("\"{domain}\""));
            assert_eq!(serde_json::from_str::<Domain>(&json).unwrap(), domain);
        }
        let error = "quater-turn".parse::<Domain>().unwrap_err().to_string();
        assert!(error.contains("the nearest is \"quarter-turn\""), "{error}");
        assert!(
            serde_json::from_str::<Domain>("\"mirored\"")
                .unwrap_err()
                .to_string()
                .contains("mirrored")
        );
    }
}
