//! Texts with places for columns.

use crate::error::{DataError, Result};
use crate::read::{Row, RowError, Value};

/// A text with `{column}` where a value goes, and `[...]` around parts that are left out if a
/// column in them is missing or empty. `{{`, `[[`, `}}` and `]]` stand for the brackets themselves.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Column(String),
    Optional(Vec<Part>),
}

impl Template {
    pub fn parse(text: &str) -> Result<Self> {
        let fail = |reason: &str| {
            let reason = format!("found {text:?}, {reason}");
            DataError::Setting {
                what: "template",
                reason,
            }
        };
        let (mut outer, mut inner): (Vec<Part>, Option<Vec<Part>>) = (Vec::new(), None);
        let mut literal = String::new();
        let mut chars = text.chars().peekable();
        while let Some(char) = chars.next() {
            let parts = inner.as_mut().unwrap_or(&mut outer);
            if "{}[]".contains(char) && chars.next_if_eq(&char).is_some() {
                literal.push(char);
                continue;
            }
            if "{[]".contains(char) && !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            match char {
                '{' => {
                    let name: String = chars.by_ref().take_while(|char| *char != '}').collect();
                    if name.is_empty() || name.contains(['{', '[', ']']) {
                        return Err(fail("expected the name of a column within {}"));
                    }
                    parts.push(Part::Column(name));
                }
                '[' if inner.is_none() => inner = Some(Vec::new()),
                ']' => match inner.take() {
                    Some(parts) => outer.push(Part::Optional(parts)),
                    None => return Err(fail("expected a [ before each ]")),
                },
                '[' => return Err(fail("expected no [ within []")),
                '}' => return Err(fail("expected a { before each }")),
                other => literal.push(other),
            }
        }
        if inner.is_some() {
            return Err(fail("expected a ] after each ["));
        }
        if !literal.is_empty() {
            outer.push(Part::Text(literal));
        }
        Ok(Self { parts: outer })
    }

    /// The columns outside of optional parts.
    pub fn required(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Column(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The text for a row. Numbers are written as they are.
    pub fn fill(&self, row: &Row) -> Result<String, RowError> {
        fill(&self.parts, row)
    }
}

fn fill(parts: &[Part], row: &Row) -> Result<String, RowError> {
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text(literal) => text += literal,
            Part::Column(name) => match row.value(name)? {
                Value::Number(number) => text += &number.to_string(),
                _ => text += row.text(name)?,
            },
            Part::Optional(parts) => {
                let is_there = |part: &Part| match part {
                    Part::Column(name) => {
                        !matches!(row.get(name), None | Some(Value::Null))
                            && row.get(name).and_then(Value::as_str) != Some("")
                    }
                    _ => true,
                };
                if parts.iter().all(is_there) {
                    text += &fill(parts, row)?;
                }
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_filled_in_and_empty_ones_take_their_part_away() {
        let template = Template::parse("Do {what}.[ With {{{input}}}.] [[ok]]").unwrap();
        assert_eq!(template.required().collect::<Vec<_>>(), ["what"]);
        let row = Row::new(1, [("what", "it".into()), ("input", 5.into())]);
        assert_eq!(template.fill(&row).unwrap(), "Do it. With {5}. [ok]");
        for empty in [Value::Null, "".into()] {
            let row = Row::new(1, [("what", "it".into()), ("input", empty)]);
            assert_eq!(template.fill(&row).unwrap(), "Do it. [ok]");
        }
        let row = Row::new(1, [("what", "it".into())]);
        assert_eq!(template.fill(&row).unwrap(), "Do it. [ok]");
        let row = Row::new(1, [("wha", "it".into())]);
        assert!(
            template
                .fill(&row)
                .unwrap_err()
                .to_string()
                .contains("nearest is \"wha\"")
        );
        for bad in ["{", "{}", "}", "]", "[", "[[[", "[a[b]]"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
