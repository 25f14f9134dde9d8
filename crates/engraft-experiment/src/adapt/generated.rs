//! Texts that follow prompts, and how they compare with those that are expected.

use burn::tensor::Device;
use engraft_core::{Adapted, Mode, Text};
use engraft_data::read::Source;
use engraft_data::task::{Output, Prepared};
use engraft_data::text::Targets;
use engraft_data::tokens::Side;
use engraft_data::{Metric, TextOptions, TextSet, Tokens};
use engraft_models::{Generation, Pretrained, generate};
use engraft_train::metrics::Predictions;
use serde::{Deserialize, Serialize};

use super::examples::{Examples, text};
use super::source::{Place, Selected};
use super::subject::input;
use crate::{Error, Result};

/// How much is generated to be compared with the answers that are expected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Answers {
    /// Most rows whose answers are generated, from the first one on; none at 0.
    pub rows: usize,
    /// Most tokens of an answer.
    pub max_new_tokens: usize,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            rows: 256,
            max_new_tokens: Generation::default().max_new_tokens,
        }
    }
}

impl Answers {
    /// The most likely tokens, so many.
    pub(super) fn generation(&self) -> Generation {
        Generation {
            max_new_tokens: self.max_new_tokens,
            ..Generation::default()
        }
    }
}

/// Whether a metric compares texts.
pub(super) fn is_of_texts(metric: &Metric) -> bool {
    matches!(metric, Metric::ExactMatch | Metric::Bleu | Metric::RougeL)
}

/// The same tokenizer, for prompts: what is continued ends at its last token.
pub(super) fn for_prompts(tokens: &Tokens) -> Tokens {
    let mut tokens = tokens.clone();
    tokens.padding = Side::Left;
    tokens
}

/// Prompts whose answers are expected.
#[derive(Debug)]
pub(super) struct Asked {
    set: TextSet,
    tokens: Tokens,
    generation: Generation,
}

impl Asked {
    /// The first of these examples as prompts; `None` if the task has no answers to compare.
    pub fn of(
        (place, examples, rows): (&Place, &Examples, &[usize]),
        task: &Prepared,
        tokens: &Tokens,
        options: &TextOptions,
        answers: &Answers,
    ) -> Result<Option<Self>> {
        let compared = task.metrics.iter().any(is_of_texts);
        let Examples::Text(examples) = examples else {
            return Ok(None);
        };
        let rows = &rows[..rows.len().min(answers.rows)];
        if rows.is_empty() || !compared || task.output != Output::NextToken {
            return Ok(None);
        }
        let encoded = examples.examples(rows).map_err(input)?;
        let source = place.open()?;
        let source: &dyn Source = &*source;
        let selected = Selected {
            source,
            lines: encoded.iter().map(|example| example.line).collect(),
        };
        let tokens = for_prompts(tokens);
        let set = TextSet::requests(&selected, task, &tokens, options).map_err(input)?;
        Ok(Some(Self {
            set,
            tokens,
            generation: answers.generation(),
        }))
    }

    /// Number of prompts.
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// The answers of a model in validation mode, `size` at once, beside those that are expected.
    pub fn answers(
        &self,
        model: &Adapted<Pretrained>,
        (size, device): (usize, &Device),
        mut done: impl FnMut(),
    ) -> Result<Predictions> {
        let mut compared = Compared::default();
        let all: Vec<usize> = (0..self.set.len()).collect();
        for rows in all.chunks(size) {
            let batch = self.set.batch(rows, 0, 0).map_err(input)?;
            let prompts = text(&batch, device);
            let texts = continued(model, &prompts, &self.tokens, &self.generation)?;
            compared.add(&texts, &batch.targets, &self.tokens)?;
            done();
        }
        Ok(compared.into_predictions())
    }
}

/// Generated texts beside those that were expected.
#[derive(Debug, Default)]
pub(super) struct Compared {
    predicted: Vec<String>,
    expected: Vec<String>,
}

impl Compared {
    /// Takes those of which the answer is known. It is spelled as the tokenizer spells it.
    pub fn add(&mut self, texts: &[String], targets: &Targets, tokens: &Tokens) -> Result<()> {
        let Targets::Answers(answers) = targets else {
            return Ok(());
        };
        let known = texts.iter().zip(answers);
        for (text, answer) in known.filter(|(_, answer)| !answer.is_empty()) {
            self.predicted.push(text.clone());
            self.expected.push(tokens.decode(answer).map_err(input)?);
        }
        Ok(())
    }

    pub fn is_empty(&self) -> bool {
        self.expected.is_empty()
    }

    pub fn into_predictions(self) -> Predictions {
        Predictions::Texts {
            predicted: self.predicted,
            labels: self.expected,
        }
    }
}

/// The texts that follow prompts, as long as the model has positions for them.
pub(super) fn continued(
    model: &Adapted<Pretrained>,
    prompts: &Text,
    tokens: &Tokens,
    generation: &Generation,
) -> Result<Vec<String>> {
    let decoder = model.model.causal_lm().map_err(input)?;
    let ctx = model.ctx(Mode::Eval);
    let (mut room, mut beyond) = (0, generation.max_new_tokens + 1);
    while beyond - room > 1 {
        let middle = usize::midpoint(room, beyond);
        match decoder.fits(prompts, middle, &ctx) {
            Ok(()) => room = middle,
            Err(_) => beyond = middle,
        }
    }
    let mut generation = Generation {
        max_new_tokens: room,
        ..generation.clone()
    };
    if let (true, Some(end)) = (generation.stop.is_empty(), tokens.special.eos) {
        generation.stop = vec![end.into()];
    }
    let texts = generate(decoder, prompts, &generation, &ctx)
        .map_err(|error| Error::Run(error.to_string()))?;
    let spelled = |ids: Vec<i64>| {
        let ids: Vec<u32> = ids.into_iter().map(|id| id as u32).collect();
        tokens.decode(&ids).map_err(input)
    };
    texts.into_iter().map(spelled).collect()
}
