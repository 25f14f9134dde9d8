//! Visual prompt tuning.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    AtInit, Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts, Result,
    SiteAdapter, SiteGraft, SiteKind, SiteShape, check_dropout, dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::tokens::positive;

/// Configuration of [`Vpt`]. Defaults: deep, 10 tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct VptConfig {
    /// n.
    pub virtual_tokens: usize,
    /// Whether every block has tokens of its own (VPT-deep) or only the first (VPT-shallow).
    pub deep: bool,
    /// Dropout probability on the tokens.
    pub dropout: f64,
    /// Side of the model's patches in pixels; it says how large the tokens are at first.
    pub patch_size: usize,
}

impl Default for VptConfig {
    fn default() -> Self {
        Self {
            virtual_tokens: 10,
            deep: true,
            dropout: 0.0,
            patch_size: 16,
        }
    }
}

/// [P_i; x] into block i. Where an earlier block had tokens of its own, the model drops what became of
/// them.
///
/// | symbol | shape | |
/// |---|---|---|
/// | P_i (`tokens`) | [n, d] | trained, U(-v, v) at first, v^2 = 6 / (3 patch^2 + d) |
///
/// Jia et al., Visual Prompt Tuning, arXiv 2203.12119, section 3.2. The tokens have no position, so
/// that it makes no difference that they are in front of the class token rather than behind it.
///
/// # Cost
/// n tokens more in every layer.
#[derive(Module, Debug)]
pub struct Vpt {
    /// P_i, [n, d].
    pub tokens: Param<Tensor<2>>,
    /// Dropout probability.
    pub dropout: f64,
}

/// The sequence with `prompt` in front, entries of it dropped in training.
pub(crate) fn enter(
    prompt: Tensor<2>,
    tokens: Tensor<3>,
    probability: f64,
    ctx: &Ctx,
) -> Tensor<3> {
    let (batch, [count, width]) = (tokens.dims()[0], prompt.dims());
    let prompt = prompt.unsqueeze::<3>().expand([batch, count, width]);
    let prompt = dropout(prompt.reshape([batch * count, width]), probability, ctx);
    Tensor::cat(vec![prompt.reshape([batch, count, width]), tokens], 1)
}

/// The start of a token of width `width` in a model of such patches.
pub(crate) fn start(patch_size: usize, width: usize) -> Init {
    let pixels = (3 * patch_size * patch_size + width) as f64;
    Init::Uniform {
        bound: (6.0 / pixels).sqrt(),
    }
}

impl SiteAdapter for Vpt {
    fn extend_sequence(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        enter(self.tokens.val(), tokens, self.dropout, ctx)
    }
}

impl SiteGraft for VptConfig {
    type Adapter = Vpt;

    const SITES: &'static [SiteKind] = &[SiteKind::Sequence];

    fn default_sites<'a>(&self, mut sites: Vec<&'a SiteShape>) -> Vec<&'a SiteShape> {
        if !self.deep {
            sites.truncate(1);
        }
        sites
    }

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        Counts::trained(self.virtual_tokens * site.width)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<Vpt> {
        let shape = [self.virtual_tokens, site.width];
        let tokens = ctx.tensor(start(self.patch_size, site.width), shape, "tokens");
        Ok(Vpt {
            tokens: Param::from_tensor(tokens),
            dropout: self.dropout,
        })
    }
}

impl Method for VptConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        lengthens: true,
        at_init: AtInit::NotIdentity,
        admits: "the sequence that enters a block",
        ..MethodMeta::graft(
            "vpt",
            "VPT (shallow, deep)",
            Family::Prompt,
            "2203.12119",
            "[P_i; x] into block i, x without the tokens of an earlier block",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive("virtual-tokens", self.virtual_tokens)?;
        positive("patch-size", self.patch_size)?;
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            virtual_tokens: 2,
            patch_size: 1,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                deep: false,
                dropout: 0.3,
                virtual_tokens: 3,
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
    fn deep_counts_every_block_and_shallow_one() {
        let config = |deep| VptConfig {
            virtual_tokens: 50,
            deep,
            ..VptConfig::default()
        };
        assert_eq!(counts(&config(true), 12, 768, 768).trainable, 12 * 50 * 768);
        assert_eq!(counts(&config(false), 12, 768, 768).trainable, 50 * 768);
    }
}
