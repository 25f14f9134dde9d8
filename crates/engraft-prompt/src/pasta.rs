//! PASTA.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    AtInit, Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts, Result,
    SiteAdapter, SiteGraft, SiteKind, SiteShape, Text, check_dropout, dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::tokens::positive;

/// Configuration of [`Pasta`]. The default special tokens are those of BERT's vocabularies.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PastaConfig {
    /// Ids of the special tokens: `[CLS]` and `[SEP]`, or what a vocabulary has for them.
    pub special_tokens: Vec<u32>,
    /// m, the special tokens of a sequence that have a vector: 2 for one sentence, 3 for two.
    pub vectors: usize,
    /// Dropout probability on the vectors.
    pub dropout: f64,
    /// Standard deviation of the vectors at first.
    pub std: f64,
}

impl Default for PastaConfig {
    fn default() -> Self {
        Self {
            special_tokens: vec![101, 102],
            vectors: 3,
            dropout: 0.1,
            std: 0.02,
        }
    }
}

/// h_t + v_p before every block, where token t is the p-th special token of its sequence; other tokens
/// stay as they are.
///
/// | symbol | shape | |
/// |---|---|---|
/// | v_1 .. v_m (`vectors`) | [m, d] | trained, N(0, std^2) at first |
///
/// A model that reads no text has one special token, the first: a vision transformer's class token.
///
/// Yang et al., Parameter-Efficient Tuning with Special Token Adaptation, arXiv 2210.04382, section 3,
/// and the authors' code, from which the start and the dropout are.
///
/// # Cost
/// O(tokens d) per block.
#[derive(Module, Debug)]
pub struct Pasta {
    /// v, [m, d].
    pub vectors: Param<Tensor<2>>,
    /// Dropout probability.
    pub dropout: f64,
    #[module(skip)]
    special: Vec<u32>,
}

impl Pasta {
    /// p of each token, 0 where it has no vector, [batch, tokens].
    fn places(&self, text: &Text) -> Tensor<2, Int> {
        let is = |id: &u32| text.ids.clone().equal_elem(i64::from(*id)).int();
        let special = self.special.iter().map(is).reduce(|a, b| a + b);
        let special = special.unwrap_or_else(|| text.ids.zeros_like());
        let places = special.clone().cumsum(1) * special;
        let beyond = places.clone().greater_elem(self.vectors.dims()[0] as i64);
        places.mask_fill(beyond, 0)
    }
}

impl SiteAdapter for Pasta {
    fn extend_sequence(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let [batch, length, width] = tokens.dims();
        let vectors = self.vectors.val();
        let Some(text) = ctx.own_text() else {
            let first = tokens.clone().narrow(1, 0, 1);
            let vector = vectors.narrow(0, 0, 1).expand([batch, width]);
            let first = first + dropout(vector, self.dropout, ctx).reshape([batch, 1, width]);
            return Tensor::cat(vec![first, tokens.narrow(1, 1, length - 1)], 1);
        };
        let nothing = vectors.clone().narrow(0, 0, 1).detach() * 0.0;
        let table = Tensor::cat(vec![nothing, vectors], 0);
        // The text is at the end of a sequence that prompts made longer.
        let [rows, own] = text.dims();
        // Behind a cache the tokens are the last of the text.
        let new = own.min(length);
        let places = self.places(&text).narrow(1, own - new, new);
        let own = new;
        let added = table.select(0, places.reshape([rows * own]));
        let added = dropout(added, self.dropout, ctx).reshape([rows, own, width]);
        let lead = length - own;
        let text = tokens.clone().narrow(1, lead, own) + added;
        match lead {
            0 => text,
            _ => Tensor::cat(vec![tokens.narrow(1, 0, lead), text], 1),
        }
    }

    fn continue_sequence(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        match ctx.text() {
            Some(_) => self.extend_sequence(tokens, ctx),
            None => tokens,
        }
    }
}

impl SiteGraft for PastaConfig {
    type Adapter = Pasta;

    const SITES: &'static [SiteKind] = &[SiteKind::Sequence];

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        Counts::trained(self.vectors * site.width)
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<Pasta> {
        let init = Init::Normal { std: self.std };
        let vectors = ctx.tensor(init, [self.vectors, site.width], "vectors");
        Ok(Pasta {
            vectors: Param::from_tensor(vectors),
            dropout: self.dropout,
            special: self.special_tokens.clone(),
        })
    }
}

impl Method for PastaConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        at_init: AtInit::NotIdentity,
        admits: "the sequence that enters a block",
        ..MethodMeta::graft(
            "pasta",
            "PASTA",
            Family::Prompt,
            "2210.04382",
            "h_t + v_p before every block, token t the p-th special one",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive("vectors", self.vectors)?;
        if self.special_tokens.is_empty() {
            return Err("special-tokens is empty: expected ids".to_owned());
        }
        if !self.std.is_finite() || self.std < 0.0 {
            return Err(format!("std {}: expected at least 0", self.std));
        }
        check_dropout(self.dropout)
    }

    fn at_init(&self) -> AtInit {
        match self.std == 0.0 {
            true => AtInit::Identity,
            false => AtInit::NotIdentity,
        }
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            special_tokens: vec![0, 1],
            vectors: 2,
            dropout: 0.0,
            std: 0.5,
        };
        vec![
            small.clone(),
            Self {
                special_tokens: vec![1],
                vectors: 1,
                dropout: 0.2,
                std: 0.0,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};
    use engraft_core::{Bank, FrozenBase};
    use engraft_tensor::bridge::values;

    use super::*;
    use crate::testing::{counts, draw};

    fn adapter(config: &PastaConfig) -> Pasta {
        let base = FrozenBase::new(draw([2, 2], "w"), None);
        let bank = Bank::default();
        let ctx = InitContext::new(0, "s", "default", &base, &bank);
        let site = SiteShape {
            path: "s".to_owned(),
            kind: SiteKind::Sequence,
            width: 2,
        };
        config.init(&site, &ctx).unwrap()
    }

    #[test]
    fn special_tokens_are_counted_in_each_sequence() {
        let config = PastaConfig {
            vectors: 2,
            dropout: 0.0,
            ..PastaConfig::default()
        };
        let pasta = adapter(&config);
        let ids = vec![101i64, 7, 102, 102, 8, 101, 9, 102];
        let ids = Tensor::from_data(TensorData::new(ids, [2, 4]), &Device::default());
        let text = Text::new(ids);
        let places: Vec<i64> = pasta
            .places(&text)
            .into_data()
            .convert::<i64>()
            .try_to_vec()
            .unwrap();
        assert_eq!(places, [1, 0, 2, 0, 0, 1, 0, 2]);
        // One more token in front, as prompts put there.
        let tokens = draw([2, 5, 2], "tokens");
        let changed = pasta.extend_sequence(tokens.clone(), &Ctx::default().with_text(&text));
        let added = values(&(changed - tokens));
        let vectors = values(&pasta.vectors.val());
        let expected = [[0, 1, 0, 2, 0], [0, 0, 1, 0, 2]].concat();
        for (token, place) in expected.into_iter().enumerate() {
            for entry in 0..2 {
                let vector = if place == 0 {
                    0.0
                } else {
                    vectors[2 * (place - 1) + entry]
                };
                assert!((added[2 * token + entry] - vector).abs() < 1e-12);
            }
        }
    }

    #[test]
    fn the_count_is_that_of_the_paper() {
        let config = PastaConfig {
            vectors: 2,
            ..PastaConfig::default()
        };
        // BERT-large: 0.015 % of 335 million.
        assert_eq!(counts(&config, 24, 1024, 1024).trainable, 49_152);
    }
}
