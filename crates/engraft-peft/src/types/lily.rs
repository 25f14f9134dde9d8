//! LILY: Lily, whose files repeat what layers share on each of them.

use engraft_core::{Grouping, LayerShape, grouping::members};
use serde_json::{Value, json};

use super::{Configured, PeftType, Settings, Tensors, Written, common, table};
use crate::config::{Reader, number};
use crate::error::{Error, Result};
use crate::field::{Layout, MODEL};
use crate::pair::Pair;

/// y = x W + b + s h sum_e p_e B_e, h = x A, with A and B shared by groups of layers.
pub(super) struct Lily;

impl PeftType for Lily {
    fn name(&self) -> &'static str {
        "LILY"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["lily"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["bias", "fan_in_fan_out"]
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        // Layers are grouped by the name in the list that they match, or all by their shapes.
        let grouping = match config.targets() {
            Value::Array(names) => json!({ "suffixes": names }),
            _ => "shape".into(),
        };
        config.skip(&["init_weights"]);
        let own = table([
            ("rank", config.get("r", 32usize)?.into()),
            ("stride", config.get("stride_A", 1usize)?.into()),
            ("experts", config.get("num_B", 2usize)?.into()),
            ("scaling", config.get("scaling", 1.0)?.into()),
            ("grouping", grouping),
        ]);
        Ok(Settings {
            method: "lily",
            config: own,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let mut keys = table([
            ("r", common::<usize>(layers, "rank")?.into()),
            ("stride_A", common::<usize>(layers, "stride")?.into()),
            ("num_B", common::<usize>(layers, "experts")?.into()),
            ("scaling", number(common::<f64>(layers, "scaling")?)),
            ("init_weights", true.into()),
        ]);
        let path = |layer: &Configured| layer.layer.path.clone();
        let targets: Value = match common::<Grouping>(layers, "grouping")? {
            Grouping::Suffixes(names) => names.into(),
            Grouping::Name => {
                let mut names: Vec<String> = Vec::new();
                for path in layers.iter().map(path) {
                    let name = path.rsplit('.').next().unwrap_or(&path).to_owned();
                    if !names.contains(&name) {
                        names.push(name);
                    }
                }
                names.into()
            }
            // A single expression makes a group of all layers of one shape.
            Grouping::Shape => layers
                .iter()
                .map(|layer| fancy_regex::escape(&layer.layer.path).into_owned())
                .collect::<Vec<_>>()
                .join("|")
                .into(),
        };
        keys.insert("target_modules".to_owned(), targets);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn pairs(&self, layers: &[Configured], name: &str) -> Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        for (configured, share) in layers.iter().zip(shares(layers)?) {
            let layer = &configured.layer;
            let (rank, experts): (usize, usize) =
                (configured.get("rank")?, configured.get("experts")?);
            let keys = ["lily_router.weight", "router"];
            let shape = [experts, rank];
            pairs.push(Pair::on_layer(
                layer,
                name,
                keys,
                &shape,
                Layout::Transposed,
            ));
            let key = |name| key(layer, name);
            if share.first[0] {
                let shape = [rank, layer.d_in];
                pairs.push(Pair::trained(
                    key(A),
                    name,
                    &share.own[0],
                    &shape,
                    Layout::Transposed,
                ));
            }
            if share.first[1] {
                let shape = [experts * rank, layer.d_out];
                pairs.push(Pair::trained(
                    key(B),
                    name,
                    &share.own[1],
                    &shape,
                    Layout::Same,
                ));
            }
        }
        Ok(pairs)
    }

    fn unpack(
        &self,
        layers: &[LayerShape],
        settings: &mut Settings,
        tensors: &mut Tensors,
        _: &Tensors,
    ) -> Result<()> {
        for (layer, leaders) in layers.iter().zip(leaders(&configured(layers, settings))?) {
            for (name, leader) in [A, B].into_iter().zip(leaders) {
                let (own, shared) = (key(layer, name), key(&layers[leader], name));
                if own == shared {
                    continue;
                }
                match (tensors.remove(&own), tensors.get(&shared)) {
                    (None, _) => return Err(Error::Tensors(format!("{own} is missing"))),
                    (Some(found), Some(shared_data)) if found != *shared_data => {
                        return Err(Error::Tensors(format!(
                            "{own} differs from {shared}, with which it is shared"
                        )));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn pack(&self, layers: &[Configured], tensors: &mut Tensors) -> Result<(), String> {
        let leaders = leaders(layers).map_err(|error| error.to_string())?;
        for (layer, leaders) in layers.iter().zip(leaders) {
            for (name, leader) in [A, B].into_iter().zip(leaders) {
                if let Some(data) = tensors.get(&key(&layers[leader].layer, name)).cloned() {
                    tensors.insert(key(&layer.layer, name), data);
                }
            }
        }
        Ok(())
    }
}

const A: &str = "lily_A.weight";
const B: &str = "lily_B.weight";

fn key(layer: &LayerShape, name: &str) -> String {
    format!("{MODEL}{}.{name}", layer.path)
}

fn configured(layers: &[LayerShape], settings: &Settings) -> Vec<Configured> {
    let configured = |layer: &LayerShape| Configured {
        layer: layer.clone(),
        method: settings.method.to_owned(),
        config: settings.config.clone(),
    };
    layers.iter().map(configured).collect()
}

/// The layers that hold each layer's A and B: the first of its run, and of its group.
fn leaders(layers: &[Configured]) -> Result<Vec<[usize; 2]>> {
    let shares = shares(layers)?;
    let first = |which: usize, name: &str| {
        shares
            .iter()
            .position(|share| share.own[which] == name)
            .unwrap_or(0)
    };
    Ok(shares
        .iter()
        .map(|share| [first(0, &share.own[0]), first(1, &share.own[1])])
        .collect())
}

/// Names of a layer's A and B in the bank, and whether it is the first layer with them.
struct Share {
    own: [String; 2],
    first: [bool; 2],
}

fn shares(layers: &[Configured]) -> Result<Vec<Share>> {
    let Some(first) = layers.first() else {
        return Ok(Vec::new());
    };
    let (grouping, stride): (Grouping, usize) = (first.get("grouping")?, first.get("stride")?);
    let stride = stride.max(1);
    let shapes: Vec<LayerShape> = layers.iter().map(|layer| layer.layer.clone()).collect();
    let groups = grouping.groups(&shapes);
    let members = members(&groups);
    Ok(groups
        .iter()
        .enumerate()
        .map(|(layer, group)| {
            let place = members[*group]
                .iter()
                .position(|member| *member == layer)
                .unwrap_or(0);
            Share {
                own: [
                    format!("a-{group}-{}", place / stride),
                    format!("b-{group}"),
                ],
                first: [place % stride == 0, place == 0],
            }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use burn::tensor::TensorData;

    use super::*;

    #[test]
    fn shared_tensors_are_read_once_and_written_for_every_layer() {
        let layers: Vec<LayerShape> = (0..3)
            .map(|block| LayerShape::linear(format!("layers.{block}.q"), 4, 4, false))
            .collect();
        let config = serde_json::json!({"r": 2, "stride_A": 2, "target_modules": ["q"]});
        let mut settings = Lily
            .read(&mut Reader::new(&config.try_into().unwrap()), &layers)
            .unwrap();
        let data = |value: f32| TensorData::full([2], value);
        let file: Tensors = layers
            .iter()
            .enumerate()
            .flat_map(|(block, layer)| {
                [
                    (key(layer, A), data((block / 2) as f32)),
                    (key(layer, B), data(7.0)),
                ]
            })
            .collect();
        let mut tensors = file.clone();
        Lily.unpack(&layers, &mut settings, &mut tensors, &Tensors::new())
            .unwrap();
        assert_eq!(tensors.len(), 3);
        Lily.pack(&configured(&layers, &settings), &mut tensors)
            .unwrap();
        assert_eq!(tensors, file);
        tensors.insert(key(&layers[1], A), data(9.0));
        let error = Lily
            .unpack(&layers, &mut settings, &mut tensors, &Tensors::new())
            .unwrap_err();
        assert!(
            error
                .to_string()
                .contains("layers.1.q.lily_A.weight differs")
        );
    }
}
