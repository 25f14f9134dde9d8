//! LoReFT: low-rank linear subspace representation finetuning.

use engraft_core::{Activation, AtInit, Family, Kind, LayerShape, Method, MethodMeta, Parts};
use serde::{Deserialize, Serialize};

use crate::positions::Positions;
use crate::reft::{EditShape, Start};

/// LoReFT: h' = h + R^T (f(W h + b) - R h), R with orthonormal rows, at chosen tokens of what leaves a
/// block; f is the identity in the paper.
///
/// | symbol | shape | |
/// |---|---|---|
/// | R | [r, d] | trained through [`Projection`](crate::Projection): orthonormal throughout |
/// | W, b | [r, d], `[r]` | trained |
///
/// Wu et al., ReFT: Representation Finetuning for Language Models, arXiv 2404.03592, equation 2 and
/// section 3.2; the positions of section 3.3, tied or not over the two ends of the prompt. Defaults are
/// those for commonsense reasoning: rank 8, the first and last 7 tokens, tied, at every block
/// (`targets = { layers = [...] }` chooses blocks). Activation, dropout and the start at the identity are
/// the authors' code's (pyreft/interventions.py, `LoreftIntervention`,
/// `LoreftIntervention_IdentityInit`). The code counts the positions of a prompt without its last
/// token; here they are the paper's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LoreftConfig {
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
    /// `random`, or `identity` for W = R and b = 0.
    pub start: Start,
}

impl Default for LoreftConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            positions: Positions { first: 7, last: 7 },
            tied: true,
            dropout: 0.0,
            activation: Activation::Identity,
            start: Start::Random,
        }
    }
}

impl LoreftConfig {
    fn shape(&self) -> EditShape {
        EditShape {
            rank: self.rank,
            positions: self.positions,
            tied: self.tied,
            dropout: self.dropout,
            activation: self.activation,
            start: self.start,
            orthonormal: true,
            difference: true,
            projection_bias: false,
        }
    }
}

impl Method for LoreftConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        at_init: AtInit::NotIdentity,
        admits: "hidden states at least as wide as the rank",
        ..MethodMeta::graft(
            "loreft",
            "LoReFT",
            Family::Features,
            "2404.03592",
            "h' = h + R^T (f(W h + b) - R h), R R^T = I, at chosen tokens",
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
    use burn::module::Param;
    use burn::tensor::Tensor;
    use engraft_core::{
        AnyMethod, Bank, Ctx, InitContext, Injection, ModelShapes, Plan, SiteAdapter, SiteGraft,
        SiteKind, SiteShape, Targets,
    };
    use engraft_tensor::bridge;

    use super::*;
    use crate::reft::Reft;
    use crate::testing::{any_layer, draw, largest};

    fn adapter(config: &LoreftConfig, d: usize) -> Reft {
        let (base, bank) = (any_layer(), Bank::default());
        let site = SiteShape {
            path: "blocks.0.sites.output".to_owned(),
            kind: SiteKind::Hidden,
            width: d,
        };
        config
            .shape()
            .init(
                &site,
                &InitContext::new(3, &site.path, "default", &base, &bank),
            )
            .unwrap()
    }

    fn positions(text: &str) -> Positions {
        Positions::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn equals_the_equation_entry_by_entry() {
        let config = LoreftConfig {
            rank: 2,
            positions: Positions::ALL,
            ..LoreftConfig::default()
        };
        let adapter = adapter(&config, 5);
        let h = draw([3, 5], 1, "h");
        let found = bridge::to_matrix(&adapter.wrap(h.clone(), h.clone(), &Ctx::default()));
        let (r, w) = (adapter.edit.projection.transposed(), adapter.edit.w.val());
        let (h, r, w) = (
            bridge::to_matrix(&h),
            bridge::to_matrix(&r),
            bridge::to_matrix(&w),
        );
        let b = bridge::values(&adapter.edit.b.val());
        for token in 0..3 {
            for j in 0..5 {
                let inside = |k: usize| {
                    b[k] + (0..5)
                        .map(|i| (w.get(i, k) - r.get(i, k)) * h.get(token, i))
                        .sum::<f64>()
                };
                let expected =
                    h.get(token, j) + (0..2).map(|k| r.get(j, k) * inside(k)).sum::<f64>();
                assert!((found.get(token, j) - expected).abs() < 1e-13);
            }
        }
    }

    #[test]
    fn in_the_subspace_the_state_becomes_the_source() {
        // R h' = W h + b, and what is orthogonal to R stays: the intervention the paper starts from.
        let config = LoreftConfig {
            rank: 3,
            positions: Positions::ALL,
            ..LoreftConfig::default()
        };
        let adapter = adapter(&config, 9);
        let h = draw([4, 9], 2, "h");
        let edited = adapter.wrap(h.clone(), h.clone(), &Ctx::default());
        let r = adapter.edit.projection.transposed();
        let source = h.clone().matmul(adapter.edit.w.val()) + adapter.edit.b.val().unsqueeze();
        assert!(largest(edited.clone().matmul(r.clone()) - source) < 1e-13);
        let change = edited - h;
        assert!(largest(change.clone() - change.matmul(r.clone()).matmul(r.transpose())) < 1e-13);
    }

    #[test]
    fn untied_ends_have_edits_of_their_own() {
        let config = LoreftConfig {
            rank: 2,
            positions: positions("f1+l1"),
            tied: false,
            ..LoreftConfig::default()
        };
        let mut both = adapter(&config, 4);
        let h = draw([1, 4], 6, "h");
        let h = Tensor::cat(vec![h.clone(), h.clone(), h], 0);
        let change = both.wrap(h.clone(), h.clone(), &Ctx::default()) - h.clone();
        let row = |at| change.clone().narrow(0, at, 1);
        assert!(largest(row(1)) == 0.0 && largest(row(0) - row(2)) > 1e-3);
        let tied = Reft {
            suffix: None,
            ..both.clone()
        };
        let alike = tied.wrap(h.clone(), h.clone(), &Ctx::default()) - h.clone();
        let row = |at| alike.clone().narrow(0, at, 1);
        assert!(largest(row(0) - row(2)) < 1e-14);
        // With the suffix's edit switched off only the prefix is edited.
        if let Some(suffix) = &mut both.suffix {
            suffix.w = Param::from_tensor(suffix.projection.transposed());
            suffix.b = Param::from_tensor(suffix.b.val() * 0.0);
        }
        let change = both.wrap(h.clone(), h.clone(), &Ctx::default()) - h;
        assert!(largest(change.narrow(0, 1, 2)) < 1e-14);
    }

    /// A model of so many blocks.
    fn blocks(depth: usize, width: usize) -> ModelShapes {
        let mut shapes = ModelShapes::default();
        for block in 0..depth {
            let path = format!("model.layers.{block}.sites.output");
            shapes.push_site(path, SiteKind::Hidden, width);
        }
        shapes.push_site("model.norm.output", SiteKind::Hidden, width);
        shapes
    }

    fn trained(config: &LoreftConfig, shapes: &ModelShapes, layers: &[usize]) -> usize {
        let targets = Targets {
            layers: layers.to_vec(),
            ..Targets::default()
        };
        let injection = Injection::default().targets(targets);
        let method = AnyMethod::new(config).unwrap();
        Plan::new(&method, shapes, &injection)
            .unwrap()
            .counts()
            .all_trained()
    }

    #[test]
    fn counts_are_the_published_ones() {
        let of_rank = |rank| LoreftConfig {
            rank,
            ..LoreftConfig::default()
        };
        // Llama-3-8B, 32 blocks: 0.026%. pyreft's README, Llama-2-7B, block 15: 32,772.
        assert_eq!(trained(&of_rank(8), &blocks(32, 4096), &[]), 2_097_408);
        assert_eq!(trained(&of_rank(4), &blocks(32, 4096), &[15]), 32_772);
        // RoBERTa-base, r = 1: 18,444.
        assert_eq!(trained(&of_rank(1), &blocks(12, 768), &[]), 18_444);
        // Llama-2-7B, four blocks, prefix and suffix untied: 0.0039%.
        let untied = LoreftConfig {
            tied: false,
            ..of_rank(4)
        };
        assert_eq!(
            trained(&untied, &blocks(32, 4096), &[3, 9, 18, 24]),
            262_176
        );
        // Without a second end there is nothing to untie.
        let last = LoreftConfig {
            positions: positions("l1"),
            ..untied
        };
        assert_eq!(trained(&last, &blocks(32, 4096), &[15]), 32_772);
    }

    #[test]
    fn senseless_options_are_refused() {
        let message = |config: &LoreftConfig| AnyMethod::new(config).unwrap_err().to_string();
        let start = LoreftConfig {
            start: Start::Identity,
            activation: Activation::Gelu,
            ..LoreftConfig::default()
        };
        assert!(message(&start).contains("start `random`"));
        let error = Plan::new(
            &AnyMethod::new(&LoreftConfig::default()).unwrap(),
            &blocks(2, 4),
            &Injection::default(),
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("at most 4 orthonormal rows"), "{error}");
    }
}
