//! ShadowPEFT: a small decoder beside the model, whose state rides along its blocks.

mod backbone;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    BankSpec, Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta, Parts,
    Result, SiteAdapter, SiteGraft, SiteKind, SiteShape, check_dropout, dropout, positive_rank,
};
use engraft_tensor::{Init, ops};
use serde::{Deserialize, Serialize};

pub use backbone::BackboneConfig;
use backbone::Past;

/// Configuration of [`Shadow`]. PEFT's defaults: rank 8, alpha 0.1, dropout 0.2, updates as wide
/// inside as the rank, one block in the backbone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ShadowConfig {
    /// Rank r of what is injected.
    pub rank: usize,
    /// alpha.
    pub alpha: f64,
    /// Probability of zeroing a difference of hidden state and shadow in training.
    pub dropout: f64,
    /// Width u inside T and G; the rank if left out.
    pub update: Option<usize>,
    /// The decoder that makes the first shadow.
    pub backbone: BackboneConfig,
}

impl Default for ShadowConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 0.1,
            dropout: 0.2,
            update: None,
            backbone: BackboneConfig::default(),
        }
    }
}

/// s_0 = backbone(E); at block l: h = x + alpha (x - s_(l-1)) D U, y = block(h),
/// s_l = (1 - g) . s_(l-1) + g . T(y), g = sigmoid(G(y)).
///
/// | symbol | shape | |
/// |---|---|---|
/// | E | [tokens, d] | embedded tokens |
/// | D (`down`) | [d, r] | trained |
/// | U (`up`) | [r, d] | trained, zero at first |
/// | T, G | | two layers each, d -> u -> d with GELU between: bank, trained |
/// | backbone | | a small decoder: bank, trained |
///
/// ShadowPEFT as in PEFT's `shadow` (equations 1 to 7 of its paper). The shadow changes with what the
/// blocks return, so nothing folds into weights. T and G of the last block change nothing and are
/// frozen. Behind a cache the backbone reads on from keys and values of its own. The shadow is that of
/// the tokens that the model's first site sees: what other adapters put in front later has none.
///
/// # Cost
/// The backbone once, and O(tokens d (2 r + 4 u)) a block.
#[derive(Module, Debug)]
pub struct Shadow {
    /// D, [d, r]; none where tokens enter the model.
    pub down: Option<Param<Tensor<2>>>,
    /// U, [r, d].
    pub up: Option<Param<Tensor<2>>>,
    #[module(skip)]
    config: ShadowConfig,
    /// Name of the adapter.
    #[module(skip)]
    name: String,
}

/// What one block hands on to the next.
struct State {
    /// s, [tokens, d].
    shadow: Tensor<2>,
    /// How many blocks it has met; the last one's output is yet to advance it.
    met: usize,
}

/// The names of T and G.
const UPDATES: [&str; 2] = ["transform", "gate"];

/// The bank's name of a parameter of T or G of a block: `0.weight`, `0.bias`, `2.weight`, `2.bias`.
pub(crate) fn update_entry(block: usize, update: &str, param: &str) -> String {
    format!("blocks.{block}.{update}.{param}")
}

impl ShadowConfig {
    fn inside(&self) -> usize {
        self.update.unwrap_or(self.rank)
    }

    /// The parameters of T and of G, weights [d_in, d_out] and offsets [1, d_out].
    fn update_params(&self, width: usize) -> [(&'static str, [usize; 2], usize); 4] {
        let inside = self.inside();
        [
            ("0.weight", [width, inside], width),
            ("0.bias", [1, inside], width),
            ("2.weight", [inside, width], inside),
            ("2.bias", [1, width], inside),
        ]
    }
}

impl Shadow {
    fn shared(&self, entry: &str, ctx: &Ctx) -> Tensor<2> {
        ctx.shared(&format!("{}/{entry}", self.name))
    }

    /// T or G of a block, [tokens, d].
    fn update(&self, block: usize, update: &str, y: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let get = |param: &str| self.shared(&update_entry(block, update, param), ctx);
        let inner = ops::matmul(y, get("0.weight")) + get("0.bias");
        ops::matmul(ops::gelu(inner), get("2.weight")) + get("2.bias")
    }

    /// s behind a block that returned y.
    fn advance(&self, block: usize, y: Tensor<2>, shadow: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let candidate = self.update(block, UPDATES[0], y.clone(), ctx);
        let gate = ops::sigmoid(self.update(block, UPDATES[1], y, ctx));
        shadow.clone() + gate * (candidate - shadow)
    }
}

impl SiteAdapter for Shadow {
    fn extend_sequence(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let Some(relay) = ctx.relay() else {
            return tokens;
        };
        let [batch, length, width] = tokens.dims();
        let (Some(down), Some(up)) = (&self.down, &self.up) else {
            let past = format!("{}/past", self.name);
            let mut seen = relay.take::<Past>(&past).unwrap_or_default();
            let shared = |name: &str| self.shared(&backbone::entry(name), ctx);
            let backbone = &self.config.backbone;
            let shadow = backbone.forward(tokens.clone(), &mut seen, shared, ctx);
            relay.put(&past, seen);
            let state = State {
                shadow: shadow.reshape([batch * length, width]),
                met: 0,
            };
            relay.put(&self.name, state);
            return tokens;
        };
        let Some(state) = relay.take::<State>(&self.name) else {
            return tokens;
        };
        // What other adapters put in front since the shadow was made has none.
        let own = state.shadow.dims()[0] / batch;
        let lead = length - own;
        let x: Tensor<2> = match lead {
            0 => tokens.clone(),
            _ => tokens.clone().narrow(1, lead, own),
        }
        .reshape([batch * own, width]);
        let shadow = match state.met.checked_sub(1) {
            Some(block) => self.advance(block, x.clone(), state.shadow, ctx),
            None => state.shadow,
        };
        let difference = dropout(x.clone() - shadow.clone(), self.config.dropout, ctx);
        let added = ops::matmul(ops::matmul(difference, down.val()), up.val());
        relay.put(
            &self.name,
            State {
                shadow,
                met: state.met + 1,
            },
        );
        let y = (x + added * self.config.alpha).reshape([batch, own, width]);
        match lead {
            0 => y,
            _ => Tensor::cat(vec![tokens.narrow(1, 0, lead), y], 1),
        }
    }

    fn continue_sequence(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        self.extend_sequence(tokens, ctx)
    }
}

impl SiteGraft for ShadowConfig {
    type Adapter = Shadow;

    const SITES: &'static [SiteKind] = &[SiteKind::Prompt, SiteKind::Sequence];

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        match site.kind {
            SiteKind::Prompt => Counts::default(),
            _ => Counts::trained(2 * self.rank * site.width),
        }
    }

    fn banks(&self, sites: &[SiteShape]) -> Vec<BankSpec> {
        let Some(first) = sites.first() else {
            return Vec::new();
        };
        let blocks = sites.iter().filter(|site| site.kind == SiteKind::Sequence);
        let count = blocks.count();
        let mut specs = self.backbone.bank(first.width);
        for block in 0..count {
            for update in UPDATES {
                for (param, shape, fan_in) in self.update_params(first.width) {
                    specs.push(BankSpec {
                        name: update_entry(block, update, param),
                        shape,
                        init: Init::KaimingUniform { fan_in },
                        trained: block + 1 < count,
                    });
                }
            }
        }
        specs
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<Shadow> {
        let (width, rank) = (site.width, self.rank);
        let block = site.kind == SiteKind::Sequence;
        let param = |init, shape, role| Param::from_tensor(ctx.tensor(init, shape, role));
        let fan_in = Init::KaimingUniform { fan_in: width };
        Ok(Shadow {
            down: block.then(|| param(fan_in, [width, rank], "down")),
            up: block.then(|| param(Init::ZEROS, [rank, width], "up")),
            config: self.clone(),
            name: ctx.name.to_owned(),
        })
    }
}

impl Method for ShadowConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        peft: Some("SHADOW"),
        mergeable: false,
        admits: "the blocks of a model of text",
        ..MethodMeta::graft(
            "shadow",
            "ShadowPEFT",
            Family::Prompt,
            "",
            "x + alpha (x - s) D U into each block, s advanced by what the block returns",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        if self.update == Some(0) {
            return Err("update: found 0, expected at least 1".to_owned());
        }
        self.backbone.validate()
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 2,
            alpha: 0.5,
            dropout: 0.0,
            update: None,
            backbone: BackboneConfig {
                inner: 3,
                heads: 2,
                key_heads: 1,
                head_width: 2,
                ..BackboneConfig::default()
            },
        };
        let backbone = BackboneConfig {
            blocks: 2,
            heads: 1,
            head_width: 4,
            ..small.backbone.clone()
        };
        vec![
            small.clone(),
            Self {
                dropout: 0.1,
                update: Some(3),
                backbone,
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
    fn counts_are_those_of_the_parts() {
        let config = ShadowConfig {
            rank: 4,
            backbone: BackboneConfig {
                inner: 64,
                heads: 4,
                key_heads: 2,
                head_width: 8,
                ..BackboneConfig::default()
            },
            ..ShadowConfig::default()
        };
        let found = counts(&config, 2, 32, 16);
        assert_eq!(found.trainable, 2 * 2 * 4 * 32);
        let updates = 2 * (32 * 4 + 4 + 4 * 32 + 32);
        let backbone = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 3 * 32;
        assert_eq!(found.shared, updates + backbone);
    }
}
