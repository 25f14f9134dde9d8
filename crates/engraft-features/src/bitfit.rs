//! BitFit: only the biases are trained.

use engraft_core::{
    BaseWeights, Family, Kind, LayerShape, Method, MethodMeta, ParamShape, Parts, Selection,
};
use serde::{Deserialize, Serialize};

/// b of every layer and norm is trained, W is frozen.
///
/// Ben Zaken et al., BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
/// Language-models, arXiv 2106.10199, section 3. With `subset`, only the biases of the named layers,
/// as the paper's pair of the query bias and b_m2, that of the first feed-forward layer; a name that
/// matches no layer with a bias is an error.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct BitFitConfig {
    /// Names of layers, matched against the ends of their paths; empty for all.
    pub subset: Vec<String>,
}

impl Selection for BitFitConfig {
    fn selects(&self, param: &ParamShape) -> bool {
        param.bias
    }

    fn within(&self) -> &[String] {
        &self.subset
    }
}

impl Method for BitFitConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Selection],
        changes_bias: true,
        base: BaseWeights::Selected,
        admits: "any model with biases",
        ..MethodMeta::graft(
            "bitfit",
            "BitFit",
            Family::Features,
            "2106.10199",
            "y = x W + b, b trained",
        )
    };

    fn parts(&self) -> Parts {
        Parts::selection(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        match self.subset.iter().any(String::is_empty) {
            true => Err("subset: found an empty name, expected names of layers".to_owned()),
            false => Ok(()),
        }
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let norm = Self {
            subset: vec!["norm".to_owned()],
        };
        vec![Self::default(), norm]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::{AnyMethod, Injection, ModelShapes, Part, Plan};

    use super::*;

    /// An encoder of the BERT family: embedding norm, blocks, and optionally a pooler.
    fn encoder(width: usize, layers: usize, pooler: bool) -> ModelShapes {
        let mut shapes = ModelShapes::default();
        let norm = |shapes: &mut ModelShapes, path: String| {
            shapes.push_param(format!("{path}.weight"), width, Part::Norm, false);
            shapes.push_param(format!("{path}.bias"), width, Part::Norm, true);
        };
        norm(&mut shapes, "embeddings.norm".to_owned());
        for layer in 0..layers {
            for name in ["query", "key", "value", "output"] {
                shapes.push_linear(
                    &format!("layer.{layer}.attention.{name}"),
                    width,
                    width,
                    true,
                    Part::Body,
                );
            }
            shapes.push_linear(
                &format!("layer.{layer}.fc1"),
                width,
                4 * width,
                true,
                Part::Body,
            );
            shapes.push_linear(
                &format!("layer.{layer}.fc2"),
                4 * width,
                width,
                true,
                Part::Body,
            );
            norm(&mut shapes, format!("layer.{layer}.norm1"));
            norm(&mut shapes, format!("layer.{layer}.norm2"));
        }
        if pooler {
            shapes.push_linear("pooler", width, width, true, Part::Body);
        }
        shapes.push_linear("head", width, 2, true, Part::Head);
        shapes
    }

    fn trained(config: &BitFitConfig, shapes: &ModelShapes) -> usize {
        Plan::new(
            &AnyMethod::new(config).unwrap(),
            shapes,
            &Injection::default(),
        )
        .unwrap()
        .counts()
        .all_trained()
    }

    #[test]
    fn counts_are_the_published_ones() {
        let all = BitFitConfig::default();
        // RoBERTa-base 0.1M; BERT-large 0.08% of its parameters.
        assert_eq!(trained(&all, &encoder(768, 12, false)), 102_144);
        assert_eq!(trained(&all, &encoder(1024, 24, true)), 272_384);
    }

    #[test]
    fn a_subset_names_layers() {
        let pair = BitFitConfig {
            subset: vec!["query".to_owned(), "fc1".to_owned()],
        };
        // BERT-large: 0.04% of its parameters.
        assert_eq!(trained(&pair, &encoder(1024, 24, true)), 122_880);
        let one = BitFitConfig {
            subset: vec!["1.fc2".to_owned()],
        };
        assert_eq!(trained(&one, &encoder(16, 12, false)), 16);
    }

    #[test]
    fn a_name_that_matches_nothing_shows_the_nearest() {
        let plan = |names: &[&str], shapes: &ModelShapes| {
            let subset = names.iter().map(|name| (*name).to_owned()).collect();
            let method = AnyMethod::new(&BitFitConfig { subset }).unwrap();
            Plan::new(&method, shapes, &Injection::default()).map_err(|error| error.to_string())
        };
        let shapes = encoder(16, 3, true);
        let message = plan(&["key", "qeury"], &shapes).unwrap_err();
        assert!(
            message.contains("`qeury`") && message.contains("nearest: query"),
            "{message}"
        );
        let message = plan(&["1.fc3"], &shapes).unwrap_err();
        assert!(message.contains("1.fc"), "{message}");
        // A name that ends inside another is not that other's.
        assert!(plan(&["uery"], &shapes).is_err());
        let mut bare = ModelShapes::default();
        bare.push_linear("fc", 4, 4, false, Part::Body);
        assert!(plan(&[], &bare).unwrap_err().contains("nothing to train"));
    }
}
