//! CARTRIDGE: a trained cache in front of the keys and values of all layers.

use engraft_core::{Attachment, ModelShapes, SiteKind, SiteShape};

use super::{
    FINISHED, all_layers, common_keys, encoder_key, modules, pair, sites, trained_modules, value,
    virtual_tokens,
};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::pair::Pair;
use crate::pieces::{cut, join, piece, split};
use crate::types::{Table, Tensors, table};
use crate::whole::{Whole, WholeType};

/// ([C_K; K], [C_V; V]), the first rows of C frozen.
pub(crate) struct Cartridge;

/// The frozen and the trained rows of each layer, under these keys of a layer.
fn pairs(
    layers: &[&SiteShape],
    name: &str,
    [tokens, frozen]: [usize; 2],
    key: impl Fn(usize) -> [String; 2],
) -> Vec<Pair> {
    let of_layer = |(index, site): (usize, &&SiteShape)| {
        let rows = [("frozen", frozen), ("trained", tokens - frozen)];
        let pairs = key(index).into_iter().zip(rows);
        let pairs = pairs.filter(|(_, (_, rows))| *rows > 0);
        let make = |(key, (field, rows))| pair(key, site, name, field, &[rows, 2 * site.width]);
        pairs.map(make).collect::<Vec<_>>()
    };
    layers.iter().enumerate().flat_map(of_layer).collect()
}

/// The two pieces of a layer's columns in the finished table.
fn finished(layer: usize) -> [String; 2] {
    let columns = piece(FINISHED, 1, layer);
    [piece(&columns, 0, 0), piece(&columns, 0, 1)]
}

impl WholeType for Cartridge {
    fn name(&self) -> &'static str {
        "CARTRIDGE"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["cartridge"]
    }

    fn read(
        &self,
        config: &mut Reader,
        shapes: &ModelShapes,
        tensors: &mut Tensors,
        name: &str,
    ) -> Result<Whole> {
        let tokens = virtual_tokens(config)?;
        let frozen: usize = config.get("num_frozen_tokens", 1)?;
        if frozen > tokens {
            let expected = format!("found {frozen}, expected at most {tokens}");
            return Err(Error::config("num_frozen_tokens", expected));
        }
        let layers = sites(shapes, SiteKind::KeyValue)?;
        let (injection, mut own) = modules(config, shapes, tensors)?;
        let keys =
            ["frozen_embedding", "trainable_embedding"].map(|field| encoder_key(field, tensors));
        let rows = tensors.get(FINISHED).map(|data| data.shape().to_vec()[0]);
        if rows == Some(tokens) {
            split(tensors, FINISHED, 1, layers.len())?;
            for layer in 0..layers.len() {
                cut(
                    tensors,
                    &piece(FINISHED, 1, layer),
                    0,
                    &[frozen, tokens - frozen],
                );
            }
        }
        for key in &keys {
            split(tensors, key, 1, layers.len())?;
        }
        // A parameter that is at hand, else the file's rows.
        let chosen = |layer: usize, tensors: &Tensors| {
            let [of_frozen, of_trained] = finished(layer);
            let [frozen, trained] = [0, 1].map(|part| piece(&keys[part], 1, layer));
            [(frozen, of_frozen), (trained, of_trained)].map(|(own, file)| {
                match tensors.contains_key(&own) {
                    true => own,
                    false => file,
                }
            })
        };
        own.extend(pairs(&layers, name, [tokens, frozen], |layer| {
            chosen(layer, tensors)
        }));
        if tensors.contains_key(&piece(&keys[1], 1, 0)) {
            let used: Vec<String> = own.iter().map(|pair| pair.peft.clone()).collect();
            tensors.retain(|key, _| !key.starts_with(FINISHED) || used.contains(key));
        }
        Ok(Whole {
            method: "cartridge",
            config: table([
                ("virtual-tokens", tokens.into()),
                ("frozen-tokens", frozen.into()),
            ]),
            injection,
            pairs: own,
            derived: &[],
        })
    }

    fn write(
        &self,
        attachment: &Attachment,
        shapes: &ModelShapes,
    ) -> Result<(Table, Vec<Pair>), String> {
        let tokens = value(attachment, "virtual-tokens")?;
        let frozen: usize = value(attachment, "frozen-tokens")?;
        let layers = all_layers(attachment, shapes)?;
        let mut keys = common_keys(tokens, attachment, shapes)?;
        keys.insert("num_frozen_tokens".to_owned(), frozen.into());
        let mut own = trained_modules(attachment, shapes)?;
        own.extend(pairs(&layers, &attachment.name, [tokens, frozen], finished));
        Ok((keys, own))
    }

    fn pack(&self, tensors: &mut Tensors) -> Result<(), String> {
        join(tensors);
        Ok(())
    }
}
