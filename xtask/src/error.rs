//! What can go wrong, and the exit code that says so.

use std::{io, path::PathBuf};
use thiserror::Error;

/// Exit code of a command line that asks for something that does not exist.
const BAD_INPUT: u8 = 2;

/// Why a command stopped.
#[derive(Debug, Error)]
pub enum XtaskError {
    /// The request cannot be met; the message says what was found and what was expected.
    #[error("{0}")]
    BadInput(String),
    /// A program we started ran, failed and has said why on its own output.
    #[error("{program} failed with exit code {code}")]
    Child {
        /// The program and its arguments.
        program: String,
        /// Its exit code, 1 if a signal ended it.
        code: u8,
    },
    /// A program could not be started at all.
    #[error("cannot start {program}: {source}")]
    Start {
        /// The program and its arguments.
        program: String,
        /// The reason given by the system.
        source: io::Error,
    },
    /// A program answered with something unreadable.
    #[error("cannot read the answer of {program}: {reason}")]
    Answer {
        /// The program and its arguments.
        program: String,
        /// What was wrong with it.
        reason: String,
    },
    /// A file or directory could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was tried: "read", "write", …
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The reason given by the system.
        source: io::Error,
    },
    /// The house rules are broken in this many places, printed above.
    #[error("tidy: {0} findings")]
    Untidy(usize),
    /// A step of `ci` failed.
    #[error("ci stopped at step \"{step}\": {reason}")]
    Step {
        /// The name of the step.
        step: &'static str,
        /// The message of the failure.
        reason: String,
    },
}

impl XtaskError {
    /// The code this process ends with: a child's own code, 2 for bad input, otherwise 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Child { code, .. } => *code,
            Self::BadInput(_) => BAD_INPUT,
            _ => 1,
        }
    }

    /// Whether the user has seen the reason already and a second message would only be noise.
    pub fn already_reported(&self) -> bool {
        matches!(self, Self::Child { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_code_is_passed_on_and_bad_input_is_two() {
        let child = XtaskError::Child {
            program: "cargo test".into(),
            code: 101,
        };
        assert_eq!((child.exit_code(), child.already_reported()), (101, true));
        let bad = XtaskError::BadInput("unknown family".into());
        assert_eq!((bad.exit_code(), bad.already_reported()), (2, false));
        assert_eq!(XtaskError::Untidy(3).exit_code(), 1);
    }
}
