//! A merge as tables.

use engraft_merge::recipe::{Collected, Outcome, Part};

use crate::table::{Cell, Column, Kind, Table};

/// Columns of these names; the first holds words, the others numbers.
pub(super) fn table(title: &str, columns: &[&str], rows: Vec<Vec<Cell>>) -> Table {
    let columns = columns.iter().enumerate().map(|(at, name)| Column {
        name: (*name).to_owned(),
        kind: if at == 0 { Kind::Text } else { Kind::Number },
    });
    Table {
        title: title.to_owned(),
        columns: columns.collect(),
        rows,
        notes: Vec::new(),
    }
}

pub(super) fn number(value: f64) -> Cell {
    Cell::Number(match value {
        0.0 => "0".to_owned(),
        value if value.abs() < 1e-3 => format!("{value:.1e}"),
        value => format!("{value:.4}"),
    })
}

/// The adapters and their weights.
#[must_use]
pub fn adapters(outcome: &Outcome) -> Table {
    let rows = outcome.adapters.iter().map(|(name, kind, weight)| {
        vec![
            Cell::Text(name.clone()),
            Cell::Number(kind.clone()),
            Cell::Number(weight.to_string()),
        ]
    });
    table("Adapters", &["adapter", "type", "weight"], rows.collect())
}

/// Every module, and all of them together in the last row.
#[must_use]
pub fn modules(outcome: &Outcome) -> Table {
    let row = |name: &str,
               shape: Cell,
               norm: Option<f64>,
               rank: Cell,
               error: f64,
               factor_wise: Option<f64>| {
        vec![
            Cell::Text(name.to_owned()),
            shape,
            norm.map_or(Cell::Empty, number),
            rank,
            number(error),
            factor_wise.map_or(Cell::Empty, number),
        ]
    };
    let rows = outcome.modules.iter().map(|(name, module)| {
        let [rows, columns] = module.shape;
        let shape = if rows * columns > 0 {
            Cell::Number(format!("{rows}x{columns}"))
        } else {
            Cell::Empty
        };
        let rank = module
            .rank
            .map_or(Cell::Empty, |rank| Cell::Number(rank.to_string()));
        row(
            name,
            shape,
            module.norm,
            rank,
            module.error,
            module.factor_wise,
        )
    });
    let mut rows: Vec<Vec<Cell>> = rows.collect();
    let norm = Some(outcome.norm())
        .filter(|_| outcome.modules.values().any(|module| module.norm.is_some()));
    rows.push(row(
        "all",
        Cell::Empty,
        norm,
        Cell::Empty,
        outcome.error(),
        outcome.factor_wise(),
    ));
    let mut table = table(
        "Modules",
        &["module", "weight", "|dW|", "rank", "error", "factor-wise"],
        rows,
    );
    table
        .notes
        .push("error: |dW - written| / |dW| in the Frobenius norm".to_owned());
    if outcome.factor_wise().is_some() {
        let note = "factor-wise: how far the sum of factors is from the sum of updates, |difference| / |exact|";
        table.notes.push(note.to_owned());
    } else {
        for row in &mut table.rows {
            row.pop();
        }
        table.columns.pop();
    }
    table
}

/// The adapters of a collection: where they are, and what of.
#[must_use]
pub fn parts(outcome: &Outcome) -> Table {
    let row = |(name, part): (&String, &Part)| {
        vec![
            Cell::Text(name.clone()),
            Cell::Number(part.adapters.join(", ")),
            Cell::Number(part.form.clone()),
            Cell::Number(part.modules.len().to_string()),
            number(part.norm()),
            number(part.error()),
        ]
    };
    let columns = ["directory", "of", "form", "modules", "|dW|", "error"];
    let rows = outcome.parts.iter().map(row).collect();
    table("Adapters that were written", &columns, rows)
}

/// What a collection knows besides its adapters.
#[must_use]
pub fn collected(collected: &Collected) -> Table {
    let fraction = |value: &f64| Cell::Number(format!("{value:.3}"));
    match collected {
        Collected::Rmm {
            size,
            numbers,
            of,
            errors,
            ..
        } => {
            let rows = errors
                .iter()
                .map(|(name, error)| vec![Cell::Text(name.clone()), number(*error)]);
            let mut table = table("Reversible merge", &["adapter", "error"], rows.collect());
            let share = 100.0 * *numbers as f64 / (*of).max(1) as f64;
            table.notes.push(format!(
                "bases of {size}: {numbers} numbers, {share:.1}% of the factors of all adapters"
            ));
            table
        }
        Collected::Mbc {
            assignment,
            inertia,
        } => {
            let rows = assignment.iter().map(|(name, cluster)| {
                vec![Cell::Text(name.clone()), Cell::Number(cluster.to_string())]
            });
            let mut table = table("Clusters", &["adapter", "cluster"], rows.collect());
            let note = format!("squared distances from the centres: {inertia:.4}");
            table.notes.push(note);
            table
        }
        Collected::TaskMasks { tasks, statistics } => {
            let overlaps = tasks.iter().map(|name| format!("with {name}"));
            let columns: Vec<String> = ["task".to_owned(), "kept".to_owned()]
                .into_iter()
                .chain(overlaps)
                .collect();
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            let numbers = statistics.densities.iter().zip(&statistics.jaccard);
            let rows = tasks.iter().zip(numbers).map(|(name, (density, overlap))| {
                let numbers = std::iter::once(density).chain(overlap).map(fraction);
                let name = std::iter::once(Cell::Text(name.clone()));
                name.chain(numbers).collect()
            });
            let mut table = table("Task masks", &columns, rows.collect());
            let counts = statistics.shared.iter().enumerate();
            let counts = counts.map(|(masks, entries)| format!("{entries} by {masks}"));
            let counts: Vec<String> = counts.collect();
            table.notes.push(format!(
                "with: intersection over union of two masks; entries kept: {}",
                counts.join(", ")
            ));
            table
        }
    }
}

/// What a search tried, the best first.
#[must_use]
pub fn searched(outcome: &Outcome) -> Option<Table> {
    let found = outcome.search.as_ref()?;
    let names = outcome.adapters.iter().map(|(name, ..)| name.as_str());
    let columns: Vec<&str> = ["evaluation", "loss", "with penalty"]
        .into_iter()
        .chain(names)
        .collect();
    let mut history: Vec<_> = found.history.iter().enumerate().collect();
    history.sort_by(|a, b| a.1.value.total_cmp(&b.1.value));
    let rows = history.into_iter().map(|(at, tried)| {
        let numbers = [tried.loss, tried.value].into_iter();
        let numbers = numbers.chain(tried.coefficients.iter().copied());
        std::iter::once(Cell::Text((at + 1).to_string()))
            .chain(numbers.map(|value| Cell::Number(format!("{value:.4}"))))
            .collect()
    });
    Some(table("Search", &columns, rows.collect()))
}

/// A number for each two adapters.
pub(super) fn square(title: &str, names: &[String], values: &[Vec<f64>]) -> Table {
    let columns = std::iter::once("").chain(names.iter().map(String::as_str));
    let rows = names.iter().zip(values).map(|(name, row)| {
        let cells = row.iter().map(|value| Cell::Number(format!("{value:.3}")));
        std::iter::once(Cell::Text(name.clone()))
            .chain(cells)
            .collect()
    });
    table(title, &columns.collect::<Vec<_>>(), rows.collect())
}
