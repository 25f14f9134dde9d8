//! What a safetensors file says of its tensors, without reading them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::tensor::Metadata;

use crate::error::Result;
use crate::file::file_error;

/// Longest header that is read; that of a model with 100,000 tensors has a tenth of it.
const LONGEST: u64 = 100_000_000;

/// The header of a safetensors file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Header {
    /// The tensors by key.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// The file's own notes.
    pub metadata: HashMap<String, String>,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Precision as the format calls it: `F32`, `BF16`.
    pub dtype: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Bytes in the file.
    pub bytes: usize,
}

impl TensorInfo {
    /// Number of values.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Header {
    /// Reads the header of a file and checks that the file has as many bytes as it promises.
    ///
    /// # Errors
    /// A missing or truncated file, or a header that is malformed or lies about sizes.
    pub fn read(path: &Path) -> Result<Self> {
        let broken = |reason: String| file_error(path, format!("not safetensors: {reason}"));
        let unreadable = |error| file_error(path, format!("cannot be read: {error}"));
        let mut file = File::open(path).map_err(unreadable)?;
        let len = file.metadata().map_err(unreadable)?.len();
        let mut size = [0; 8];
        file.read_exact(&mut size)
            .map_err(|_| broken(format!("it has {len} bytes, expected at least 8")))?;
        let size = u64::from_le_bytes(size);
        if size > LONGEST || size + 8 > len {
            return Err(broken(format!(
                "its first bytes promise a header of {size} bytes, and {} follow",
                len - 8
            )));
        }
        let mut header = vec![0; usize::try_from(size).map_err(|error| broken(error.to_string()))?];
        file.read_exact(&mut header).map_err(unreadable)?;
        let header: Metadata = serde_json::from_slice(&header)
            .map_err(|error| broken(format!("its header is malformed: {error}")))?;
        let (promised, there) = (header.data_len() as u64, len - 8 - size);
        if promised != there {
            return Err(broken(format!(
                "its header promises {promised} bytes of tensors, and {there} follow: the file is truncated or corrupted"
            )));
        }
        let info = |info: &safetensors::tensor::TensorInfo| TensorInfo {
            dtype: format!("{:?}", info.dtype),
            shape: info.shape.clone(),
            bytes: info.data_offsets.1 - info.data_offsets.0,
        };
        Ok(Self {
            tensors: header
                .tensors()
                .into_iter()
                .map(|(key, found)| (key, info(found)))
                .collect(),
            metadata: header.metadata().clone().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;
    use crate::file::write_tensors;

    #[test]
    fn a_header_says_what_was_written_and_lies_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some.safetensors");
        let tensors = BTreeMap::from([
            ("b".to_owned(), TensorData::zeros::<f32, _>([2, 3])),
            ("a".to_owned(), TensorData::zeros::<f64, _>([5])),
        ]);
        let notes = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        write_tensors(&path, &tensors, notes.clone()).unwrap();
        let header = Header::read(&path).unwrap();
        assert_eq!(header.metadata, notes);
        let b = TensorInfo {
            dtype: "F32".to_owned(),
            shape: vec![2, 3],
            bytes: 24,
        };
        assert_eq!((&header.tensors["b"], b.numel()), (&b, 6));

        let bytes = std::fs::read(&path).unwrap();
        let said = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Header::read(&path).unwrap_err().to_string()
        };
        assert!(said(&bytes[..5]).contains("5 bytes"));
        assert!(said(&bytes[..20]).contains("promise a header"));
        assert!(said(&bytes[..bytes.len() - 1]).contains("63 follow"));
        let mut lying = bytes.clone();
        lying[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(said(&lying).contains("promise a header"));
        let mut other = bytes.clone();
        let shape = bytes.windows(5).position(|text| text == b"[2,3]").unwrap();
        other[shape + 3] = b'4';
        assert!(said(&other).contains("malformed"));
    }
}
