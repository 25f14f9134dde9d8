//! The page of a merge.

use engraft_merge::diagnose::Diagnosis;
use engraft_merge::recipe::{Outcome, Recipe};

use super::{figures, tables};
use crate::Result;
use crate::render::{self, escape_html};
use crate::report::page;
use crate::table::{Cell, Table};

/// One HTML page: the recipe, every module, and how the adapters lie to each other.
pub(super) fn html(recipe: &Recipe, outcome: &Outcome) -> Result<String> {
    let mut sections = Vec::new();
    let mut add = |table: &Table| {
        sections.push(format!(
            "<h2>{}</h2>\n{}",
            escape_html(&table.title),
            render::html(table)
        ));
    };
    add(&tables::adapters(outcome));
    if let Some(table) = tables::searched(outcome) {
        add(&table);
    }
    if let Some(collected) = &outcome.collected {
        add(&tables::parts(outcome));
        add(&tables::collected(collected));
    }
    let modules = tables::modules(outcome);
    if let Some(diagnosis) = &outcome.diagnosis {
        let names = &diagnosis.adapters;
        let conflicts = diagnosis.interference.total();
        let matrices = [
            ("Cosines", &diagnosis.similarity.total(), -1.0),
            ("Sign conflicts, by mass", &conflicts.mass, 0.0),
            ("Likeness of the spaces of inputs", &diagnosis.inputs, 0.0),
            ("Likeness of the spaces of outputs", &diagnosis.outputs, 0.0),
        ];
        for (title, values, least) in matrices {
            let table = tables::square(title, names, values);
            let figure = figures::heat_map(names, values, least)?;
            let title = escape_html(title);
            sections.push(format!(
                "<h2>{title}</h2>\n<figure>{figure}</figure>\n{}",
                render::html(&table)
            ));
        }
        let cancelled = format!(
            "<p>The sum of all loses {:.1}% of its mass to cancellation.</p>",
            100.0 * conflicts.cancelled
        );
        sections.push(cancelled);
        let spectra = figures::spectra(diagnosis)?;
        sections.push(format!(
            "<h2>Singular values</h2>\n<figure>{spectra}</figure>\n{}",
            render::html(&layers(diagnosis))
        ));
    }
    if !outcome.modules.is_empty() {
        sections.push(format!(
            "<h2>{}</h2>\n{}",
            modules.title,
            render::html(&modules)
        ));
    }
    for warning in &outcome.warnings {
        sections.push(format!("<p class=\"note\">{}</p>", escape_html(warning)));
    }
    let text = toml::to_string_pretty(recipe).unwrap_or_default();
    sections.push(format!(
        "<h2>Recipe</h2>\n<pre>{}</pre>",
        escape_html(&text)
    ));
    Ok(page("Merge", &sections))
}

/// Norms and ranks of every adapter, module by module.
fn layers(diagnosis: &Diagnosis) -> Table {
    let rows = diagnosis
        .spectra
        .modules
        .iter()
        .flat_map(|(module, spectra)| {
            spectra
                .iter()
                .zip(&diagnosis.adapters)
                .map(move |(spectrum, adapter)| {
                    vec![
                        Cell::Text(module.clone()),
                        Cell::Number(adapter.clone()),
                        tables::number(spectrum.norm),
                        tables::number(spectrum.spectral),
                        Cell::Number(spectrum.rank.to_string()),
                        Cell::Number(format!("{:.2}", spectrum.stable_rank)),
                        Cell::Number(format!("{:.2}", spectrum.effective_rank)),
                    ]
                })
        });
    tables::table(
        "Layers",
        &[
            "module",
            "adapter",
            "|dW|",
            "largest",
            "rank",
            "stable rank",
            "effective rank",
        ],
        rows.collect(),
    )
}
