//! What an adapter without a card was trained for: one that Python's PEFT wrote.

use std::path::Path;

use engraft_data::read::Source;
use engraft_data::task::{
    CausalLanguage, Instruction, MaskedLanguage, Regression, SentencePair, SingleSentence,
    TokenClassification,
};
use engraft_data::{Task, Tokens};
use engraft_models as models;
use serde_json::Value;

use super::adapters;
use super::subject::config;
use crate::{Error, Result};

/// The task, from what PEFT calls it (`task_type`), else from the class of the model; the columns
/// are those of the requests.
pub(super) fn task(
    adapter: &Path,
    model: &Path,
    source: &dyn Source,
    tokens: &Tokens,
) -> Result<Task> {
    let config = config(model)?;
    let class = config["architectures"][0].as_str().unwrap_or_default();
    let task_type = adapters::peft_task(adapter)?;
    let is = |name: &str, suffixes: &[&str]| match &task_type {
        Some(task_type) => task_type == name,
        None => suffixes.iter().any(|suffix| class.ends_with(suffix)),
    };
    let fits = |task: &Task| task.prepare_requests(source, tokens).is_ok();
    let head = adapters::head(adapter)?;
    let classes = |default: usize| match head {
        Some(models::Task::Classification(classes) | models::Task::Tokens(classes)) => classes,
        _ => config["id2label"]
            .as_object()
            .map_or(default, |names| names.len()),
    };
    if is("CAUSAL_LM", &["ForCausalLM", "LMHeadModel"]) {
        let answers = Task::Instruction(Instruction::default());
        return Ok(match fits(&answers) {
            true => answers,
            false => Task::CausalLanguage(CausalLanguage::default()),
        });
    }
    if is("", &["ForMaskedLM"]) {
        return Ok(Task::MaskedLanguage(MaskedLanguage::default()));
    }
    if is("TOKEN_CLS", &["ForTokenClassification"]) {
        let task = Task::TokenClassification(TokenClassification::default());
        return Ok(task.with_labels(&labels(&config, classes(2))));
    }
    if is("SEQ_CLS", &["ForSequenceClassification"]) {
        let classes = classes(2);
        let labels = labels(&config, classes);
        let pair = Task::SentencePair(SentencePair::default()).with_labels(&labels);
        let is_pair = fits(&pair);
        return Ok(match (classes, is_pair) {
            (1, _) => Task::Regression(Regression::default()),
            (_, true) => pair,
            _ => Task::SingleSentence(SingleSentence::default()).with_labels(&labels),
        });
    }
    Err(Error::Input(format!(
        "{} does not say what it was trained for: give --task, for example 'kind = \
         \"single-sentence\", labels = [\"no\", \"yes\"]'",
        adapter.display()
    )))
}

/// The names of the classes: those of the model, if it names so many; else their numbers.
pub(super) fn labels(config: &Value, classes: usize) -> Vec<String> {
    let names = &config["id2label"];
    let name = |class: usize| {
        let name = names[class.to_string()].as_str()?;
        // What transformers calls classes that nobody named.
        let is_named = name != format!("LABEL_{class}");
        is_named.then(|| name.to_owned())
    };
    let named: Option<Vec<String>> = (0..classes).map(name).collect();
    let fits = names
        .as_object()
        .is_some_and(|names| names.len() == classes);
    match named.filter(|_| fits) {
        Some(named) => named,
        None => (0..classes).map(|class| class.to_string()).collect(),
    }
}

/// The labels of an adapter for images.
pub(super) fn image_labels(adapter: &Path, model: &Path) -> Result<Vec<String>> {
    let config = config(model)?;
    let classes = match adapters::head(adapter)? {
        Some(models::Task::Classification(classes)) => classes,
        _ => config["id2label"]
            .as_object()
            .map_or(2, |names| names.len()),
    };
    Ok(labels(&config, classes))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes_have_the_names_of_the_model_if_it_has_so_many() {
        let named = json!({"id2label": {"0": "cat", "1": "dog"}});
        assert_eq!(labels(&named, 2), ["cat", "dog"]);
        assert_eq!(labels(&named, 3), ["0", "1", "2"]);
        let unnamed = json!({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}});
        assert_eq!(labels(&unnamed, 2), ["0", "1"]);
        assert_eq!(labels(&json!({}), 2), ["0", "1"]);
    }
}
