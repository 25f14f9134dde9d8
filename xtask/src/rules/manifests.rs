//! Rules on the manifests: versions are written once, in the root, and each is used.

use super::Finding;
use crate::workspace::TextFile;
use std::collections::BTreeSet;
use toml::{Table, Value};

const KINDS: &[&str] = &["dependencies", "dev-dependencies", "build-dependencies"];

/// Every manifest that parses, with its path; cargo itself reports one that does not.
fn manifests(files: &[TextFile]) -> impl Iterator<Item = (&str, Table)> {
    let manifests = files
        .iter()
        .filter(|file| file.path == "Cargo.toml" || file.path.ends_with("/Cargo.toml"));
    manifests.filter_map(|file| Some((file.path.as_str(), file.text.parse().ok()?)))
}

/// The dependencies that a member's manifest declares, those for one target included.
fn declared(manifest: &Table) -> Vec<(&String, &Value)> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let per_target = targets
        .into_iter()
        .flatten()
        .filter_map(|(_, value)| value.as_table());
    std::iter::once(manifest)
        .chain(per_target)
        .flat_map(|table| KINDS.iter().filter_map(|kind| table.get(*kind)?.as_table()))
        .flatten()
        .collect()
}

/// Every line of `[workspace.dependencies]` is used by a member.
pub fn shared_dependencies_are_used(files: &[TextFile]) -> Vec<Finding> {
    let used: BTreeSet<String> = manifests(files)
        .flat_map(|(_, manifest)| {
            declared(&manifest)
                .into_iter()
                .map(|(name, _)| name.clone())
                .collect::<Vec<_>>()
        })
        .collect();
    let root = manifests(files).find(|(path, _)| *path == "Cargo.toml");
    let shared = root.and_then(|(_, manifest)| {
        Some(
            manifest
                .get("workspace")?
                .get("dependencies")?
                .as_table()?
                .clone(),
        )
    });
    shared
        .iter()
        .flat_map(Table::keys)
        .filter(|name| !used.contains(*name))
        .map(|name| {
            Finding::new(
                "Cargo.toml",
                format!("no member uses the dependency {name}"),
            )
        })
        .collect()
}

/// Members take their versions from the root: `name.workspace = true`, or a path.
pub fn versions_are_pinned_once(files: &[TextFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, manifest) in manifests(files) {
        for (name, value) in declared(&manifest) {
            if value.get("workspace").is_none() && value.get("path").is_none() {
                let message = format!("{name} has a version of its own: write {name}.workspace");
                findings.push(Finding::new(path, format!("{message} = true")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(member: &str) -> Vec<TextFile> {
        let root = "[workspace.dependencies]\nrand = \"0.10\"\ntoml = \"1.2\"\nclap = \"4\"\n";
        [("Cargo.toml", root), ("crates/a/Cargo.toml", member)]
            .map(|(path, text)| TextFile {
                path: path.into(),
                text: text.into(),
            })
            .into()
    }

    #[test]
    fn an_unused_shared_dependency_is_found() {
        let member = "[dependencies]\nrand.workspace = true\n[dev-dependencies]\ntoml = \"1\"\n";
        let findings = shared_dependencies_are_used(&files(member));
        assert_eq!(
            findings,
            [Finding::new(
                "Cargo.toml",
                "no member uses the dependency clap"
            )]
        );
    }

    #[test]
    fn dependencies_for_one_target_count() {
        let member = "[target.'cfg(unix)'.dependencies]\nrand.workspace = true\n\
                      clap.workspace = true\ntoml.workspace = true\n";
        assert_eq!(shared_dependencies_are_used(&files(member)), []);
        assert_eq!(versions_are_pinned_once(&files(member)), []);
    }

    #[test]
    fn a_version_in_a_member_is_found() {
        let member = "[dependencies]\nrand = { version = \"0.9\" }\nb = { path = \"../b\" }\n";
        let findings = versions_are_pinned_once(&files(member));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.starts_with("rand "), "{}", findings[0]);
    }
}
