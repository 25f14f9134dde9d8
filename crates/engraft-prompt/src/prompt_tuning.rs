//! Prompt tuning.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    AtInit, Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts, Result,
    SiteAdapter, SiteGraft, SiteKind, SiteShape,
};
use serde::{Deserialize, Serialize};

use crate::tokens::{Start, positive, prepend};

/// Configuration of [`PromptTuning`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PromptTuningConfig {
    /// n.
    pub virtual_tokens: usize,
    /// How P starts: `random`, `sampled-vocabulary` or `{ tokens = [..] }`, the ids of a text.
    pub start: Start,
}

impl Default for PromptTuningConfig {
    fn default() -> Self {
        Self {
            virtual_tokens: 20,
            start: Start::Random,
        }
    }
}

/// [P; E]: trained tokens P in front of the embedded ones.
///
/// | symbol | shape | |
/// |---|---|---|
/// | P (`tokens`) | [n, d] | trained |
/// | E | [tokens, d] | word embeddings of the text, before positions are added |
///
/// Lester et al., The Power of Scale for Parameter-Efficient Prompt Tuning, arXiv 2104.08691,
/// section 2; section 3.2 has the starts from words.
///
/// # Cost
/// n tokens more in every layer.
#[derive(Module, Debug)]
pub struct PromptTuning {
    /// P, [n, d].
    pub tokens: Param<Tensor<2>>,
}

impl SiteAdapter for PromptTuning {
    fn extend_sequence(&self, tokens: Tensor<3>, _: &Ctx) -> Tensor<3> {
        prepend(self.tokens.val(), tokens)
    }
}

impl SiteGraft for PromptTuningConfig {
    type Adapter = PromptTuning;

    const SITES: &'static [SiteKind] = &[SiteKind::Prompt];

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        Counts::trained(self.virtual_tokens * site.width)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<PromptTuning> {
        let table = self
            .start
            .table([self.virtual_tokens, site.width], "tokens", ctx)?;
        Ok(PromptTuning {
            tokens: Param::from_tensor(table),
        })
    }
}

impl Method for PromptTuningConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        peft: Some("PROMPT_TUNING"),
        mergeable: false,
        lengthens: true,
        at_init: AtInit::NotIdentity,
        admits: "the embedded tokens of a text",
        ..MethodMeta::graft(
            "prompt-tuning",
            "Prompt tuning",
            Family::Prompt,
            "2104.08691",
            "[P; E], E the embedded tokens",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive("virtual-tokens", self.virtual_tokens)?;
        self.start.validate()
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let starting = |virtual_tokens, start| Self {
            virtual_tokens,
            start,
        };
        vec![
            starting(3, Start::Random),
            starting(2, Start::SampledVocabulary),
            starting(1, Start::Tokens(vec![2, 0])),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::counts;

    #[test]
    fn counts_are_the_published_ones() {
        let config = |virtual_tokens| PromptTuningConfig {
            virtual_tokens,
            ..PromptTuningConfig::default()
        };
        // Llama-3.2-3B in PEFT's benchmark, T5-base in Compacter's.
        assert_eq!(counts(&config(200), 28, 3072, 1024).trainable, 614_400);
        assert_eq!(counts(&config(100), 24, 768, 768).trainable, 76_800);
    }
}
