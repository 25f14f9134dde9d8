//! PEFT's way of naming layers, resolved to paths.

use engraft_core::{Include, LayerKind, LayerShape, ModelShapes};
use engraft_tensor::suggestion;
use fancy_regex::Regex;
use serde::Deserialize;

use crate::config::{Patterns, Reader};
use crate::error::{Error, Result};
use crate::experts;
use crate::extras::parent;

/// One or several, as in many keys of PEFT.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(crate) enum OneOrMany<T> {
    /// One.
    One(T),
    /// Several.
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// A test of paths.
pub(crate) type Matcher = Box<dyn Fn(&str) -> bool>;

/// A text is a regular expression over the whole path, a list holds names.
pub(crate) type Names = OneOrMany<String>;

/// Compiles a pattern over the whole path. Python's look-around is understood.
fn whole(key: &str, pattern: &str) -> Result<Regex> {
    Regex::new(&format!("^(?:{pattern})$"))
        .map_err(|error| Error::config(key, format!("`{pattern}`: {error}")))
}

fn is_match(regex: &Regex, path: &str) -> bool {
    regex.is_match(path).unwrap_or(false)
}

/// A path that is the name or ends in `.name`.
fn is_named(path: &str, name: &str) -> bool {
    path.strip_suffix(name)
        .is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'))
}

impl Names {
    /// Whether a path matches: [`is_named`] for lists.
    pub(crate) fn matcher(self, key: &str) -> Result<Matcher> {
        Ok(match self {
            Self::One(pattern) => {
                let regex = whole(key, &pattern)?;
                Box::new(move |path| is_match(&regex, path))
            }
            Self::Many(names) => {
                Box::new(move |path| names.iter().any(|name| is_named(path, name)))
            }
        })
    }
}

/// The adapted layers, in the model's order.
pub(crate) fn read(
    config: &mut Reader,
    shapes: &ModelShapes,
    saved_modules: &[String],
) -> Result<Vec<LayerShape>> {
    let parameters: Vec<String> = config.get("target_parameters", Vec::new())?;
    let of_parameter = |layer: &&LayerShape| {
        layer.kind == LayerKind::Experts
            && parameters.iter().any(|name| {
                let stack = experts::stack(&layer.path);
                is_named(stack, name) || is_named(&format!("{stack}.weight"), name)
            })
    };
    let (taken, shown) = matcher(config, shapes, saved_modules, &parameters)?;
    let layers: Vec<LayerShape> = shapes
        .layers
        .iter()
        .filter(|layer| of_parameter(layer) || taken(&layer.path))
        .cloned()
        .collect();
    if layers.is_empty() {
        let paths = shapes.layers.iter().map(|layer| layer.path.as_str());
        return Err(nothing(&shown, "layer", paths));
    }
    Ok(layers)
}

/// The modules with parameters that are targeted, in the model's order.
pub(crate) fn modules(
    config: &mut Reader,
    shapes: &ModelShapes,
    saved_modules: &[String],
) -> Result<Vec<String>> {
    let (taken, shown) = matcher(config, shapes, saved_modules, &[])?;
    let mut modules: Vec<String> = Vec::new();
    let all = || shapes.params.iter().map(|param| parent(&param.path));
    for module in all().filter(|module| taken(module)) {
        if !modules.iter().any(|known| known == module) {
            modules.push(module.to_owned());
        }
    }
    match modules.is_empty() {
        true => Err(nothing(&shown, "module", all())),
        false => Ok(modules),
    }
}

/// Those of `paths` that are targeted.
pub(crate) fn blocks(
    config: &mut Reader,
    shapes: &ModelShapes,
    saved_modules: &[String],
    paths: &[String],
) -> Result<Vec<String>> {
    let (taken, shown) = matcher(config, shapes, saved_modules, &[])?;
    let chosen: Vec<String> = paths.iter().filter(|path| taken(path)).cloned().collect();
    match chosen.is_empty() {
        true => Err(nothing(&shown, "block", paths.iter().map(String::as_str))),
        false => Ok(chosen),
    }
}

fn nothing<'a>(shown: &str, what: &str, paths: impl Iterator<Item = &'a str>) -> Error {
    Error::config(
        "target_modules",
        format!("`{shown}` matches no {what}{}", suggestion(shown, paths)),
    )
}

/// Whether a path is targeted, and the targets in words. `parameters` are targets beside them.
fn matcher(
    config: &mut Reader,
    shapes: &ModelShapes,
    saved_modules: &[String],
    parameters: &[String],
) -> Result<(Matcher, String)> {
    let targets = match config.find::<Names>("target_modules")? {
        None if !parameters.is_empty() => Some(Names::Many(Vec::new())),
        targets => targets,
    };
    let Some(targets) = targets else {
        return Err(Error::config(
            "target_modules",
            "found nothing, expected the names that `save_pretrained` writes",
        ));
    };
    let shown = match &targets {
        Names::One(pattern) => pattern.clone(),
        Names::Many(names) => [&names[..], parameters].concat().join(", "),
    };
    let excluded = config
        .find::<Names>("exclude_modules")?
        .map(|names| names.matcher("exclude_modules"))
        .transpose()?;
    let saved = saved_modules
        .iter()
        .map(|name| whole("modules_to_save", &format!(r"(?:.*\.)?{name}(?:\..*)?")))
        .collect::<Result<Vec<_>>>()?;
    let indices = config
        .find::<OneOrMany<usize>>("layers_to_transform")?
        .map(OneOrMany::into_vec)
        .filter(|indices| !indices.is_empty());
    let stacks = config
        .find::<Names>("layers_pattern")?
        .map(OneOrMany::into_vec)
        .unwrap_or_default();
    let indexed = indices
        .map(|indices| layer_index(&stacks).map(|index| (indices, index)))
        .transpose()?;

    let included: Matcher = match targets {
        Names::One(text) if text.eq_ignore_ascii_case("all-linear") => {
            let linear: Vec<String> = shapes
                .layers
                .iter()
                .filter(|layer| layer.kind == LayerKind::Linear && !shapes.is_head(&layer.path))
                .map(|layer| layer.path.clone())
                .collect();
            Box::new(move |path| linear.iter().any(|known| known == path))
        }
        Names::One(pattern) => Names::One(pattern).matcher("target_modules")?,
        // A name that is a whole path is taken whatever its layer index.
        Names::Many(names) => Box::new(move |path| {
            names.iter().any(|name| name == path)
                || (names.iter().any(|name| is_named(path, name))
                    && indexed.as_ref().is_none_or(|(indices, index)| {
                        index(path).is_some_and(|index| indices.contains(&index))
                    }))
        }),
    };
    let taken = move |path: &str| {
        included(path)
            && !excluded.as_ref().is_some_and(|excluded| excluded(path))
            && !saved.iter().any(|regex| is_match(regex, path))
    };
    Ok((Box::new(taken), shown))
}

/// The number after the name of the stack of layers, or after the first name that has one.
fn layer_index(stacks: &[String]) -> Result<impl Fn(&str) -> Option<usize> + use<>> {
    let patterns = if stacks.is_empty() {
        vec![r"^.*?\.[^.]*\.(\d+)\.".to_owned()]
    } else {
        stacks
            .iter()
            .map(|stack| format!(r"^(?:|.*?\.)(?:{stack})\.(\d+)\."))
            .collect()
    };
    let regexes = patterns
        .iter()
        .map(|pattern| Regex::new(pattern).map_err(|error| Error::config("layers_pattern", error)))
        .collect::<Result<Vec<_>>>()?;
    Ok(move |path: &str| {
        let found = regexes
            .iter()
            .find_map(|regex| regex.captures(path).ok().flatten())?;
        found.get(1)?.as_str().parse().ok()
    })
}

/// The value of the first pattern that matches the end of the path.
pub(crate) fn first_match(key: &str, patterns: &Patterns, path: &str) -> Result<Option<f64>> {
    for (pattern, value) in &patterns.0 {
        if is_match(&whole(key, &format!(r"(?:.*\.)?(?:{pattern})"))?, path) {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// The value of the first pattern that matches what follows a dot of the path, else of the pattern
/// that is the path: how C3A and FourierFT look them up.
pub(crate) fn first_below(key: &str, patterns: &Patterns, path: &str) -> Result<Option<f64>> {
    for (pattern, value) in &patterns.0 {
        let regex = Regex::new(&format!(r"^(?:.*\.{pattern}$)"))
            .map_err(|error| Error::config(key, format!("`{pattern}`: {error}")))?;
        if is_match(&regex, path) {
            return Ok(Some(*value));
        }
    }
    let exact = patterns.0.iter().find(|(pattern, _)| pattern == path);
    Ok(exact.map(|(_, value)| *value))
}

/// Targets that take exactly `chosen` of `all`: their paths where no other path ends in one of
/// them, else an expression.
pub(crate) fn exactly(chosen: &[&str], all: &[&str]) -> Include {
    let exact = all
        .iter()
        .all(|path| chosen.contains(path) || !chosen.iter().any(|name| is_named(path, name)));
    if exact {
        return Include::Names(chosen.iter().map(|path| (*path).to_owned()).collect());
    }
    let paths: Vec<_> = chosen
        .iter()
        .map(|path| fancy_regex::escape(path))
        .collect();
    Include::Regex(paths.join("|"))
}

/// A pattern over the end of a path that matches this whole path only.
pub(crate) fn only(path: &str) -> String {
    format!("^{}", fancy_regex::escape(path))
}

#[cfg(test)]
mod tests {
    use engraft_core::Part;
    use serde_json::{Value, json};

    use super::*;

    fn select(mut config: Value, saved: &[&str]) -> Result<Vec<String>> {
        let mut shapes = ModelShapes::default();
        for path in [
            "layers.0.attn.q",
            "layers.0.mlp.fc",
            "layers.1.attn.q",
            "layers.1.mlp.fc",
            "attn.q",
            "head",
        ] {
            shapes.push_linear(
                path,
                4,
                4,
                false,
                if path == "head" {
                    Part::Head
                } else {
                    Part::Body
                },
            );
        }
        config["peft_type"] = "LORA".into();
        let saved: Vec<String> = saved.iter().map(|name| (*name).to_owned()).collect();
        let layers = read(&mut Reader::new(&config.try_into()?), &shapes, &saved)?;
        Ok(layers.into_iter().map(|layer| layer.path).collect())
    }

    #[test]
    fn targets_as_peft_matches_them() {
        assert_eq!(
            select(
                json!({"target_modules": ["q"], "exclude_modules": ["1.attn.q"]}),
                &[]
            )
            .unwrap(),
            ["layers.0.attn.q", "attn.q"]
        );
        assert_eq!(
            select(json!({"target_modules": "^(?!layers).*q"}), &[]).unwrap(),
            ["attn.q"]
        );
        assert_eq!(
            select(json!({"target_modules": "all-linear"}), &[])
                .unwrap()
                .len(),
            5
        );
        assert_eq!(
            select(json!({"target_modules": ["q", "fc"]}), &["attn"]).unwrap(),
            ["layers.0.mlp.fc", "layers.1.mlp.fc"]
        );
        assert_eq!(select(json!({"target_modules": ["q"], "layers_to_transform": 1, "layers_pattern": "layers"}), &[]).unwrap(), ["layers.1.attn.q"]);
        assert!(
            select(json!({"target_modules": ["k"]}), &[])
                .unwrap_err()
                .to_string()
                .contains("matches no layer")
        );
    }

    #[test]
    fn exact_targets_take_nothing_else() {
        assert_eq!(
            exactly(&["a.q"], &["a.q", "b.q"]),
            Include::Names(vec!["a.q".to_owned()])
        );
        assert_eq!(
            exactly(&["q"], &["q", "b.q"]),
            Include::Regex("q".to_owned())
        );
    }
}
