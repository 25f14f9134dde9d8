//! The writers of a table: terminal, Markdown, CSV, LaTeX, HTML.

use comfy_table::{CellAlignment, ContentArrangement, presets::UTF8_FULL_CONDENSED};

use crate::table::{Cell, Kind, Table};

/// A table for people at a terminal, wrapped to its width.
#[must_use]
pub fn terminal(table: &Table) -> String {
    let mut lines = comfy_table::Table::new();
    lines
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic);
    lines.set_header(table.columns.iter().map(|column| column.name.as_str()));
    for row in &table.rows {
        lines.add_row(row.iter().map(Cell::text));
    }
    for (column, shown) in table.columns.iter().zip(lines.column_iter_mut()) {
        if column.kind != Kind::Text {
            shown.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n{lines}\n{}\n", table.title, table.notes.join("\n"))
}

/// A Markdown table with its title and notes.
#[must_use]
pub fn markdown(table: &Table) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let escape = |text: &str| text.replace('|', "\\|");
    let rule = |kind| if kind == Kind::Text { ":--" } else { "--:" };
    let mut text = format!("# {}\n\n", table.title);
    text += &line(
        table
            .columns
            .iter()
            .map(|column| escape(&column.name))
            .collect(),
    );
    text += &line(
        table
            .columns
            .iter()
            .map(|column| rule(column.kind).to_owned())
            .collect(),
    );
    for row in &table.rows {
        text += &line(row.iter().map(|cell| escape(&cell.text())).collect());
    }
    text + "\n" + &table.notes.join("\n\n") + "\n"
}

/// Comma-separated values: an interval fills two columns, an empty cell stays empty.
#[must_use]
pub fn csv(table: &Table) -> String {
    let quote = |text: &str| {
        if text.contains([',', '"', '\n']) {
            format!("\"{}\"", text.replace('"', "\"\""))
        } else {
            text.to_owned()
        }
    };
    let mut header = Vec::new();
    for column in &table.columns {
        header.push(quote(&column.name));
        if column.kind == Kind::Interval {
            header.push(quote(&format!("{} ± 95%", column.name)));
        }
    }
    let mut text = header.join(",") + "\n";
    for row in &table.rows {
        let mut fields = Vec::new();
        for (cell, column) in row.iter().zip(&table.columns) {
            match cell {
                Cell::Empty if column.kind == Kind::Interval => {
                    fields.extend([String::new(), String::new()])
                }
                Cell::Empty => fields.push(String::new()),
                Cell::Text(value) | Cell::Number(value) => fields.push(quote(value)),
                Cell::Interval(mean, half_width) => {
                    fields.extend([mean.clone(), half_width.clone()])
                }
            }
        }
        text += &(fields.join(",") + "\n");
    }
    text
}

/// A LaTeX `tabular` with the rules of the package booktabs.
#[must_use]
pub fn latex(table: &Table) -> String {
    let line = |cells: Vec<String>| format!("{} \\\\\n", cells.join(" & "));
    let columns: String = table
        .columns
        .iter()
        .map(|column| if column.kind == Kind::Text { 'l' } else { 'r' })
        .collect();
    let mut text = format!("% {}\n", table.title.replace('\n', " "));
    text += &format!("\\begin{{tabular}}{{{columns}}}\n\\toprule\n");
    text += &line(
        table
            .columns
            .iter()
            .map(|column| escape_latex(&column.name))
            .collect(),
    );
    text += "\\midrule\n";
    for row in &table.rows {
        text += &line(row.iter().map(|cell| escape_latex(&cell.text())).collect());
    }
    text += "\\bottomrule\n\\end{tabular}\n";
    for note in &table.notes {
        text += &format!("% {note}\n");
    }
    text
}

fn escape_latex(text: &str) -> String {
    let mut escaped = String::new();
    for letter in text.chars() {
        match letter {
            '%' | '&' | '_' | '#' | '$' | '{' | '}' => escaped.extend(['\\', letter]),
            '\\' => escaped += "\\textbackslash{}",
            '~' => escaped += "\\textasciitilde{}",
            '^' => escaped += "\\textasciicircum{}",
            '±' => escaped += "$\\pm$",
            '–' => escaped += "--",
            other => escaped.push(other),
        }
    }
    escaped
}

/// An HTML table with its notes.
#[must_use]
pub fn html(table: &Table) -> String {
    let cell = |tag: &str, kind: Kind, text: &str| {
        let class = if kind == Kind::Text {
            ""
        } else {
            " class=\"number\""
        };
        format!("<{tag}{class}>{}</{tag}>", escape_html(text))
    };
    let head: String = table
        .columns
        .iter()
        .map(|column| cell("th", column.kind, &column.name))
        .collect();
    let mut text =
        format!("<div class=\"wide\"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        let cells: String = row
            .iter()
            .zip(&table.columns)
            .map(|(value, column)| cell("td", column.kind, &value.text()))
            .collect();
        text += &format!("<tr>{cells}</tr>\n");
    }
    text += "</tbody></table></div>\n";
    for note in &table.notes {
        text += &format!("<p class=\"note\">{}</p>\n", escape_html(note));
    }
    text
}

/// Text that HTML shows as it is.
#[must_use]
pub fn escape_html(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Column;

    fn example() -> Table {
        let column = |name: &str, kind| Column {
            name: name.to_owned(),
            kind,
        };
        Table {
            title: "T".to_owned(),
            columns: vec![
                column("method", Kind::Text),
                column("% of model", Kind::Number),
                column("a_b", Kind::Interval),
            ],
            rows: vec![
                vec![
                    Cell::Text("a|b, <c>".to_owned()),
                    Cell::Number("1.25".to_owned()),
                    Cell::Interval("93.1".to_owned(), "0.4".to_owned()),
                ],
                vec![Cell::Text("x".to_owned()), Cell::Empty, Cell::Empty],
            ],
            notes: vec!["N & M".to_owned()],
        }
    }

    #[test]
    fn all_writers_show_the_same_cells_with_their_own_escapes() {
        let table = example();
        assert_eq!(
            markdown(&table),
            "# T\n\n| method | % of model | a_b |\n| :-- | --: | --: |\n| a\\|b, <c> | 1.25 | 93.1 ± 0.4 |\n| x | – | – |\n\nN & M\n"
        );
        assert_eq!(
            csv(&table),
            "method,% of model,a_b,a_b ± 95%\n\"a|b, <c>\",1.25,93.1,0.4\nx,,,\n"
        );
        let latex = latex(&table);
        assert!(
            latex.contains("method & \\% of model & a\\_b \\\\"),
            "{latex}"
        );
        assert!(latex.contains("93.1 $\\pm$ 0.4"), "{latex}");
        let html = html(&table);
        assert!(
            html.contains("<td>a|b, &lt;c&gt;</td>") && html.contains("N &amp; M"),
            "{html}"
        );
        let terminal = terminal(&table);
        assert!(
            terminal.contains("93.1 ± 0.4") && terminal.contains("1.25"),
            "{terminal}"
        );
    }
}
