//! Weights of a merge that are found on a few examples: every candidate is written as an adapter and put on
//! the model, so that what is judged is what is merged.

use std::path::Path;

use engraft_data::Task;
use engraft_merge::recipe::{Form, Merger, Output, Recipe, Searching};
use serde_json::Value;

use super::run::{Watch, input};
use crate::adapt::{Judge, Sample, beside};
use crate::{Error, Result};

/// Searches for the weights of a merge and sets them.
///
/// # Errors
/// A model or examples that cannot be read; a merge that is no adapter that the model could take.
pub(super) fn search(
    merger: &mut Merger,
    recipe: &Recipe,
    searching: &Searching,
    out: &Path,
    watch: &mut dyn Watch,
) -> Result<()> {
    let model = searching.model.as_ref().or(recipe.base.as_ref());
    let model = model.ok_or_else(|| {
        Error::Input(
            "[search] judges weights with a model: give it `model`, or the recipe `base`"
                .to_owned(),
        )
    })?;
    let task = searching.task.clone().map(|task| {
        serde_json::from_value::<Task>(Value::Object(task))
            .map_err(|error| Error::Input(format!("[search] task: {error}")))
    });
    let sample = Sample {
        model: model.clone(),
        adapter: recipe.adapters[0].path.clone(),
        data: searching.data.clone(),
        task: task.transpose()?,
        max_length: searching.max_length,
        examples: searching.examples,
        batch_size: searching.batch_size,
    };
    let device = engraft_tensor::device("flex").map_err(input)?;
    let judge = Judge::new(&sample, &device)?;
    let folder = beside(out)?;
    // Rounding to the written precision is no part of the search, and deltas are no adapter.
    let tried = Recipe {
        search: None,
        output: Output {
            form: match recipe.output.form {
                Form::Checkpoint | Form::Delta => Form::Auto,
                form => form,
            },
            ..recipe.output.clone()
        },
        ..recipe.clone()
    };
    let mut done = 0;
    let found = merger.search(&searching.search(), |merger| {
        let at = folder.path().join(done.to_string());
        std::fs::create_dir(&at)
            .map_err(|error| engraft_merge::Error::file(&at, error))?;
        let outcome = merger.write(&tried, &at, false, &mut |_| {})?;
        if outcome.form == "deltas" {
            return Err(engraft_merge::Error::input(
                "[search] puts every candidate on the model as an adapter, and this merge is of no low rank: give [output] a `rank`",
            ));
        }
        let loss = judge.adapted(&at).and_then(|(model, _)| judge.loss(&model));
        // Candidates are many.
        let _ = std::fs::remove_dir_all(&at);
        done += 1;
        watch.searching(done, searching.budget);
        loss.map_err(engraft_merge::Error::input)
    });
    found.map_err(input)
}
