//! The linear probe.

use engraft_core::{
    BaseWeights, Family, Kind, LayerShape, Method, MethodMeta, ParamShape, Parts, Selection,
};
use serde::{Deserialize, Serialize};

/// Nothing but the task head is trained: the lower baseline. The head is trained where the injection
/// says so, as for every method.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LinearProbeConfig {}

impl Selection for LinearProbeConfig {
    fn selects(&self, _: &ParamShape) -> bool {
        false
    }

    fn may_be_empty(&self) -> bool {
        true
    }
}

impl Method for LinearProbeConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Selection],
        base: BaseWeights::Selected,
        admits: "any model with a head",
        ..MethodMeta::graft(
            "linear-probe",
            "Linear probe",
            Family::Baseline,
            "",
            "y = x W + b, both frozen; the head is trained",
        )
    };

    fn parts(&self) -> Parts {
        Parts::selection(self.clone())
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        vec![Self::default()]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::{AnyMethod, Injection, ModelShapes, Part, Plan};

    use super::*;

    #[test]
    fn counts_are_the_published_ones() {
        // CLIP ViT-B/32 on ELEVATER: heads of 1151 classes over 20 tasks, 29,523 values on average.
        let total: usize = [1000, 151]
            .iter()
            .map(|&classes| {
                let mut shapes = ModelShapes::default();
                shapes.push_linear("fc", 768, 768, true, Part::Body);
                shapes.push_linear("head", 512, classes, true, Part::Head);
                Plan::new(
                    &AnyMethod::new(&LinearProbeConfig::default()).unwrap(),
                    &shapes,
                    &Injection::default().with_head(),
                )
                .unwrap()
                .counts()
                .all_trained()
            })
            .sum();
        assert_eq!((total as f64 / 20.0).round(), 29_523.0);
    }
}
