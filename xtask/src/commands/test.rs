//! `test`: every test of the workspace, doctests included.

use super::Run;
use crate::{error::XtaskError, process};
use std::ffi::OsString;

/// Run every test of the workspace: unit, integration and documentation tests
#[derive(clap::Args)]
pub struct Test {
    /// Added to `cargo test --workspace`, for example `-- lora` or `-- lora -- --nocapture`
    #[arg(last = true)]
    arguments: Vec<OsString>,
}

impl Test {
    /// All of them, as `ci` runs them.
    pub fn all() -> Self {
        Self {
            arguments: Vec::new(),
        }
    }
}

impl Run for Test {
    fn run(self) -> Result<(), XtaskError> {
        process::run(
            process::cargo()
                .args(["test", "--workspace"])
                .args(self.arguments),
        )
    }
}
