//! SHADOW: a small decoder beside a decoder of the Llama family.

use engraft_core::{Attachment, Include, Injection, ModelShapes, SiteKind, SiteShape, Targets};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Whole, WholeType};
use crate::config::{PeftConfig, Reader, number};
use crate::error::{Error, Result};
use crate::extras::Extras;
use crate::field::{Layout, MODEL, SHARED};
use crate::pair::Pair;
use crate::targets;
use crate::types::{Table, Tensors, table};

/// h = x + alpha (x - s) D U into each block.
pub(crate) struct Shadow;

/// What the shadow takes from the model's config.json.
#[derive(Deserialize)]
struct Base {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_parameters: Option<RopeParameters>,
    #[serde(default)]
    rope_scaling: Value,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
}

#[derive(Deserialize)]
struct RopeParameters {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
}

/// Ends the path of a block's site.
const SITE: &str = ".sites.sequence";

/// Options that make another backbone than a smaller model of the same kind and width, with PEFT's
/// default.
const REFUSED: [(&str, Value); 3] = [
    ("shadow_model", Value::Null),
    ("shadow_hidden_size", Value::Null),
    ("share_embeddings", Value::Bool(true)),
];

/// The backbone's configuration.
fn backbone(config: &mut Reader, shapes: &ModelShapes) -> Result<Value> {
    let unsupported = |found: String| {
        Error::Unsupported(format!(
            "SHADOW on {found} is not supported: it is on Llama with plain rotary positions and without biases"
        ))
    };
    let json = shapes.config.clone().unwrap_or_default();
    let base: Base = serde_json::from_value(json)
        .map_err(|error| unsupported(format!("a model without a config.json ({error})")))?;
    let rope = base.rope_parameters.as_ref();
    let kind = rope.and_then(|rope| rope.rope_type.as_deref());
    let plain = kind.is_none_or(|kind| kind == "default") && base.rope_scaling.is_null();
    if base.model_type != "llama" || !plain || base.attention_bias || base.mlp_bias {
        return Err(unsupported(format!("this {}", base.model_type)));
    }
    let theta = rope.and_then(|rope| rope.rope_theta).or(base.rope_theta);
    let heads = base.num_attention_heads;
    let key_heads = base.num_key_value_heads.unwrap_or(heads);
    let head_width = base.head_dim.unwrap_or(base.hidden_size / heads.max(1));
    Ok(json!({
        "blocks": config.get::<usize>("shadow_num_hidden_layers", 1)?,
        "inner": config.get("shadow_intermediate_size", base.intermediate_size)?,
        "heads": config.get("shadow_num_attention_heads", heads)?,
        "key-heads": key_heads,
        "head-width": head_width,
        "theta": theta.unwrap_or(10_000.0),
        "epsilon": base.rms_norm_eps.unwrap_or(1e-6),
    }))
}

/// A number of a method's configuration.
fn size(config: &Value, key: &str) -> usize {
    config[key].as_u64().unwrap_or_default() as usize
}

fn pair(peft: String, own: String, [d_in, d_out]: [usize; 2]) -> Pair {
    Pair {
        peft,
        own,
        shape: vec![d_out, d_in],
        layout: Layout::Transposed,
    }
}

fn vector(peft: String, own: String, width: usize) -> Pair {
    Pair {
        peft,
        own,
        shape: vec![width],
        layout: Layout::Reshaped(vec![1, width]),
    }
}

/// All tensors of an adapter on these blocks.
fn pairs(config: &Value, blocks: &[&SiteShape], name: &str) -> Vec<Pair> {
    let Some(width) = blocks.first().map(|site| site.width) else {
        return Vec::new();
    };
    let rank = size(config, "rank");
    let inside = config["update"]
        .as_u64()
        .map_or(rank, |inside| inside as usize);
    let mut pairs = Vec::new();
    for (index, site) in blocks.iter().enumerate() {
        let block = site.path.strip_suffix(SITE).unwrap_or(&site.path);
        for (part, shape) in [("down", [width, rank]), ("up", [rank, width])] {
            let peft = format!("{MODEL}{block}.shadow_{part}.default.weight");
            let own = format!("model.{}.adapters.{name}.{part}", site.path);
            pairs.push(pair(peft, own, shape));
        }
        // What follows the last block is never read, and not trained.
        let held = match index + 1 < blocks.len() {
            true => "trained",
            false => "given",
        };
        for update in ["transform", "gate"] {
            let keys = |param: &str| {
                [
                    format!("{MODEL}{block}.shadow_update_{update}.default.{param}"),
                    format!("bank.{held}.{name}/blocks.{index}.{update}.{param}"),
                ]
            };
            for (layer, shape) in [("0", [width, inside]), ("2", [inside, width])] {
                let [peft, own] = keys(&format!("{layer}.weight"));
                pairs.push(pair(peft, own, shape));
                let [peft, own] = keys(&format!("{layer}.bias"));
                pairs.push(vector(peft, own, shape[1]));
            }
        }
    }
    let backbone = &config["backbone"];
    let head = size(backbone, "head-width");
    let (query, key) = (
        size(backbone, "heads") * head,
        size(backbone, "key-heads") * head,
    );
    let inner = size(backbone, "inner");
    let mut push = |param: String, shape: Option<[usize; 2]>| {
        let peft = format!("{SHARED}shadow_backbone.default.{param}");
        let own = format!("bank.trained.{name}/backbone.{param}");
        pairs.push(match shape {
            Some(shape) => pair(peft, own, shape),
            None => vector(peft, own, width),
        });
    };
    for block in 0..size(backbone, "blocks") {
        for (layer, shape) in [
            ("input_layernorm", None),
            ("self_attn.q_proj", Some([width, query])),
            ("self_attn.k_proj", Some([width, key])),
            ("self_attn.v_proj", Some([width, key])),
            ("self_attn.o_proj", Some([query, width])),
            ("post_attention_layernorm", None),
            ("mlp.gate_proj", Some([width, inner])),
            ("mlp.up_proj", Some([width, inner])),
            ("mlp.down_proj", Some([inner, width])),
        ] {
            push(format!("layers.{block}.{layer}.weight"), shape);
        }
    }
    push("norm.weight".to_owned(), None);
    pairs
}

/// The sites of the model's blocks.
fn blocks(shapes: &ModelShapes) -> Vec<&SiteShape> {
    let sites = shapes.sites.iter();
    sites
        .filter(|site| site.kind == SiteKind::Sequence)
        .collect()
}

impl WholeType for Shadow {
    fn name(&self) -> &'static str {
        "SHADOW"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["shadow"]
    }

    fn read(
        &self,
        config: &mut Reader,
        shapes: &ModelShapes,
        tensors: &mut Tensors,
        name: &str,
    ) -> Result<Whole> {
        let rank: usize = config.get("r", 8)?;
        let update: Option<usize> = config.find("update_hidden_size")?;
        for (key, default) in REFUSED {
            let found: Value = config.get(key, Value::Null)?;
            if !found.is_null() && found != default && found != "mirror" {
                return Err(Error::Unsupported(format!(
                    "`{key}` = {found} is not supported: the shadow is a smaller model of the same kind, width and embeddings"
                )));
            }
        }
        let own = table([
            ("rank", rank.into()),
            ("alpha", config.get("shadow_alpha", 0.1)?.into()),
            ("dropout", config.get("shadow_dropout", 0.2)?.into()),
            ("update", update.into()),
            ("backbone", backbone(config, shapes)?),
        ]);
        config.training_only("auxiliary_loss_weight")?;
        config.skip(&["init_weights"]);
        let extras = Extras::read(config)?;
        let all = blocks(shapes);
        let block = |site: &SiteShape| site.path.trim_end_matches(SITE).to_owned();
        let paths: Vec<String> = all.iter().map(|site| block(site)).collect();
        let chosen = targets::blocks(config, shapes, &extras.modules, &paths)?;
        let sites: Vec<&SiteShape> = all
            .into_iter()
            .filter(|site| chosen.contains(&block(site)))
            .collect();
        let params = extras.params(shapes, &[])?;
        let mut pairs = pairs(&Value::Object(own.clone()), &sites, name);
        pairs.extend(extras.pairs(&params, shapes, &[], tensors));
        let prompt = shapes.sites.iter();
        let prompt = prompt.filter(|site| site.kind == SiteKind::Prompt).take(1);
        let names = prompt
            .chain(sites)
            .map(|site| fancy_regex::escape(&site.path).into_owned());
        let names: Vec<String> = names.collect();
        let targets = Targets {
            include: Include::Regex(names.join("|")),
            ..Targets::default()
        };
        Ok(Whole {
            method: "shadow",
            config: own,
            injection: Injection {
                targets,
                train_also: params,
                ..Injection::default()
            },
            pairs,
            derived: &[],
        })
    }

    fn write(
        &self,
        attachment: &Attachment,
        shapes: &ModelShapes,
    ) -> Result<(Table, Vec<Pair>), String> {
        let sites: Vec<&SiteShape> = blocks(shapes)
            .into_iter()
            .filter(|site| attachment.sites.contains(&site.path))
            .collect();
        let config = &attachment.config;
        let backbone = &config["backbone"];
        let extras = Extras::of(&attachment.params, shapes, &[], false)?;
        let modules = match extras.modules.is_empty() {
            true => Value::Null,
            false => extras.modules.clone().into(),
        };
        let named = sites.iter().map(|site| site.path.trim_end_matches(SITE));
        let named: Vec<&str> = named.collect();
        let mut keys = table([
            ("r", config["rank"].clone()),
            (
                "shadow_alpha",
                number(config["alpha"].as_f64().unwrap_or_default()),
            ),
            ("shadow_dropout", config["dropout"].clone()),
            ("update_hidden_size", config["update"].clone()),
            ("shadow_model", "mirror".into()),
            ("shadow_hidden_size", Value::Null),
            ("share_embeddings", true.into()),
            ("shadow_num_hidden_layers", backbone["blocks"].clone()),
            ("shadow_num_attention_heads", backbone["heads"].clone()),
            ("shadow_intermediate_size", backbone["inner"].clone()),
            ("auxiliary_loss_weight", 0.05.into()),
            ("init_weights", true.into()),
            ("target_modules", named.into()),
        ]);
        let as_written = PeftConfig {
            keys: keys.clone(),
            ..PeftConfig::default()
        };
        let mirror = self::backbone(&mut Reader::new(&as_written), shapes)
            .map_err(|error| error.to_string())?;
        let differs = |(key, value): (&String, &Value)| value.as_f64() != backbone[key].as_f64();
        if let Some(key) = mirror
            .as_object()
            .into_iter()
            .flatten()
            .find(|entry| differs(*entry))
        {
            return Err(format!(
                "the `{}` of its backbone is {}, and PEFT's mirror of this model has {}",
                key.0, backbone[key.0], key.1
            ));
        }
        let empty = ["exclude_modules", "layers_pattern", "layers_to_transform"];
        keys.extend(empty.map(|key| (key.to_owned(), Value::Null)));
        keys.insert("modules_to_save".to_owned(), modules);
        let mut pairs = pairs(config, &sites, &attachment.name);
        let none = Tensors::new();
        pairs.extend(extras.pairs(&attachment.params, shapes, &[], &none));
        Ok((keys, pairs))
    }
}
