//! NoReFT: LoReFT without the orthonormality.

use engraft_core::{Activation, AtInit, Family, Kind, LayerShape, Method, MethodMeta, Parts};
use serde::{Deserialize, Serialize};

use crate::positions::Positions;
use crate::reft::{EditShape, Start};

/// NoReFT: h' = h + W2^T (f(W1 h + b) - W2 h), at chosen tokens of what leaves a block; f is the identity
/// in the paper.
///
/// | symbol | shape | |
/// |---|---|---|
/// | W2 | [r, d] | trained, without a constraint |
/// | W1, b | [r, d], `[r]` | trained |
///
/// Wu et al., arXiv 2404.03592: the ablation of [`LoreftConfig`](crate::LoreftConfig) that gives up the
/// orthonormal rows. The offset of W2 h is an option of the authors' code (pyreft/interventions.py,
/// `NoreftIntervention`, `add_bias`), where W2^T is applied without it, as here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct NoreftConfig {
    /// r.
    pub rank: usize,
    /// `f7+l7` for the first and last 7 tokens of the prompt, `f7`, `l1`, or `all`.
    pub positions: Positions,
    /// Whether both ends of the prompt share one edit.
    pub tied: bool,
    /// Probability that an entry of an edited state is dropped.
    pub dropout: f64,
    /// f.
    pub activation: Activation,
    /// `random`, or `identity` for W1 = W2 and b = 0.
    pub start: Start,
    /// Whether W2 h has a trained offset.
    pub projection_bias: bool,
}

impl Default for NoreftConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            positions: Positions { first: 7, last: 7 },
            tied: true,
            dropout: 0.0,
            activation: Activation::Identity,
            start: Start::Random,
            projection_bias: false,
        }
    }
}

impl NoreftConfig {
    fn shape(&self) -> EditShape {
        EditShape {
            rank: self.rank,
            positions: self.positions,
            tied: self.tied,
            dropout: self.dropout,
            activation: self.activation,
            start: self.start,
            orthonormal: false,
            difference: true,
            projection_bias: self.projection_bias,
        }
    }
}

impl Method for NoreftConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        at_init: AtInit::NotIdentity,
        admits: "any hidden states",
        ..MethodMeta::graft(
            "noreft",
            "NoReFT",
            Family::Features,
            "2404.03592",
            "h' = h + W2^T (f(W1 h + b) - W2 h), at chosen tokens",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.shape())
    }

    fn validate(&self) -> Result<(), String> {
        self.shape().validate()
    }

    fn at_init(&self) -> AtInit {
        match self.start {
            Start::Random => AtInit::NotIdentity,
            Start::Identity => AtInit::Identity,
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let rank = layer.d_out.min(3);
        let small = Self {
            rank,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                rank: 1,
                tied: false,
                dropout: 0.2,
                start: Start::Identity,
                ..small.clone()
            },
            Self {
                positions: Positions { first: 0, last: 1 },
                activation: Activation::Tanh,
                projection_bias: true,
                ..small.clone()
            },
            Self {
                positions: Positions::ALL,
                activation: Activation::Gelu,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;
    use engraft_core::{Bank, Ctx, InitContext, SiteAdapter, SiteGraft, SiteKind, SiteShape};

    use super::*;
    use crate::testing::{any_layer, draw, largest};

    #[test]
    fn equals_the_equation_and_its_count() {
        let config = NoreftConfig {
            rank: 3,
            positions: Positions::ALL,
            projection_bias: true,
            ..NoreftConfig::default()
        };
        let site = SiteShape {
            path: "sites.output".to_owned(),
            kind: SiteKind::Hidden,
            width: 7,
        };
        let (base, bank) = (any_layer(), Bank::default());
        let ctx = InitContext::new(3, &site.path, "default", &base, &bank);
        let adapter = config.shape().init(&site, &ctx).unwrap();
        let edit = &adapter.edit;
        let h: Tensor<2> = draw([4, 7], 1, "h");
        let w2 = edit.projection.columns.val();
        let offset = edit.projection_bias.as_ref().unwrap().val();
        let inside =
            h.clone().matmul(edit.w.val() - w2.clone()) + (edit.b.val() - offset).unsqueeze();
        let expected = h.clone() + inside.matmul(w2.transpose());
        assert!(largest(adapter.wrap(h.clone(), h, &Ctx::default()) - expected) < 1e-13);
        assert_eq!(config.shape().count(&site).trainable, 2 * 7 * 3 + 2 * 3);
        let plain = NoreftConfig {
            projection_bias: false,
            ..config
        };
        assert_eq!(plain.shape().count(&site).trainable, 2 * 7 * 3 + 3);
    }
}
