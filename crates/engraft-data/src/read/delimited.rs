//! CSV and TSV.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{DataError, Result};
use crate::read::{Problem, Row, RowError, Rows, Source, Value};

/// Longest row, in bytes: a quote that is opened and not closed would otherwise swallow the file.
const LONGEST: usize = 1 << 26;

/// Rows of delimited fields.
///
/// CSV follows RFC 4180: a field that begins with `"` ends at the next one, `""` stands for one
/// and lines may break inside. TSV follows its registration with IANA: no quoting, so that a field
/// holds neither tabs nor line breaks; GLUE's files are of that kind. Lines end in `\n` or `\r\n`,
/// blank ones are skipped, and a byte order mark is skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delimited {
    /// The file.
    pub path: PathBuf,
    /// What separates fields.
    pub delimiter: u8,
    /// Whether fields may be quoted.
    pub quoted: bool,
    /// Names of the columns of a file without a header; `None`: the first row is the header.
    pub columns: Option<Vec<String>>,
}

impl Delimited {
    /// Comma-separated, quoted, with a header.
    pub fn csv(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            delimiter: b',',
            quoted: true,
            columns: None,
        }
    }

    /// Tab-separated, not quoted, with a header.
    pub fn tsv(path: impl Into<PathBuf>) -> Self {
        Self {
            delimiter: b'\t',
            quoted: false,
            ..Self::csv(path)
        }
    }

    /// The same without a header: the columns have these names.
    pub fn with_columns<const N: usize>(self, columns: [&str; N]) -> Self {
        Self {
            columns: Some(columns.map(str::to_owned).to_vec()),
            ..self
        }
    }
}

impl Source for Delimited {
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
        let mut records = Records {
            config: self,
            input,
            line: 0,
            text: Vec::new(),
        };
        let columns = match &self.columns {
            Some(columns) => columns.clone(),
            None => records.header()?,
        };
        let columns: Arc<[String]> = columns.into();
        Ok(Box::new(std::iter::from_fn(move || {
            let (line, fields) = match records.next().transpose()? {
                Ok(record) => record,
                Err(error) => return Some(Err(error)),
            };
            let fields = fields.and_then(|fields| match fields.len() == columns.len() {
                true => Ok(fields),
                false => Err(RowError::Width {
                    found: fields.len(),
                    expected: columns.len(),
                }),
            });
            Some(Ok(match fields {
                Ok(fields) => Ok(Row {
                    line,
                    columns: columns.clone(),
                    values: fields.into_iter().map(Value::String).collect(),
                }),
                Err(reason) => Err(Problem::new(&self.path, line, reason)),
            }))
        })))
    }
}

type Record = (u64, Result<Vec<String>, RowError>);

struct Records<'a> {
    config: &'a Delimited,
    input: BufReader<File>,
    /// Lines read.
    line: u64,
    text: Vec<u8>,
}

impl Records<'_> {
    fn fail<T>(&self, reason: String) -> Result<T> {
        Err(DataError::File {
            path: self.config.path.clone(),
            reason,
        })
    }

    fn header(&mut self) -> Result<Vec<String>> {
        let Some((line, fields)) = self.next()? else {
            return Err(DataError::NoRows {
                path: self.config.path.clone(),
            });
        };
        let names = match fields {
            Ok(names) => names,
            Err(reason) => return self.fail(format!("line {line}, the header: {reason}")),
        };
        let names: Vec<String> = names
            .into_iter()
            .map(|name| name.trim().to_owned())
            .collect();
        for (place, name) in names.iter().enumerate() {
            if names[..place].contains(name) {
                return self.fail(format!(
                    "line {line}, the header: found column {name:?} twice, expected names that differ"
                ));
            }
        }
        Ok(names)
    }

    /// Appends a line without its end; whether there was one.
    fn read_line(&mut self) -> Result<bool> {
        let path = &self.config.path;
        let read = self.input.read_until(b'\n', &mut self.text);
        let read = read.map_err(|source| DataError::Io {
            path: path.clone(),
            source,
        })?;
        self.line += u64::from(read > 0);
        Ok(read > 0)
    }

    /// The next record that is not blank, with its first line.
    fn next(&mut self) -> Result<Option<Record>> {
        loop {
            self.text.clear();
            if !self.read_line()? {
                return Ok(None);
            }
            let first = self.line;
            let mut quotes = Quotes::default();
            let mut seen = 0;
            while self.config.quoted && quotes.open_after(&self.text[seen..], self.config.delimiter)
            {
                seen = self.text.len();
                if seen > LONGEST || !self.read_line()? {
                    return self.fail(format!(
                        "line {first}: found a field whose quote is not closed, expected a closing \
                         quote within {LONGEST} bytes"
                    ));
                }
            }
            let ending = [b"\r\n".as_slice(), b"\n"]
                .into_iter()
                .find(|end| self.text.ends_with(end));
            self.text
                .truncate(self.text.len() - ending.map_or(0, <[u8]>::len));
            if !self.text.is_empty() {
                return Ok(Some((first, self.fields())));
            }
        }
    }

    fn fields(&self) -> Result<Vec<String>, RowError> {
        let text = str::from_utf8(&self.text).map_err(|e| RowError::Utf8 {
            at: e.valid_up_to(),
        })?;
        let delimiter = char::from(self.config.delimiter);
        if !self.config.quoted {
            return Ok(text.split(delimiter).map(str::to_owned).collect());
        }
        let mut fields = Vec::new();
        let mut rest = text;
        loop {
            let (field, after) = match rest.strip_prefix('"') {
                None => {
                    let end = rest.find(delimiter).unwrap_or(rest.len());
                    (rest[..end].to_owned(), &rest[end..])
                }
                Some(quoted) => unquote(quoted),
            };
            fields.push(field);
            match after.strip_prefix(delimiter) {
                Some(next) => rest = next,
                None => match after.chars().next() {
                    None => return Ok(fields),
                    Some(found) => {
                        return Err(RowError::AfterQuote {
                            field: fields.len(),
                            found,
                        });
                    }
                },
            }
        }
    }
}

/// A field up to its closing quote, and what follows the quote.
fn unquote(mut rest: &str) -> (String, &str) {
    let mut field = String::new();
    while let Some(end) = rest.find('"') {
        field += &rest[..end];
        match rest[end + 1..].strip_prefix('"') {
            Some(after) => {
                field.push('"');
                rest = after;
            }
            None => return (field, &rest[end + 1..]),
        }
    }
    (field + rest, "")
}

/// Whether a record is inside a quoted field, line by line.
#[derive(Default)]
struct Quotes {
    inside: bool,
    /// The last byte closed a field; another quote opens it again.
    closed: bool,
    /// The last byte is part of a field.
    within: bool,
}

impl Quotes {
    fn open_after(&mut self, line: &[u8], delimiter: u8) -> bool {
        for &byte in line {
            let opens = byte == b'"' && !self.inside && (!self.within || self.closed);
            let closes = byte == b'"' && self.inside;
            self.inside = (self.inside && !closes) || opens;
            self.closed = closes;
            self.within = self.inside || byte != delimiter;
        }
        self.inside
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8], open: impl Fn(PathBuf) -> Delimited) -> Result<Vec<Result<Row, Problem>>> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.csv");
        std::fs::write(&path, text).unwrap();
        open(path).rows()?.collect()
    }

    fn texts(row: &Row) -> Vec<&str> {
        row.values
            .iter()
            .map(|value| value.as_str().unwrap())
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn what_the_csv_crate_writes_is_read_back(
            rows in prop::collection::vec(prop::collection::vec("[a-z\",\r\n\té 0-9]{0,8}", 3), 1..20),
            always: bool,
        ) {
            let style = if always { csv::QuoteStyle::Always } else { csv::QuoteStyle::Necessary };
            let mut writer = csv::WriterBuilder::new().quote_style(style).from_writer(Vec::new());
            writer.write_record(["a", "b", "c"]).unwrap();
            let mut line = 2;
            let mut lines = Vec::new();
            for row in &rows {
                writer.write_record(row).unwrap();
                lines.push(line);
                line += 1 + row.concat().matches('\n').count() as u64;
            }
            let text = writer.into_inner().unwrap();
            let found = read(&text, Delimited::csv).unwrap();
            let found: Vec<Row> = found.into_iter().map(Result::unwrap).collect();
            prop_assert_eq!(found.iter().map(texts).collect::<Vec<_>>(), rows);
            prop_assert_eq!(found.iter().map(|row| row.line).collect::<Vec<_>>(), lines);
        }
    }

    #[test]
    fn malformed_rows_have_their_line_and_the_next_row_is_read() {
        let text = b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n3\n\"x\ny\",5\n\"6\"7,8\n\xff,9\n10,11";
        let rows = read(text, Delimited::csv).unwrap();
        let lines: Vec<u64> = rows
            .iter()
            .map(|row| {
                row.as_ref()
                    .map_or_else(|problem| problem.line, |row| row.line)
            })
            .collect();
        assert_eq!(lines, [2, 4, 5, 7, 8, 9]);
        let reasons: Vec<String> = rows
            .iter()
            .filter_map(|row| Some(row.as_ref().err()?.reason.to_string()))
            .collect();
        assert_eq!(reasons[0], "found 1 fields, expected 2");
        assert!(
            reasons[1].contains("field 1: found '7' after the closing quote"),
            "{reasons:?}"
        );
        assert!(reasons[2].contains("UTF-8, at byte 0"), "{reasons:?}");
        assert_eq!(texts(rows[2].as_ref().unwrap()), ["x\ny", "5"]);
        assert_eq!(texts(rows[5].as_ref().unwrap()), ["10", "11"]);
    }

    #[test]
    fn tabs_are_not_quoted_and_a_file_may_lack_a_header() {
        let rows = read(b"\"open\t1\n''\t2\n", |path| {
            Delimited::tsv(path).with_columns(["text", "label"])
        });
        let rows: Vec<Row> = rows.unwrap().into_iter().map(Result::unwrap).collect();
        assert_eq!(texts(&rows[0]), ["\"open", "1"]);
        assert_eq!(rows[1].text("text"), Ok("''"));
    }

    #[test]
    fn files_that_cannot_be_read_on_are_errors() {
        let message = |text: &[u8]| read(text, Delimited::csv).unwrap_err().to_string();
        assert!(message(b"").contains("found no rows"));
        assert!(message(b"a,a\n1,2").contains("column \"a\" twice"));
        assert!(message(b"a,b\n1,\"2\n3,4\n").contains("line 2: found a field whose quote"));
        let missing = Delimited::csv("no/such.csv")
            .rows()
            .err()
            .unwrap()
            .to_string();
        assert!(missing.starts_with("no/such.csv: "), "{missing}");
    }
}
