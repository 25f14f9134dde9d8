//! What the types of trained tokens, keys and values have in common.
//!
//! Their files hold `prompt_embeddings`: the finished table, whatever it was computed from. The
//! parameters themselves are in no file; under the names that PEFT's modules have for them,
//! `prompt_encoder.default.*`, they are read all the same and, as state that is not saved, exported.

mod adaption_prompt;
mod cartridge;
mod cpt;
mod multitask;
mod p_tuning;
mod prefix_tuning;
mod prompt_tuning;

use burn::tensor::{DType, Tensor, TensorData};
use engraft_core::{
    Adaptable, Adapted, Attachment, Composition, Injection, Mode, ModelShapes, Site, SiteKind,
    SiteShape, Slot,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(super) use adaption_prompt::AdaptionPrompt;
pub(super) use cartridge::Cartridge;
pub(super) use cpt::Cpt;
pub(super) use multitask::MultitaskPromptTuning;
pub(super) use p_tuning::PTuning;
pub(super) use prefix_tuning::PrefixTuning;
pub(super) use prompt_tuning::PromptTuning;

use crate::config::Reader;
use crate::error::{Error, Result};
use crate::extras::{Biases, Extras};
use crate::field::{Layout, MODEL, SHARED};
use crate::pair::Pair;
use crate::pieces::joined;
use crate::types::{Table, Tensors, table};

/// The finished table.
pub(crate) const FINISHED: &str = "prompt_embeddings";
/// Prefix of the parameters that it was computed from.
pub(crate) const ENCODER: &str = "prompt_encoder.";

/// Reads the keys that all these types have, and returns the number of virtual tokens.
fn virtual_tokens(config: &mut Reader) -> Result<usize> {
    config.skip(&["token_dim", "num_layers", "num_attention_heads"]);
    let parts: usize = config.get("num_transformer_submodules", 1)?;
    if parts != 1 {
        return Err(Error::Unsupported(format!(
            "`num_transformer_submodules` = {parts}: models of an encoder and a decoder are not supported"
        )));
    }
    let tokens = config.find("num_virtual_tokens")?;
    tokens.ok_or_else(|| Error::config("num_virtual_tokens", "found nothing, expected a number"))
}

/// The keys that [`virtual_tokens`] reads. PEFT takes what is null from the model's configuration.
fn common_keys(
    tokens: usize,
    attachment: &Attachment,
    shapes: &ModelShapes,
) -> Result<Table, String> {
    let extras = Extras::of(&attachment.params, shapes, &[], false)?;
    if extras.biases != Biases::None {
        return Err("it trains biases of the model, and PEFT trains whole modules".to_owned());
    }
    let modules = match extras.modules.is_empty() {
        true => Value::Null,
        false => extras.modules.into(),
    };
    Ok(table([
        ("num_virtual_tokens", tokens.into()),
        ("num_transformer_submodules", 1.into()),
        ("token_dim", Value::Null),
        ("num_layers", Value::Null),
        ("num_attention_heads", Value::Null),
        ("modules_to_save", modules),
    ]))
}

/// The modules of the model that are trained along: their parameters and tensors.
fn modules(
    config: &mut Reader,
    shapes: &ModelShapes,
    found: &Tensors,
) -> Result<(Injection, Vec<Pair>)> {
    let extras = Extras {
        biases: Biases::None,
        modules: config.get("modules_to_save", Vec::new())?,
        fan_in_fan_out: false,
        tokens: None,
    };
    // PEFT names the classifier of every model; one without it has nothing to save.
    let params = match extras.params(shapes, &[]) {
        Err(_) if !found.keys().any(|key| key.starts_with(SHARED)) => Vec::new(),
        params => params?,
    };
    let pairs = module_pairs(&extras, &params, shapes, found);
    Ok((Injection::default().with_params(params), pairs))
}

/// The tensors of modules that an attachment trains along.
fn trained_modules(attachment: &Attachment, shapes: &ModelShapes) -> Result<Vec<Pair>, String> {
    let extras = Extras::of(&attachment.params, shapes, &[], false)?;
    Ok(module_pairs(
        &extras,
        &attachment.params,
        shapes,
        &Tensors::new(),
    ))
}

/// PEFT has no wrapper around the model here, so that its paths begin one name earlier.
fn module_pairs(
    extras: &Extras,
    params: &[String],
    shapes: &ModelShapes,
    found: &Tensors,
) -> Vec<Pair> {
    let renamed = |key: &str, from: &str, to: &str| match key.strip_prefix(from) {
        Some(rest) => format!("{to}{rest}"),
        None => key.to_owned(),
    };
    let wrapped = found.iter().filter(|(key, _)| !key.starts_with(ENCODER));
    let wrapped: Tensors = wrapped
        .map(|(key, data)| (renamed(key, SHARED, MODEL), data.clone()))
        .collect();
    let pairs = extras.pairs(params, shapes, &[], &wrapped).into_iter();
    pairs
        .map(|pair| Pair {
            peft: renamed(&pair.peft, MODEL, SHARED),
            ..pair
        })
        .collect()
}

/// The sites of a kind, at least one.
fn sites(shapes: &ModelShapes, kind: SiteKind) -> Result<Vec<&SiteShape>> {
    let of_kind: Vec<_> = shapes
        .sites
        .iter()
        .filter(|site| site.kind == kind)
        .collect();
    match of_kind.is_empty() {
        true => Err(Error::Unsupported(format!(
            "the model has no site of kind {kind:?}"
        ))),
        false => Ok(of_kind),
    }
}

/// The place of embedded tokens.
fn prompt_site(shapes: &ModelShapes) -> Result<&SiteShape> {
    Ok(sites(shapes, SiteKind::Prompt)?[0])
}

/// The sites of keys and values that an attachment has, in order.
fn attached<'a>(
    attachment: &Attachment,
    shapes: &'a ModelShapes,
    kind: SiteKind,
) -> Vec<&'a SiteShape> {
    let own = |site: &&SiteShape| site.kind == kind && attachment.sites.contains(&site.path);
    shapes.sites.iter().filter(own).collect()
}

/// Refuses an attachment that PEFT's table of all layers cannot hold.
fn all_layers<'a>(
    attachment: &Attachment,
    shapes: &'a ModelShapes,
) -> Result<Vec<&'a SiteShape>, String> {
    let own = attached(attachment, shapes, SiteKind::KeyValue);
    let all = sites(shapes, SiteKind::KeyValue).map_err(|error| error.to_string())?;
    match own == all {
        true => Ok(own),
        false => Err("it acts on some attention layers, and PEFT on all".to_owned()),
    }
}

/// A tensor of a site adapter.
fn pair(
    peft: impl Into<String>,
    site: &SiteShape,
    name: &str,
    field: &str,
    shape: &[usize],
) -> Pair {
    Pair {
        peft: peft.into(),
        own: format!("model.{}.adapters.{name}.{field}", site.path),
        shape: shape.to_vec(),
        layout: Layout::Same,
    }
}

/// The name that PEFT's modules have for a parameter: with that of the adapter or without.
fn encoder_key(field: &str, found: &Tensors) -> String {
    let (with, without) = (
        format!("{ENCODER}default.{field}"),
        format!("{ENCODER}{field}"),
    );
    match field.contains('.') && !found.contains_key(&without) || found.contains_key(&with) {
        true => with,
        false => without,
    }
}

/// Whether the parameters are at hand, not only the finished table.
fn has_encoder(found: &Tensors) -> bool {
    found.keys().any(|key| key.starts_with(ENCODER))
}

/// The key of a table that is its own parameter: the finished one, or the parameter where it is there.
fn table_key(found: &mut Tensors) -> String {
    let key = encoder_key("embedding.weight", found);
    match found.contains_key(&key) {
        true => {
            found.remove(FINISHED);
            key
        }
        false => FINISHED.to_owned(),
    }
}

/// A value of an attachment's configuration.
fn value<T: DeserializeOwned>(attachment: &Attachment, key: &str) -> Result<T, String> {
    let value = attachment.config.get(key).cloned().unwrap_or_default();
    serde_json::from_value(value).map_err(|error| format!("`{key}`: {error}"))
}

/// The table that an adapter puts in front of the tokens, or of the keys and values of all layers, at
/// work: [virtual tokens, width], or the columns of all layers behind one another.
pub(crate) fn finished<M: Adaptable>(
    adapted: &Adapted<M>,
    attachment: &Attachment,
    kind: SiteKind,
) -> Result<TensorData> {
    let name = &attachment.name;
    let mut alone = adapted.clone();
    alone.disable(false);
    alone.unmerge();
    alone.activate(&[name.as_str()], Composition::Sum)?;
    let shapes = alone.model.shapes();
    let places = attached(attachment, &shapes, kind);
    let mut own: Vec<(Site, usize)> = Vec::new();
    alone.each_slot(|path, slot| {
        if let (Slot::Site(site), Some(place)) =
            (slot, places.iter().find(|site| site.path == path))
        {
            own.push((site.clone(), place.width));
        }
    });
    let tensors = adapted.adapter_tensors(name)?;
    let dtype = tensors
        .values()
        .map(TensorData::dtype)
        .find(DType::is_float);
    let (dtype, device) = (
        dtype.unwrap_or(DType::F32),
        adapted.model.devices().remove(0),
    );
    let ctx = alone.ctx(Mode::Eval);
    let table = |(site, width): &(Site, usize)| -> TensorData {
        let one = || Tensor::<3>::zeros([1, 1, *width], &device).cast(dtype);
        let rows = |x: Tensor<3>| -> Tensor<2> {
            let count = x.dims()[1] - 1;
            x.narrow(1, 0, count).squeeze_dim(0)
        };
        if kind == SiteKind::Prompt {
            return rows(site.sequence(one(), &ctx)).into_data();
        }
        let head = || one().unsqueeze_dim::<4>(1);
        let (keys, values) = site.key_value(head(), head(), &ctx);
        let of = |x: Tensor<4>| rows(x.squeeze_dim(1));
        Tensor::cat(vec![of(keys), of(values)], 1).into_data()
    };
    Ok(joined(&own.iter().map(table).collect::<Vec<_>>(), 1))
}
