//! AdapterFusion: attention over adapters.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use engraft_core::{
    Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts, Result,
    SiteAdapter, SiteGraft, SiteKind, SiteShape, Sublayers, check_dropout, dropout,
};
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

/// What the values start from off the diagonal, in the authors' code.
const OFF_DIAGONAL: f64 = 1e-6;

/// Standard deviation of Q and K at first, BERT's.
const STD: f64 = 0.02;

/// Configuration of [`AdapterFusion`]. Defaults: behind both sublayers, with values, no dropout. It
/// must be attached wherever the fused adapters are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AdapterFusionConfig {
    /// `both`, `feed-forward` or `attention`.
    pub after: Sublayers,
    /// Whether the fused changes pass through V.
    pub value: bool,
    /// Dropout of the scores.
    pub dropout: f64,
}

impl Default for AdapterFusionConfig {
    fn default() -> Self {
        Self {
            after: Sublayers::Both,
            value: true,
            dropout: 0.0,
        }
    }
}

/// z + sum_i p_i u_i V with p = softmax_i((z Q + b_Q) . (u_i K + b_K)), z what a sublayer returned
/// and u_i what adapter i adds to it. The adapters are those of a
/// [`Setup::Fuse`](engraft_core::Setup::Fuse); outside of one the fusion changes nothing.
///
/// | symbol | shape | |
/// |---|---|---|
/// | Q, b_Q, K, b_K | [d, d], `[d]` | trained, N(0, 0.02^2) and zero at first |
/// | V | [d, d] | trained, the identity at first, 1e-6 off its diagonal |
///
/// Pfeiffer et al., AdapterFusion: Non-Destructive Task Composition for Transfer Learning, arXiv
/// 2005.00247, section 3.2; the AdapterHub library's BertFusion gives the starting values, and that u_i is
/// taken without the residual, which is added behind. The penalty that its training adds for V far
/// from the identity is left to the training loop. A token costs O(n d^2) for n adapters.
#[derive(Module, Debug)]
pub struct AdapterFusion {
    /// Q, [d, d].
    pub query: Param<Tensor<2>>,
    /// b_Q, `[d]`.
    pub query_bias: Param<Tensor<1>>,
    /// K, [d, d].
    pub key: Param<Tensor<2>>,
    /// b_K, `[d]`.
    pub key_bias: Param<Tensor<1>>,
    /// V, [d, d].
    pub value: Option<Param<Tensor<2>>>,
    dropout: f64,
}

impl SiteAdapter for AdapterFusion {
    const FUSES: bool = true;

    fn fuse(&self, output: Tensor<2>, changes: Vec<Tensor<2>>, ctx: &Ctx) -> Tensor<2> {
        let query = output.matmul(self.query.val()) + self.query_bias.val().unsqueeze();
        let score = |change: &Tensor<2>| {
            let key = change.clone().matmul(self.key.val()) + self.key_bias.val().unsqueeze();
            (query.clone() * key).sum_dim(1)
        };
        let scores = Tensor::cat(changes.iter().map(score).collect(), 1);
        let shares = softmax(dropout(scores, self.dropout, ctx), 1);
        let mixed = changes
            .into_iter()
            .enumerate()
            .map(|(index, change)| change * shares.clone().narrow(1, index, 1))
            .reduce(|sum, one| sum + one)
            .expect("a fusion has children that act");
        match &self.value {
            Some(value) => mixed.matmul(value.val()),
            None => mixed,
        }
    }
}

impl SiteGraft for AdapterFusionConfig {
    type Adapter = AdapterFusion;

    const SITES: &'static [SiteKind] = &[SiteKind::Sublayer, SiteKind::Hidden];

    fn takes(&self, site: &SiteShape) -> bool {
        site.kind == SiteKind::Sublayer && self.after.include(site)
    }

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        let d = site.width;
        Counts::trained((2 + usize::from(self.value)) * d * d + 2 * d)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<AdapterFusion> {
        let d = site.width;
        let square = |role| Param::from_tensor(ctx.tensor(Init::Normal { std: STD }, [d, d], role));
        let zeros = |role| Param::from_tensor(ctx.tensor(Init::ZEROS, [d], role));
        let value = || {
            let entry = |place: usize| {
                if place.is_multiple_of(d + 1) {
                    1.0
                } else {
                    OFF_DIAGONAL
                }
            };
            let entries = (0..d * d).map(entry).collect();
            Param::from_tensor(bridge::tensor(entries, [d, d], &ctx.device, ctx.dtype))
        };
        Ok(AdapterFusion {
            query: square("query"),
            query_bias: zeros("query_bias"),
            key: square("key"),
            key_bias: zeros("key_bias"),
            value: self.value.then(value),
            dropout: self.dropout,
        })
    }
}

impl Method for AdapterFusionConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        admits: "any sublayer or hidden state",
        ..MethodMeta::graft(
            "adapter-fusion",
            "AdapterFusion",
            Family::Bottleneck,
            "2005.00247",
            "z + sum_i p_i u_i V, p = softmax_i((z Q + b_Q) . (u_i K + b_K))",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        vec![
            Self::default(),
            Self {
                value: false,
                after: Sublayers::FeedForward,
                dropout: 0.2,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{draw, entries, init, site};

    #[test]
    fn counts_are_those_of_the_paper() {
        // RoBERTa-base, after the feed-forward networks: 21,252,096, as ScaLearn's table has it.
        let count = AdapterFusionConfig::default().count(&site(768)).trainable;
        assert_eq!(12 * count, 21_252_096);
    }

    #[test]
    fn it_is_attention_over_the_changes() {
        let fusion = AdapterFusion {
            query: Param::from_tensor(draw([3, 3], "q")),
            key_bias: Param::from_tensor(draw([1, 3], "b").reshape([3])),
            value: Some(Param::from_tensor(draw([3, 3], "v"))),
            ..init(&AdapterFusionConfig::default(), 3)
        };
        let z = draw([4, 3], "z");
        let changes: Vec<Tensor<2>> = (0..3).map(|i| draw([4, 3], &format!("u{i}"))).collect();
        let found = entries(&fusion.fuse(z.clone(), changes.clone(), &Ctx::default()));
        let query = entries(&z.matmul(fusion.query.val()));
        let with_key = |u: &Tensor<2>| {
            entries(&(u.clone().matmul(fusion.key.val()) + fusion.key_bias.val().unsqueeze()))
        };
        let keys: Vec<Vec<f64>> = changes.iter().map(with_key).collect();
        let value = fusion.value.as_ref().unwrap().val();
        let values: Vec<Vec<f64>> = changes
            .iter()
            .map(|u| entries(&u.clone().matmul(value.clone())))
            .collect();
        for token in 0..4 {
            let at = |all: &[f64], j: usize| all[token * 3 + j];
            let score =
                |key: &Vec<f64>| -> f64 { (0..3).map(|j| at(&query, j) * at(key, j)).sum() };
            let weights: Vec<f64> = keys.iter().map(|key| score(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            for j in 0..3 {
                let terms = weights.iter().zip(&values);
                let expected: f64 = terms.map(|(w, v)| w / total * at(v, j)).sum();
                assert!((at(&found, j) - expected).abs() < 1e-10);
            }
        }
    }
}
