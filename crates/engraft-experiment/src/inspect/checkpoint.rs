//! Checkpoints in Hugging Face layout.

use std::path::Path;

use engraft_core::Part;
use engraft_models::{shapes, weight_files};
use serde_json::Value;

use super::{Contents, grouped, header, json, sizes};
use crate::{Error, Result};

pub(super) fn directory(path: &Path) -> Result<Contents> {
    let config: Value = json(&path.join("config.json"))?;
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let mut contents = Contents {
        title: format!(
            "model of type {}",
            text("model_type").unwrap_or("that it does not say")
        ),
        ..Contents::default()
    };
    if let Some(class) = config.pointer("/architectures/0").and_then(Value::as_str) {
        contents.fact("class", class);
    }
    match shapes::from_config_json(&config.to_string()) {
        Ok(shapes) => {
            let of = |part: Part| -> usize {
                let params = shapes.params.iter().filter(|param| param.part == part);
                params.map(|param| param.numel).sum()
            };
            contents.fact("parameters", grouped(shapes.total()));
            let parts = [
                ("embeddings", Part::Embedding),
                ("body", Part::Body),
                ("norms", Part::Norm),
                ("head", Part::Head),
            ];
            let parts: Vec<String> = parts
                .iter()
                .map(|(name, part)| format!("{name} {}", grouped(of(*part))))
                .collect();
            contents.fact("of them", parts.join(", "));
            contents.fact(
                "adaptable",
                format!(
                    "{} layers, {} sites",
                    shapes.layers.len(),
                    shapes.sites.len()
                ),
            );
        }
        Err(error) => contents.fact("parameters", format!("not counted: {error}")),
    }
    let files = weight_files(path).map_err(|error| Error::Input(error.to_string()))?;
    let headers = files.into_iter().map(|file| {
        let header = header(&file)?;
        Ok((file, header))
    });
    contents.files = headers.collect::<Result<_>>()?;
    let stored = sizes(contents.files.iter().map(|(_, header)| header));
    contents.fact("files", format!("{}, {stored}", contents.files.len()));
    if path.join("tokenizer.json").exists() {
        contents.fact("tokenizer", "tokenizer.json");
    }
    Ok(contents)
}
