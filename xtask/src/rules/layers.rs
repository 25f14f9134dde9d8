//! Dependencies point one way: a crate uses crates below it or beside it, families only below.

use super::Finding;
use crate::metadata::Metadata;

/// The families of methods; the crate of family `x` is `engraft-x`.
pub const FAMILIES: &[&str] = &[
    "bottleneck",
    "butterfly",
    "features",
    "givens",
    "kronecker",
    "lowrank",
    "prompt",
    "sparse",
    "structured",
    "svd",
    "tensor-train",
];

/// The layer of the families, and of each other crate without the prefix `engraft-`. Layer 0
/// stands on nothing of ours.
const FAMILY_LAYER: usize = 4;
const LAYERS: &[(usize, &str)] = &[
    (0, "kernels"),
    (0, "linalg"),
    (1, "cubecl"),
    (1, "tensor"),
    (2, "core"),
    (3, "testkit"),
    (5, "data"),
    (5, "engraft"),
    (5, "merge"),
    (5, "models"),
    (5, "moe"),
    (5, "peft"),
    (5, "train"),
    (6, "experiment"),
    (7, "benches"),
];

/// The crates that never see Burn, and so build and test in seconds.
const BURN_FREE: &[&str] = &[
    "engraft-data",
    "engraft-kernels",
    "engraft-linalg",
    "engraft-merge",
    "xtask",
];

fn short_name(name: &str) -> &str {
    name.strip_prefix("engraft-").unwrap_or(name)
}

fn is_family(name: &str) -> bool {
    FAMILIES.contains(&short_name(name))
}

fn layer(name: &str) -> Option<usize> {
    if is_family(name) {
        return Some(FAMILY_LAYER);
    }
    LAYERS
        .iter()
        .find(|(_, known)| *known == short_name(name))
        .map(|(layer, _)| *layer)
}

/// Every crate has a layer, and its dependencies lie in the same layer or below. Families do not
/// know each other. Tests may look anywhere: dev-dependencies are free.
pub fn point_one_way(metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in metadata.members().filter(|package| package.name != "xtask") {
        let Some(own) = layer(&package.name) else {
            let message = "has no layer: give it one in xtask/src/rules/layers.rs";
            findings.push(Finding::new(&package.name, message));
            continue;
        };
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| !dependency.is_dev())
        {
            let name = &dependency.name;
            if !metadata.members().any(|member| member.name == *name) {
                continue;
            }
            let allowed = layer(name).is_some_and(|below| {
                if own == FAMILY_LAYER {
                    below < own
                } else {
                    below <= own
                }
            });
            if !allowed {
                let message = format!("may not depend on {name}, which is not below it");
                findings.push(Finding::new(&package.name, message));
            }
        }
    }
    findings
}

/// Models hold slots and no method: no family in their tree, not even through another crate.
pub fn models_know_no_family(metadata: &Metadata) -> Vec<Finding> {
    let models = metadata
        .members()
        .filter(|package| package.name == "engraft-models");
    models
        .flat_map(|package| metadata.normal_tree(package))
        .filter(|name| is_family(name))
        .map(|name| Finding::new("engraft-models", format!("may not reach the family {name}")))
        .collect()
}

/// The crates that build in seconds have no crate of Burn in their resolved normal tree.
pub fn burn_free(metadata: &Metadata) -> Vec<Finding> {
    let burn_free = metadata
        .members()
        .filter(|package| BURN_FREE.contains(&package.name.as_str()));
    burn_free
        .filter_map(|package| {
            let tree = metadata.normal_tree(package);
            let burn = tree
                .iter()
                .find(|name| **name == "burn" || name.starts_with("burn-"))?;
            Some(Finding::new(
                &package.name,
                format!("must stay free of Burn, but reaches {burn}"),
            ))
        })
        .collect()
}

/// The test kit ships to nobody: it is a dev-dependency, and the experiment runner, which holds
/// no tests of methods, does without it.
pub fn testkit_is_for_tests(metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in metadata.members() {
        for dependency in package
            .dependencies
            .iter()
            .filter(|it| it.name == "engraft-testkit")
        {
            if package.name == "engraft-experiment" {
                findings.push(Finding::new(&package.name, "may not use engraft-testkit"));
            } else if !dependency.is_dev() {
                let message = "may use engraft-testkit as a dev-dependency only";
                findings.push(Finding::new(&package.name, message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::tests::workspace;

    fn places(findings: &[Finding]) -> Vec<&str> {
        findings
            .iter()
            .map(|finding| finding.place.as_str())
            .collect()
    }

    #[test]
    fn arrows_down_and_within_a_layer_are_fine_and_tests_look_anywhere() {
        let metadata = workspace(&[
            ("engraft-experiment", "engraft-train", None),
            ("engraft-train", "engraft-data", None),
            ("engraft-lowrank", "engraft-core", None),
            ("engraft-core", "engraft-lowrank", Some("dev")),
            ("engraft-core", "serde", None),
        ]);
        assert_eq!(point_one_way(&metadata), []);
    }

    #[test]
    fn arrows_up_and_between_families_are_found() {
        let metadata = workspace(&[
            ("engraft-core", "engraft-train", None),
            ("engraft-lowrank", "engraft-svd", None),
            ("engraft-tensor", "engraft-core", Some("build")),
            ("engraft-unheard-of", "serde", None),
        ]);
        let expected = [
            "engraft-core",
            "engraft-lowrank",
            "engraft-tensor",
            "engraft-unheard-of",
        ];
        assert_eq!(places(&point_one_way(&metadata)), expected);
    }

    #[test]
    fn models_may_not_reach_a_family_through_another_crate() {
        let metadata = workspace(&[
            ("engraft-models", "engraft", None),
            ("engraft", "engraft-lowrank", None),
        ]);
        assert_eq!(
            places(&models_know_no_family(&metadata)),
            ["engraft-models"]
        );
    }

    #[test]
    fn burn_is_found_behind_another_crate_but_not_in_tests() {
        let deep = workspace(&[
            ("engraft-merge", "helper", None),
            ("helper", "burn-core", None),
        ]);
        assert_eq!(places(&burn_free(&deep)), ["engraft-merge"]);
        let test = workspace(&[("engraft-merge", "burn", Some("dev"))]);
        assert_eq!(burn_free(&test), []);
    }

    #[test]
    fn the_testkit_stays_in_tests_and_out_of_the_runner() {
        let metadata = workspace(&[
            ("engraft-core", "engraft-testkit", Some("dev")),
            ("engraft-data", "engraft-testkit", None),
            ("engraft-experiment", "engraft-testkit", Some("dev")),
        ]);
        let expected = ["engraft-data", "engraft-experiment"];
        assert_eq!(places(&testkit_is_for_tests(&metadata)), expected);
    }
}
