//! A merge as tables.

use engraft_merge::recipe::Outcome;

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
