//! The house rules as code: each rule is one small function from what it reads to its findings.

mod features;
mod layers;
mod manifests;
mod project;
mod source;

use crate::{
    error::XtaskError,
    metadata::Metadata,
    workspace::{self, TextFile},
};
use std::{fmt, path::Path};

pub use layers::FAMILIES;

/// One place where a rule is broken.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// A file, a line of a file or a crate.
    pub place: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Finding {
    fn new(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.place, self.message)
    }
}

type Rule<T> = fn(&T) -> Vec<Finding>;

/// Rules on the crates and who depends on whom.
const GRAPH_RULES: &[Rule<Metadata>] = &[
    layers::point_one_way,
    layers::models_know_no_family,
    layers::burn_free,
    layers::testkit_is_for_tests,
];

/// Rules on one file at a time.
const FILE_RULES: &[Rule<TextFile>] = &[
    source::short_files,
    source::nothing_unfinished,
    source::no_machine_paths,
    source::unsafe_has_its_place,
    project::experiments_parse,
];

/// Rules on several files together.
const PROJECT_RULES: &[Rule<[TextFile]>] = &[
    manifests::shared_dependencies_are_used,
    manifests::versions_are_pinned_once,
    project::readme_names_the_commands,
    project::ci_runs_our_ci,
];

/// Applies every rule to the workspace at `root`.
///
/// # Errors
/// The workspace cannot be read.
pub fn check(root: &Path) -> Result<Vec<Finding>, XtaskError> {
    let metadata = Metadata::load(root)?;
    let files = workspace::text_files(root)?;
    let graph = GRAPH_RULES.iter().flat_map(|rule| rule(&metadata));
    let file = FILE_RULES
        .iter()
        .flat_map(|rule| files.iter().flat_map(rule));
    let project = PROJECT_RULES.iter().flat_map(|rule| rule(&files));
    let features = features::tests_add_none(&features::Trees::load(root)?);
    Ok(graph.chain(features).chain(file).chain(project).collect())
}
