//! Starting other programs.

use crate::error::XtaskError;
use serde_json::Value;
use std::{
    env,
    path::PathBuf,
    process::{Command, Stdio},
};

/// The cargo that started us, so that everything uses one toolchain.
pub fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs `command` on our own terminal.
///
/// # Errors
/// It cannot be started, or it ends with a code other than zero.
pub fn run(command: &mut Command) -> Result<(), XtaskError> {
    let status = command
        .status()
        .map_err(|source| start_error(command, source))?;
    if status.success() {
        Ok(())
    } else {
        Err(child_error(command, status.code()))
    }
}

/// Runs `command` and returns what it printed on standard output.
///
/// # Errors
/// It cannot be started, ends with a code other than zero, or prints no valid UTF-8.
pub fn capture(command: &mut Command) -> Result<String, XtaskError> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| start_error(command, source))?;
    if !output.status.success() {
        return Err(child_error(command, output.status.code()));
    }
    String::from_utf8(output.stdout).map_err(|error| XtaskError::Answer {
        program: describe(command),
        reason: error.to_string(),
    })
}

/// Builds one program of the workspace; where it is. `target` is `["--bin", NAME]` or
/// `["--example", NAME]`.
///
/// # Errors
/// It does not compile, or cargo names no executable.
pub fn build(package: &str, target: [&str; 2]) -> Result<PathBuf, XtaskError> {
    let mut cargo = cargo();
    cargo.args(["build", "--package", package]).args(target);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    let messages = capture(&mut cargo)?;
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .next_back()
        .ok_or_else(|| XtaskError::Answer {
            program: describe(&cargo),
            reason: "it names no executable".to_owned(),
        })
}

/// The command line, for messages: the program's file name and its arguments.
pub fn describe(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_stem().unwrap_or(program.as_os_str());
    std::iter::once(name)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

fn start_error(command: &Command, source: std::io::Error) -> XtaskError {
    XtaskError::Start {
        program: describe(command),
        source,
    }
}

/// Codes above 255 exist on Windows only; a signal has no code. Both become 1.
fn child_error(command: &Command, code: Option<i32>) -> XtaskError {
    let code = code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    XtaskError::Child {
        program: describe(command),
        code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_childs_exit_code_is_kept() {
        let mut command = cargo();
        command
            .args(["metadata", "--no-such-flag"])
            .stderr(Stdio::null());
        assert!(matches!(
            run(&mut command),
            Err(XtaskError::Child { code: 1, .. })
        ));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("no-such-program-here")).unwrap_err();
        assert!(
            error.to_string().contains("no-such-program-here"),
            "{error}"
        );
    }

    #[test]
    fn output_is_captured() {
        assert!(
            capture(cargo().arg("--version"))
                .unwrap()
                .starts_with("cargo ")
        );
    }
}
