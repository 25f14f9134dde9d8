//! PROMPT_TUNING: trained tokens in front of a text.

use engraft_core::{Attachment, ModelShapes};
use serde_json::Value;

use super::{
    FINISHED, common_keys, modules, pair, prompt_site, table_key, trained_modules, value,
    virtual_tokens,
};
use crate::config::Reader;
use crate::error::Result;
use crate::pair::Pair;
use crate::types::{Table, Tensors, table};
use crate::whole::{Whole, WholeType};

/// [P; E].
pub(crate) struct PromptTuning;

/// Keys that say how the tokens started.
pub(super) const START: [&str; 4] = [
    "prompt_tuning_init",
    "prompt_tuning_init_text",
    "tokenizer_name_or_path",
    "tokenizer_kwargs",
];

/// Those keys, written.
pub(super) fn start() -> Table {
    table([
        ("prompt_tuning_init", "RANDOM".into()),
        ("prompt_tuning_init_text", Value::Null),
        ("tokenizer_name_or_path", Value::Null),
        ("tokenizer_kwargs", Value::Null),
    ])
}

impl WholeType for PromptTuning {
    fn name(&self) -> &'static str {
        "PROMPT_TUNING"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["prompt-tuning"]
    }

    fn read(
        &self,
        config: &mut Reader,
        shapes: &ModelShapes,
        tensors: &mut Tensors,
        name: &str,
    ) -> Result<Whole> {
        let tokens = virtual_tokens(config)?;
        config.skip(&START);
        let site = prompt_site(shapes)?;
        let (injection, mut pairs) = modules(config, shapes, tensors)?;
        let shape = [tokens, site.width];
        pairs.push(pair(table_key(tensors), site, name, "tokens", &shape));
        Ok(Whole {
            method: "prompt-tuning",
            config: table([("virtual-tokens", tokens.into())]),
            injection,
            pairs,
            derived: &[],
        })
    }

    fn write(
        &self,
        attachment: &Attachment,
        shapes: &ModelShapes,
    ) -> Result<(Table, Vec<Pair>), String> {
        let tokens = value(attachment, "virtual-tokens")?;
        let site = prompt_site(shapes).map_err(|error| error.to_string())?;
        let mut keys = common_keys(tokens, attachment, shapes)?;
        keys.extend(start());
        let mut pairs = trained_modules(attachment, shapes)?;
        let shape = [tokens, site.width];
        pairs.push(pair(FINISHED, site, &attachment.name, "tokens", &shape));
        Ok((keys, pairs))
    }
}
