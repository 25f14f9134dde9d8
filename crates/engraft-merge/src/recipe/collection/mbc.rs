//! Clusters of adapters that are alike, and the mean of each.

use serde::{Deserialize, Serialize};

use super::{Collected, Writing};
use crate::error::{Error, Result};
use crate::methods::{Clusters, Embedding, average, k_means};
use crate::recipe::Source;
use crate::update::Update;

/// Options of clusters by [MBC's embedding](Embedding). It holds the parameters of all adapters, as their
/// files have them, in memory at once; the means are computed module by module.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Mbc {
    /// How many.
    pub clusters: usize,
    /// Seed of k-means.
    #[serde(default)]
    pub seed: u64,
    /// Numbers of an embedding at most.
    #[serde(default = "components")]
    pub components: usize,
    /// Fraction of each adapter's parameters that the embedding sets to zero.
    #[serde(default = "sparsity")]
    pub sparsity: f64,
}

fn components() -> usize {
    Embedding::default().components
}

fn sparsity() -> f64 {
    Embedding::default().sparsity
}

impl Mbc {
    pub(super) fn check(&self, adapters: usize) -> Result<()> {
        if !(1..=adapters).contains(&self.clusters) {
            return Err(Error::input(format!(
                "{} `clusters` of {adapters} adapters: choose from 1 to as many as there are",
                self.clusters
            )));
        }
        if self.components == 0 || !(0.0..1.0).contains(&self.sparsity) {
            return Err(Error::input(format!(
                "`components` {} and `sparsity` {}: expected at least 1, and from 0 to below 1",
                self.components, self.sparsity
            )));
        }
        Ok(())
    }

    /// The weighted mean of every cluster.
    pub(super) fn write(&self, writing: &mut Writing<'_, '_>) -> Result<()> {
        let merger = writing.merger;
        let clusters = self.clusters(&merger.sources)?;
        let count = clusters.assignment.iter().max().map_or(0, |last| last + 1);
        let members = (0..count).map(|cluster| {
            let both = merger.sources.iter().zip(&clusters.assignment);
            let own = both.filter(|(_, of)| **of == cluster);
            own.map(|(source, _)| source).collect::<Vec<&Source>>()
        });
        let members: Vec<Vec<&Source>> = members.collect();
        let directory = |cluster: usize| format!("cluster-{cluster}");
        let output = &writing.recipe.output;
        let writers = members.iter().enumerate();
        let writers = writers.map(|(at, own)| writing.begin(&directory(at), output, own[0]));
        let mut writers = writers.collect::<Result<Vec<_>>>()?;
        for module in merger.modules.keys() {
            let brought = merger.bring(module, merger.missing)?;
            for (cluster, writer) in writers.iter_mut().enumerate() {
                let own = brought.updates.iter();
                let own = own.filter(|(at, _)| clusters.assignment[*at] == cluster);
                let (weights, updates): (Vec<f64>, Vec<&Update>) = own
                    .map(|(at, update)| (merger.sources[*at].weight(), update))
                    .unzip();
                if updates.is_empty() {
                    continue;
                }
                let mean = average(&updates, Some(&weights)).map_err(|error| {
                    let name = directory(cluster);
                    Error::input(format!("{name}, module `{module}`: {error}"))
                })?;
                writer.push(module, &mean)?;
            }
            (writing.step)(module);
        }
        for (cluster, (writer, own)) in writers.into_iter().zip(&members).enumerate() {
            let saved = merger.saved(own.iter().copied(), writing.recipe.saved)?;
            writing.end(&directory(cluster), writer, &saved, own)?;
        }
        let names = merger.sources.iter().map(|source| source.name().to_owned());
        writing.outcome.form = "clusters".to_owned();
        writing.outcome.collected = Some(Collected::Mbc {
            assignment: names.zip(clusters.assignment).collect(),
            inertia: clusters.inertia,
        });
        Ok(())
    }

    fn clusters(&self, sources: &[Source]) -> Result<Clusters> {
        let parameters = sources.iter().map(parameters);
        let parameters: Vec<Vec<f32>> = parameters.collect::<Result<_>>()?;
        let sizes = parameters.iter().map(Vec::len);
        if let Some(at) = sizes.clone().position(|size| size != parameters[0].len()) {
            let sizes: Vec<usize> = sizes.collect();
            let reason = format!(
                "it has {} parameters and `{}` has {}: the embedding takes adapters of one type with the same modules and ranks",
                sizes[at],
                sources[0].name(),
                sizes[0]
            );
            return Err(Error::adapter(sources[at].name(), reason));
        }
        let embedding = Embedding {
            components: self.components,
            sparsity: self.sparsity,
        };
        k_means(&embedding.of(&parameters)?, self.clusters, self.seed)
    }
}

/// All parameters of an adapter, one module after the other.
fn parameters(source: &Source) -> Result<Vec<f32>> {
    let adapter = source.adapter();
    let mut all = Vec::new();
    for module in adapter.modules().keys() {
        all.extend(adapter.parameters(module)?);
    }
    Ok(all)
}
