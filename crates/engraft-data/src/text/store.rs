//! Where encoded examples are held.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::error::{DataError, Result};
use crate::text::example::Example;

/// Examples of which one place is known.
const BLOCK: usize = 16;

/// What is written to the file at once.
const BUFFER: usize = 1 << 20;

/// Examples in the order in which they came, each of which can be read. Beyond a number of bytes
/// they are in a temporary file without a name; what stays in memory then is 8 bytes for every 16
/// examples, and the file's buffer.
#[derive(Debug)]
pub(super) struct Store {
    limit: usize,
    /// Where every 16th example begins.
    places: Vec<u64>,
    count: usize,
    /// All bytes; once there is a file, those that are not written yet.
    bytes: Vec<u8>,
    file: Option<Mutex<File>>,
    /// Bytes in the file.
    written: u64,
}

impl Store {
    /// A store with at most `limit` bytes of examples in memory.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            places: Vec::new(),
            count: 0,
            bytes: Vec::new(),
            file: None,
            written: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.count
    }

    pub fn push(&mut self, example: &Example) -> Result<()> {
        if self.count.is_multiple_of(BLOCK) {
            self.places.push(self.written + self.bytes.len() as u64);
        }
        self.count += 1;
        example.write(&mut self.bytes);
        if self.file.is_none() && self.bytes.len() > self.limit {
            self.file = Some(Mutex::new(tempfile::tempfile().map_err(failed)?));
        }
        match &self.file {
            Some(_) if self.bytes.len() >= BUFFER => self.flush(),
            _ => Ok(()),
        }
    }

    /// Call after the last example.
    pub fn finish(&mut self) -> Result<()> {
        match self.file {
            Some(_) => self.flush(),
            None => Ok(()),
        }?;
        self.bytes.shrink_to_fit();
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let file = file.get_mut().unwrap_or_else(PoisonError::into_inner);
        file.write_all(&self.bytes).map_err(failed)?;
        self.written += self.bytes.len() as u64;
        self.bytes.clear();
        // The first write is everything that was in memory.
        self.bytes.shrink_to(BUFFER + BUFFER / 4);
        Ok(())
    }

    /// The examples at these places.
    ///
    /// # Panics
    /// If a place is not below [`len`](Self::len).
    pub fn get(&self, indices: &[usize]) -> Result<Vec<Example>> {
        let mut held = Vec::new();
        indices
            .iter()
            .map(|index| self.one(*index, &mut held))
            .collect()
    }

    fn one(&self, index: usize, held: &mut Vec<u8>) -> Result<Example> {
        assert!(index < self.count, "example {index} of {}", self.count);
        let from = self.places[index / BLOCK];
        let to = self.places.get(index / BLOCK + 1).copied();
        let to = to.unwrap_or(self.written + self.bytes.len() as u64);
        let mut block = match &self.file {
            None => &self.bytes[from as usize..to as usize],
            Some(file) => {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(from)).map_err(failed)?;
                held.resize((to - from) as usize, 0);
                file.read_exact(held).map_err(failed)?;
                held.as_slice()
            }
        };
        for _ in 0..index % BLOCK {
            Example::read(&mut block);
        }
        Ok(Example::read(&mut block))
    }
}

fn failed(source: std::io::Error) -> DataError {
    DataError::Io {
        path: PathBuf::from("temporary file of encoded examples"),
        source,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::example::tests::examples;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn every_example_is_found_in_memory_and_in_a_file(
            all in prop::collection::vec(examples(), 1..70),
            limit in 0usize..3000,
        ) {
            let mut store = Store::new(limit);
            for example in &all {
                store.push(example).unwrap();
            }
            store.finish().unwrap();
            prop_assert_eq!(store.len(), all.len());
            let backwards: Vec<usize> = (0..all.len()).rev().collect();
            let found = store.get(&backwards).unwrap();
            prop_assert!(found.iter().rev().eq(all.iter()));
        }
    }
}
