//! P_TUNING: tokens that an encoder computes; files hold what it computed.

use engraft_core::{Attachment, ModelShapes, SiteKind, SiteShape};

use super::{
    FINISHED, common_keys, encoder_key, has_encoder, modules, pair, prompt_site, trained_modules,
    value, virtual_tokens,
};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::Layout;
use crate::pair::Pair;
use crate::types::{Table, Tensors, table};
use crate::whole::{Whole, WholeType};

/// [f(P); E].
pub(crate) struct PTuning;

/// What the tensors of an encoder are decided by.
struct Encoder {
    kind: String,
    tokens: usize,
    hidden: usize,
    layers: usize,
}

/// A weight, transposed, or an offset of a linear layer.
fn dense(
    keys: [String; 2],
    site: &SiteShape,
    name: &str,
    field: &str,
    [out, d_in]: [usize; 2],
) -> [Pair; 2] {
    let [weight, bias] = keys;
    let turned = pair(weight, site, name, &format!("{field}.weight"), &[out, d_in]);
    let turned = Pair {
        layout: Layout::Transposed,
        ..turned
    };
    [
        turned,
        pair(bias, site, name, &format!("{field}.bias"), &[out]),
    ]
}

impl Encoder {
    /// All parameters, under the names that PEFT's modules have for them.
    fn pairs(&self, site: &SiteShape, name: &str, found: &Tensors) -> Vec<Pair> {
        let (d, h) = (site.width, self.hidden);
        let key = |field: &str| encoder_key(field, found);
        let mut pairs = vec![pair(
            key("embedding.weight"),
            site,
            name,
            "tokens",
            &[self.tokens, d],
        )];
        let lstm = self.kind == "lstm";
        if lstm {
            for layer in 0..self.layers {
                let d_in = if layer == 0 { d } else { 2 * h };
                for (own, suffix) in [("forward", ""), ("backward", "_reverse")] {
                    for (part, short, d_in) in [("input", "ih", d_in), ("state", "hh", h)] {
                        let keys = ["weight", "bias"]
                            .map(|kind| key(&format!("lstm_head.{kind}_{short}_l{layer}{suffix}")));
                        let field = format!("lstm.{own}.{layer}.{part}");
                        pairs.extend(dense(keys, site, name, &field, [4 * h, d_in]));
                    }
                }
            }
        }
        let widths = match lstm {
            true => vec![2 * h, 2 * h, d],
            false => vec![d, h, h, d],
        };
        for (layer, width) in widths.windows(2).enumerate() {
            let keys =
                ["weight", "bias"].map(|kind| key(&format!("mlp_head.{}.{kind}", 2 * layer)));
            let field = format!("mlp.layers.{layer}");
            pairs.extend(dense(keys, site, name, &field, [width[1], width[0]]));
        }
        pairs
    }
}

impl WholeType for PTuning {
    fn name(&self) -> &'static str {
        "P_TUNING"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["p-tuning"]
    }

    fn read(
        &self,
        config: &mut Reader,
        shapes: &ModelShapes,
        tensors: &mut Tensors,
        name: &str,
    ) -> Result<Whole> {
        let tokens = virtual_tokens(config)?;
        let site = prompt_site(shapes)?;
        let kind: String = config.get("encoder_reparameterization_type", "MLP".to_owned())?;
        let hidden = config.get("encoder_hidden_size", site.width)?;
        let layers = config.get("encoder_num_layers", 2)?;
        let dropout: f64 = config.get("encoder_dropout", 0.0)?;
        let (injection, mut pairs) = modules(config, shapes, tensors)?;
        let trained = has_encoder(tensors);
        let kind = match (trained, kind.as_str()) {
            (false, _) => "none",
            (true, "MLP") => "mlp",
            (true, "LSTM") => "lstm",
            (true, other) => {
                let expected = format!("found `{other}`, expected MLP or LSTM");
                return Err(Error::config("encoder_reparameterization_type", expected));
            }
        };
        if trained {
            tensors.remove(FINISHED);
            let encoder = Encoder {
                kind: kind.to_owned(),
                tokens,
                hidden,
                layers,
            };
            pairs.extend(encoder.pairs(site, name, tensors));
        } else {
            pairs.push(pair(FINISHED, site, name, "tokens", &[tokens, site.width]));
        }
        let own = table([
            ("virtual-tokens", tokens.into()),
            ("encoder", kind.into()),
            ("hidden", hidden.into()),
            ("layers", layers.into()),
            ("dropout", dropout.into()),
        ]);
        Ok(Whole {
            method: "p-tuning",
            config: own,
            injection,
            pairs,
            derived: &[],
        })
    }

    fn write(
        &self,
        attachment: &Attachment,
        shapes: &ModelShapes,
    ) -> Result<(Table, Vec<Pair>), String> {
        let site = prompt_site(shapes).map_err(|error| error.to_string())?;
        let hidden: Option<usize> = value(attachment, "hidden")?;
        let encoder = Encoder {
            kind: value(attachment, "encoder")?,
            tokens: value(attachment, "virtual-tokens")?,
            hidden: hidden.unwrap_or(site.width),
            layers: value(attachment, "layers")?,
        };
        let kind = match encoder.kind.as_str() {
            "lstm" => "LSTM",
            _ => "MLP",
        };
        let mut keys = common_keys(encoder.tokens, attachment, shapes)?;
        keys.extend(table([
            ("encoder_reparameterization_type", kind.into()),
            ("encoder_hidden_size", encoder.hidden.into()),
            ("encoder_num_layers", encoder.layers.into()),
            (
                "encoder_dropout",
                value::<f64>(attachment, "dropout")?.into(),
            ),
        ]));
        let mut pairs = trained_modules(attachment, shapes)?;
        let name = &attachment.name;
        match encoder.kind.as_str() {
            "none" => pairs.push(pair(
                FINISHED,
                site,
                name,
                "tokens",
                &[encoder.tokens, site.width],
            )),
            _ => pairs.extend(encoder.pairs(site, name, &Tensors::new())),
        }
        Ok((keys, pairs))
    }

    fn computed(&self, attachment: &Attachment) -> Option<SiteKind> {
        let encoder: String = value(attachment, "encoder").unwrap_or_default();
        (encoder != "none").then_some(SiteKind::Prompt)
    }
}
