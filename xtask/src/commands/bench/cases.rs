//! The cases of the comparison.

use std::{fs, path::Path};

use serde::{Deserialize, de::DeserializeOwned};

use crate::error::XtaskError;

/// The products that a frozen network needs, or a copy of a weight.
const LIMIT: &str = "limit";

/// Adapters that are loaded into a weight on the host.
const SWITCH: &str = "switch";

/// Starts that PEFT does not have.
const OWN_INITS: [&str; 4] = ["soka_fixed", "soka", "tt_svd", "tt_svd_exact"];

/// Something to time: a kind and what it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// `train`, `limit`, `init`, `merge`, `switch`, `weighted` or `mixed`.
    pub kind: &'static str,
    /// Its parameters, in order.
    pub what: Vec<String>,
    /// Counted runs in one process.
    pub runs: usize,
}

impl Case {
    fn new(kind: &'static str, what: &[&str], runs: usize) -> Self {
        let what = what.iter().map(|word| (*word).to_owned()).collect();
        Self { kind, what, runs }
    }

    /// Whether PEFT has it too.
    pub fn is_shared(&self) -> bool {
        let starts_here = || {
            self.what
                .iter()
                .any(|word| OWN_INITS.contains(&word.as_str()))
        };
        ![LIMIT, SWITCH].contains(&self.kind) && !starts_here()
    }

    /// `train stack4 lora_r8`.
    pub fn name(&self) -> String {
        format!("{} {}", self.kind, self.what.join(" "))
    }
}

#[derive(Deserialize)]
struct Shapes {
    net: Vec<Named>,
    method: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

/// What `T` takes of `benches/shapes.toml`.
///
/// # Errors
/// The file cannot be read, or is not what `T` expects.
pub fn shapes<T: DeserializeOwned>(root: &Path) -> Result<T, XtaskError> {
    let path = root.join("benches/shapes.toml");
    let text = fs::read_to_string(&path).map_err(|source| XtaskError::File {
        action: "read",
        path: path.clone(),
        source,
    })?;
    toml::from_str(&text)
        .map_err(|error| XtaskError::BadInput(format!("{}: {error}", path.display())))
}

/// Every case whose name contains `filter`.
///
/// # Errors
/// `benches/shapes.toml` cannot be read, or nothing matches.
pub fn all(root: &Path, filter: Option<&str>) -> Result<Vec<Case>, XtaskError> {
    let shapes: Shapes = shapes(root)?;
    let mut cases = Vec::new();
    for net in &shapes.net {
        cases.push(Case::new(LIMIT, &[&net.name], 30));
        for method in ["frozen", "full"] {
            cases.push(Case::new("train", &[&net.name, method], 15));
        }
        for method in &shapes.method {
            cases.push(Case::new("train", &[&net.name, &method.name], 15));
        }
    }
    let shared = ["pissa_niter_4", "pissa_niter_16", "olora", "corda", "pissa"];
    for how in shared.iter().chain(&OWN_INITS) {
        for size in ["1024", "4096"] {
            cases.push(Case::new("init", &[size, how], 5));
        }
    }
    cases.push(Case::new(LIMIT, &["4096"], 15));
    for method in &shapes.method {
        cases.push(Case::new("merge", &["4096", &method.name], 5));
    }
    for what in [
        "lora_r8",
        "lora_r32",
        "shira_r8",
        "shira_r32",
        "shira_1",
        "shira_2",
    ] {
        cases.push(Case::new(SWITCH, &["4096", what], 15));
    }
    cases.push(Case::new("weighted", &["2048"], 3));
    for tokens in ["1", "16", "128"] {
        for what in ["base", "single", "mixed"] {
            cases.push(Case::new("mixed", &[tokens, what], 15));
        }
    }
    cases.retain(|case| filter.is_none_or(|filter| case.name().contains(filter)));
    if cases.is_empty() {
        let filter = filter.unwrap_or_default();
        let message = format!(
            "no case contains `{filter}`: expected part of a name such as `train stack4 lora_r8`, \
             `init 4096 pissa`, `merge 4096 boft_m4_b8` or `mixed 16 single`"
        );
        return Err(XtaskError::BadInput(message));
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_are_read_and_filtered_by_name() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let lora = all(root, Some("train stack4 lora")).unwrap();
        let names: Vec<String> = lora.iter().map(Case::name).collect();
        assert_eq!(names, ["train stack4 lora_r8", "train stack4 lora_r16"]);
        assert!(lora.iter().all(Case::is_shared));
        assert!(!all(root, Some("init 4096 soka")).unwrap()[0].is_shared());
        let switched = all(root, Some("switch 4096")).unwrap();
        assert!(switched.len() == 6 && !switched.iter().any(Case::is_shared));
        let error = all(root, Some("no such case")).unwrap_err();
        assert!(error.to_string().contains("no such case"), "{error}");
    }
}
