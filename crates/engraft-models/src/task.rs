//! What a Hugging Face model is topped with.

use engraft_core::Result;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::shapes::{bad, parse};

/// What a model is topped with, from the name of its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// `...Model`: the encoder or decoder alone, its paths without prefix.
    Bare,
    /// `...ForSequenceClassification`, `...ForImageClassification`: so many classes for a whole
    /// sequence or image; one class is a regression.
    Classification(usize),
    /// `...ForTokenClassification`: so many classes for each token.
    Tokens(usize),
    /// `...ForCausalLM`, `...LMHeadModel`, `...ForConditionalGeneration`: an output layer, which
    /// may be tied.
    Language,
    /// `...ForMaskedLM`: a transformed output layer, which may be tied.
    MaskedLanguage,
    /// Any other `...For...`: the model under its prefix; its head is not counted.
    Other,
}

#[derive(Deserialize)]
struct Keys {
    architectures: Option<Vec<String>>,
    num_labels: Option<usize>,
    id2label: Option<Map<String, Value>>,
}

impl Task {
    /// The prefix of the paths: `name` and a dot, unless the model is bare.
    pub(crate) fn prefix(self, name: &str) -> String {
        if self == Self::Bare {
            String::new()
        } else {
            format!("{name}.")
        }
    }

    /// The task of the model that a `config.json` describes: by `architectures`, the number of
    /// labels by `num_labels` or `id2label`, else 2. Without `architectures` the model is bare.
    pub(crate) fn of(config: &Value) -> Result<Self> {
        let keys: Keys = parse(config)?;
        let classes = keys.architectures.unwrap_or_default();
        let class = classes.first().map_or("", String::as_str);
        let labels = keys
            .num_labels
            .or(keys.id2label.as_ref().map(Map::len))
            .unwrap_or(2);
        let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| class.ends_with(suffix));
        Ok(
            if ends(&["ForSequenceClassification", "ForImageClassification"]) {
                Self::Classification(labels)
            } else if ends(&["ForTokenClassification"]) {
                Self::Tokens(labels)
            } else if ends(&["ForMaskedLM"]) {
                Self::MaskedLanguage
            } else if ends(&["ForCausalLM", "LMHeadModel", "ForConditionalGeneration"]) {
                Self::Language
            } else if class.contains("For") {
                Self::Other
            } else {
                Self::Bare
            },
        )
    }

    /// Makes a `config.json` describe the same model with this task: `architectures`, and
    /// `id2label` and `label2id` where the number of labels changes.
    pub(crate) fn describe(self, config: &mut Value) -> Result<()> {
        let model_type = config["model_type"].as_str().unwrap_or_default().to_owned();
        let Some((_, class)) = CLASSES.iter().find(|(name, _)| *name == model_type) else {
            return Err(bad(format!(
                "found model_type `{model_type}`, whose head cannot be chosen"
            )));
        };
        let suffix = match (self, model_type.as_str()) {
            (Self::Bare, _) => "Model",
            (Self::Classification(_), "vit") => "ForImageClassification",
            (Self::Classification(_), _) => "ForSequenceClassification",
            (Self::Tokens(_), _) => "ForTokenClassification",
            (Self::Language, "gpt2") => "LMHeadModel",
            (Self::Language, _) => "ForCausalLM",
            (Self::MaskedLanguage, _) => "ForMaskedLM",
            (Self::Other, _) => {
                return Err(bad("a head that is not known cannot be chosen".into()));
            }
        };
        let before = Self::of(config)?;
        config["architectures"] = json!([format!("{class}{suffix}")]);
        if let (Self::Classification(labels) | Self::Tokens(labels), true) = (self, self != before)
        {
            let names: Vec<String> = (0..labels).map(|label| format!("LABEL_{label}")).collect();
            let id = |(index, name): (usize, &String)| (index.to_string(), json!(name));
            let label = |(index, name): (usize, &String)| (name.clone(), json!(index));
            config["id2label"] = Value::Object(names.iter().enumerate().map(id).collect());
            config["label2id"] = Value::Object(names.iter().enumerate().map(label).collect());
            if let Some(keys) = config.as_object_mut() {
                keys.remove("num_labels");
                keys.remove("problem_type");
            }
        }
        Ok(())
    }
}

/// `model_type` and how the names of its classes begin.
const CLASSES: &[(&str, &str)] = &[
    ("bert", "Bert"),
    ("gemma", "Gemma"),
    ("gpt2", "GPT2"),
    ("llama", "Llama"),
    ("mistral", "Mistral"),
    ("qwen2", "Qwen2"),
    ("qwen3", "Qwen3"),
    ("roberta", "Roberta"),
    ("vit", "ViT"),
    ("xlm-roberta", "XLMRoberta"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_describes_the_task_that_was_chosen() {
        let mut config = json!({"model_type": "bert", "architectures": ["BertForMaskedLM"]});
        assert_eq!(Task::of(&config).unwrap(), Task::MaskedLanguage);
        for task in [
            Task::Classification(3),
            Task::Tokens(5),
            Task::MaskedLanguage,
            Task::Bare,
            Task::Classification(1),
        ] {
            task.describe(&mut config).unwrap();
            assert_eq!(Task::of(&config).unwrap(), task);
        }
        assert_eq!(config["label2id"], json!({"LABEL_0": 0}));
    }

    #[test]
    fn labels_that_fit_keep_their_names() {
        let named = json!({"model_type": "vit", "architectures": ["ViTForImageClassification"],
            "id2label": {"0": "cat", "1": "dog"}});
        let mut config = named.clone();
        Task::Classification(2).describe(&mut config).unwrap();
        assert_eq!(config, named);
        let mut unknown = json!({"model_type": "t5"});
        assert!(Task::Bare.describe(&mut unknown).is_err());
    }
}
