//! A merge folded into its base.

use std::cell::RefCell;
use std::path::Path;

use crate::error::{Error, Result};
use crate::fold::{Fold, fold};
use crate::recipe::{Merger, ModuleOutcome, Outcome, Recipe};

/// Files beside the weights that belong to a model.
const ALONG: [&str; 9] = [
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "preprocessor_config.json",
];

impl Merger {
    /// The base with every update folded in, and the files that belong to it.
    pub(super) fn checkpoint(
        &self,
        recipe: &Recipe,
        out: &Path,
        outcome: &mut Outcome,
        step: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let Some(base) = &self.base else {
            return Err(Error::input(
                "`form = \"checkpoint\"` folds into a base: give `base`",
            ));
        };
        let saved = self.saved(&self.sources, recipe.saved)?;
        let state = RefCell::new((&mut outcome.modules, step));
        let update = |module: &str| {
            let update = self.update(module)?;
            let norm = match &update.low_rank {
                Some(factors) if update.is_low_rank() => {
                    Some(factors.dot(factors)?.max(0.0).sqrt())
                }
                _ => None,
            };
            let (modules, step) = &mut *state.borrow_mut();
            let shape = base.shape(module, &self.modules[module])?;
            let done = ModuleOutcome {
                shape,
                norm,
                rank: None,
                error: 0.0,
                factor_wise: None,
            };
            modules.insert(module.to_owned(), done);
            step(module);
            Ok(update)
        };
        let what = Fold {
            modules: &self.modules,
            update: &update,
            saved: &saved,
        };
        let folded = fold(base, &what, out)?;
        let first = base.files().paths().next();
        let from = first.and_then(Path::parent).unwrap_or(Path::new(""));
        for name in ALONG.iter().filter(|name| from.join(name).is_file()) {
            let (from, to) = (from.join(name), out.join(name));
            std::fs::copy(&from, &to)
                .map_err(|error| Error::file(&to, format!("cannot be copied: {error}")))?;
        }
        outcome.form = "checkpoint".to_owned();
        outcome.bytes = folded.bytes;
        outcome.saved = saved.into_keys().collect();
        Ok(())
    }
}
