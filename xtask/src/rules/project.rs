//! Rules on the files that hold the project together.

use super::Finding;
use crate::workspace::TextFile;

const SETUP_COMMANDS: &[&str] = &["cargo xtask run-experiment quickstart", "cargo xtask test"];

/// A finding for each of `needles` that the file at `path` does not contain.
fn mentions(files: &[TextFile], path: &str, needles: &[&str]) -> Vec<Finding> {
    let text = files
        .iter()
        .find(|file| file.path == path)
        .map_or("", |file| &file.text);
    needles
        .iter()
        .filter(|needle| !text.contains(**needle))
        .map(|needle| Finding::new(path, format!("does not contain `{needle}`")))
        .collect()
}

/// The README tells a newcomer the two set-up commands.
pub fn readme_names_the_commands(files: &[TextFile]) -> Vec<Finding> {
    mentions(files, "README.md", SETUP_COMMANDS)
}

/// What the machine checks is what `cargo xtask ci` checks.
pub fn ci_runs_our_ci(files: &[TextFile]) -> Vec<Finding> {
    mentions(files, ".ci/run", &["cargo xtask ci"])
}

/// Every experiment is readable TOML, before anybody waits for one to start.
pub fn experiments_parse(file: &TextFile) -> Vec<Finding> {
    if !file.path.starts_with("experiments/") || !file.path.ends_with(".toml") {
        return Vec::new();
    }
    let parsed = file.text.parse::<toml::Table>();
    parsed
        .err()
        .map(|error| Finding::new(&file.path, error.to_string()))
        .into_iter()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> TextFile {
        TextFile {
            path: path.into(),
            text: text.into(),
        }
    }

    #[test]
    fn a_readme_without_a_command_and_a_missing_one_are_found() {
        let complete = file("README.md", &SETUP_COMMANDS.join("\n"));
        assert_eq!(readme_names_the_commands(&[complete]), []);
        let partial = file("README.md", SETUP_COMMANDS[0]);
        assert_eq!(readme_names_the_commands(&[partial]).len(), 1);
        assert_eq!(readme_names_the_commands(&[]).len(), 2);
    }

    #[test]
    fn a_ci_script_that_runs_something_else_is_found() {
        assert_eq!(
            ci_runs_our_ci(&[file(".ci/run", "cargo xtask ci \"$@\"")]),
            []
        );
        assert_eq!(ci_runs_our_ci(&[file(".ci/run", "cargo test")]).len(), 1);
    }

    #[test]
    fn only_experiments_are_parsed() {
        let broken = "rank = = 4";
        assert_eq!(
            experiments_parse(&file("experiments/a/table.toml", broken)).len(),
            1
        );
        assert_eq!(
            experiments_parse(&file("experiments/a/table.toml", "rank = 4")),
            []
        );
        assert_eq!(experiments_parse(&file("elsewhere/table.toml", broken)), []);
    }
}
