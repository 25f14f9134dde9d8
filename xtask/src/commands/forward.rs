//! The commands that need Burn: handed to the `engraft-experiment` binary, arguments unread.

use super::Run;
use crate::{error::XtaskError, process, workspace};
use std::{
    env::{self, consts::EXE_SUFFIX},
    ffi::OsString,
};

const BINARY: &str = "engraft-experiment";

/// The devices that are built in only on request; the feature has the device's name.
const DEVICE_FEATURES: &[&str] = &["cuda", "ndarray", "wgpu"];

/// Arguments for the experiment binary.
#[derive(clap::Args)]
pub struct Arguments {
    /// Passed to the experiment binary as they are; `--help` shows its own help
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl Arguments {
    /// The experiment binary's subcommand `command` with these arguments.
    pub fn of(self, command: &'static str) -> Forward {
        Forward::new(command, self.arguments)
    }
}

/// A subcommand of the experiment binary with its arguments.
pub struct Forward {
    arguments: Vec<OsString>,
}

impl Forward {
    /// `engraft-experiment COMMAND ARGUMENTS`.
    pub fn new(command: &str, arguments: impl IntoIterator<Item = OsString>) -> Self {
        Self {
            arguments: std::iter::once(command.into()).chain(arguments).collect(),
        }
    }

    /// The feature that builds in the device these arguments ask for.
    fn feature(&self) -> Option<&'static str> {
        let mut words = self
            .arguments
            .iter()
            .map(|word| word.to_str().unwrap_or_default());
        let mut device = None;
        while let Some(word) = words.next() {
            match word.split_once('=') {
                Some(("--device", value)) => device = Some(value),
                _ if word == "--device" => device = words.next(),
                _ => {}
            }
        }
        // "cuda:1" names the second device of its kind.
        let kind = device?.split(':').next()?;
        DEVICE_FEATURES
            .iter()
            .find(|feature| **feature == kind)
            .copied()
    }
}

impl Run for Forward {
    fn run(self) -> Result<(), XtaskError> {
        let feature = self.feature().map(|feature| format!("{BINARY}/{feature}"));
        let manifest = workspace::root()?.join("Cargo.toml");
        // Without `--package`, the features of all crates together hold, as they do in
        // `cargo test --workspace`: Burn is compiled once for both.
        let cargo = |subcommand: &[&str]| {
            let mut cargo = process::cargo();
            cargo
                .args(subcommand)
                .arg("--manifest-path")
                .arg(&manifest)
                .args(["--bin", BINARY]);
            cargo.args(feature.iter().flat_map(|feature| ["--features", feature]));
            cargo
        };
        // A build of minutes shows its progress; one of seconds stays silent.
        let first_build = !is_built();
        if first_build {
            eprintln!("building {BINARY} (first build about 10 minutes)");
        }
        if first_build || feature.is_some() {
            process::run(&mut cargo(&["build"]))?;
        }
        process::run(cargo(&["run", "--quiet"]).arg("--").args(self.arguments))
    }
}

/// Whether the binary lies beside ours, where cargo puts both.
fn is_built() -> bool {
    let ours = env::current_exe().unwrap_or_default();
    ours.with_file_name(format!("{BINARY}{EXE_SUFFIX}"))
        .exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feature(arguments: &str) -> Option<&'static str> {
        Forward::new("run-experiment", arguments.split(' ').map(OsString::from)).feature()
    }

    #[test]
    fn the_device_selects_the_feature_that_builds_it_in() {
        assert_eq!(
            feature("quickstart --device ndarray --quick"),
            Some("ndarray")
        );
        assert_eq!(feature("quickstart --device=wgpu"), Some("wgpu"));
        assert_eq!(feature("quickstart --device cuda:1"), Some("cuda"));
    }

    #[test]
    fn the_default_and_unknown_devices_select_nothing() {
        for arguments in [
            "quickstart",
            "--device flex",
            "--device cudaa",
            "--device",
            "ndarray",
        ] {
            assert_eq!(feature(arguments), None, "{arguments}");
        }
    }
}
