//! What a run did, for people.

use std::fmt::Write as _;
use std::path::PathBuf;

use engraft_core::Counts;
use engraft_data::task::Output;
use engraft_kernels::{NumberFormat, Quantisation};

use super::adapters::Written;
use super::evaluate::Scores;
use super::subject::named;

/// What a run did.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Name of the method.
    pub method: &'static str,
    /// What it trains.
    pub counts: Counts,
    /// Parameters of the model.
    pub total: usize,
    /// Parameters of the model that started fresh.
    pub fresh: Vec<String>,
    /// What quantising the base did.
    pub quantised: Option<String>,
    /// How the base was quantised.
    pub base: Option<Quantisation>,
    /// What a user should know of the data.
    pub notes: Vec<String>,
    /// Examples that were learned, and those that were evaluated on.
    pub examples: [usize; 2],
    /// Scores before training.
    pub before: Scores,
    /// Scores after it.
    pub after: Scores,
    /// How the adapter was written.
    pub written: Written,
    /// Where it is.
    pub out: PathBuf,
    /// The model as it was named.
    pub model: PathBuf,
    /// Whether it reads images.
    pub reads_images: bool,
    /// What the model computes.
    pub output: Output,
    /// Outputs of its head, 0 where they are the vocabulary.
    pub outputs: usize,
}

/// Notes that are shown; the rest is counted.
const NOTES: usize = 10;

impl Summary {
    /// The summary as text.
    pub fn text(&self) -> String {
        let Counts {
            trainable,
            shared,
            norms,
            head,
            ..
        } = self.counts;
        let trained = self.counts.all_trained();
        let mut text = String::new();
        let mut line = |line: String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
        };
        for note in self.notes.iter().take(NOTES) {
            line(note.clone());
        }
        if self.notes.len() > NOTES {
            line(format!("... and {} more", self.notes.len() - NOTES));
        }
        if !self.fresh.is_empty() {
            line(format!("started fresh: {}", self.fresh.join(", ")));
        }
        if let Some(quantised) = &self.quantised {
            line(quantised.clone());
        }
        line(format!(
            "{}: {trained} of {} parameters trained ({:.3} %): adapters {trainable}, shared {shared}, norms {norms}, \
             head {head}",
            self.method,
            self.total,
            100.0 * trained as f64 / self.total as f64
        ));
        line(format!(
            "{} examples learned, {} evaluated on",
            self.examples[0], self.examples[1]
        ));
        let width = self.after.0.iter().map(|(name, _)| name.len()).max();
        for (metric, after) in &self.after.0 {
            let before = self.before.0.iter().find(|(known, _)| known == metric);
            let before = before.map_or(f64::NAN, |(_, value)| *value);
            line(format!(
                "{metric:<0$} {after:.4}  (before: {before:.4})",
                width.unwrap_or(0)
            ));
        }
        line(format!("written to {}", self.out.display()));
        match &self.written {
            Written::Peft => line(format!("\nIn Python:\n{}", self.python())),
            Written::Own(reason) => line(format!("as Engraft's own file: {reason}")),
        }
        text
    }

    /// How Python loads the adapter.
    fn python(&self) -> String {
        let (class, labels) = match self.output {
            Output::Class | Output::Classes | Output::Number => {
                let class = if self.reads_images {
                    "AutoModelForImageClassification"
                } else {
                    "AutoModelForSequenceClassification"
                };
                (class, self.outputs)
            }
            Output::TokenClass => ("AutoModelForTokenClassification", self.outputs),
            Output::NextToken => ("AutoModelForCausalLM", 0),
            Output::MaskedToken => ("AutoModelForMaskedLM", 0),
        };
        let labels = match labels {
            0 => String::new(),
            count => format!(", num_labels={count}"),
        };
        let model = self.model.display().to_string();
        let (model, revision) = named(&model);
        let revision =
            revision.map_or(String::new(), |revision| format!(", revision={revision:?}"));
        let (config, argument) = match self.base {
            Some(Quantisation {
                format: format @ (NumberFormat::Nf4 | NumberFormat::Fp4),
                double,
                ..
            }) => (
                format!(
                    ", BitsAndBytesConfig\n  config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type={:?}, \
                     bnb_4bit_use_double_quant={})",
                    format.name(),
                    if double { "True" } else { "False" }
                ),
                ", quantization_config=config",
            ),
            _ => (String::new(), ""),
        };
        format!(
            "  from peft import PeftModel\n  from transformers import {class}{config}\n  \
             model = {class}.from_pretrained({model:?}{revision}{labels}{argument})\n  \
             model = PeftModel.from_pretrained(model, {:?})",
            self.out.display().to_string()
        )
    }
}
