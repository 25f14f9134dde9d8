//! Compacter: bottleneck adapters whose projections are PHM maps.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Activation, BankSpec, Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta,
    Parts, Result, SiteAdapter, SiteGraft, SiteKind, SiteShape, Sublayers, standardised,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::phm::{self, Phm, Rules};

/// Configuration of [`Compacter`]. Paper defaults: after both sublayers, n = 4, rank 1, a reduction
/// factor of 32, GELU. Compacter++ is `after = "feed-forward"`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct CompacterConfig {
    /// `both` (Compacter), `feed-forward` (Compacter++) or `attention`.
    pub after: Sublayers,
    /// Width m of the bottleneck; the reduction factor decides where it is left out.
    pub width: Option<usize>,
    /// d / m, rounded down but for an m of at least n.
    pub reduction_factor: usize,
    /// n, a divisor of d and m.
    pub division: usize,
    /// Rank r of each s_k t_k.
    pub rank: usize,
    /// `trained` or `frozen`.
    pub rules: Rules,
    /// f.
    pub activation: Activation,
    /// Whether a trained layer norm comes first (PEViT's variant).
    pub layer_norm: bool,
}

impl Default for CompacterConfig {
    fn default() -> Self {
        Self {
            after: Sublayers::Both,
            width: None,
            reduction_factor: 32,
            division: 4,
            rank: 1,
            rules: Rules::Trained,
            activation: Activation::Gelu,
            layer_norm: false,
        }
    }
}

/// z + f(norm(z) D + b_D) U + b_U, z what a sublayer returned, with D = sum_k A_k (x) (s_k t_k) and
/// U = sum_k A_k (x) (s'_k t'_k).
///
/// | symbol | shape | |
/// |---|---|---|
/// | A_k | [n, n] | bank, shared by all projections of all layers; N(0, 0.01^2) at first |
/// | s_k, t_k | [d / n, r], [r, m / n] | trained; Glorot uniform at first |
/// | s'_k, t'_k | [m / n, r], [r, d / n] | trained; s' Glorot uniform, t' zero at first |
/// | b_D, b_U | `[m]`, `[d]` | trained; zero at first |
/// | gain and offset of the norm | `[d]` each | trained; only with `layer-norm` |
///
/// Karimi Mahabadi et al., Compacter: Efficient Low-Rank Hypercomplex Adapter Layers, arXiv
/// 2106.04647, section 4; the authors' seq2seq/hypercomplex/layers.py and configs/compacter.json
/// give the starting values and the reduction factor. There t' is Glorot uniform too and the
/// adapter small but not zero at first; here it is zero. GELU is the exact one, there the
/// approximation by tanh. The model's own layer norms, trained there too, are a selection to compose with. A
/// token costs O(n r (d + m + n^2)).
#[derive(Module, Debug)]
pub struct Compacter {
    /// Gain of the layer norm, `[d]`.
    pub norm_gain: Option<Param<Tensor<1>>>,
    /// Offset of the layer norm, `[d]`.
    pub norm_bias: Option<Param<Tensor<1>>>,
    /// s and t of D.
    pub down: Phm,
    /// b_D, `[m]`.
    pub down_bias: Param<Tensor<1>>,
    /// s' and t' of U.
    pub up: Phm,
    /// b_U, `[d]`.
    pub up_bias: Param<Tensor<1>>,
    /// f.
    #[module(skip)]
    pub activation: Activation,
    #[module(skip)]
    rules: String,
}

impl SiteAdapter for Compacter {
    fn wrap(&self, _: Tensor<2>, output: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let rules = phm::rules(ctx, &self.rules);
        let hidden = match (&self.norm_gain, &self.norm_bias) {
            (Some(gain), Some(bias)) => {
                standardised(output.clone()) * gain.val().unsqueeze() + bias.val().unsqueeze()
            }
            _ => output.clone(),
        };
        let narrow = self.down.apply(hidden, rules.clone()) + self.down_bias.val().unsqueeze();
        let wide = self.up.apply(self.activation.apply(narrow), rules);
        output + wide + self.up_bias.val().unsqueeze()
    }
}

impl CompacterConfig {
    /// m on hidden states of width `d`.
    fn width(&self, d: usize) -> usize {
        self.width
            .unwrap_or((d / self.reduction_factor).max(self.division))
    }
}

impl SiteGraft for CompacterConfig {
    type Adapter = Compacter;

    const SITES: &'static [SiteKind] = &[SiteKind::Sublayer];

    fn takes(&self, site: &SiteShape) -> bool {
        self.after.include(site)
    }

    fn admits(&self, site: &SiteShape) -> Result<(), String> {
        phm::admit_division(self.division, &[site.width, self.width(site.width)])
    }

    fn count(&self, site: &SiteShape) -> Counts {
        let (d, m) = (site.width, self.width(site.width));
        let norm = if self.layer_norm { 2 * d } else { 0 };
        Counts::trained(2 * self.rank * (d + m) + m + d + norm)
    }

    fn banks(&self, _: &[SiteShape]) -> Vec<BankSpec> {
        vec![self.rules.bank(self.division)]
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<Compacter> {
        let (d, m) = (site.width, self.width(site.width));
        let sizes = [self.division, self.rank];
        let vector = |init, width, role| Param::from_tensor(ctx.tensor(init, [width], role));
        let zeros = |width, role| vector(Init::ZEROS, width, role);
        Ok(Compacter {
            norm_gain: self.layer_norm.then(|| vector(Init::ONES, d, "norm_gain")),
            norm_bias: self.layer_norm.then(|| zeros(d, "norm_bias")),
            down: Phm::init(sizes, [d, m], false, "down", ctx),
            down_bias: zeros(m, "down_bias"),
            up: Phm::init(sizes, [m, d], true, "up", ctx),
            up_bias: zeros(d, "up_bias"),
            activation: self.activation,
            rules: phm::rules_name(ctx),
        })
    }
}

impl Method for CompacterConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        admits: "any sublayer whose width n divides",
        ..MethodMeta::graft(
            "compacter",
            "Compacter, Compacter++",
            Family::Kronecker,
            "2106.04647",
            "z + f(norm(z) D + b_D) U + b_U, D and U = sum_k A_k (x) (s_k t_k), A_k shared by all",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        phm::check_sizes(self.division, self.rank)?;
        if self.width == Some(0) {
            return Err("width 0: expected at least 1".to_owned());
        }
        if self.reduction_factor == 0 {
            return Err("reduction-factor 0: expected at least 1".to_owned());
        }
        Ok(())
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let n = phm::common_divisor(layer.d_out, layer.d_out, 4);
        let small = Self {
            width: Some(2 * n),
            division: n,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                after: Sublayers::FeedForward,
                width: None,
                division: 1,
                reduction_factor: 4,
                rank: 2,
                activation: Activation::Tanh,
                ..small.clone()
            },
            Self {
                after: Sublayers::Attention,
                rules: Rules::Frozen,
                activation: Activation::Silu,
                layer_norm: true,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(config: &CompacterConfig, width: usize, sites: usize) -> usize {
        let site = SiteShape {
            path: "blocks.0.mlp".to_owned(),
            kind: SiteKind::Sublayer,
            width,
        };
        let banks: Counts = config.banks(&[]).iter().map(BankSpec::count).sum();
        sites * config.count(&site).trainable + banks.shared
    }

    #[test]
    fn counts_are_the_published_ones() {
        // T5-base: 222,903,552 values, of which 62 layer norms are trained along. 0.073% with 48
        // adapters, 0.047% with 24.
        let (config, norms) = (CompacterConfig::default(), 62 * 768);
        assert_eq!(total(&config, 768, 48) + norms, 161_728);
        assert_eq!(total(&config, 768, 24) + norms, 104_704);
        let percent = |count: usize| format!("{:.3}", 100.0 * count as f64 / 222_903_552.0);
        assert_eq!(percent(total(&config, 768, 48) + norms), "0.073");
        assert_eq!(percent(total(&config, 768, 24) + norms), "0.047");
        // PEViT's baseline on CLIP ViT-B/32: 12 of width 64 with a layer norm each, the rules left
        // out of training by the filter on names; heads of 29,523 on average.
        let clip = CompacterConfig {
            width: Some(64),
            rules: Rules::Frozen,
            layer_norm: true,
            ..config
        };
        assert_eq!(total(&clip, 768, 12) + 29_523, 77_907);
        // The paper's low-rank adapters, rank-1 projections without rules, have as many values as
        // n = 1 with a frozen rule, which is a constant factor: 0.073%.
        let low_rank = CompacterConfig {
            division: 1,
            rules: Rules::Frozen,
            ..CompacterConfig::default()
        };
        assert_eq!(total(&low_rank, 768, 48) + norms, 161_664);
    }

    #[test]
    fn an_indivisible_width_is_refused() {
        let site = SiteShape {
            path: "blocks.0.mlp".to_owned(),
            kind: SiteKind::Sublayer,
            width: 30,
        };
        let reason = CompacterConfig::default().admits(&site).unwrap_err();
        assert!(reason.contains("divisor of the width 30"), "{reason}");
    }
}
