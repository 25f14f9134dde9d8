//! DiReFT: LoReFT without the difference.

use engraft_core::{Activation, AtInit, Family, Kind, LayerShape, Method, MethodMeta, Parts};
use serde::{Deserialize, Serialize};

use crate::positions::Positions;
use crate::reft::{EditShape, Start};

/// DiReFT: h' = h + W2^T f(W1 h + b), at chosen tokens of what leaves a block; f is the identity in the
/// paper.
///
/// | symbol | shape | |
/// |---|---|---|
/// | W2 | [r, d] | trained; orthonormal rows with `orthonormal` |
/// | W1, b | [r, d], `[r]` | trained |
///
/// Wu et al., arXiv 2404.03592, equation 3: [`LoreftConfig`](crate::LoreftConfig) without the orthonormal
/// rows and without subtracting what is in the subspace. The authors' code has it as
/// `NodireftIntervention`; its `DireftIntervention` keeps the rows orthonormal, which is the option
/// `orthonormal` here (pyreft/interventions.py).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DireftConfig {
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
    /// `random`, or `identity` for W1 = 0 and b = 0.
    pub start: Start,
    /// Whether the rows of W2 are orthonormal.
    pub orthonormal: bool,
}

impl Default for DireftConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            positions: Positions { first: 7, last: 7 },
            tied: true,
            dropout: 0.0,
            activation: Activation::Identity,
            start: Start::Random,
            orthonormal: false,
        }
    }
}

impl DireftConfig {
    fn shape(&self) -> EditShape {
        EditShape {
            rank: self.rank,
            positions: self.positions,
            tied: self.tied,
            dropout: self.dropout,
            activation: self.activation,
            start: self.start,
            orthonormal: self.orthonormal,
            difference: false,
            projection_bias: false,
        }
    }
}

impl Method for DireftConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        at_init: AtInit::NotIdentity,
        admits: "hidden states, at least as wide as the rank with orthonormal rows",
        ..MethodMeta::graft(
            "direft",
            "DiReFT",
            Family::Features,
            "2404.03592",
            "h' = h + W2^T f(W1 h + b), at chosen tokens",
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
                orthonormal: true,
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
    fn equals_the_equation_with_and_without_orthonormal_rows() {
        for orthonormal in [false, true] {
            let config = DireftConfig {
                rank: 3,
                positions: Positions::ALL,
                activation: Activation::Tanh,
                orthonormal,
                ..DireftConfig::default()
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
            let w2 = edit.projection.transposed();
            let source = (h.clone().matmul(edit.w.val()) + edit.b.val().unsqueeze()).tanh();
            let expected = h.clone() + source.matmul(w2.clone().transpose());
            assert!(largest(adapter.wrap(h.clone(), h, &Ctx::default()) - expected) < 1e-13);
            let gram = w2.clone().transpose().matmul(w2);
            let identity = Tensor::<2>::eye(3, &gram.device()).cast(gram.dtype());
            assert_eq!(largest(gram - identity) < 1e-14, orthonormal);
        }
    }

    #[test]
    fn counts_are_the_published_ones() {
        // Table 1 gives LoReFT and DiReFT the same share of Llama-3-8B: 0.026% = 32 (2 r d + r).
        let site = SiteShape {
            path: "sites.output".to_owned(),
            kind: SiteKind::Hidden,
            width: 4096,
        };
        assert_eq!(
            32 * DireftConfig::default().shape().count(&site).trainable,
            2_097_408
        );
    }
}
