//! A row and its values.

use std::sync::Arc;

pub use serde_json::Value;

use crate::names::nearest_is;
use crate::read::RowError;

/// One row of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Its line, or its number in a file without lines; counted from 1.
    pub line: u64,
    /// Names of the columns, shared by neighbouring rows.
    pub columns: Arc<[String]>,
    /// A value for each column. Fields of delimited files are strings.
    pub values: Vec<Value>,
}

impl Row {
    /// A row from names and values.
    pub fn new<const N: usize>(line: u64, fields: [(&str, Value); N]) -> Self {
        let (columns, values): (Vec<_>, Vec<_>) = fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .unzip();
        Self {
            line,
            columns: columns.into(),
            values,
        }
    }

    /// The value in a column.
    pub fn get(&self, column: &str) -> Option<&Value> {
        let place = self.columns.iter().position(|name| name == column)?;
        self.values.get(place)
    }

    /// The value in a column that has to be there.
    ///
    /// # Errors
    /// [`RowError::Missing`] with the nearest name.
    pub fn value(&self, column: &str) -> Result<&Value, RowError> {
        self.get(column).ok_or_else(|| RowError::Missing {
            column: column.to_owned(),
            nearest: nearest_is(column, self.columns.iter().map(String::as_str)),
        })
    }

    /// The text in a column.
    ///
    /// # Errors
    /// A missing column or another type: a number is not taken for text, as mixed types point at
    /// the wrong column.
    pub fn text(&self, column: &str) -> Result<&str, RowError> {
        match self.value(column)? {
            Value::String(text) => Ok(text),
            other => Err(mismatch(column, other, "text")),
        }
    }

    /// The finite number in a column, or that its text stands for.
    ///
    /// # Errors
    /// A missing column, another type, text that is not a number, or a number that is not finite.
    pub fn number(&self, column: &str) -> Result<f64, RowError> {
        let value = self.value(column)?;
        let number = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        number
            .filter(|number| number.is_finite())
            .ok_or_else(|| mismatch(column, value, "a finite number"))
    }
}

/// A value of the wrong type.
pub(crate) fn mismatch(column: &str, found: &Value, expected: &str) -> RowError {
    RowError::Type {
        column: column.to_owned(),
        found: display(found),
        expected: expected.to_owned(),
    }
}

/// A value with its type, cut to 60 characters.
pub(crate) fn display(value: &Value) -> String {
    let cut = |text: String| match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    };
    match value {
        Value::Null => "nothing (null)".to_owned(),
        Value::Bool(flag) => format!("the truth value {flag}"),
        Value::Number(number) => format!("the number {number}"),
        Value::String(text) => cut(format!("{text:?}")),
        Value::Array(_) => cut(format!("the list {value}")),
        Value::Object(_) => cut(format!("the object {value}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_typed_and_errors_say_what_was_found() {
        let row = Row::new(
            3,
            [
                ("sentence", "hi".into()),
                ("score", " 2.5".into()),
                ("n", 4.into()),
            ],
        );
        assert_eq!(row.text("sentence"), Ok("hi"));
        assert_eq!(row.number("score"), Ok(2.5));
        assert_eq!(row.number("n"), Ok(4.0));
        let message = |error: RowError| error.to_string();
        assert_eq!(
            message(row.text("sentense").unwrap_err()),
            "column sentense is missing; the nearest is \"sentence\""
        );
        assert_eq!(
            message(row.text("n").unwrap_err()),
            "column n: found the number 4, expected text"
        );
        assert!(message(row.number("sentence").unwrap_err()).contains("expected a finite number"));
        let infinite = Row::new(1, [("x", "inf".into())]);
        assert!(infinite.number("x").is_err());
    }
}
