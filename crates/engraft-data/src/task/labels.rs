//! The classes of a task and their names.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::names::{listed, nearest_is};
use crate::read::{RowError, Source, Value, display};

/// More distinct labels than this are no classes.
const MOST: usize = 10_000;

/// Names of classes, by index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(Vec<String>);

impl Labels {
    /// Classes with these names.
    ///
    /// # Errors
    /// A name that is there twice, or none at all.
    pub fn new(names: Vec<String>) -> Result<Self> {
        let distinct: BTreeSet<&String> = names.iter().collect();
        if names.is_empty() || distinct.len() < names.len() {
            let found = listed(names.iter().map(String::as_str));
            let reason = format!("found [{found}], expected at least one name, each once");
            return Err(DataError::Setting {
                what: "labels",
                reason,
            });
        }
        Ok(Self(names))
    }

    /// The given names, or those in a column of all rows, whose values `divide` into labels.
    pub(super) fn given_or_found(
        given: Option<&[String]>,
        source: &dyn Source,
        column: &str,
        divide: impl Fn(&Value) -> Vec<Value>,
    ) -> Result<Self> {
        match given {
            Some(names) => Self::new(names.to_vec()),
            None => Self::find(source, column, divide),
        }
    }

    /// The distinct labels in a column: integers from 0 on in their order, or names in alphabetical
    /// order. Rows that cannot be used are left to be reported when they are encoded.
    ///
    /// # Errors
    /// Integers among names, numbers that are not integers, too many labels, or none.
    fn find(
        source: &dyn Source,
        column: &str,
        divide: impl Fn(&Value) -> Vec<Value>,
    ) -> Result<Self> {
        let fail = |reason: String| {
            let reason = format!("column {column}: {reason}");
            Err(DataError::File {
                path: source.path().to_owned(),
                reason,
            })
        };
        let (mut integers, mut names) = (BTreeSet::new(), BTreeSet::new());
        let (mut first_integer, mut first_name) = (None, None);
        for row in source.rows()? {
            let Ok(row) = row? else { continue };
            let Some(value) = row.get(column) else {
                continue;
            };
            for value in &divide(value) {
                if is_fraction(value) && value.is_number() {
                    return fail(format!(
                        "found {} in line {}, expected an integer or a name for each class; the task \
                         `regression` learns numbers",
                        display(value),
                        row.line
                    ));
                }
                match (integer(value), name(value)) {
                    (Some(number), _) if number >= 0 => {
                        integers.insert(number);
                        first_integer.get_or_insert(row.line);
                    }
                    (None, Some(name)) => {
                        names.insert(name);
                        first_name.get_or_insert(row.line);
                    }
                    _ => {}
                }
            }
            if let (Some(integer), Some(name)) = (first_integer, first_name) {
                return fail(format!(
                    "found an integer in line {integer} and the name {:?} in line {name}, expected \
                     labels of one type, or the setting `labels` with all of them",
                    names.first().expect("there is a name")
                ));
            }
            if integers.len() + names.len() > MOST {
                return fail(format!("found more than {MOST} labels, expected classes"));
            }
        }
        let names: Vec<String> = integers
            .into_iter()
            .map(|label| label.to_string())
            .chain(names)
            .collect();
        match names.is_empty() {
            true => fail("found no labels, expected integers from 0 on or names".to_owned()),
            false => Ok(Self(names)),
        }
    }

    /// The names, by index.
    pub fn names(&self) -> &[String] {
        &self.0
    }

    /// Number of classes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no classes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The class of a label: its name or, where the names are not numbers, its index.
    ///
    /// # Errors
    /// A label that is neither, with the nearest name.
    pub fn index(&self, column: &str, value: &Value) -> Result<u32, RowError> {
        let text = match (integer(value), name(value)) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name,
            (None, None) => display(value),
        };
        let numbers = self.0.iter().any(|name| name.parse::<i64>().is_ok());
        let by_index = || {
            text.parse::<u32>()
                .ok()
                .filter(|i| !numbers && (*i as usize) < self.len())
        };
        let by_name = self
            .0
            .iter()
            .position(|name| *name == text)
            .map(|place| place as u32);
        by_name
            .or_else(by_index)
            .ok_or_else(|| RowError::UnknownLabel {
                column: column.to_owned(),
                known: listed(self.0.iter().map(String::as_str)),
                nearest: match text.parse::<f64>() {
                    Ok(_) => String::new(),
                    Err(_) => nearest_is(&text, self.0.iter().map(String::as_str)),
                },
                found: format!("{text:?}"),
            })
    }
}

/// An integer, or text that stands for one.
fn integer(value: &Value) -> Option<i64> {
    match value {
        Value::Number(number) => number.as_i64().or_else(|| {
            number
                .as_f64()
                .filter(|f| f.fract() == 0.0 && f.abs() < 1e15)
                .map(|f| f as i64)
        }),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

fn name(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.trim().to_owned()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// A number with a fraction, or text that stands for a number with a decimal point.
pub(super) fn is_fraction(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64().is_some_and(|f| f.fract() != 0.0),
        Value::String(text) => text.contains('.') && text.trim().parse::<f64>().is_ok(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::{Row, Table};

    fn table(values: &[Value]) -> Table {
        let rows = values
            .iter()
            .zip(2..)
            .map(|(v, line)| Row::new(line, [("label", v.clone())]));
        Table::new("data.csv", rows.collect())
    }

    #[test]
    fn labels_are_integers_in_order_or_names() {
        let divide = |value: &Value| value.as_array().unwrap_or(&vec![value.clone()]).clone();
        let find =
            |values: &[Value]| Labels::find(&table(values), "label", divide).map(|found| found.0);
        assert_eq!(
            find(&["10".into(), "2".into(), "0".into()]).unwrap(),
            ["0", "2", "10"]
        );
        assert_eq!(
            find(&[1.into(), 0.into(), (-1).into()]).unwrap(),
            ["0", "1"]
        );
        assert_eq!(
            find(&["b".into(), " a".into(), Value::Null]).unwrap(),
            ["a", "b"]
        );
        assert_eq!(
            find(&[true.into(), false.into()]).unwrap(),
            ["false", "true"]
        );
        assert_eq!(
            find(&[vec!["B", "O"].into(), vec!["I"].into()]).unwrap(),
            ["B", "I", "O"]
        );
        let message = |values: &[Value]| find(values).unwrap_err().to_string();
        let mixed = message(&["0".into(), "pos".into()]);
        assert!(
            mixed.contains("an integer in line 2 and the name \"pos\" in line 3"),
            "{mixed}"
        );
        assert!(message(&[0.5.into()]).contains("the number 0.5 in line 2"));
        assert!(message(&[Value::Null]).contains("found no labels"));
        let many: Vec<Value> = (0..=MOST).map(Value::from).collect();
        assert!(message(&many).contains("more than 10000 labels"));
    }

    #[test]
    fn a_label_is_a_name_or_an_index_in_range() {
        let labels = Labels::new(["negative", "positive"].map(str::to_owned).to_vec()).unwrap();
        assert_eq!(labels.index("label", &"positive".into()), Ok(1));
        assert_eq!(labels.index("label", &"1".into()), Ok(1));
        assert_eq!(labels.index("label", &0.0.into()), Ok(0));
        let message = |value: Value| labels.index("label", &value).unwrap_err().to_string();
        assert_eq!(
            message("positiv".into()),
            "column label: found label \"positiv\", expected one of \"negative\", \"positive\"; the \
             nearest is \"positive\""
        );
        assert!(message((-1).into()).contains("found label \"-1\""));
        assert!(message(2.into()).contains("found label \"2\""));
        // Classes 1 and 2 have the indices 0 and 1: an index would be taken for a name.
        let numbers = Labels::new(["1", "2"].map(str::to_owned).to_vec()).unwrap();
        assert_eq!(numbers.index("label", &2.into()), Ok(1));
        assert!(numbers.index("label", &0.into()).is_err());
        assert!(Labels::new(vec![]).is_err() && Labels::new(vec!["a".into(), "a".into()]).is_err());
    }
}
