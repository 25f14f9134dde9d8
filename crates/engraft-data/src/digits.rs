//! The 8x8 digit scans: parsing, validation and identity.

use crate::DataError;
use sha2::{Digest, Sha256};

const CSV: &[u8] = include_bytes!("../assets/digits.csv");
const SIDE: usize = 8;
const CLASSES: u8 = 10;
/// Largest grey value of a pixel.
const WHITE: u8 = 16;

/// Grey images of one size with a class label each.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// `[len, height, width]`, row-major, values in `[0, 1]`.
    pub images: Vec<f32>,
    /// `[len]`, values below `classes`.
    pub labels: Vec<u8>,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
    /// Number of classes.
    pub classes: usize,
}

impl Dataset {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Pixels of image `index`, `[height, width]`.
    ///
    /// # Panics
    ///
    /// If `index` is not below [`len`](Self::len).
    pub fn image(&self, index: usize) -> &[f32] {
        let pixels = self.height * self.width;
        &self.images[index * pixels..(index + 1) * pixels]
    }

    /// SHA-256 of sizes, pixels (little-endian) and labels, in hexadecimal.
    pub fn hash(&self) -> String {
        let mut sha = Sha256::new();
        for size in [self.len(), self.height, self.width, self.classes] {
            sha.update((size as u64).to_le_bytes());
        }
        for pixel in &self.images {
            sha.update(pixel.to_le_bytes());
        }
        sha.update(&self.labels);
        sha.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// 1,797 scans of handwritten digits, 8x8 pixels, 10 classes.
///
/// The test half of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998,
/// UCI Machine Learning Repository, <https://doi.org/10.24432/C50P49>), licence CC BY 4.0.
#[derive(Debug, Clone, Copy)]
pub struct Digits;

impl Digits {
    /// Reads the scans that are part of this crate, pixels scaled from `0..=16` to `[0, 1]`.
    ///
    /// # Errors
    ///
    /// [`DataError`] names the line and column of the first value that is not valid.
    pub fn load() -> Result<Dataset, DataError> {
        Self::parse(CSV)
    }

    /// Reads scans in the same format: columns `p0` to `p63` (`0..=16`, row by row) and `label`
    /// (`0..=9`).
    ///
    /// # Errors
    ///
    /// [`DataError`] names the line and column of the first value that is not valid.
    pub fn parse(bytes: &[u8]) -> Result<Dataset, DataError> {
        let columns: Vec<String> = (0..SIDE * SIDE)
            .map(|i| format!("p{i}"))
            .chain(["label".to_owned()])
            .collect();
        let mut reader = csv::Reader::from_reader(bytes);
        check_header(reader.headers()?, &columns)?;

        let (mut images, mut labels) = (Vec::new(), Vec::new());
        for record in reader.records() {
            let record = record?;
            let line = record.position().map_or(0, csv::Position::line);
            let value =
                |column: usize, max: u8| integer(&record[column], line, &columns[column], max);
            for pixel in 0..SIDE * SIDE {
                images.push(f32::from(value(pixel, WHITE)?) / f32::from(WHITE));
            }
            labels.push(value(SIDE * SIDE, CLASSES - 1)?);
        }
        if labels.is_empty() {
            return Err(DataError::Empty);
        }
        Ok(Dataset {
            images,
            labels,
            height: SIDE,
            width: SIDE,
            classes: CLASSES.into(),
        })
    }
}

fn check_header(found: &csv::StringRecord, expected: &[String]) -> Result<(), DataError> {
    for column in 0..expected.len().max(found.len()) {
        let found = found.get(column).unwrap_or("");
        let expected = expected.get(column).map_or("", String::as_str);
        if found != expected {
            return Err(DataError::Header {
                column: column + 1,
                found: found.to_owned(),
                expected: expected.to_owned(),
            });
        }
    }
    Ok(())
}

fn integer(text: &str, line: u64, column: &str, max: u8) -> Result<u8, DataError> {
    match text.parse() {
        Ok(value) if value <= max => Ok(value),
        _ => Err(DataError::Field {
            line,
            column: column.to_owned(),
            found: text.to_owned(),
            max,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(line: usize, edit: impl Fn(&str) -> String) -> String {
        let text = str::from_utf8(CSV).unwrap();
        let rows = text.lines().enumerate();
        rows.map(|(i, row)| if i + 1 == line { edit(row) } else { row.to_owned() } + "\n").collect()
    }

    #[test]
    fn loads_every_scan_in_range() {
        let digits = Digits::load().unwrap();
        assert_eq!(digits.len(), 1797);
        assert_eq!(digits.images.len(), 1797 * 64);
        assert!(digits.images.iter().all(|p| (0.0..=1.0).contains(p)));
        assert_eq!(digits.labels[..3], [0, 1, 2]);
        assert_eq!(digits.image(0)[..4], [0.0, 0.0, 5.0 / 16.0, 13.0 / 16.0]);
        for class in 0..10 {
            assert!(digits.labels.iter().filter(|&&l| l == class).count() >= 170);
        }
    }

    #[test]
    fn hash_is_pinned_and_sees_one_pixel() {
        let mut digits = Digits::load().unwrap();
        let hash = digits.hash();
        assert_eq!(
            hash,
            "9a7dff14a1665cd0edd337ef85765a8fb80b24ff5bc9657294706d521b7b8e53"
        );
        digits.images[77] += 0.0625;
        assert_ne!(hash, digits.hash());
    }

    #[test]
    fn errors_name_the_line_and_the_column() {
        for (text, message) in [
            (
                edited(3, |row| row.replacen("12", "17", 1)),
                "line 3, column p3: found \"17\", expected an integer from 0 to 16",
            ),
            (
                edited(5, |row| format!("{}x", row)),
                "line 5, column label: found \"3x\", expected an integer from 0 to 9",
            ),
            (
                edited(1, |row| row.replacen("p2,", "q2,", 1)),
                "line 1, column 3: found header \"q2\", expected \"p2\"",
            ),
            (
                edited(1, |row| row.replacen(",label", "", 1)),
                "line 1, column 65: found header \"\", expected \"label\"",
            ),
            (edited(4, |row| row[2..].to_owned()), "line: 4"),
            (
                edited(4, |row| row.replacen('0', "-1", 1)),
                "line 4, column p0: found \"-1\"",
            ),
        ] {
            let error = Digits::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(message), "{error:?} lacks {message:?}");
        }
        let header = str::from_utf8(CSV).unwrap().lines().next().unwrap();
        assert!(matches!(
            Digits::parse(header.as_bytes()),
            Err(DataError::Empty)
        ));
    }
}
