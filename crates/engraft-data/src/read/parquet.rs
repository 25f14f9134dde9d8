//! Parquet.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row as Record};

use crate::error::{DataError, Result};
use crate::read::{Row, Rows, Source, Value};

/// Rows of a Parquet file: strings, numbers, truth values, lists, maps and groups of those. The
/// values of 1,024 rows of each column are decoded at a time, whatever the size of a row group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parquet {
    /// The file.
    pub path: PathBuf,
}

impl Parquet {
    /// Rows of this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    fn broken(&self, error: &ParquetError) -> DataError {
        DataError::File {
            path: self.path.clone(),
            reason: format!("not readable as Parquet: {error}"),
        }
    }
}

impl Source for Parquet {
    fn path(&self) -> &Path {
        &self.path
    }

    fn rows(&self) -> Result<Rows<'_>> {
        let file = File::open(&self.path).map_err(|source| DataError::Io {
            path: self.path.clone(),
            source,
        })?;
        let reader = SerializedFileReader::new(file).map_err(|error| self.broken(&error))?;
        let schema = reader.metadata().file_metadata().schema();
        let columns: Arc<[String]> = schema
            .get_fields()
            .iter()
            .map(|field| field.name().to_owned())
            .collect();
        let records = RowIter::from_file_into(Box::new(reader));
        Ok(Box::new(records.zip(1..).map(move |(record, line)| {
            let record = record.map_err(|error| self.broken(&error))?;
            let values = record
                .into_columns()
                .into_iter()
                .map(|(_, field)| value(&field))
                .collect();
            Ok(Ok(Row {
                line,
                columns: columns.clone(),
                values,
            }))
        })))
    }
}

/// Instants, decimals and bytes that are not UTF-8 become text; numbers that are not finite, which
/// JSON lacks, too.
fn value(field: &Field) -> Value {
    let float = |number: f64| {
        serde_json::Number::from_f64(number)
            .map_or_else(|| number.to_string().into(), Value::Number)
    };
    match field {
        Field::Null => Value::Null,
        Field::Bool(flag) => (*flag).into(),
        Field::Byte(number) => (*number).into(),
        Field::Short(number) => (*number).into(),
        Field::Int(number) => (*number).into(),
        Field::Long(number) => (*number).into(),
        Field::UByte(number) => (*number).into(),
        Field::UShort(number) => (*number).into(),
        Field::UInt(number) => (*number).into(),
        Field::ULong(number) => (*number).into(),
        Field::Float16(number) => float(number.to_f64()),
        // Through text, so that 0.1 stays 0.1.
        Field::Float(number) => float(number.to_string().parse().expect("a number")),
        Field::Double(number) => float(*number),
        Field::Str(text) => text.clone().into(),
        Field::Bytes(bytes) => String::from_utf8_lossy(bytes.data()).into(),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::Group(group) => object(group),
        Field::MapInternal(map) => {
            let entry = |(key, held): &(Field, Field)| match value(key) {
                Value::String(key) => (key, value(held)),
                key => (key.to_string(), value(held)),
            };
            Value::Object(map.entries().iter().map(entry).collect())
        }
        other => other.to_string().into(),
    }
}

fn object(group: &Record) -> Value {
    Value::Object(
        group
            .get_column_iter()
            .map(|(name, field)| (name.clone(), value(field)))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use parquet::basic::{Compression, ZstdLevel};
    use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    /// Row groups of three rows: text that is null at multiples of 5, a list of as many tags as the
    /// row's number modulo 3, a score.
    fn write(path: &Path, compression: Compression) {
        let schema = "message rows { optional binary text (UTF8); \
             optional group tags (LIST) { repeated group list { required int64 element; } } \
             required double score; }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = WriterProperties::builder()
            .set_compression(compression)
            .build();
        let file = File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, properties.into()).unwrap();
        for group in 0..4 {
            let rows: Vec<i64> = (3 * group..3 * group + 3).collect();
            let mut groups = writer.next_row_group().unwrap();
            let texts: Vec<ByteArray> = rows
                .iter()
                .filter(|row| *row % 5 > 0)
                .map(|row| ByteArray::from(format!("row {row}").as_str()))
                .collect();
            let defined: Vec<i16> = rows.iter().map(|row| i16::from(row % 5 > 0)).collect();
            let mut column = groups.next_column().unwrap().unwrap();
            column
                .typed::<ByteArrayType>()
                .write_batch(&texts, Some(&defined), None)
                .unwrap();
            column.close().unwrap();
            let (mut tags, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
            for row in rows.iter().map(|row| row % 3) {
                tags.extend(0..row);
                defined.extend(vec![if row > 0 { 2 } else { 1 }; row.max(1) as usize]);
                repeated.extend((0..row.max(1)).map(|place| i16::from(place > 0)));
            }
            let mut column = groups.next_column().unwrap().unwrap();
            column
                .typed::<Int64Type>()
                .write_batch(&tags, Some(&defined), Some(&repeated))
                .unwrap();
            column.close().unwrap();
            let scores: Vec<f64> = rows.iter().map(|row| *row as f64 / 2.0).collect();
            let mut column = groups.next_column().unwrap().unwrap();
            column
                .typed::<DoubleType>()
                .write_batch(&scores, None, None)
                .unwrap();
            column.close().unwrap();
            groups.close().unwrap();
        }
        writer.close().unwrap();
    }

    #[test]
    fn rows_cross_groups_with_nulls_and_lists() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.parquet");
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::ZSTD(ZstdLevel::default()),
            Compression::GZIP(Default::default()),
            Compression::LZ4_RAW,
        ] {
            write(&path, compression);
            let source = Parquet::new(&path);
            let rows: Vec<Row> = source
                .rows()
                .unwrap()
                .map(|row| row.unwrap().unwrap())
                .collect();
            assert_eq!(rows.len(), 12);
            for (number, row) in rows.iter().enumerate() {
                assert_eq!(row.line, number as u64 + 1);
                let text = match number % 5 {
                    0 => Value::Null,
                    _ => format!("row {number}").into(),
                };
                assert_eq!(row.value("text"), Ok(&text));
                assert_eq!(row.value("tags"), Ok(&(0..number % 3).collect()));
                assert_eq!(row.number("score"), Ok(number as f64 / 2.0));
            }
            assert!(
                rows[5]
                    .text("text")
                    .unwrap_err()
                    .to_string()
                    .contains("found nothing (null)")
            );
        }
    }

    #[test]
    fn a_broken_file_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("data.parquet");
        write(&path, Compression::SNAPPY);
        let bytes = std::fs::read(&path).unwrap();
        for cut in [0, 5, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            let error = Parquet::new(&path).rows().err().unwrap().to_string();
            assert!(error.contains("not readable as Parquet"), "{error}");
        }
    }
}
