//! Prefix tuning.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    AtInit, BankSpec, Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta,
    Parts, Result, SiteAdapter, SiteGraft, SiteKind, SiteShape,
};
use engraft_tensor::{Init, ops};
use serde::{Deserialize, Serialize};

use crate::encoder::Dense;
use crate::tokens::{positive, prepend_cache};

/// Bank entries of the projection.
const SHARED: [&str; 3] = ["embedding", "inner", "inner_bias"];

/// Configuration of [`PrefixTuning`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PrefixTuningConfig {
    /// n.
    pub virtual_tokens: usize,
    /// Whether a trained network computes the keys and values.
    pub projection: bool,
    /// Width h of that network; left out, that of the keys.
    pub hidden: Option<usize>,
    /// Whether all keys and values start at zero rather than at random.
    pub zero: bool,
}

impl Default for PrefixTuningConfig {
    fn default() -> Self {
        Self {
            virtual_tokens: 20,
            projection: false,
            hidden: None,
            zero: false,
        }
    }
}

/// ([P_K; K], [P_V; V]): trained keys and values in front of those of every attention layer.
///
/// | symbol | shape | |
/// |---|---|---|
/// | P = P_K, P_V (`table`) | [n, 2 w] | trained, N(0, 1) at first; without projection |
/// | w | | width of the keys: key heads times head width |
///
/// With projection P = tanh(T A + a) B + b:
///
/// | symbol | shape | |
/// |---|---|---|
/// | T, A, a | [n, w], [w, h], [1, h] | trained, in the bank: shared by all layers |
/// | B, b (`outer`) | [h, 2 w], `[2 w]` | trained |
///
/// Li and Liang, Prefix-Tuning: Optimizing Continuous Prompts for Generation, arXiv 2101.00190,
/// sections 4.2 and 4.3; P-tuning v2 (arXiv 2110.07602) is the same without projection. The model's
/// own tokens take the positions behind the prefix. Zeros are not the identity: zero keys take a
/// share of the attention.
///
/// # Cost
/// n keys more in every layer.
#[derive(Module, Debug)]
pub struct PrefixTuning {
    /// P, [n, 2 w].
    pub table: Option<Param<Tensor<2>>>,
    /// B and b.
    pub outer: Option<Dense>,
    /// Number of virtual tokens.
    pub virtual_tokens: usize,
    #[module(skip)]
    shared: Vec<String>,
}

impl PrefixTuning {
    /// P, [n, 2 w].
    pub fn prefix(&self, ctx: &Ctx) -> Tensor<2> {
        if let Some(table) = &self.table {
            return table.val();
        }
        let outer = self
            .outer
            .as_ref()
            .expect("a prefix without a table is projected");
        let shared = |entry: usize| ctx.shared(&self.shared[entry]);
        outer.forward(ops::tanh(shared(0).matmul(shared(1)) + shared(2)))
    }
}

impl SiteAdapter for PrefixTuning {
    fn extend_key_value(
        &self,
        keys: Tensor<4>,
        values: Tensor<4>,
        ctx: &Ctx,
    ) -> (Tensor<4>, Tensor<4>) {
        prepend_cache(self.prefix(ctx), keys, values)
    }

    fn positions(&self) -> usize {
        self.virtual_tokens
    }
}

impl SiteGraft for PrefixTuningConfig {
    type Adapter = PrefixTuning;

    const SITES: &'static [SiteKind] = &[SiteKind::KeyValue];

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        let rows = match self.projection {
            true => self.hidden.unwrap_or(site.width) + 1,
            false => self.virtual_tokens,
        };
        Counts::trained(rows * 2 * site.width)
    }

    fn banks(&self, sites: &[SiteShape]) -> Vec<BankSpec> {
        let Some(site) = sites.first().filter(|_| self.projection) else {
            return Vec::new();
        };
        let (w, h) = (site.width, self.hidden.unwrap_or(site.width));
        let inner = Init::KaimingUniform { fan_in: w };
        let [embedding, weight, bias] = SHARED;
        vec![
            BankSpec::trained(
                embedding,
                [self.virtual_tokens, w],
                Init::Normal { std: 1.0 },
            ),
            BankSpec::trained(weight, [w, h], inner),
            BankSpec::trained(bias, [1, h], inner),
        ]
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<PrefixTuning> {
        let (w, h) = (site.width, self.hidden.unwrap_or(site.width));
        let start = match self.zero {
            true => Init::ZEROS,
            false => Init::Normal { std: 1.0 },
        };
        let table = || Param::from_tensor(ctx.tensor(start, [self.virtual_tokens, 2 * w], "table"));
        let outer = || match self.zero {
            true => Dense::zeros(h, 2 * w, ctx),
            false => Dense::init(h, 2 * w, h, "outer", ctx),
        };
        Ok(PrefixTuning {
            table: (!self.projection).then(table),
            outer: self.projection.then(outer),
            virtual_tokens: self.virtual_tokens,
            shared: SHARED.map(|entry| ctx.shared_name(entry)).to_vec(),
        })
    }
}

impl Method for PrefixTuningConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        peft: Some("PREFIX_TUNING"),
        mergeable: false,
        lengthens: true,
        at_init: AtInit::NotIdentity,
        admits: "any attention layer",
        ..MethodMeta::graft(
            "prefix-tuning",
            "Prefix tuning",
            Family::Prompt,
            "2101.00190",
            "([P_K; K], [P_V; V]) in every attention layer",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive("virtual-tokens", self.virtual_tokens)?;
        positive("hidden", self.hidden.unwrap_or(1))
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            virtual_tokens: 2,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                projection: true,
                hidden: Some(3),
                ..small.clone()
            },
            Self {
                projection: true,
                zero: true,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::counts;

    #[test]
    fn counts_are_the_published_ones() {
        let config = |virtual_tokens| PrefixTuningConfig {
            virtual_tokens,
            ..PrefixTuningConfig::default()
        };
        // Llama-3.2-3B in PEFT's benchmark, bloomz-560m in its documentation, LLaMA-7B in ReFT's tables.
        assert_eq!(counts(&config(200), 28, 3072, 1024).trainable, 11_468_800);
        assert_eq!(counts(&config(50), 28, 3072, 1024).trainable, 2_867_200);
        assert_eq!(counts(&config(20), 24, 1024, 1024).trainable, 983_040);
        assert_eq!(counts(&config(10), 32, 4096, 4096).trainable, 2_621_440);
    }

    #[test]
    fn a_projection_is_counted_once_for_all_layers() {
        let config = PrefixTuningConfig {
            virtual_tokens: 3,
            projection: true,
            hidden: Some(12),
            zero: false,
        };
        // As PEFT counts it: 3 * 32, 32 * 12 + 12 and 12 * 2 * 2 * 32 + 2 * 2 * 32.
        assert_eq!(counts(&config, 2, 32, 32).all_trained(), 96 + 396 + 1_664);
    }
}
