//! LayerNorm tuning: only gains and offsets of normalisation layers are trained.

use engraft_core::{
    BaseWeights, Family, Kind, LayerShape, Method, MethodMeta, ParamShape, Part, Parts, Selection,
};
use serde::{Deserialize, Serialize};

/// Which parameters of a norm are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tuned {
    /// g and o.
    #[default]
    Both,
    /// g alone.
    Gains,
    /// o alone.
    Offsets,
}

/// g and o of every norm y = g . n(x) + o are trained, everything else is frozen.
///
/// Zhao et al., Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM Finetuning, arXiv
/// 2312.11420, section 3; Qi et al., Parameter-Efficient Tuning on Layer Normalization for Pre-trained
/// Language Models, arXiv 2211.08682. Norms without offsets (RMSNorm) have gains only.
///
/// With `modules`, the parameters of the modules named, which need not be norms: PEFT's `LN_TUNING`
/// trains a copy of each of its `target_modules` as a whole, and its tensor
/// `MODULE.ln_tuning_layers.weight` is the value of `MODULE.weight` here. Targets choose among the
/// modules, for example by layer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LnTuningConfig {
    /// `both`, `gains` or `offsets`.
    pub tuned: Tuned,
    /// Names of modules, matched against the ends of their paths; empty for every norm.
    pub modules: Vec<String>,
}

impl Selection for LnTuningConfig {
    fn selects(&self, param: &ParamShape) -> bool {
        let side = match self.tuned {
            Tuned::Both => true,
            Tuned::Gains => !param.bias,
            Tuned::Offsets => param.bias,
        };
        side && (param.part == Part::Norm || !self.modules.is_empty())
    }

    fn within(&self) -> &[String] {
        &self.modules
    }
}

impl Method for LnTuningConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Selection],
        changes_bias: true,
        base: BaseWeights::Selected,
        peft: Some("LN_TUNING"),
        admits: "any model with norms",
        ..MethodMeta::graft(
            "ln-tuning",
            "LayerNorm tuning",
            Family::Features,
            "2312.11420",
            "y = g . n(x) + o, g and o trained",
        )
    };

    fn parts(&self) -> Parts {
        Parts::selection(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        match self.modules.iter().any(String::is_empty) {
            true => Err("modules: found an empty name, expected names of modules".to_owned()),
            false => Ok(()),
        }
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let of = |tuned, modules: &[&str]| Self {
            tuned,
            modules: modules.iter().map(|name| (*name).to_owned()).collect(),
        };
        vec![
            Self::default(),
            of(Tuned::Gains, &[]),
            of(Tuned::Offsets, &["norm"]),
            of(Tuned::Both, &["fc1", "block.norm"]),
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::{AnyMethod, Injection, ModelShapes, Plan, Targets};

    use super::*;

    /// Blocks of two norms and two layers each, a final norm and a head.
    fn model(depth: usize, width: usize, offsets: bool) -> ModelShapes {
        let mut shapes = ModelShapes::default();
        let norm = |shapes: &mut ModelShapes, path: String| {
            shapes.push_param(format!("{path}.weight"), width, Part::Norm, false);
            if offsets {
                shapes.push_param(format!("{path}.bias"), width, Part::Norm, true);
            }
        };
        for layer in 0..depth {
            let path = format!("layers.{layer}");
            norm(&mut shapes, format!("{path}.input_layernorm"));
            shapes.push_linear(&format!("{path}.up"), width, width, offsets, Part::Body);
            norm(&mut shapes, format!("{path}.post_attention_layernorm"));
            shapes.push_linear(&format!("{path}.down"), width, width, offsets, Part::Body);
        }
        norm(&mut shapes, "norm".to_owned());
        shapes.push_linear("head", width, 2, true, Part::Head);
        shapes
    }

    fn plan(
        config: &LnTuningConfig,
        shapes: &ModelShapes,
        targets: Targets,
    ) -> Result<Plan, String> {
        let injection = Injection::default().targets(targets);
        Plan::new(&AnyMethod::new(config).unwrap(), shapes, &injection)
            .map_err(|error| error.to_string())
    }

    fn trained(config: &LnTuningConfig, shapes: &ModelShapes) -> usize {
        let plan = plan(config, shapes, Targets::default()).unwrap();
        plan.counts().all_trained()
    }

    #[test]
    fn gains_and_offsets_of_all_norms_or_of_those_named() {
        let tuned = |tuned| LnTuningConfig {
            tuned,
            ..LnTuningConfig::default()
        };
        let shapes = model(3, 8, true);
        assert_eq!(trained(&tuned(Tuned::Both), &shapes), 7 * 16);
        assert_eq!(trained(&tuned(Tuned::Gains), &shapes), 7 * 8);
        assert_eq!(trained(&tuned(Tuned::Offsets), &shapes), 7 * 8);
        let named = |names: &[&str]| LnTuningConfig {
            modules: names.iter().map(|name| (*name).to_owned()).collect(),
            ..LnTuningConfig::default()
        };
        // PEFT's names for Llama; a module that is not a norm; one block.
        let llama = named(&["input_layernorm", "post_attention_layernorm", "norm"]);
        assert_eq!(trained(&llama, &shapes), 7 * 16);
        assert_eq!(trained(&named(&["1.up"]), &shapes), 8 * 8 + 8);
        let second = Targets {
            layers: vec![1],
            ..Targets::default()
        };
        let plan = plan(&tuned(Tuned::Both), &shapes, second).unwrap();
        assert_eq!(plan.counts().norms, 2 * 16);
        assert!(plan.params.iter().all(|path| path.starts_with("layers.1.")));
    }

    #[test]
    fn counts_are_the_published_ones() {
        // T0-3B, "LayerNorm" of the T-Few paper: 250K; 49 norms of the encoder and 73 of the decoder.
        let mut t0 = ModelShapes::default();
        for norm in 0..49 + 73 {
            t0.push_param(format!("{norm}.layer_norm.weight"), 2048, Part::Norm, false);
        }
        assert_eq!(trained(&LnTuningConfig::default(), &t0), 249_856);
    }

    #[test]
    fn what_matches_nothing_is_an_error_with_the_nearest() {
        let named = LnTuningConfig {
            modules: vec!["input_layernrom".to_owned()],
            ..LnTuningConfig::default()
        };
        let message = plan(&named, &model(2, 4, true), Targets::default()).unwrap_err();
        assert!(message.contains("nearest: input_layernorm"), "{message}");
        let target = Targets::names(&["final_norm"]);
        let message = plan(&LnTuningConfig::default(), &model(2, 4, true), target).unwrap_err();
        assert!(message.contains("`final_norm` matches no"), "{message}");
        let offsets = LnTuningConfig {
            tuned: Tuned::Offsets,
            ..LnTuningConfig::default()
        };
        let message = plan(&offsets, &model(2, 4, false), Targets::default()).unwrap_err();
        assert!(message.contains("nothing to train"), "{message}");
    }
}
