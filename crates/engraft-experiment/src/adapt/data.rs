//! What is learned, and what is evaluated on.

use std::collections::BTreeSet;

use engraft_data::TextOptions;
use engraft_data::glue::{Glue, GlueTask, Part};

use super::Settings;
use super::examples::{Examples, Goal};
use super::generated::{Asked, is_of_texts};
use super::source::Place;
use super::subject::{Reader, input};
use crate::{Error, Result};

/// What is learned, and what is evaluated on.
#[derive(Debug)]
pub(super) struct Data {
    pub learned: Examples,
    /// Positions that are learned.
    pub rows: Vec<usize>,
    pub evaluations: Vec<Evaluation>,
}

/// Examples to evaluate on.
#[derive(Debug)]
pub(super) struct Evaluation {
    /// Which one it is, where there are several.
    pub name: Option<&'static str>,
    /// Those of another file; otherwise of the one that is learned.
    examples: Option<Examples>,
    /// Positions that are evaluated on.
    pub rows: Vec<usize>,
    /// Those whose answers are generated.
    pub asked: Option<Asked>,
}

impl Data {
    /// Reads the data and settles what is learned of it.
    ///
    /// # Errors
    /// Data that cannot be used for this model.
    pub fn read(settings: &Settings, reader: &Reader, text: &TextOptions) -> Result<(Self, Goal)> {
        let glue = glue(settings, reader)?;
        let place = match &glue {
            Some(glue) => Place::part(glue, Part::Train),
            None => Place::at(&settings.data),
        };
        let task = match (&settings.task, &glue) {
            (None, Some(glue)) => Some(glue.task.task()),
            (task, _) => task.clone(),
        };
        let (learned, mut goal) = Examples::learned(&place, reader, task.as_ref(), text)?;
        if let (None, Some(glue)) = (&settings.task, &glue) {
            goal.metrics = glue.task.metrics().to_vec();
        }
        let elsewhere: Vec<_> = match (&settings.evaluation, &glue) {
            (Some(path), _) => vec![(None, Place::at(path))],
            (None, Some(glue)) => {
                let parts = glue.evaluation().iter();
                parts
                    .map(|(name, part)| (*name, Place::part(glue, *part)))
                    .collect()
            }
            (None, None) => Vec::new(),
        };
        let mut data = Self {
            rows: (0..learned.len()).collect(),
            learned,
            evaluations: Vec::new(),
        };
        if elsewhere.is_empty() {
            let (held_out, rows) = data.divided(settings)?;
            data.rows = rows;
            data.add(
                (None, place, None, held_out),
                reader,
                &goal,
                (settings, text),
            )?;
        }
        for (name, place) in elsewhere {
            let examples = data.learned.again(&place, reader, &goal, text)?;
            let rows = (0..examples.len()).collect();
            data.add(
                (name, place, Some(examples), rows),
                reader,
                &goal,
                (settings, text),
            )?;
        }
        Ok((data, goal))
    }

    fn add(
        &mut self,
        (name, place, examples, rows): (Option<&'static str>, Place, Option<Examples>, Vec<usize>),
        reader: &Reader,
        goal: &Goal,
        (settings, text): (&Settings, &TextOptions),
    ) -> Result<()> {
        let asked = match (reader, &goal.text) {
            (Reader::Text(tokens), Some((_, task))) => Asked::of(
                (&place, examples.as_ref().unwrap_or(&self.learned), &rows),
                task,
                tokens,
                text,
                &settings.answers,
            )?,
            _ => None,
        };
        self.evaluations.push(Evaluation {
            name,
            examples,
            rows,
            asked,
        });
        Ok(())
    }

    /// The positions that are held out, and the others.
    fn divided(&self, settings: &Settings) -> Result<(Vec<usize>, Vec<usize>)> {
        let (count, share) = (self.learned.len(), settings.hold_out);
        if !(0.0..1.0).contains(&share) {
            return Err(Error::Input(format!(
                "hold-out: found {share}, expected a share of at least 0 and less than 1"
            )));
        }
        let held_out = (share * count as f64).round().max(1.0) as usize;
        if held_out >= count {
            return Err(Error::Input(format!(
                "found {count} examples, expected at least 2: one to learn and one to evaluate on"
            )));
        }
        let shuffled = engraft_data::batches(count, held_out, settings.seed, 0).map_err(input)?;
        let held: BTreeSet<usize> = shuffled[0].iter().copied().collect();
        Ok((0..count).partition(|row| held.contains(row)))
    }

    /// The examples that an evaluation is on.
    pub fn evaluated<'a>(&'a self, evaluation: &'a Evaluation) -> &'a Examples {
        evaluation.examples.as_ref().unwrap_or(&self.learned)
    }

    /// Examples that are evaluated on.
    pub fn held_out(&self) -> usize {
        let evaluations = self.evaluations.iter();
        evaluations.map(|evaluation| evaluation.rows.len()).sum()
    }

    /// What was read, each once.
    fn all(&self) -> impl Iterator<Item = &Examples> {
        let others = self.evaluations.iter();
        let others = others.filter_map(|evaluation| evaluation.examples.as_ref());
        std::iter::once(&self.learned).chain(others)
    }

    /// Tokens of the longest text.
    pub fn longest(&self) -> Result<usize> {
        let mut longest = 1;
        for examples in self.all() {
            if let Examples::Text(set) = examples {
                let all: Vec<usize> = (0..set.len()).collect();
                let lengths = set.lengths(&all).map_err(input)?;
                longest = lengths.into_iter().fold(longest, usize::max);
            }
        }
        Ok(longest)
    }

    /// One line for each thing that a user should know of the data.
    pub fn notes(&self, goal: &Goal) -> Vec<String> {
        let mut notes: Vec<String> = self.all().flat_map(Examples::notes).collect();
        for evaluation in &self.evaluations {
            let all = evaluation.rows.len();
            if let Some(asked) = evaluation.asked.as_ref().filter(|asked| asked.len() < all) {
                let metrics = goal.metrics.iter().filter(|metric| is_of_texts(metric));
                let metrics: Vec<&str> = metrics.map(|metric| metric.name()).collect();
                notes.push(format!(
                    "{} are measured on the first {} of {all} examples",
                    metrics.join(", "),
                    asked.len()
                ));
            }
        }
        notes
    }
}

/// The task of GLUE whose directory the data is, if it is one.
fn glue(settings: &Settings, reader: &Reader) -> Result<Option<Glue>> {
    let data = &settings.data;
    let glue = match (settings.glue, reader) {
        (None, Reader::Images(_)) => return Ok(None),
        (Some(_), Reader::Images(_)) => {
            return Err(Error::Input(
                "found a task of GLUE for a model of images".to_owned(),
            ));
        }
        (None, Reader::Text(_)) if !data.is_dir() => return Ok(None),
        (task, Reader::Text(_)) => Glue::open(data, task).map_err(|error| match task {
            Some(_) => input(error),
            None => Error::Input(format!(
                "{}: found a directory, expected a file, or the directory of a task of GLUE ({}); one of \
                 another name takes --glue TASK",
                data.display(),
                GlueTask::ALL.map(GlueTask::directory).join(", ")
            )),
        })?,
    };
    if glue.task == GlueTask::Ax {
        return Err(Error::Input(
            "AX, GLUE's diagnostic set, has no labels: train on MNLI and predict for AX.tsv"
                .to_owned(),
        ));
    }
    Ok(Some(glue))
}
