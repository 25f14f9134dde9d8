//! Trainable tokens: single rows of an embedding are trained.

use burn::tensor::Tensor;
use engraft_core::{
    AtInit, Counts, Family, FrozenBase, Graft, InitContext, LayerKind, LayerShape, Method,
    MethodMeta, ModelShapes, Parts, Result, TokenRows,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

/// How the rows start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowStart {
    /// As they are in the model.
    #[default]
    Frozen,
    /// N(0, 1).
    Normal,
}

/// y = R[p(i), :] for the chosen tokens i, y = W[i, :] for all others; see [`TokenRows`].
///
/// The method of PEFT's `TrainableTokens`, which has no paper: new tokens are learned without the
/// rest of the vocabulary. Goes to the model's first embedding by default; an output layer that
/// shares its weight follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TrainableTokensConfig {
    /// The tokens, as indices of the vocabulary.
    pub tokens: Vec<usize>,
    /// How their rows start.
    pub start: RowStart,
}

impl Default for TrainableTokensConfig {
    fn default() -> Self {
        Self {
            tokens: vec![0],
            start: RowStart::Frozen,
        }
    }
}

impl Graft for TrainableTokensConfig {
    type Adapter = TokenRows;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        TokenRows::admits(&self.tokens, layer)
    }

    fn defaults(&self, shapes: &ModelShapes) -> Option<Vec<String>> {
        let embedding = |layer: &&LayerShape| layer.kind == LayerKind::Embedding;
        let first = shapes.layers.iter().find(embedding)?;
        Some(vec![first.path.clone()])
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        TokenRows::count(&self.tokens, layer)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<TokenRows> {
        let rows = TokenRows::new(&self.tokens, base, ctx.kind);
        Ok(match self.start {
            RowStart::Frozen => rows,
            RowStart::Normal => {
                let shape = rows.rows.val().dims();
                let drawn: Tensor<2> = ctx.tensor(Init::Normal { std: 1.0 }, shape, "rows");
                rows.starting_at(drawn)
            }
        })
    }
}

impl Method for TrainableTokensConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("TRAINABLE_TOKENS"),
        admits: "embeddings, and linear layers with one output per token",
        ..MethodMeta::graft(
            "trainable-tokens",
            "Trainable tokens",
            Family::Prompt,
            "",
            "y = R[p(i), :] for chosen tokens i, W[i, :] for others",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        match self.tokens.is_empty() {
            true => Err("tokens: found none, expected at least one index".to_owned()),
            false => Ok(()),
        }
    }

    fn at_init(&self) -> AtInit {
        match self.start {
            RowStart::Frozen => AtInit::Identity,
            RowStart::Normal => AtInit::NotIdentity,
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let last = layer.d_out.saturating_sub(1);
        let (mut tokens, start) = (vec![last, 0], RowStart::Normal);
        tokens.dedup();
        vec![Self::default(), Self { tokens, start }]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::{AnyMethod, Injection, Part, Plan};

    use super::*;

    #[test]
    fn the_first_embedding_is_the_default() {
        let mut shapes = ModelShapes::default();
        for (path, rows) in [("words", 11), ("positions", 5)] {
            let table = LayerShape::linear(path, rows, 4, false);
            shapes.push_layer(LayerKind::Embedding, table);
        }
        shapes.push_linear("fc", 4, 4, true, Part::Body);
        let config = TrainableTokensConfig {
            tokens: vec![7, 2],
            ..TrainableTokensConfig::default()
        };
        let method = AnyMethod::new(&config).unwrap();
        let plan = Plan::new(&method, &shapes, &Injection::default()).unwrap();
        assert_eq!(plan.layers[0].0.path, "words");
        assert_eq!((plan.layers.len(), plan.counts().all_trained()), (1, 8));
    }
}
