//! ADAMSS: AdaMSS. Which output belongs to which cluster is not in the file.

use engraft_core::LayerShape;
use serde_json::{Value, json};

use super::{Configured, PeftType, Settings, Tensors, Written, common, table};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::{Layout, MODEL};
use crate::pair::Pair;

/// y = x W + b + scatter_i([x, 1] V A_i B_i).
pub(super) struct Adamss;

/// The output of each column, as PEFT's module calls it; it is not saved.
const ROWS: &str = "scatter_index";

/// Options of the pruning of subspaces, with PEFT's defaults.
const PRUNING: [(&str, f64); 7] = [
    ("asa_importance_beta", 0.85),
    ("asa_schedule_exponent", 3.0),
    ("asa_target_subspaces", 50.0),
    ("asa_uncertainty_beta", 0.85),
    ("final_warmup", 1000.0),
    ("init_warmup", 50.0),
    ("mask_interval", 100.0),
];

impl PeftType for Adamss {
    fn name(&self) -> &'static str {
        "ADAMSS"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["adamss"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["bias", "exclude_modules", "fan_in_fan_out"]
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        let rank: usize = config.get("r", 100)?;
        config.training_only("use_asa")?;
        config.skip(&PRUNING.map(|(key, _)| key));
        // How clusters and ranks were chosen; they are read off the tensors.
        config.skip(&[
            "init_weights",
            "num_subspaces",
            "random_seed",
            "subspace_rank",
            "svd_threshold",
            "use_dynamic_rank",
        ]);
        Ok(Settings {
            method: "adamss",
            config: table([("rank", rank.into())]),
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let (mut count, mut rank) = (1, 1);
        for layer in layers {
            let (sizes, ranks) = given(layer).map_err(|error| error.to_string())?;
            count = count.max(sizes.len());
            rank = rank.max(ranks.into_iter().max().unwrap_or(1));
        }
        let mut keys = table([
            ("r", common::<usize>(layers, "rank")?.into()),
            ("num_subspaces", count.into()),
            ("subspace_rank", rank.into()),
            ("init_weights", "orthogonal".into()),
            ("random_seed", 0.into()),
            ("svd_threshold", 0.1.into()),
            ("use_dynamic_rank", false.into()),
            ("use_asa", false.into()),
        ]);
        keys.extend(PRUNING.map(|(key, value)| (key.to_owned(), crate::config::number(value))));
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn pairs(&self, layers: &[Configured], name: &str) -> Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        for configured in layers {
            let layer = &configured.layer;
            let inputs = layer.d_in + usize::from(layer.bias);
            let rank = configured
                .get::<usize>("rank")?
                .min(inputs)
                .min(layer.d_out);
            let mut push = |peft: &str, own: &str, shape: &[usize], layout| {
                pairs.push(Pair::on_layer(layer, name, [peft, own], shape, layout));
            };
            push("adamss_newB", "v", &[rank, inputs], Layout::Transposed);
            push(ROWS, "rows", &[layer.d_out], Layout::Same);
            let (sizes, ranks) = given(configured)?;
            for (cluster, (size, own)) in sizes.into_iter().zip(ranks).enumerate() {
                let (a, b) = (format!("adamss_A.{cluster}"), format!("adamss_B.{cluster}"));
                push(
                    &a,
                    &format!("a.{cluster}"),
                    &[own, rank],
                    Layout::Transposed,
                );
                push(
                    &b,
                    &format!("b.{cluster}"),
                    &[size, own],
                    Layout::Transposed,
                );
            }
        }
        Ok(pairs)
    }

    fn why_unsaved(&self) -> &'static str {
        "AdaMSS' clusters of outputs are not in PEFT's file: it finds them again by scikit-learn's \
         k-means on a randomised SVD of the base"
    }

    fn unpack(
        &self,
        layers: &[LayerShape],
        settings: &mut Settings,
        tensors: &mut Tensors,
        frozen: &Tensors,
    ) -> Result<()> {
        for layer in layers {
            let key = |name: &str| format!("{MODEL}{}.{name}", layer.path);
            let rows = frozen.get(&key(ROWS)).cloned().ok_or_else(|| {
                Error::Unsupported(format!(
                    "the file does not say which outputs of {} belong to which cluster: PEFT finds them again by scikit-learn's k-means on a randomised SVD of the base; give them as `{}`",
                    layer.path,
                    key(ROWS)
                ))
            })?;
            tensors.insert(key(ROWS), rows);
            let (mut sizes, mut ranks) = (Vec::new(), Vec::new());
            while let Some(b) = tensors.get(&key(&format!("adamss_B.{}", sizes.len()))) {
                let [size, rank] = b.shape().to_vec()[..] else {
                    return Err(Error::Tensors(format!(
                        "{} is no matrix",
                        key(&format!("adamss_B.{}", sizes.len()))
                    )));
                };
                sizes.push(size);
                ranks.push(rank);
            }
            let subspaces = json!({ "given": { "sizes": sizes, "ranks": ranks } });
            settings
                .overrides
                .insert(layer.path.clone(), table([("subspaces", subspaces)]));
        }
        Ok(())
    }

    fn pack(&self, layers: &[Configured], tensors: &mut Tensors) -> Result<(), String> {
        for layer in layers {
            tensors.remove(&format!("{MODEL}{}.{ROWS}", layer.layer.path));
        }
        Ok(())
    }
}

/// Sizes and ranks of a layer's clusters, where they are known.
fn given(layer: &Configured) -> Result<(Vec<usize>, Vec<usize>)> {
    let subspaces: Value = layer.get("subspaces")?;
    let list = |name: &str| {
        let list = subspaces.get("given")?.get(name)?.clone();
        serde_json::from_value::<Vec<usize>>(list).ok()
    };
    list("sizes").zip(list("ranks")).ok_or_else(|| {
        Error::Unsupported(format!(
            "{}: the clusters of outputs are its own; PEFT has no place for them in its file and would find others",
            layer.layer.path
        ))
    })
}
