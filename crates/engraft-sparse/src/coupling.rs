//! Which layers choose their channels together.

use std::collections::BTreeMap;

use engraft_core::LayerShape;
use serde::{Deserialize, Serialize};

use crate::s2ft::S2ftConfig;

/// Layers whose channels are chosen together: the outputs of some are the inputs of others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Coupling {
    /// Last path components of the layers whose outputs are the channels.
    pub outputs: Vec<String>,
    /// Last path components of the layers whose inputs are the channels.
    pub inputs: Vec<String>,
    /// Channels that are chosen as one, in the narrowest of the layers: the width of a head.
    pub unit: usize,
    /// Share of the units that is trained.
    pub ratio: f64,
}

/// Which channels of a layer are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Inputs,
    Outputs,
}

/// One layer of a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    /// Position among the targeted layers.
    pub(crate) layer: usize,
    pub(crate) side: Side,
    /// Channels.
    pub(crate) width: usize,
    /// Values of one channel.
    pub(crate) other: usize,
}

/// Layers that share their channels.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) members: Vec<Member>,
    pub(crate) units: usize,
    pub(crate) ratio: f64,
}

impl S2ftConfig {
    /// The groups of these layers.
    pub(crate) fn groups(&self, layers: &[LayerShape]) -> Result<Vec<Group>, String> {
        let mut found: BTreeMap<(String, usize), Vec<Member>> = BTreeMap::new();
        let alone = self.couplings.len();
        for (layer, shape) in layers.iter().enumerate() {
            let (block, name) = shape.path.rsplit_once('.').unwrap_or(("", &shape.path));
            let coupled = self.couplings.iter().enumerate().find_map(|(k, coupling)| {
                let names = |list: &[String]| list.iter().any(|known| known == name);
                let side = if names(&coupling.outputs) {
                    Side::Outputs
                } else if names(&coupling.inputs) {
                    Side::Inputs
                } else {
                    return None;
                };
                Some(((block.to_owned(), k), side))
            });
            let (key, side) = coupled.unwrap_or(((shape.path.clone(), alone), Side::Inputs));
            let (width, other) = match side {
                Side::Inputs => (shape.d_in, shape.d_out),
                Side::Outputs => (shape.d_out, shape.d_in),
            };
            found.entry(key).or_default().push(Member {
                layer,
                side,
                width,
                other,
            });
        }
        let group = |((block, k), members): ((String, usize), Vec<Member>)| {
            let coupling = self.couplings.get(k);
            let unit = coupling.map_or(1, |coupling| coupling.unit);
            let narrowest = members.iter().map(|member| member.width).min().unwrap_or(0);
            let units = narrowest / unit;
            // Where keys and values are shared by several heads, a unit is that many heads wide.
            match members
                .iter()
                .find(|member| units == 0 || member.width % units != 0 || narrowest % unit != 0)
            {
                Some(member) => Err(format!(
                    "{} of {block} has {} channels: expected a multiple of {} units of {unit} channels",
                    layers[member.layer].path,
                    member.width,
                    units.max(1)
                )),
                None => Ok(Group {
                    members,
                    units,
                    ratio: coupling.map_or(self.ratio, |coupling| coupling.ratio),
                }),
            }
        };
        found.into_iter().map(group).collect()
    }

    /// Groups of the same coupling and shapes, which are drawn from together, with the number of
    /// units that are drawn.
    pub(crate) fn pools(&self, layers: &[LayerShape]) -> Result<Vec<(usize, Vec<Group>)>, String> {
        let mut pools: Vec<(Vec<usize>, Vec<Group>)> = Vec::new();
        for group in self.groups(layers)? {
            let mut shape = vec![group.units, (group.ratio * 1e9) as usize];
            for member in &group.members {
                shape.extend([member.side as usize, member.width, member.other]);
            }
            match pools.iter_mut().find(|(known, _)| *known == shape) {
                Some((_, groups)) => groups.push(group),
                None => pools.push((shape, vec![group])),
            }
        }
        let drawn = |groups: Vec<Group>| {
            let all = groups.len() * groups[0].units;
            let count = (groups[0].ratio * all as f64) as usize;
            (count.max(1), groups)
        };
        Ok(pools.into_iter().map(|(_, groups)| drawn(groups)).collect())
    }
}
