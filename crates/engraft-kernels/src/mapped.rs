//! Parts of a file as memory.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::ops::Deref;
use std::path::Path;

use memmap2::{Mmap, MmapOptions};

/// A file whose parts are read where the system keeps them, without a copy of their own.
///
/// A part counts as memory of the process only while it is held, so that a file much larger than
/// the memory can be read part by part.
#[derive(Debug)]
pub struct MappedFile {
    file: File,
    len: u64,
}

/// A part of a [`MappedFile`].
#[derive(Debug)]
pub struct Region(Option<Mmap>);

impl MappedFile {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// Those of the system: it is missing, or may not be read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        let data = file.metadata()?;
        if !data.is_file() {
            return Err(Error::new(ErrorKind::InvalidInput, "not a file"));
        }
        Ok(Self {
            file,
            len: data.len(),
        })
    }

    /// Its length in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it was empty when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The `len` bytes from `start`.
    ///
    /// # Errors
    /// A part beyond the end of the file as it is now, and those of the system.
    pub fn region(&self, start: u64, len: usize) -> Result<Region> {
        let end = start.checked_add(len as u64);
        if end.is_none_or(|end| end > self.len) || self.file.metadata()?.len() < self.len {
            return Err(Error::new(
                ErrorKind::UnexpectedEof,
                format!("bytes {start} to {start} + {len} are beyond the end of the file"),
            ));
        }
        if len == 0 {
            return Ok(Region(None));
        }
        map(&self.file, start, len).map(|map| Region(Some(map)))
    }
}

#[expect(unsafe_code, reason = "a file in memory can be changed by others")]
fn map(file: &File, start: u64, len: usize) -> Result<Mmap> {
    // SAFETY: the map is private and read-only, lies within the file, and every byte is a valid u8.
    // What cannot be ruled out, here as for everyone who maps files, is another process that changes or
    // truncates the file while it is read: the numbers would be arbitrary or the process would end.
    unsafe { MmapOptions::new().offset(start).len(len).map(file) }
}

impl Deref for Region {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_files_and_end_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("numbers");
        let bytes: Vec<u8> = (0..10_000u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let file = MappedFile::open(&path).unwrap();
        assert_eq!(file.len(), 10_000);
        for (start, len) in [(0, 10_000), (4097, 100), (9_999, 1), (10_000, 0)] {
            let region = file.region(start as u64, len).unwrap();
            assert_eq!(&*region, &bytes[start..start + len]);
        }
        assert!(file.region(9_999, 2).is_err() && file.region(u64::MAX, 1).is_err());
        assert!(MappedFile::open(directory.path()).is_err());
        std::fs::write(&path, b"short").unwrap();
        assert!(file.region(0, 10).is_err());
    }
}
