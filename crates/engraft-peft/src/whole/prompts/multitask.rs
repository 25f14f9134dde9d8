//! MULTITASK_PROMPT_TUNING: a prompt shared by tasks, times a matrix of low rank of each.

use engraft_core::{Attachment, ModelShapes, SiteShape};
use serde_json::Value;

use super::prompt_tuning::{START, start};
use super::{
    FINISHED, common_keys, encoder_key, has_encoder, modules, pair, prompt_site, table_key,
    trained_modules, value, virtual_tokens,
};
use crate::config::Reader;
use crate::error::Result;
use crate::pair::Pair;
use crate::types::{Table, Tensors, table};
use crate::whole::{Whole, WholeType};

/// [P . (U_t V_t); E].
pub(crate) struct MultitaskPromptTuning;

/// Sizes of the tensors.
struct Sizes {
    tokens: usize,
    tasks: usize,
    rank: usize,
}

impl Sizes {
    /// The pairs under these keys of P, U and V.
    fn pairs(&self, keys: [String; 3], site: &SiteShape, name: &str) -> Vec<Pair> {
        let Self {
            tokens,
            tasks,
            rank,
        } = *self;
        let [table, cols, rows] = keys;
        vec![
            pair(table, site, name, "tokens", &[tokens, site.width]),
            pair(cols, site, name, "cols", &[tasks, tokens, rank]),
            pair(rows, site, name, "rows", &[tasks, rank, site.width]),
        ]
    }
}

const FACTORS: [&str; 2] = ["prefix_task_cols", "prefix_task_rows"];

impl WholeType for MultitaskPromptTuning {
    fn name(&self) -> &'static str {
        "MULTITASK_PROMPT_TUNING"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["multitask-prompt-tuning"]
    }

    fn read(
        &self,
        config: &mut Reader,
        shapes: &ModelShapes,
        tensors: &mut Tensors,
        name: &str,
    ) -> Result<Whole> {
        let sizes = Sizes {
            tokens: virtual_tokens(config)?,
            tasks: config.get("num_tasks", 1)?,
            rank: config.get("num_ranks", 1)?,
        };
        config.skip(&START);
        config.skip(&[
            "prompt_tuning_init_state_dict_path",
            "prompt_tuning_init_task",
        ]);
        let site = prompt_site(shapes)?;
        let (injection, mut pairs) = modules(config, shapes, tensors)?;
        let trained = has_encoder(tensors);
        let factors = FACTORS.map(|factor| {
            let key = encoder_key(factor, tensors);
            match trained && tensors.contains_key(&key) {
                true => {
                    tensors.remove(factor);
                    key
                }
                false => factor.to_owned(),
            }
        });
        let [cols, rows] = factors;
        pairs.extend(sizes.pairs([table_key(tensors), cols, rows], site, name));
        let own = table([
            ("virtual-tokens", sizes.tokens.into()),
            ("tasks", sizes.tasks.into()),
            ("rank", sizes.rank.into()),
        ]);
        Ok(Whole {
            method: "multitask-prompt-tuning",
            config: own,
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
        let sizes = Sizes {
            tokens: value(attachment, "virtual-tokens")?,
            tasks: value(attachment, "tasks")?,
            rank: value(attachment, "rank")?,
        };
        let site = prompt_site(shapes).map_err(|error| error.to_string())?;
        let mut keys = common_keys(sizes.tokens, attachment, shapes)?;
        keys.extend(start());
        keys.extend(table([
            ("num_tasks", sizes.tasks.into()),
            ("num_ranks", sizes.rank.into()),
            ("prompt_tuning_init_state_dict_path", Value::Null),
            ("prompt_tuning_init_task", 0.into()),
        ]));
        let mut pairs = trained_modules(attachment, shapes)?;
        let [cols, rows] = FACTORS.map(str::to_owned);
        pairs.extend(sizes.pairs([FINISHED.to_owned(), cols, rows], site, &attachment.name));
        Ok((keys, pairs))
    }
}
