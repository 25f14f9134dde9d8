//! JSON lines: one object a line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{DataError, Result};
use crate::read::{Problem, Row, RowError, Rows, Source, Value};

/// Rows of a file with one JSON object a line; blank lines are skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonLines {
    /// The file.
    pub path: PathBuf,
}

impl JsonLines {
    /// Rows of this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }
}

impl Source for JsonLines {
    fn path(&self) -> &Path {
        &self.path
    }

    fn rows(&self) -> Result<Rows<'_>> {
        let io = |source| DataError::Io {
            path: self.path.clone(),
            source,
        };
        let mut input = BufReader::with_capacity(1 << 16, File::open(&self.path).map_err(io)?);
        if input.fill_buf().map_err(io)?.starts_with(b"\xef\xbb\xbf") {
            input.consume(3);
        }
        let (mut text, mut line) = (Vec::new(), 0);
        let mut columns: Arc<[String]> = Arc::new([]);
        Ok(Box::new(std::iter::from_fn(move || {
            loop {
                text.clear();
                match input.read_until(b'\n', &mut text) {
                    Err(source) => return Some(Err(io(source))),
                    Ok(0) => return None,
                    Ok(_) => line += 1,
                }
                if !text.trim_ascii().is_empty() {
                    break;
                }
            }
            let row = parse(&text).map(|(names, values)| {
                if *columns != *names {
                    columns = names.into();
                }
                Row {
                    line,
                    columns: columns.clone(),
                    values,
                }
            });
            Some(Ok(
                row.map_err(|reason| Problem::new(&self.path, line, reason))
            ))
        })))
    }
}

fn parse(text: &[u8]) -> Result<(Vec<String>, Vec<Value>), RowError> {
    let text = str::from_utf8(text).map_err(|e| RowError::Utf8 {
        at: e.valid_up_to(),
    })?;
    // The message of serde_json counts lines within the text, which is one line.
    let value = serde_json::from_str(text)
        .map_err(|e| RowError::Json(e.to_string().replace(" at line 1 column ", " at column ")))?;
    match value {
        Value::Object(fields) => Ok(fields.into_iter().unzip()),
        Value::Array(_) => Err(RowError::NotAnObject("a list")),
        _ => Err(RowError::NotAnObject("a single value")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_rows_and_the_rest_has_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.jsonl");
        let text = "{\"text\": \"a\\nb\", \"label\": 1}\n\n{\"text\": }\n[1]\r\n{\"label\": null}\n\"x\"\n{\"text\": \"é\", \"label\": 2.5}";
        std::fs::write(&path, text).unwrap();
        let rows: Vec<_> = JsonLines::new(&path)
            .rows()
            .unwrap()
            .map(Result::unwrap)
            .collect();
        let first = rows[0].as_ref().unwrap();
        assert_eq!((first.line, first.text("text")), (1, Ok("a\nb")));
        assert_eq!(first.value("label"), Ok(&Value::from(1)));
        let problems: Vec<String> = rows
            .iter()
            .filter_map(|row| Some(row.as_ref().err()?.to_string()))
            .collect();
        assert!(
            problems[0].ends_with(":3: not valid JSON: expected value at column 10"),
            "{problems:?}"
        );
        assert!(
            problems[1]
                .ends_with(":4: found a list, expected a JSON object with a value for each column")
        );
        assert!(problems[2].contains(":6: found a single value"));
        assert!(
            rows[3]
                .as_ref()
                .unwrap()
                .text("text")
                .unwrap_err()
                .to_string()
                .contains("missing")
        );
        let last = rows[5].as_ref().unwrap();
        assert_eq!((last.line, last.number("label")), (7, Ok(2.5)));
        assert!(Arc::ptr_eq(&first.columns, &first.clone().columns));
    }
}
