//! Where rows come from.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use engraft_data::glue::{Glue, Part};
use engraft_data::read::{self, Rows, Source};

use super::subject::input;
use crate::{Error, Result};

/// A file, a part of a task of GLUE, or a directory of images.
#[derive(Debug, Clone)]
pub(super) struct Place {
    path: PathBuf,
    part: Option<(Glue, Part)>,
}

impl Place {
    /// What is at a path: of GLUE, if the names are those of one of its tasks and parts.
    pub fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            part: Glue::file(path),
        }
    }

    /// A part of a task of GLUE.
    pub fn part(glue: &Glue, part: Part) -> Self {
        Self {
            path: glue.directory.clone(),
            part: Some((glue.clone(), part)),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its rows.
    pub fn open(&self) -> Result<Box<dyn Source>> {
        match &self.part {
            Some((glue, part)) => Ok(Box::new(glue.part(*part).map_err(input)?)),
            None if self.path.is_dir() => Err(Error::Input(format!(
                "{}: found a directory, expected a file of text",
                self.path.display()
            ))),
            None => read::open(&self.path).map_err(input),
        }
    }
}

/// The usable rows of a source with these lines.
pub(super) struct Selected<'a> {
    pub source: &'a dyn Source,
    pub lines: BTreeSet<u64>,
}

impl Source for Selected<'_> {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn rows(&self) -> engraft_data::Result<Rows<'_>> {
        let rows = self.source.rows()?.filter(|row| match row {
            Ok(Ok(row)) => self.lines.contains(&row.line),
            Ok(Err(_)) => false,
            Err(_) => true,
        });
        Ok(Box::new(rows.take(self.lines.len())))
    }
}
