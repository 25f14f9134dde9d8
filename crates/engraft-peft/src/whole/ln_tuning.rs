//! LN_TUNING: the norms of the model are trained.

use std::collections::BTreeSet;

use engraft_core::{Attachment, Injection, ModelShapes, Part};
use serde_json::Value;

use super::{Whole, WholeType};
use crate::config::Reader;
use crate::error::Result;
use crate::extras::{Extras, parent};
use crate::pair::Pair;
use crate::targets;
use crate::types::{Table, Tensors, table};

/// Gains and offsets of the chosen norms.
pub(crate) struct LnTuning;

/// The parameters of the norms lie inside PEFT's copies of them.
fn pairs(
    extras: &Extras,
    params: &[String],
    norms: &[String],
    shapes: &ModelShapes,
    found: &Tensors,
) -> Vec<Pair> {
    let inside = |pair: Pair| {
        let path = pair.own.strip_prefix("model.").unwrap_or(&pair.own);
        let (module, last) = path.rsplit_once('.').unwrap_or(("", path));
        match norms.iter().any(|norm| norm == module) {
            true => Pair {
                peft: format!("base_model.model.{module}.ln_tuning_layers.{last}"),
                ..pair
            },
            false => pair,
        }
    };
    let pairs = extras.pairs(params, shapes, &[], found).into_iter();
    pairs.map(inside).collect()
}

impl WholeType for LnTuning {
    fn name(&self) -> &'static str {
        "LN_TUNING"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["ln-tuning"]
    }

    fn read(
        &self,
        config: &mut Reader,
        shapes: &ModelShapes,
        tensors: &mut Tensors,
        _: &str,
    ) -> Result<Whole> {
        let extras = Extras::read(config)?;
        let norms = targets::modules(config, shapes, &extras.modules)?;
        let mut params = extras.params(shapes, &[])?;
        let chosen = |path: &&String| norms.iter().any(|norm| norm == parent(path));
        let all = shapes.params.iter().map(|param| &param.path);
        let own: Vec<String> = all.filter(chosen).cloned().collect();
        params.extend(own);
        Ok(Whole {
            method: "ln-tuning",
            config: table([("modules", norms.clone().into())]),
            pairs: pairs(&extras, &params, &norms, shapes, tensors),
            injection: Injection::default().with_params(params),
            derived: &[],
        })
    }

    fn write(
        &self,
        attachment: &Attachment,
        shapes: &ModelShapes,
    ) -> Result<(Table, Vec<Pair>), String> {
        let is_norm = |path: &&String| {
            let mut params = shapes.params.iter();
            params.any(|param| param.path == **path && param.part == Part::Norm)
        };
        let (own, others): (Vec<&String>, Vec<&String>) =
            attachment.params.iter().partition(is_norm);
        let norms: BTreeSet<&str> = own.iter().map(|path| parent(path)).collect();
        let rest = |param: &&str| {
            norms.contains(parent(param)) && !own.iter().any(|path| path.as_str() == *param)
        };
        if let Some(left) = shapes
            .params
            .iter()
            .map(|param| param.path.as_str())
            .find(rest)
        {
            return Err(format!("PEFT trains norms whole, and {left} is frozen"));
        }
        let norms: Vec<String> = norms.into_iter().map(str::to_owned).collect();
        let others: Vec<String> = others.into_iter().cloned().collect();
        let extras = Extras::of(&others, shapes, &[], false)?;
        let modules = match extras.modules.is_empty() {
            true => Value::Null,
            false => extras.modules.clone().into(),
        };
        let keys = table([
            ("target_modules", norms.clone().into()),
            ("exclude_modules", Value::Null),
            ("modules_to_save", modules),
        ]);
        let params = &attachment.params;
        Ok((
            keys,
            pairs(&extras, params, &norms, shapes, &Tensors::new()),
        ))
    }
}
