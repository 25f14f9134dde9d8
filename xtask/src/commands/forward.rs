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

    /// The features that build in what these arguments ask for.
    fn features(&self) -> Vec<&'static str> {
        // "cuda:1" names the second device of its kind.
        let kind = self.device().and_then(|device| device.split(':').next());
        let is_kind = |feature: &&&str| kind == Some(**feature);
        let device = DEVICE_FEATURES.iter().find(is_kind).copied();
        let hub = self.arguments.iter().any(|word| word == "--hub");
        device.into_iter().chain(hub.then_some("hub")).collect()
    }

    /// The device, if the arguments name one.
    fn device(&self) -> Option<&str> {
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
        device
    }
}

impl Run for Forward {
    fn run(self) -> Result<(), XtaskError> {
        let features = self.features();
        let features: Vec<String> = features
            .iter()
            .map(|feature| format!("{BINARY}/{feature}"))
            .collect();
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
            cargo.args(features.iter().flat_map(|feature| ["--features", feature]));
            cargo
        };
        // A build of minutes shows its progress; one of seconds stays silent.
        let first_build = !is_built();
        if first_build {
            eprintln!("building {BINARY} (first build about 10 minutes)");
        }
        if first_build || !features.is_empty() {
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

    fn features(arguments: &str) -> Vec<&'static str> {
        Forward::new("run-experiment", arguments.split(' ').map(OsString::from)).features()
    }

    #[test]
    fn the_device_selects_the_feature_that_builds_it_in() {
        assert_eq!(features("quickstart --device ndarray --quick"), ["ndarray"]);
        assert_eq!(features("quickstart --device=wgpu"), ["wgpu"]);
        assert_eq!(features("quickstart --device cuda:1"), ["cuda"]);
    }

    #[test]
    fn the_hub_is_built_in_on_request() {
        assert_eq!(
            features("--hub --model owner/name --device wgpu"),
            ["wgpu", "hub"]
        );
        assert!(features("--model owner/name").is_empty());
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
            assert!(features(arguments).is_empty(), "{arguments}");
        }
    }
}
