//! ADAPTION_PROMPT: trained tokens that the last attention layers attend to beside their own.

use engraft_core::{Attachment, Injection, ModelShapes, SiteKind, SiteShape, Targets};

use super::{attached, pair, sites, value};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::{Layout, MODEL};
use crate::pair::Pair;
use crate::targets;
use crate::types::{Table, Tensors, table};
use crate::whole::{Whole, WholeType};

/// y + g softmax(Q K(P)^T / sqrt(h)) V(P) O.
pub(crate) struct AdaptionPrompt;

/// The attention module that a site belongs to.
fn module(site: &SiteShape) -> &str {
    site.path.rsplit_once('.').map_or("", |(module, _)| module)
}

/// Whether the module is GPT-2's, where PEFT leaves the output projection out.
fn is_gpt2(module: &str, shapes: &ModelShapes) -> bool {
    let joint = format!("{module}.c_attn");
    shapes.layers.iter().any(|layer| layer.path == joint)
}

fn pairs(sites: &[&SiteShape], name: &str, tokens: usize) -> Vec<Pair> {
    let of_layer = |site: &&SiteShape| {
        let key = |field: &str| format!("{MODEL}{}.{field}", module(site));
        let shape = [1, tokens, site.width];
        let prompt = pair(key("adaption_prompt"), site, name, "prompt", &shape);
        let prompt = Pair {
            layout: Layout::Reshaped(vec![tokens, site.width]),
            ..prompt
        };
        [prompt, pair(key("adaption_gate"), site, name, "gate", &[1])]
    };
    sites.iter().flat_map(of_layer).collect()
}

impl WholeType for AdaptionPrompt {
    fn name(&self) -> &'static str {
        "ADAPTION_PROMPT"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["adaption-prompt"]
    }

    fn read(
        &self,
        config: &mut Reader,
        shapes: &ModelShapes,
        _: &mut Tensors,
        name: &str,
    ) -> Result<Whole> {
        let missing = |key| Error::config(key, "found nothing, expected a number");
        let tokens = config.find("adapter_len")?;
        let tokens: usize = tokens.ok_or_else(|| missing("adapter_len"))?;
        let layers = config.find("adapter_layers")?;
        let layers: usize = layers.ok_or_else(|| missing("adapter_layers"))?;
        let target: Option<String> = config.find("target_modules")?;
        let suffix = target.map(|target| format!(".{target}"));
        let mut chosen = sites(shapes, SiteKind::Attention)?;
        chosen.retain(|site| {
            suffix
                .as_ref()
                .is_none_or(|suffix| module(site).ends_with(suffix.as_str()))
        });
        if chosen.len() < layers || layers == 0 {
            return Err(Error::config(
                "adapter_layers",
                format!(
                    "found {layers}, expected 1 to {}, the attention layers that match",
                    chosen.len()
                ),
            ));
        }
        let chosen = chosen.split_off(chosen.len() - layers);
        let paths: Vec<&str> = chosen.iter().map(|site| site.path.as_str()).collect();
        let all: Vec<&str> = shapes.sites.iter().map(|site| site.path.as_str()).collect();
        let targets = Targets {
            include: targets::exactly(&paths, &all),
            ..Targets::default()
        };
        let own = table([
            ("virtual-tokens", tokens.into()),
            ("layers", layers.into()),
            (
                "through-output",
                (!is_gpt2(module(chosen[0]), shapes)).into(),
            ),
        ]);
        Ok(Whole {
            method: "adaption-prompt",
            config: own,
            injection: Injection::default().targets(targets),
            pairs: pairs(&chosen, name, tokens),
            derived: &[],
        })
    }

    fn write(
        &self,
        attachment: &Attachment,
        shapes: &ModelShapes,
    ) -> Result<(Table, Vec<Pair>), String> {
        if !attachment.params.is_empty() {
            return Err("it trains parameters of the model, which this type cannot".to_owned());
        }
        let tokens: usize = value(attachment, "virtual-tokens")?;
        let own = attached(attachment, shapes, SiteKind::Attention);
        let all = sites(shapes, SiteKind::Attention).map_err(|error| error.to_string())?;
        if own.is_empty() || !all.ends_with(&own) {
            return Err("it acts on other attention layers than the last ones".to_owned());
        }
        let attention = module(own[0]);
        let through: bool = value(attachment, "through-output")?;
        if through == is_gpt2(attention, shapes) {
            return Err(format!(
                "through-output is {through}, and PEFT decides otherwise for this model"
            ));
        }
        let last = attention.rsplit('.').next().unwrap_or(attention);
        let keys = table([
            ("adapter_len", tokens.into()),
            ("adapter_layers", own.len().into()),
            ("target_modules", last.into()),
        ]);
        Ok((keys, pairs(&own, &attachment.name, tokens)))
    }
}
