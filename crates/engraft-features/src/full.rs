//! Full fine-tuning.

use engraft_core::{
    BaseWeights, Family, Kind, LayerShape, Method, MethodMeta, ParamShape, Parts, Selection,
};
use serde::{Deserialize, Serialize};

/// Every parameter of the model is trained: the upper baseline of nearly every paper.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct FullConfig {}

impl Selection for FullConfig {
    fn selects(&self, _: &ParamShape) -> bool {
        true
    }
}

impl Method for FullConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Selection],
        changes_bias: true,
        base: BaseWeights::Selected,
        admits: "any model",
        ..MethodMeta::graft(
            "full",
            "Full fine-tuning",
            Family::Baseline,
            "",
            "y = x W + b, W and b trained",
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
    fn everything_is_trained() {
        let mut shapes = ModelShapes::default();
        shapes.push_linear("fc", 12, 18, true, Part::Body);
        shapes.push_param("norm.weight", 18, Part::Norm, false);
        shapes.push_linear("head", 18, 3, false, Part::Head);
        let method = AnyMethod::new(&FullConfig::default()).unwrap();
        let counts =
            |injection: Injection| Plan::new(&method, &shapes, &injection).unwrap().counts();
        assert_eq!(
            counts(Injection::default().with_head()).all_trained(),
            shapes.total()
        );
        assert_eq!(
            counts(Injection::default()).all_trained(),
            shapes.total() - 54
        );
    }
}
