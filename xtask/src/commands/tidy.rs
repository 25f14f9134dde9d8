//! `tidy`: the house rules.

use super::Run;
use crate::{error::XtaskError, rules, workspace};

/// Check the house rules: dependency direction, file length, unfinished work, paths, manifests
#[derive(clap::Args)]
pub struct Tidy {}

impl Run for Tidy {
    fn run(self) -> Result<(), XtaskError> {
        let findings = rules::check(&workspace::root()?)?;
        for finding in &findings {
            eprintln!("{finding}");
        }
        if findings.is_empty() {
            Ok(())
        } else {
            Err(XtaskError::Untidy(findings.len()))
        }
    }
}
