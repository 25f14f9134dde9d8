//! What a compressed file says of itself.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::coder::{Codec, Entry};
use crate::error::{Error, Result};
use crate::file::TensorFiles;

/// The key of the manifest in the file's metadata.
pub(super) const MANIFEST: &str = "engraft.compressed";

/// The version that is written and read.
pub(super) const VERSION: u32 = 1;

/// The manifest.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub version: u32,
    pub codec: Codec,
    /// What the file of the tensors was called, and its metadata.
    pub file: String,
    pub metadata: BTreeMap<String, String>,
    /// The relative error.
    pub error: f64,
    /// SHA-256 of the original tensors, of those that come out again, and of the base's.
    pub original: String,
    pub result: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The bits of ComPEFT's magnitude where it is one for all tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub magnitude: Option<u32>,
    /// In the order of their names.
    pub tensors: Vec<Entry>,
}

impl Manifest {
    /// What a file says.
    pub fn read(files: &TensorFiles) -> Result<Self> {
        let failed = |reason: String| Error::file(files.path(), reason);
        let Some(text) = files.metadata().get(MANIFEST) else {
            return Err(failed(format!(
                "is no compressed adapter: its metadata has no `{MANIFEST}`"
            )));
        };
        let manifest: serde_json::Value =
            serde_json::from_str(text).map_err(|error| failed(format!("corrupted: {error}")))?;
        match manifest["version"].as_u64() {
            Some(version) if version == u64::from(VERSION) => {}
            found => {
                let found = found.map_or("none".to_owned(), |version| version.to_string());
                return Err(failed(format!(
                    "has version {found} of the format, this program reads {VERSION}"
                )));
            }
        }
        let manifest: Self = serde_json::from_value(manifest)
            .map_err(|error| failed(format!("corrupted: {error}")))?;
        if manifest.tensors.len() != files.infos().len() {
            return Err(failed(format!(
                "corrupted: {} tensors, its manifest lists {}",
                files.infos().len(),
                manifest.tensors.len()
            )));
        }
        if Path::new(&manifest.file).components().count() != 1 {
            return Err(failed(format!(
                "corrupted: {} is no file name",
                manifest.file
            )));
        }
        Ok(manifest)
    }
}
