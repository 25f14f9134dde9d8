//! `params`: what a method trains on a model, from shapes alone.

use std::{fs, path::Path};

use clap::Args;
use engraft_core::{Injection, ModelShapes, Plan, Targets};
use engraft_experiment::{Error, Result};
use serde_json::{Map, Value, json};

/// Arguments of `params`.
#[derive(Args)]
pub struct Arguments {
    /// A model preset (roberta-base, llama-2-7b, ...) or the path of a config.json
    #[arg(long)]
    model: String,
    /// The method as TOML: its id and configuration keys, for example 'id = "lora", rank = 8'
    #[arg(long)]
    method: String,
    /// The targets: all-linear, a regular expression, or a list such as '["query", "value"]'
    #[arg(long)]
    targets: Option<String>,
    /// Count the task head as trained
    #[arg(long)]
    head: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the counts.
pub fn run(arguments: &Arguments) -> Result<()> {
    let shapes = shapes(&arguments.model)?;
    let (id, config) = method(&arguments.method)?;
    let method = engraft::method(&id, &config).map_err(input)?;
    let targets = targets(arguments.targets.as_deref())?;
    let injection = Injection {
        targets,
        train_head: arguments.head,
        ..Injection::default()
    };
    let plan = Plan::new(&method, &shapes, &injection).map_err(input)?;
    let (counts, total) = (plan.counts(), shapes.total());
    let percent = 100.0 * counts.all_trained() as f64 / total as f64;
    if arguments.json {
        let report = json!({
            "model": arguments.model, "method": id, "config": method.config(), "layers": plan.layers.len(), "sites": plan.sites.len(),
            "trainable": counts.trainable, "shared": counts.shared, "norms": counts.norms, "head": counts.head,
            "all_trained": counts.all_trained(), "stored": counts.stored, "total": total, "percent": percent,
        });
        println!(
            "{}",
            serde_json::to_string_pretty(&report).expect("plain data")
        );
        return Ok(());
    }
    println!(
        "{} on {}: {} of {total} parameters trained ({percent:.4} %)",
        method.meta().name,
        arguments.model,
        counts.all_trained()
    );
    println!("  {} layers, {} sites", plan.layers.len(), plan.sites.len());
    let parts = [
        ("adapters", counts.trainable),
        ("shared between layers", counts.shared),
        ("norms", counts.norms),
        ("head", counts.head),
    ];
    for (name, count) in parts.into_iter().filter(|(_, count)| *count > 0) {
        println!("  {count:>14} {name}");
    }
    println!("  {:>14} values in the adapter file", counts.stored);
    Ok(())
}

fn input(error: impl ToString) -> Error {
    Error::Input(error.to_string())
}

fn shapes(model: &str) -> Result<ModelShapes> {
    let is_config = Path::new(model).extension() == Some("json".as_ref());
    if !is_config {
        return engraft_models::shapes::preset(model).map_err(input);
    }
    let text =
        fs::read_to_string(model).map_err(|error| Error::io("read", Path::new(model), &error))?;
    engraft_models::shapes::from_config_json(&text)
        .map_err(|error| input(format!("{model}: {error}")))
}

/// The id and the configuration table of a method written as `id = "lora", rank = 8`, as the
/// inside of an inline table, or as lines of TOML.
/// A method as TOML: its id, and the rest of the keys.
pub(super) fn method(text: &str) -> Result<(String, Value)> {
    let mut method: Map<String, Value> = table("method", text)?;
    match method.remove("id") {
        Some(Value::String(id)) => Ok((id, Value::Object(method))),
        _ => Err(input(format!(
            "--method: found no id in `{text}`, expected for example 'id = \"lora\", rank = 8'"
        ))),
    }
}

/// The value of the option `--name`, a TOML table: its keys with commas or on lines of their own.
pub(super) fn table<T: serde::de::DeserializeOwned>(name: &str, text: &str) -> Result<T> {
    let trimmed = text.trim();
    let inline = if trimmed.starts_with('{') {
        format!("{name} = {trimmed}")
    } else {
        format!("{name} = {{ {trimmed} }}")
    };
    let lines = format!("[{name}]\n{text}");
    let mut parsed: std::collections::BTreeMap<String, T> = toml::from_str(&inline)
        .or_else(|error| toml::from_str(&lines).map_err(|_| error))
        .map_err(|error| input(format!("--{name}: {error}")))?;
    parsed
        .remove(name)
        .ok_or_else(|| input(format!("--{name}: found nothing in `{text}`")))
}

/// A bare word or expression is a string, anything that starts like TOML is read as such.
pub(super) fn targets(text: Option<&str>) -> Result<Targets> {
    let Some(text) = text else {
        return Ok(Targets::default());
    };
    let value = if text.trim_start().starts_with(['[', '{', '"', '\'']) {
        let table: Map<String, Value> = toml::from_str(&format!("targets = {text}"))
            .map_err(|error| input(format!("--targets: {error}")))?;
        table["targets"].clone()
    } else {
        Value::String(text.to_owned())
    };
    serde_json::from_value(value).map_err(|error| input(format!("--targets: {error}")))
}
