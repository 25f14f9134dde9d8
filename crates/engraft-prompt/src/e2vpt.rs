//! E2VPT: visual prompts and key-value prompts, pruned and rewound.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    AtInit, Counts, Ctx, EvolveSites, EvolvingSite, Family, InitContext, Kind, LayerShape, Method,
    MethodMeta, Parts, Result, SiteAdapter, SiteGraft, SiteKind, SiteShape, Time,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::pruning::{Importance, PruningMask, by_segment, frozen, plain, set};
use crate::tokens::by_head;
use crate::vpt::{enter, start};

/// Standard deviation of key-value prompts at first.
const SPREAD: f64 = 0.02;

/// Configuration of [`E2vpt`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct E2vptConfig {
    /// n, input prompts of each block.
    pub virtual_tokens: usize,
    /// k, key-value prompts of each attention layer.
    pub key_values: usize,
    /// Segments R of a token.
    pub segments: usize,
    /// Share of the tokens that is pruned.
    pub token_sparsity: f64,
    /// Share of the segments of each remaining token that is pruned.
    pub segment_sparsity: f64,
    /// Share of the updates after which tokens are pruned and everything is rewound.
    pub prune_at: f64,
    /// Share of the updates, right before, in which importance is measured.
    pub measured: f64,
    /// Side of the model's patches in pixels; it says how large the tokens are at first.
    pub patch_size: usize,
}

impl Default for E2vptConfig {
    fn default() -> Self {
        Self {
            virtual_tokens: 10,
            key_values: 5,
            segments: 16,
            token_sparsity: 0.5,
            segment_sparsity: 0.5,
            prune_at: 0.5,
            measured: 0.1,
            patch_size: 16,
        }
    }
}

/// Before a block [M . P_i; x] (see [`crate::Vpt`]), in its attention ([Q; K], [Q; V]): input prompts,
/// pruned, and key-value prompts, which keys and values share.
///
/// | symbol | shape | |
/// |---|---|---|
/// | P_i (`tokens`) | [n, d] | trained, at the sequence that enters a block |
/// | M (`mask`) | [n, R] | frozen, stored: each entry a segment d / R wide |
/// | Q (`key_values`) | [k, w] | trained, N(0, 0.02^2) at first, at an attention layer |
///
/// Training has two parts. In the first everything is trained; towards its end the importance of
/// tokens and of their segments is measured, E |dL/drho| for factors rho = 1 that all blocks share.
/// Then the least important tokens are pruned in all blocks, and of the others the least important
/// segments, P and Q take the values again that they started with, and the second part trains what is
/// left. Learning rates are the run's: they are not rewound.
///
/// Han et al., E^2VPT: An Effective and Efficient Approach for Visual Prompt Tuning, arXiv 2307.13770,
/// sections 3.2 and 3.3. As in the authors' code the blocks share one mask and a pruned token stays
/// as zeros; the absolute value in the importance is the paper's.
///
/// # Cost
/// n tokens and k keys more in every layer.
#[derive(Module, Debug)]
pub struct E2vpt {
    /// P_i, [n, d].
    pub tokens: Option<Param<Tensor<2>>>,
    /// M.
    pub mask: Option<PruningMask>,
    /// Q, [k, w].
    pub key_values: Option<Param<Tensor<2>>>,
    /// What pruning remembers.
    pub state: Rewind,
}

/// What is needed to prune [`E2vpt`] and to rewind it.
#[derive(Module, Debug)]
pub struct Rewind {
    /// The parameter as it started.
    pub initial: Param<Tensor<2>>,
    /// The tokens before the present update.
    pub before: Option<Param<Tensor<2>>>,
    /// Importance so far, the same at all blocks.
    pub importance: Option<Importance>,
}

impl SiteAdapter for E2vpt {
    fn extend_sequence(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let (Some(prompt), Some(mask)) = (&self.tokens, &self.mask) else {
            return tokens;
        };
        enter(mask.apply(prompt.val()), tokens, 0.0, ctx)
    }

    fn extend_key_value(
        &self,
        keys: Tensor<4>,
        values: Tensor<4>,
        _: &Ctx,
    ) -> (Tensor<4>, Tensor<4>) {
        let Some(prompt) = &self.key_values else {
            return (keys, values);
        };
        let prompt = by_head(prompt.val(), &keys);
        (
            Tensor::cat(vec![prompt.clone(), keys], 2),
            Tensor::cat(vec![prompt, values], 2),
        )
    }
}

impl E2vptConfig {
    fn mask(&self) -> [usize; 2] {
        [self.virtual_tokens, self.segments]
    }

    /// The update after which it prunes, and the first that it measures.
    fn steps(&self, total: u64) -> (u64, u64) {
        let after = |share: f64| (share * total as f64) as u64;
        let prune = after(self.prune_at).max(1);
        (prune, prune.saturating_sub(after(self.measured).max(1)))
    }

    /// dL/drho of each segment, all blocks together, [n, R].
    fn gradient(&self, sites: &[EvolvingSite<'_, E2vpt>]) -> Option<Tensor<2>> {
        let of_site = |site: &EvolvingSite<'_, E2vpt>| {
            let before = plain(site.adapter().state.before.as_ref()?.val());
            let gradient = plain(site.gradient("tokens")?.clone()).reshape(before.dims());
            Some(by_segment(gradient, before, self.segments))
        };
        sites.iter().filter_map(of_site).reduce(|a, b| a + b)
    }

    /// Prunes by what was measured, and puts everything back to where it started.
    fn prune(&self, sites: &mut [EvolvingSite<'_, E2vpt>]) {
        for site in sites {
            let adapter = site.adapter_mut();
            let initial = adapter.state.initial.val();
            if let (Some(mask), Some(importance)) = (&mut adapter.mask, &adapter.state.importance) {
                mask.keep(&importance.kept(self.token_sparsity, self.segment_sparsity));
            }
            let fields = [
                ("tokens", &mut adapter.tokens),
                ("key_values", &mut adapter.key_values),
            ];
            let mut rewound = Vec::new();
            for (name, param) in fields {
                if let Some(param) = param {
                    set(param, initial.clone());
                    rewound.push(name);
                }
            }
            rewound.into_iter().for_each(|name| site.reset(name, None));
        }
    }
}

impl SiteGraft for E2vptConfig {
    type Adapter = E2vpt;

    const SITES: &'static [SiteKind] = &[SiteKind::Sequence, SiteKind::KeyValue];

    fn takes(&self, site: &SiteShape) -> bool {
        let count = match site.kind {
            SiteKind::Sequence => self.virtual_tokens,
            _ => self.key_values,
        };
        count > 0
    }

    fn admits(&self, site: &SiteShape) -> Result<(), String> {
        match site.kind == SiteKind::Sequence && !site.width.is_multiple_of(self.segments) {
            true => Err(format!(
                "segments {}: expected a divisor of the width {}",
                self.segments, site.width
            )),
            false => Ok(()),
        }
    }

    fn count(&self, site: &SiteShape) -> Counts {
        let [tokens, segments] = self.mask();
        match site.kind {
            SiteKind::Sequence => Counts::with_frozen(tokens * site.width, tokens * segments),
            _ => Counts::trained(self.key_values * site.width),
        }
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<E2vpt> {
        let sequence = site.kind == SiteKind::Sequence;
        let table = match sequence {
            true => {
                let shape = [self.virtual_tokens, site.width];
                ctx.tensor(start(self.patch_size, site.width), shape, "tokens")
            }
            false => {
                let shape = [self.key_values, site.width];
                ctx.tensor(Init::Normal { std: SPREAD }, shape, "key_values")
            }
        };
        let trained = |wanted: bool| wanted.then(|| Param::from_tensor(table.clone()));
        Ok(E2vpt {
            tokens: trained(sequence),
            mask: sequence.then(|| PruningMask::init(self.mask(), ctx)),
            key_values: trained(!sequence),
            state: Rewind {
                initial: frozen(table.clone()),
                before: sequence.then(|| frozen(table.clone())),
                importance: sequence.then(|| Importance::init(self.mask(), ctx)),
            },
        })
    }
}

impl EvolveSites for E2vptConfig {
    fn evolve(&self, time: Time, sites: &mut [EvolvingSite<'_, E2vpt>]) -> Result<()> {
        let (prune, measure) = self.steps(time.total);
        let done = time.step + 1;
        if done > prune || (self.token_sparsity == 0.0 && self.segment_sparsity == 0.0) {
            return Ok(());
        }
        if time.step >= measure
            && let Some(gradient) = self.gradient(sites)
        {
            for site in &mut *sites {
                if let Some(importance) = &mut site.adapter_mut().state.importance {
                    importance.see(&like(&gradient, &importance.segments.val()));
                }
            }
        }
        if done == prune {
            self.prune(sites);
        } else if done >= measure {
            for site in sites {
                let adapter = site.adapter_mut();
                if let (Some(before), Some(tokens)) = (&mut adapter.state.before, &adapter.tokens) {
                    set(before, tokens.val());
                }
            }
        }
        Ok(())
    }

    fn report(&self, adapter: &E2vpt) -> Vec<(&'static str, f64)> {
        let counts = adapter.mask.as_ref().map(PruningMask::counts);
        counts.map_or_else(Vec::new, |[tokens, segments]| {
            vec![("tokens", tokens as f64), ("segments", segments as f64)]
        })
    }
}

/// The plain tensor as `other` is: part of an autodiff graph or not.
fn like(tensor: &Tensor<2>, other: &Tensor<2>) -> Tensor<2> {
    match other.is_autodiff() {
        true => Tensor::from_inner(tensor.clone()),
        false => tensor.clone(),
    }
}

impl Method for E2vptConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        lengthens: true,
        at_init: AtInit::NotIdentity,
        admits: "the sequence that enters a block, of a width that R divides, and any attention layer",
        ..MethodMeta::graft(
            "e2vpt",
            "E2VPT",
            Family::Prompt,
            "2307.13770",
            "[M . P_i; x] into block i, ([Q; K], [Q; V]) in its attention, M from pruning",
        )
    };

    fn parts(&self) -> Parts {
        Parts::evolving_site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if self.virtual_tokens + self.key_values == 0 {
            return Err(
                "virtual-tokens 0 and key-values 0: expected one of them above 0".to_owned(),
            );
        }
        if self.segments == 0 || self.patch_size == 0 {
            return Err("segments and patch-size: expected at least 1".to_owned());
        }
        let shares = [
            ("token-sparsity", self.token_sparsity),
            ("segment-sparsity", self.segment_sparsity),
            ("prune-at", self.prune_at),
            ("measured", self.measured),
        ];
        match shares
            .iter()
            .find(|(_, share)| !(0.0..=1.0).contains(share))
        {
            Some((key, share)) => Err(format!("{key} {share}: expected a share from 0 to 1")),
            None => Ok(()),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let small = Self {
            virtual_tokens: 2,
            key_values: 1,
            segments: if layer.d_in.is_multiple_of(4) { 4 } else { 1 },
            patch_size: 1,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                virtual_tokens: 0,
                key_values: 2,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests;
