//! The part of `cargo metadata` that the rules read.
//!
//! Read by hand: the `cargo_metadata` crate turns on a feature of serde_json, which would compile
//! serde_json and all that stands on it, Burn included, a second time for `--workspace` builds.

use crate::{error::XtaskError, process};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// The answer of `cargo metadata --format-version 1`.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    packages: Vec<Package>,
    workspace_members: BTreeSet<String>,
    resolve: Resolve,
}

/// A package, of the workspace or not.
#[derive(Debug, Deserialize)]
pub struct Package {
    id: String,
    /// The package's name.
    pub name: String,
    /// What its manifest declares, before features and targets are resolved.
    pub dependencies: Vec<Dependency>,
}

/// A declared dependency.
#[derive(Debug, Deserialize)]
pub struct Dependency {
    /// The package it asks for.
    pub name: String,
    kind: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
struct Node {
    id: String,
    deps: Vec<NodeDependency>,
}

#[derive(Debug, Deserialize)]
struct NodeDependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Debug, Deserialize)]
struct DependencyKind {
    kind: Option<String>,
}

impl Dependency {
    /// Whether only tests, examples and benches use it.
    pub fn is_dev(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }
}

impl Metadata {
    /// Asks cargo, for this machine's platform only.
    ///
    /// # Errors
    /// Cargo fails, or answers in an unknown format.
    pub fn load(root: &Path) -> Result<Self, XtaskError> {
        let mut cargo = process::cargo();
        cargo.current_dir(root).args([
            "metadata",
            "--format-version",
            "1",
            "--filter-platform",
            "host-tuple",
        ]);
        let answer = process::capture(&mut cargo)?;
        serde_json::from_str(&answer).map_err(|error| XtaskError::Answer {
            program: process::describe(&cargo),
            reason: error.to_string(),
        })
    }

    /// The packages of the workspace.
    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id))
    }

    /// The names of all packages that `package` is linked with: its resolved normal dependencies,
    /// and theirs.
    pub fn normal_tree(&self, package: &Package) -> BTreeSet<&str> {
        let nodes: BTreeMap<&str, &Node> = self
            .resolve
            .nodes
            .iter()
            .map(|node| (node.id.as_str(), node))
            .collect();
        let mut open = vec![package.id.as_str()];
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            for dependency in nodes.get(id).iter().flat_map(|node| &node.deps) {
                let normal = dependency.dep_kinds.iter().any(|kind| kind.kind.is_none());
                if normal && seen.insert(dependency.pkg.as_str()) {
                    open.push(&dependency.pkg);
                }
            }
        }
        self.packages
            .iter()
            .filter(|package| seen.contains(package.id.as_str()))
            .map(|package| package.name.as_str())
            .collect()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use serde_json::json;

    /// A workspace from `(crate, dependency, kind)`; names with "engraft" or "xtask" are members.
    pub fn workspace(edges: &[(&str, &str, Option<&str>)]) -> Metadata {
        let names: BTreeSet<&str> = edges
            .iter()
            .flat_map(|(from, to, _)| [*from, *to])
            .collect();
        let edges_of = |name: &str| {
            edges
                .iter()
                .filter(move |edge| edge.0 == name)
                .collect::<Vec<_>>()
        };
        let member = |name: &&&str| name.contains("engraft") || name.contains("xtask");
        let value = json!({
            "workspace_members": names.iter().filter(member).collect::<Vec<_>>(),
            "packages": names.iter().map(|name| json!({
                "id": name, "name": name,
                "dependencies": edges_of(name).iter().map(|(_, to, kind)| json!({
                    "name": to, "kind": kind,
                })).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "resolve": { "nodes": names.iter().map(|name| json!({
                "id": name,
                "deps": edges_of(name).iter().map(|(_, to, kind)| json!({
                    "pkg": to, "dep_kinds": [{ "kind": kind }],
                })).collect::<Vec<_>>(),
            })).collect::<Vec<_>>() },
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_normal_tree_follows_normal_edges_only() {
        let metadata = workspace(&[
            ("engraft-a", "b", None),
            ("b", "c", None),
            ("b", "built", Some("build")),
            ("engraft-a", "tested", Some("dev")),
        ]);
        let package = metadata.members().next().unwrap();
        assert_eq!(metadata.normal_tree(package), BTreeSet::from(["b", "c"]));
    }

    #[test]
    fn this_workspace_is_readable() {
        let root = crate::workspace::root().unwrap();
        let metadata = Metadata::load(&root).unwrap();
        assert!(metadata.members().any(|package| package.name == "xtask"));
    }
}
