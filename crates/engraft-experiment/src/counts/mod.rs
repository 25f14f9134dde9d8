//! Parameter tables: published counts of trainable parameters beside those that follow from the
//! shapes of models and methods.
//!
//! ```text
//! schema (TOML, one file a paper) -> resolve (Plan) -> verdict -> report (table)
//! ```
//!
//! A file holds settings and published numbers only. Every computed number comes from the methods
//! themselves, in the same way as that of the command `params`.

pub mod report;
pub mod resolve;
pub mod schema;
pub mod verdict;

use std::{fs, path::Path};

use crate::{
    error::{Error, Result},
    workspace,
};

/// The names of all files of parameter tables.
///
/// # Errors
/// A file that cannot be read.
pub fn names(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in workspace::names(root) {
        let path = workspace::file(root, &name);
        let text = fs::read_to_string(&path).map_err(|error| Error::io("read", &path, &error))?;
        if schema::is_counts(&text) {
            found.push(name);
        }
    }
    Ok(found)
}
