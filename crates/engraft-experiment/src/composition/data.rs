//! Examples of an experiment: digits of the split that every experiment shares.

use burn::tensor::{Device, Int, Tensor};
use engraft_core::Ctx;
use engraft_data::{Dataset, Digits, Domain, Examples, Split, few_shot};
use engraft_models::Vit;
use engraft_train::Labelled;

use super::schema::{Data, Labels, Measure};
use crate::error::{Error, Result};

/// The digits, their division and what the model takes them for.
pub(super) struct Source {
    digits: Dataset,
    split: Split,
    /// The model's answers to the upright images.
    own: Vec<u8>,
}

impl Source {
    pub fn new(model: &Vit, device: &Device) -> Result<Self> {
        let digits = Digits::load().map_err(input)?;
        let split = Split::stratified(&digits.labels);
        let all: Vec<usize> = (0..digits.len()).collect();
        let upright = Labelled::new(&Domain::Upright.apply(&digits, &all), device);
        let own = answers(model, &upright);
        Ok(Self { digits, split, own })
    }

    /// SHA-256 of the data set.
    pub fn hash(&self) -> String {
        self.digits.hash()
    }

    /// Training examples: of every digit, the wanted part of the images drawn with a seed.
    pub fn training(&self, data: &[&Data], per_class: usize, seed: u64) -> Result<Examples> {
        let labels = &self.digits.labels;
        let drawn = few_shot(labels, &self.split.train, per_class, seed).map_err(input)?;
        let mut all: Option<Examples> = None;
        for data in data {
            let taken = (0..10).flat_map(|digit| {
                let images: Vec<usize> = drawn
                    .iter()
                    .copied()
                    .filter(|index| labels[*index] == digit)
                    .collect();
                let part = match data.digits.contains(&digit) {
                    true => data.part,
                    false => data.others,
                };
                let [from, to] = part.map(|end| (end * images.len() as f64).round() as usize);
                images[from..to].to_vec()
            });
            let taken: Vec<usize> = taken.collect();
            let examples = self.examples(data.images, data.labels, &taken);
            all = Some(match all {
                None => examples,
                Some(mut all) => {
                    all.images.extend(examples.images);
                    all.labels.extend(examples.labels);
                    all
                }
            });
        }
        all.filter(|examples| !examples.is_empty())
            .ok_or_else(|| input("an adapter has no examples: its parts are empty"))
    }

    /// Validation and test examples of a measure.
    pub fn measured(&self, measure: &Measure) -> [Examples; 2] {
        [&self.split.validation, &self.split.test].map(|pool| {
            let labels = &self.digits.labels;
            let is_measured = |index: &usize| measure.digits.contains(&labels[*index]);
            let indices: Vec<usize> = pool.iter().copied().filter(is_measured).collect();
            self.examples(measure.images, measure.labels, &indices)
        })
    }

    fn examples(&self, images: Domain, labels: Labels, indices: &[usize]) -> Examples {
        let changed = images.apply(&self.digits, indices);
        let labels = match labels {
            Labels::Digits => indices.iter().map(|i| self.digits.labels[*i]).collect(),
            Labels::Relabelled => Domain::Relabelled.apply(&self.digits, indices).labels,
            Labels::Own => indices.iter().map(|index| self.own[*index]).collect(),
        };
        Examples { labels, ..changed }
    }
}

/// The classes that a model takes images for.
fn answers(model: &Vit, examples: &Labelled) -> Vec<u8> {
    let logits = model.forward(examples.images.clone(), &Ctx::default());
    let best: Tensor<1, Int> = logits.argmax(1).squeeze_dim(1);
    let best = best.to_data().convert::<i64>().try_to_vec::<i64>();
    let best = best.expect("just converted").into_iter();
    best.map(|class| class as u8).collect()
}

fn input(error: impl ToString) -> Error {
    Error::Input(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source() -> Source {
        let device = Device::default();
        Source::new(&engraft_models::digits_vit(&device).unwrap(), &device).unwrap()
    }

    fn data(text: &str) -> Data {
        toml::from_str(&format!("name = \"a\"\n{text}")).unwrap()
    }

    #[test]
    fn parts_of_a_draw_are_disjoint_and_make_the_whole() {
        let source = source();
        let low = data(
            "images = \"mirrored\"\ndigits = [0, 1, 2, 3, 4]\npart = [0.0, 0.8]\nothers = [0.0, 0.2]",
        );
        let high = data(
            "images = \"mirrored\"\ndigits = [0, 1, 2, 3, 4]\npart = [0.8, 1.0]\nothers = [0.2, 1.0]",
        );
        let [a, b] = [&low, &high].map(|one| source.training(&[one], 10, 3).unwrap());
        let count =
            |examples: &Examples, digit| examples.labels.iter().filter(|l| **l == digit).count();
        assert_eq!(
            (count(&a, 2), count(&a, 7), count(&b, 2), count(&b, 7)),
            (8, 2, 2, 8)
        );
        let both = source.training(&[&low, &high], 10, 3).unwrap();
        let whole = source
            .training(&[&data("images = \"mirrored\"")], 10, 3)
            .unwrap();
        let sorted = |examples: &Examples| {
            let mut images: Vec<String> = examples
                .images
                .chunks(64)
                .map(|image| format!("{image:?}"))
                .collect();
            images.sort();
            images
        };
        assert_eq!(sorted(&both), sorted(&whole));
    }

    #[test]
    fn own_labels_are_those_of_the_upright_image() {
        let source = source();
        let [turned, upright] = ["quarter-turn", "upright"].map(|images| {
            source
                .training(
                    &[&data(&format!("images = \"{images}\"\nlabels = \"own\""))],
                    5,
                    0,
                )
                .unwrap()
        });
        assert_eq!(turned.labels, upright.labels);
        assert_ne!(turned.images, upright.images);
        let digits = source
            .training(&[&data("images = \"upright\"")], 5, 0)
            .unwrap();
        let same = digits
            .labels
            .iter()
            .zip(&upright.labels)
            .filter(|(a, b)| a == b)
            .count();
        assert!((47..=50).contains(&same), "{same}");
        let moved = source
            .training(
                &[&data("images = \"upright\"\nlabels = \"relabelled\"")],
                5,
                0,
            )
            .unwrap();
        assert!(
            digits
                .labels
                .iter()
                .zip(&moved.labels)
                .all(|(a, b)| (a == b) == (a % 2 == 0))
        );
    }
}
