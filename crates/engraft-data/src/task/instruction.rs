//! Answers to prompts.

use serde::{Deserialize, Serialize};
use tokenizers::Encoding;

use crate::error::{DataError, Result};
use crate::metric::Metric;
use crate::read::{Row, RowError, Value, row_mismatch};
use crate::task::columns::{COMPLETION, Columns, INSTRUCTION, MESSAGES, OUTPUT, PROMPT};
use crate::task::inputs::example;
use crate::task::template::Template;
use crate::task::{Encode, Output, Prepared};
use crate::text::{Example, IGNORED, Target};
use crate::tokens::Tokens;

/// Prompts with answers. The prompt is read, the answer is learned: labels of the prompt's tokens
/// are ignored. The file has
/// - `messages`, a list of objects with `role` and `content` (or `from` and `value`): every message
///   of the assistant is learned, or
/// - `instruction`, an optional `input`, and `output`, or
/// - `prompt` and `completion`, or other columns that the settings name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Instruction {
    /// The prompt, with `{column}` where a value goes and `[...]` around what is left out if a
    /// column in it is empty. By default the column `prompt` alone, or a form with headings for
    /// `instruction` and `input`.
    pub template: Option<String>,
    /// The column of the answer.
    pub completion: Option<String>,
    /// The column of conversations.
    pub messages: Option<String>,
    /// One message, with `{role}` and `{content}`. By default `<|im_start|>` and `<|im_end|>` mark
    /// it where the tokenizer has these tokens, a heading otherwise.
    pub turn: Option<String>,
}

const FORM: &str = "### Instruction:\n{instruction}\n\n[### Input:\n{input}\n\n]### Response:\n";
const MARKED: &str = "<|im_start|>{role}\n{content}<|im_end|>\n";
const HEADED: &str = "### {role}:\n{content}\n\n";
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

impl Instruction {
    pub(super) fn prepare(&self, columns: &Columns, tokens: &Tokens) -> Result<Prepared> {
        let metrics = [
            Metric::ExactMatch,
            Metric::RougeL,
            Metric::Bleu,
            Metric::Perplexity,
        ];
        let single = self.template.is_some() || self.completion.is_some();
        let messages = match &self.messages {
            Some(column) => Some(columns.given(column)?),
            None if single => None,
            None => columns.usual(MESSAGES),
        };
        if let Some(column) = messages {
            let marked = tokens.id("<|im_start|>").is_some() && tokens.id("<|im_end|>").is_some();
            let turn = self
                .turn
                .as_deref()
                .unwrap_or(if marked { MARKED } else { HEADED });
            let Some((before, after)) = turn.split_once("{content}") else {
                let reason = format!("found {turn:?}, expected {{content}} in it");
                return Err(DataError::Setting {
                    what: "turn",
                    reason,
                });
            };
            let (before, after) = (before.to_owned(), after.to_owned());
            let encoder = Conversation {
                column,
                before,
                after,
            };
            return Ok(Prepared::new(encoder, Output::NextToken, &metrics));
        }
        let (template, usual) = match (&self.template, columns.usual(INSTRUCTION)) {
            (Some(template), _) => (Template::parse(template)?, [COMPLETION, OUTPUT].concat()),
            (None, Some(_)) => (Template::parse(FORM)?, [OUTPUT, COMPLETION].concat()),
            (None, None) => {
                let prompt = columns.pick(None, "template", PROMPT)?;
                (
                    Template::parse(&format!("{{{prompt}}}"))?,
                    COMPLETION.to_vec(),
                )
            }
        };
        template
            .required()
            .try_for_each(|column| columns.given(column).map(|_| ()))?;
        let encoder = Answer {
            template,
            completion: self.completion.clone(),
            usual,
        };
        Ok(Prepared::new(
            encoder.settled(columns)?,
            Output::NextToken,
            &metrics,
        ))
    }
}

struct Answer {
    template: Template,
    completion: Option<String>,
    usual: Vec<&'static str>,
}

impl Answer {
    /// With the column of the answer. A file of requests may lack it.
    fn settled(self, columns: &Columns) -> Result<Self> {
        let given = self.completion.as_deref();
        let completion = Some(columns.learned(given, "completion", &self.usual)?);
        Ok(Self { completion, ..self })
    }
}

impl Encode for Answer {
    fn encode(&self, row: &Row, tokens: &Tokens, labelled: bool) -> Result<Example, RowError> {
        let prompt = self.template.fill(row)?;
        let column = self.completion.as_deref().unwrap_or_default();
        if labelled {
            let parts = [(prompt.as_str(), false), (row.text(column)?, true)];
            return encode(row, tokens, &parts, true);
        }
        let request = encode(row, tokens, &[(prompt.as_str(), false)], false)?;
        expecting(request, row.text(column).ok(), tokens)
    }
}

struct Conversation {
    column: String,
    before: String,
    after: String,
}

impl Encode for Conversation {
    fn encode(&self, row: &Row, tokens: &Tokens, labelled: bool) -> Result<Example, RowError> {
        let value = row.value(&self.column)?;
        let wrong = || {
            row_mismatch(
                &self.column,
                value,
                "a list of messages with role and content",
            )
        };
        // In a delimited file the list is text.
        let parsed;
        let list = match value {
            Value::String(text) => {
                parsed = serde_json::from_str(text).unwrap_or(Value::Null);
                &parsed
            }
            list => list,
        };
        let mut parts: Vec<(String, bool)> = Vec::new();
        for message in list.as_array().ok_or_else(wrong)? {
            let field = |names: [&str; 2]| names.iter().find_map(|name| message[*name].as_str());
            let role = field(["role", "from"]).ok_or_else(wrong)?;
            let content = field(["content", "value"]).ok_or_else(wrong)?;
            let role = match role {
                "human" => "user",
                "gpt" | "model" => "assistant",
                known if ROLES.contains(&known) => known,
                other => {
                    let known = "messages of system, user, assistant or tool";
                    return Err(row_mismatch(&self.column, &other.into(), known));
                }
            };
            parts.push((self.before.replace("{role}", role), false));
            parts.push((format!("{content}{}", self.after), role == "assistant"));
        }
        if labelled && !parts.iter().any(|(_, learned)| *learned) {
            return Err(RowError::NoAnswer);
        }
        let mut expected = None;
        if !labelled {
            // A request ends where the assistant is to begin.
            if parts.last().is_some_and(|(_, learned)| *learned) {
                expected = parts.pop();
            } else {
                parts.push((self.before.replace("{role}", "assistant"), false));
            }
        }
        let parts: Vec<(&str, bool)> = parts
            .iter()
            .map(|(text, learned)| (text.as_str(), *learned))
            .collect();
        let example = encode(row, tokens, &parts, labelled)?;
        expecting(
            example,
            expected.as_ref().map(|(text, _)| text.as_str()),
            tokens,
        )
    }
}

/// A request with the answer that is expected, if one is.
fn expecting(request: Example, answer: Option<&str>, tokens: &Tokens) -> Result<Example, RowError> {
    Ok(match answer.filter(|answer| !answer.trim().is_empty()) {
        Some(answer) => Example {
            target: Target::Answer(tokens.encode_bare(answer)?),
            ..request
        },
        None => request,
    })
}

/// The text of the parts as one, so that tokens are those of a plain text; a token is learned if it
/// ends within a part that is. The end token is learned after a last part that is. Of a text
/// that is too long, something to learn has to remain.
fn encode(
    row: &Row,
    tokens: &Tokens,
    parts: &[(&str, bool)],
    labelled: bool,
) -> Result<Example, RowError> {
    let text: String = parts.iter().map(|(text, _)| *text).collect();
    let encoding = tokens.text(&text, true)?;
    let mut example = example(row, &encoding)?;
    // Tokenizers close a text for reading; a text to be continued stays open.
    while let Some(last) = example.ids.last()
        && Some(*last) == tokens.special.eos
        && encoding.get_special_tokens_mask()[example.ids.len() - 1] == 1
    {
        example.ids.pop();
        example.segments.pop();
    }
    if !labelled {
        return Ok(example);
    }
    let mut ends = Vec::new();
    for (text, learned) in parts {
        ends.push((
            ends.last().map_or(0, |(end, _)| *end) + text.len(),
            *learned,
        ));
    }
    let mut labels: Vec<i64> = (0..example.ids.len())
        .map(|place| {
            if is_learned(&encoding, place, &ends) {
                example.ids[place].into()
            } else {
                IGNORED
            }
        })
        .collect();
    if let Some(eos) = tokens.special.eos
        && parts.last().is_some_and(|(_, learned)| *learned)
        && !example.truncated
    {
        match tokens.cut() {
            Some(max) if example.ids.len() >= max => example.truncated = true,
            _ => {
                example.ids.push(eos);
                example.segments.push(0);
                labels.push(eos.into());
            }
        }
    }
    // The first token is never predicted.
    if labels.iter().skip(1).all(|label| *label == IGNORED) {
        let max = tokens.cut().unwrap_or(example.ids.len());
        let prompt = std::iter::once(&encoding)
            .chain(encoding.get_overflowing())
            .map(|part| unlearned(part, &ends))
            .sum();
        return Err(RowError::NoRoom { prompt, max });
    }
    example.target = Target::Tokens(labels);
    Ok(example)
}

fn is_learned(encoding: &Encoding, place: usize, ends: &[(usize, bool)]) -> bool {
    if encoding.get_special_tokens_mask()[place] == 1 {
        return false;
    }
    let (start, end) = encoding.get_offsets()[place];
    let within = end.max(start + 1);
    ends.iter()
        .find(|(limit, _)| within <= *limit)
        .is_some_and(|(_, learned)| *learned)
}

/// Tokens of the text, special ones aside, that are only read.
fn unlearned(encoding: &Encoding, ends: &[(usize, bool)]) -> usize {
    let special = encoding.get_special_tokens_mask();
    (0..encoding.len())
        .filter(|i| special[*i] == 0 && !is_learned(encoding, *i, ends))
        .count()
}
