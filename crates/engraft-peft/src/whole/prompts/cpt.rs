//! CPT: embeddings of a context, moved inside small balls; files hold where they are.

use burn::tensor::TensorData;
use engraft_core::{Attachment, ModelShapes, SiteKind};
use serde_json::Value;

use super::{
    FINISHED, common_keys, encoder_key, modules, pair, prompt_site, trained_modules, value,
};
use crate::config::Reader;
use crate::error::Result;
use crate::pair::Pair;
use crate::types::{Table, Tensors, table};
use crate::whole::{Whole, WholeType};

/// [C + p(D); E].
pub(crate) struct Cpt;

impl WholeType for Cpt {
    fn name(&self) -> &'static str {
        "CPT"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["cpt"]
    }

    fn read(
        &self,
        config: &mut Reader,
        shapes: &ModelShapes,
        tensors: &mut Tensors,
        name: &str,
    ) -> Result<Whole> {
        let ids: Vec<usize> = config.get("cpt_token_ids", vec![0])?;
        let types: Option<Vec<usize>> = config.find("cpt_tokens_type_mask")?;
        config.skip(&["cpt_mask", "num_virtual_tokens", "tokenizer_name_or_path"]);
        config.skip(&[
            "token_dim",
            "num_layers",
            "num_attention_heads",
            "num_transformer_submodules",
        ]);
        let own = table([
            ("token-ids", ids.clone().into()),
            ("token-types", types.into()),
            ("epsilon", config.get("opt_projection_epsilon", 0.1)?.into()),
            (
                "format-epsilon",
                config.get("opt_projection_format_epsilon", 0.1)?.into(),
            ),
            (
                "loss-weighting",
                config
                    .get("opt_weighted_loss_type", "none".to_owned())?
                    .into(),
            ),
            (
                "loss-decay",
                config.get("opt_loss_decay_factor", 1.0)?.into(),
            ),
        ]);
        let site = prompt_site(shapes)?;
        let (injection, mut pairs) = modules(config, shapes, tensors)?;
        let shape = [ids.len(), site.width];
        let context = encoder_key("embedding.weight", tensors);
        let delta = encoder_key("delta_embedding.weight", tensors);
        let mut derived: &[_] = &[];
        if !tensors.contains_key(&delta) {
            // Finished: a context of its own, not moved.
            tensors.insert(delta.clone(), TensorData::zeros::<f32, _>(shape));
            pairs.push(pair(FINISHED, site, name, "tokens", &shape));
        } else {
            tensors.remove(FINISHED);
            match tensors.contains_key(&context) {
                true => pairs.push(pair(context, site, name, "tokens", &shape)),
                false => derived = &["tokens"],
            }
        }
        pairs.push(pair(delta, site, name, "delta", &shape));
        Ok(Whole {
            method: "cpt",
            config: own,
            injection,
            pairs,
            derived,
        })
    }

    fn write(
        &self,
        attachment: &Attachment,
        shapes: &ModelShapes,
    ) -> Result<(Table, Vec<Pair>), String> {
        let ids: Vec<usize> = value(attachment, "token-ids")?;
        let types: Option<Vec<usize>> = value(attachment, "token-types")?;
        let site = prompt_site(shapes).map_err(|error| error.to_string())?;
        let mut keys = common_keys(ids.len(), attachment, shapes)?;
        let number = |key| value::<f64>(attachment, key).map(Value::from);
        keys.extend(table([
            ("cpt_token_ids", ids.clone().into()),
            ("cpt_mask", vec![1; ids.len()].into()),
            (
                "cpt_tokens_type_mask",
                types.unwrap_or_else(|| vec![1; ids.len()]).into(),
            ),
            ("opt_projection_epsilon", number("epsilon")?),
            ("opt_projection_format_epsilon", number("format-epsilon")?),
            (
                "opt_weighted_loss_type",
                value::<String>(attachment, "loss-weighting")?.into(),
            ),
            ("opt_loss_decay_factor", number("loss-decay")?),
            ("tokenizer_name_or_path", Value::Null),
            // PEFT has this type for causal language models only.
            ("task_type", "CAUSAL_LM".into()),
        ]));
        let mut pairs = trained_modules(attachment, shapes)?;
        let shape = [ids.len(), site.width];
        let none = Tensors::new();
        for (field, own) in [
            ("embedding.weight", "tokens"),
            ("delta_embedding.weight", "delta"),
        ] {
            pairs.push(pair(
                encoder_key(field, &none),
                site,
                &attachment.name,
                own,
                &shape,
            ));
        }
        Ok((keys, pairs))
    }

    fn computed(&self, _: &Attachment) -> Option<SiteKind> {
        Some(SiteKind::Prompt)
    }
}
