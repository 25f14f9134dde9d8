//! Merges that are written as one adapter.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;

use super::writer::{AdapterWriter, File};
use crate::adapter::{CONFIG_FILE, TENSOR_FILE};
use crate::compatible::{self, Seeded, add_weighted_adapter};
use crate::error::Result;
use crate::file::write_atomically;
use crate::pipeline::Survey;
use crate::recipe::{Merger, Outcome, Recipe, Way};
use crate::update::Update;

impl Merger {
    /// The adapter that PEFT's own combination makes.
    pub(super) fn compatible(
        &self,
        recipe: &Recipe,
        options: &compatible::Options,
        out: &Path,
        outcome: &mut Outcome,
    ) -> Result<()> {
        let adapters = self
            .sources
            .iter()
            .map(|source| (source.adapter(), source.weight()));
        let adapters: Vec<_> = adapters.collect();
        let dtype = recipe
            .output
            .dtype
            .map_or_else(|| self.dtype(), Dtype::from);
        let mut file = File::create(&out.join(TENSOR_FILE), dtype)?;
        let mut platform = Seeded::new(recipe.seed);
        let config =
            add_weighted_adapter(&adapters, options, &mut platform, &mut |name, tensor| {
                file.push(name, &tensor)
            })?;
        outcome.form = format!(
            "{} as PEFT combines it",
            self.sources[0].adapter().type_name()
        );
        outcome.bytes = file.bytes;
        file.finish()?;
        write_atomically(&out.join(CONFIG_FILE), config.to_text().as_bytes())
    }

    /// An adapter of the form that the recipe wants, or that holds the first module exactly.
    pub(super) fn adapter(
        &self,
        recipe: &Recipe,
        out: &Path,
        outcome: &mut Outcome,
        step: &mut dyn FnMut(&str),
    ) -> Result<()> {
        let saved = self.saved(&self.sources, recipe.saved)?;
        let mut writer = AdapterWriter::new(self, recipe, &recipe.output, &self.sources[0], out);
        let mut factor_wise = BTreeMap::new();
        for module in self.modules.keys() {
            writer.push(module, &self.update(module)?)?;
            factor_wise.insert(module, self.factor_wise(module)?);
            step(module);
        }
        let names = self.sources.iter().map(|source| source.name().to_owned());
        let part = writer.finish(&saved, names.collect())?;
        outcome.form = part.form;
        outcome.bytes = part.bytes;
        outcome.saved = part.saved;
        outcome.modules = part.modules;
        for (module, done) in &mut outcome.modules {
            done.factor_wise = factor_wise.get(module).copied().flatten();
        }
        Ok(())
    }

    /// How far the factor-wise combination of a module is from the exact one.
    fn factor_wise(&self, module: &str) -> Result<Option<f64>> {
        if self.way != Way::FactorWise {
            return Ok(None);
        }
        self.with_tasks(module, |tasks| {
            let found = self.way.merge(module, tasks, &Survey::default())?;
            let terms = tasks.iter().map(|task| (task.weight, task.update));
            let exact = Update::combination(terms)?;
            let [Some(difference), Some(exact)] =
                [found.plus(&exact.scaled(-1.0))?.low_rank, exact.low_rank]
            else {
                return Ok(Some(0.0));
            };
            let square = exact.dot(&exact)?;
            let error = difference.dot(&difference)?.max(0.0);
            Ok(Some(if square > 0.0 {
                (error / square).sqrt()
            } else {
                0.0
            }))
        })
    }
}
