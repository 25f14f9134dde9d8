//! Predictions for images.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use engraft_core::Mode;
use engraft_data::task::Output;
use engraft_data::text::Targets;
use engraft_data::{ImageFolder, ImageOptions, Metric};
use engraft_models::Logits;

use super::card::Card;
use super::evaluate::{Scores, joined, predictions};
use super::examples::{Goal, Inputs, logits};
use super::guess;
use super::predict::{Prediction, Requests, adapted, one_class};
use super::subject::{head, input};
use crate::{Error, Result};

/// An image, and what is known of it.
struct Picture {
    path: PathBuf,
    /// Its path below the directory that was asked for.
    name: String,
    /// Its class, if its directory has the name of one.
    class: Option<usize>,
}

/// The classes of images. Where all are in directories of classes, the predictions are measured.
pub(super) fn classify(
    requests: &Requests,
    (model, card): (&Path, Option<&Card>),
    options: &ImageOptions,
    device: &Device,
    mut answer: impl FnMut(Prediction) -> Result<()>,
) -> Result<Scores> {
    let names = match card {
        Some(card) => card.labels.clone(),
        None => guess::image_labels(&requests.adapter, model)?,
    };
    let pictures = pictures(&requests.input, &names)?;
    let task = head(Output::Class, names.len());
    let model = adapted(requests, (model, card), task, device)?;
    let goal = Goal {
        output: Output::Class,
        outputs: names.len(),
        labels: names,
        metrics: vec![Metric::Accuracy, Metric::MacroF1],
        text: None,
    };
    let is_measured = pictures.iter().all(|picture| picture.class.is_some());
    let (mut seen, mut line) = (None, 0);
    for pictures in pictures.chunks(requests.batch_size.max(1)) {
        let mut pixels = Vec::new();
        for picture in pictures {
            pixels.extend(ImageFolder::pixels(&picture.path, options).map_err(input)?);
        }
        let shape = [
            pictures.len(),
            options.mean.len(),
            options.height,
            options.width,
        ];
        let pixels = Tensor::from_data(TensorData::new(pixels, shape), device);
        let inputs = Inputs::Pixels(pixels);
        let logits = logits(&model.model, &inputs, &model.ctx(Mode::Eval))?;
        let Logits::Sequence(scores) = &logits else {
            return Err(Error::Run("the model does not classify images".to_owned()));
        };
        let answers = one_class(&goal.labels, scores.clone());
        for (picture, found) in pictures.iter().zip(answers) {
            line += 1;
            answer(Prediction {
                line,
                file: Some(picture.name.clone()),
                ..found
            })?;
        }
        if is_measured {
            let classes = pictures.iter().filter_map(|picture| picture.class);
            let targets = Targets::Classes(classes.map(|class| class as i64).collect());
            seen = Some(joined(seen, predictions(&goal, logits, &targets, device)));
        }
    }
    let mut scores = Scores::default();
    if let Some(seen) = seen {
        scores.add(&goal.metrics, &[seen], None);
    }
    Ok(scores)
}

/// The images at a path in alphabetical order: a file, those of a directory, or those of the
/// directories in it.
fn pictures(path: &Path, labels: &[String]) -> Result<Vec<Picture>> {
    if path.is_file() {
        let name = path.file_name().unwrap_or(path.as_os_str());
        return Ok(vec![Picture {
            path: path.to_owned(),
            name: name.to_string_lossy().into_owned(),
            class: None,
        }]);
    }
    let mut found = images(path)?;
    for directory in entries(path)?.into_iter().filter(|path| path.is_dir()) {
        found.extend(images(&directory)?);
    }
    found.sort();
    if found.is_empty() {
        return Err(Error::Input(format!(
            "{}: found no .png or .jpeg",
            path.display()
        )));
    }
    let known = |file: PathBuf| {
        let below = file.strip_prefix(path).unwrap_or(&file);
        let directory = below.parent().and_then(Path::to_str);
        Picture {
            name: below.display().to_string(),
            class: labels.iter().position(|label| directory == Some(label)),
            path: file,
        }
    };
    Ok(found.into_iter().map(known).collect())
}

fn images(directory: &Path) -> Result<Vec<PathBuf>> {
    let is_image = |path: &PathBuf| {
        let ending = path.extension().and_then(|ending| ending.to_str());
        let ending = ending.unwrap_or_default().to_lowercase();
        path.is_file() && ["png", "jpg", "jpeg"].contains(&ending.as_str())
    };
    Ok(entries(directory)?.into_iter().filter(is_image).collect())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error| Error::io("read", directory, &error);
    let entries = std::fs::read_dir(directory).map_err(failed)?;
    entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(failed))
        .collect()
}
