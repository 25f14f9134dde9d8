//! PREFIX_TUNING: trained keys and values in front of those of all layers.

use engraft_core::{Attachment, ModelShapes, SiteKind, SiteShape};
use serde_json::Value;

use super::{
    FINISHED, all_layers, common_keys, encoder_key, has_encoder, modules, pair, sites, table_key,
    trained_modules, value, virtual_tokens,
};
use crate::config::Reader;
use crate::error::Result;
use crate::field::Layout;
use crate::pair::Pair;
use crate::pieces::{join, piece, split};
use crate::types::{Table, Tensors, table};
use crate::whole::{Whole, WholeType};

/// ([P_K; K], [P_V; V]).
pub(crate) struct PrefixTuning;

/// A table [n, layers * 2 w]: the columns of each layer.
fn table_pairs(key: &str, layers: &[&SiteShape], name: &str, tokens: usize) -> Vec<Pair> {
    let of_layer = |(index, site): (usize, &&SiteShape)| {
        pair(
            piece(key, 1, index),
            site,
            name,
            "table",
            &[tokens, 2 * site.width],
        )
    };
    layers.iter().enumerate().map(of_layer).collect()
}

/// The names of the network's parameters: T, A, a, B and b.
fn network(found: &Tensors) -> [String; 5] {
    [
        "embedding.weight",
        "transform.0.weight",
        "transform.0.bias",
        "transform.2.weight",
        "transform.2.bias",
    ]
    .map(|field| encoder_key(field, found))
}

/// The parameters of the network: the first layer in the bank, of the second the rows of each layer.
fn network_pairs(
    found: &Tensors,
    layers: &[&SiteShape],
    name: &str,
    [tokens, hidden]: [usize; 2],
) -> Vec<Pair> {
    let width = layers[0].width;
    let shared = |peft: String, entry: &str, shape: &[usize], layout| Pair {
        peft,
        own: format!("bank.trained.{name}/{entry}"),
        shape: shape.to_vec(),
        layout,
    };
    let [embedding, inner, inner_bias, outer, outer_bias] = network(found);
    let mut pairs = vec![
        shared(embedding, "embedding", &[tokens, width], Layout::Same),
        shared(inner, "inner", &[hidden, width], Layout::Transposed),
        shared(
            inner_bias,
            "inner_bias",
            &[hidden],
            Layout::Reshaped(vec![1, hidden]),
        ),
    ];
    for (index, site) in layers.iter().enumerate() {
        let rows = 2 * site.width;
        let weight = pair(
            piece(&outer, 0, index),
            site,
            name,
            "outer.weight",
            &[rows, hidden],
        );
        pairs.push(Pair {
            layout: Layout::Transposed,
            ..weight
        });
        pairs.push(pair(
            piece(&outer_bias, 0, index),
            site,
            name,
            "outer.bias",
            &[rows],
        ));
    }
    pairs
}

impl WholeType for PrefixTuning {
    fn name(&self) -> &'static str {
        "PREFIX_TUNING"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["prefix-tuning"]
    }

    fn read(
        &self,
        config: &mut Reader,
        shapes: &ModelShapes,
        tensors: &mut Tensors,
        name: &str,
    ) -> Result<Whole> {
        let tokens = virtual_tokens(config)?;
        let layers = sites(shapes, SiteKind::KeyValue)?;
        config.skip(&["prefix_projection"]);
        let hidden = config.get("encoder_hidden_size", layers[0].width)?;
        let start: Option<String> = config.find("init_weights")?;
        let (injection, mut pairs) = modules(config, shapes, tensors)?;
        let [_, inner, _, outer, outer_bias] = network(tensors);
        let projection = has_encoder(tensors) && tensors.contains_key(&inner);
        if projection {
            tensors.remove(FINISHED);
            split(tensors, &outer, 0, layers.len())?;
            split(tensors, &outer_bias, 0, layers.len())?;
            pairs.extend(network_pairs(tensors, &layers, name, [tokens, hidden]));
        } else {
            let key = table_key(tensors);
            split(tensors, &key, 1, layers.len())?;
            pairs.extend(table_pairs(&key, &layers, name, tokens));
        }
        let own = table([
            ("virtual-tokens", tokens.into()),
            ("projection", projection.into()),
            ("hidden", hidden.into()),
            ("zero", (start.as_deref() == Some("zero")).into()),
        ]);
        Ok(Whole {
            method: "prefix-tuning",
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
        let tokens = value(attachment, "virtual-tokens")?;
        let layers = all_layers(attachment, shapes)?;
        let hidden: Option<usize> = value(attachment, "hidden")?;
        let hidden = hidden.unwrap_or(layers[0].width);
        let start = match value(attachment, "zero")? {
            true => "zero".into(),
            false => Value::Null,
        };
        let mut keys = common_keys(tokens, attachment, shapes)?;
        keys.extend(table([
            // The file holds the finished table, from which PEFT goes on without a network.
            ("prefix_projection", false.into()),
            ("encoder_hidden_size", hidden.into()),
            ("init_weights", start),
        ]));
        let mut pairs = trained_modules(attachment, shapes)?;
        let name = &attachment.name;
        pairs.extend(match value(attachment, "projection")? {
            true => network_pairs(&Tensors::new(), &layers, name, [tokens, hidden]),
            false => table_pairs(FINISHED, &layers, name, tokens),
        });
        Ok((keys, pairs))
    }

    fn computed(&self, attachment: &Attachment) -> Option<SiteKind> {
        let projection = value(attachment, "projection").unwrap_or(false);
        projection.then_some(SiteKind::KeyValue)
    }

    fn pack(&self, tensors: &mut Tensors) -> Result<(), String> {
        join(tensors);
        Ok(())
    }
}
