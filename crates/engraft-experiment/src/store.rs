//! The directory of records. Files appear whole or not at all, and a damaged one is noticed.

use std::{
    fs,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tempfile::{Builder, NamedTempFile};

use crate::{
    error::{Error, Result},
    json,
    record::{FORMAT, RunRecord},
};

/// The prefix of files that are being written.
const UNFINISHED: &str = ".unfinished-";

/// A directory of files `<key>.json`.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

/// What was found under a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Loaded<T> {
    /// A whole file.
    Found(T),
    /// Nothing.
    Missing,
    /// A damaged file, moved aside; the text says which, why and where to.
    Damaged(String),
}

impl Store {
    /// Opens the directory, creates it when needed and checks that it can be written.
    ///
    /// # Errors
    /// When it cannot be created or written.
    pub fn open(directory: &Path) -> Result<Self> {
        let failed = |error| Error::io("write", directory, &error);
        fs::create_dir_all(directory).map_err(failed)?;
        temporary(directory, "").map_err(failed)?;
        remove_unfinished(directory);
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// The directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file of a key.
    #[must_use]
    pub fn path(&self, key: &str) -> PathBuf {
        self.directory.join(format!("{key}.json"))
    }

    /// Writes a payload with its checksum.
    ///
    /// # Errors
    /// When it cannot be written; then nothing is left behind.
    pub fn save<T: Serialize>(&self, key: &str, payload: &T) -> Result<()> {
        let text = format!(
            "{:#}\n",
            json!({"checksum": json::digest(payload), "payload": payload})
        );
        write_atomic(&self.path(key), text.as_bytes())
    }

    /// Reads a payload and verifies its checksum. A damaged file is renamed to `.json.corrupt`.
    ///
    /// # Errors
    /// When the file exists and cannot be read or moved.
    pub fn load<T: DeserializeOwned>(&self, key: &str) -> Result<Loaded<T>> {
        self.load_checked(key, |_| Ok(()))
    }

    /// Reads the record of a run, and verifies its format and key as well.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_run(&self, key: &str) -> Result<Loaded<RunRecord>> {
        self.load_checked(key, |record: &RunRecord| {
            if record.format != FORMAT {
                return Err(format!("format {}, expected {FORMAT}", record.format));
            }
            if record.key != key || record.spec.key() != key {
                return Err(format!("it is the record of {}", record.spec.key()));
            }
            Ok(())
        })
    }

    fn load_checked<T: DeserializeOwned>(
        &self,
        key: &str,
        check: impl Fn(&T) -> std::result::Result<(), String>,
    ) -> Result<Loaded<T>> {
        let path = self.path(key);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Loaded::Missing),
            Err(error) => return Err(Error::io("read", &path, &error)),
        };
        match verify(&bytes).and_then(|payload| check(&payload).map(|()| payload)) {
            Ok(payload) => Ok(Loaded::Found(payload)),
            Err(reason) => {
                let aside = path.with_extension("json.corrupt");
                fs::rename(&path, &aside).map_err(|error| Error::io("write", &aside, &error))?;
                Ok(Loaded::Damaged(format!(
                    "{} is damaged ({reason}): moved to {}, the run is repeated",
                    path.display(),
                    aside.display()
                )))
            }
        }
    }
}

fn verify<T: DeserializeOwned>(bytes: &[u8]) -> std::result::Result<T, String> {
    let mut file: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let payload = file["payload"].take();
    let (found, expected) = (
        json::digest(&payload),
        file["checksum"].as_str().unwrap_or_default(),
    );
    if found != expected {
        return Err(format!(
            "its checksum is {found:.12}, the file says {expected:.12}"
        ));
    }
    serde_json::from_value(payload).map_err(|error| error.to_string())
}

/// Writes a file under a temporary name in the same directory and renames it, so that a reader,
/// a crash or a full disk never meets half a file.
///
/// # Errors
/// When it cannot be written; then the temporary file is removed and an older one stays.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let write = || {
        let mut file = temporary(directory, "")?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        sync_directory(directory)
    };
    write().map_err(|error| Error::io("write", path, &error))
}

/// A file under a temporary name that disappears unless it is renamed, with the permissions of any
/// new file.
///
/// # Errors
/// When it cannot be created.
pub fn temporary(directory: &Path, suffix: &str) -> std::io::Result<NamedTempFile> {
    let mut builder = Builder::new();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(fs::Permissions::from_mode(0o666));
    }
    builder
        .prefix(UNFINISHED)
        .suffix(suffix)
        .tempfile_in(directory)
}

/// Makes a rename durable. Only Unix opens directories as files.
fn sync_directory(directory: &Path) -> std::io::Result<()> {
    if cfg!(unix) {
        fs::File::open(directory)?.sync_all()
    } else {
        Ok(())
    }
}

/// Removes what writers left behind that were killed long ago; younger files may still be written.
fn remove_unfinished(directory: &Path) {
    const LONG: Duration = Duration::from_secs(600);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let age = entry
            .metadata()
            .and_then(|data| data.modified())
            .map(|time| time.elapsed());
        let old = age.is_ok_and(|age| age.is_ok_and(|age| age > LONG));
        if old && entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            // Another process may have removed it: either way it is gone.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("runs")).unwrap();
        (directory, store)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (_guard, store) = store();
        assert_eq!(store.load::<Vec<f64>>("a").unwrap(), Loaded::Missing);
        let values = vec![0.1, 1e300, -2.5e-7];
        store.save("a", &values).unwrap();
        assert_eq!(store.load("a").unwrap(), Loaded::Found(values));
        assert_eq!(fs::read_dir(store.directory()).unwrap().count(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Every truncation and every changed byte inside the payload is noticed and moved aside.
        #[test]
        fn damage_is_noticed(cut in 0.0..1.0_f64, flip in any::<bool>()) {
            let (_guard, store) = store();
            store.save("a", &vec![0.25, 0.5, 0.75]).unwrap();
            let mut bytes = fs::read(store.path("a")).unwrap();
            let place = (cut * (bytes.len() - 2) as f64) as usize;
            if flip {
                prop_assume!(!bytes[place].is_ascii_whitespace());
                bytes[place] ^= 0x15;
            } else {
                bytes.truncate(place);
            }
            fs::write(store.path("a"), &bytes).unwrap();
            let Loaded::Damaged(message) = store.load::<Vec<f64>>("a").unwrap() else {
                return Err(TestCaseError::fail("damage went unnoticed"));
            };
            prop_assert!(message.contains("a.json.corrupt"));
            prop_assert_eq!(fs::read(store.directory().join("a.json.corrupt")).unwrap(), bytes);
            prop_assert_eq!(store.load::<Vec<f64>>("a").unwrap(), Loaded::Missing);
        }
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Store::open(&file.join("runs")).unwrap_err();
        assert!(error.to_string().starts_with("cannot write"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let (_guard, store) = store();
        // A directory in the place of the file: the rename fails after the temporary file was written.
        fs::create_dir(store.path("a")).unwrap();
        assert!(store.save("a", &1).is_err());
        assert_eq!(fs::read_dir(store.directory()).unwrap().count(), 1);
    }
}
