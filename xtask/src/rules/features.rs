//! Dependencies are compiled once, for runs and for tests.

use super::Finding;
use crate::{error::XtaskError, process};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// Every package with its features, one `name version|features` a line, as `cargo tree` prints it.
pub struct Trees {
    /// What runs are built from: normal and build dependencies.
    pub runs: String,
    /// What tests are built from: dev-dependencies too.
    pub tests: String,
}

impl Trees {
    /// Asks cargo.
    ///
    /// # Errors
    /// Cargo fails.
    pub fn load(root: &Path) -> Result<Self, XtaskError> {
        let tree = |edges: &str| {
            let mut cargo = process::cargo();
            cargo
                .current_dir(root)
                .args(["tree", "--workspace", "--edges", edges]);
            process::capture(cargo.args(["--prefix", "none", "--format", "{p}|{f}"]))
        };
        Ok(Self {
            runs: tree("normal,build")?,
            tests: tree("normal,build,dev")?,
        })
    }
}

/// A dev-dependency must not turn on a feature that runs do without: cargo would compile that
/// package, and all that stands on it, once for runs and once more for tests.
pub fn tests_add_none(trees: &Trees) -> Vec<Finding> {
    let tests = features(&trees.tests);
    let mut findings = Vec::new();
    for (package, variants) in features(&trees.runs) {
        let Some(in_tests) = tests.get(package) else {
            continue;
        };
        if !variants.is_subset(in_tests) {
            let of = |set: &BTreeSet<&str>| set.iter().copied().collect::<Vec<_>>().join(" | ");
            let message = format!(
                "is compiled twice: dev-dependencies change its features from [{}] to [{}]; \
                 ask for the same ones in [workspace.dependencies]",
                of(&variants),
                of(in_tests)
            );
            findings.push(Finding::new(package, message));
        }
    }
    findings
}

/// The feature sets of each package; one package may have several, for this machine's tools and
/// for the product.
fn features(tree: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut features: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for line in tree.lines() {
        // " (*)" marks a package whose dependencies were printed before.
        if let Some((package, set)) = line.trim_end_matches(" (*)").split_once('|') {
            features.entry(package).or_default().insert(set);
        }
    }
    features
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(runs: &str, tests: &str) -> Vec<Finding> {
        tests_add_none(&Trees {
            runs: runs.into(),
            tests: tests.into(),
        })
    }

    #[test]
    fn packages_that_only_tests_use_are_fine() {
        let runs = "faer v0.24.4|std\nserde v1.0.0|default\nserde v1.0.0|default,derive (*)\n";
        assert_eq!(findings(runs, &format!("{runs}proptest v1.12.0|std\n")), []);
    }

    #[test]
    fn a_feature_that_only_tests_turn_on_is_found() {
        let findings = findings("gemm v0.19.0|std\n", "gemm v0.19.0|rayon,std (*)\n");
        assert_eq!(findings.len(), 1);
        assert!(
            findings[0].message.contains("from [std] to [rayon,std]"),
            "{}",
            findings[0]
        );
    }
}
