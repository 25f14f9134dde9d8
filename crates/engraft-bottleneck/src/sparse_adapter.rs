//! SparseAdapter: bottlenecks pruned before they are trained.

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, IndexingUpdateOp, Int, Tensor, TensorData};
use engraft_core::{
    AnyMethod, AtInit, Counts, Ctx, Family, InitContext, Kind, LayerShape, Method, MethodMeta,
    Parts, Result, SiteAdapter, SiteGraft, SiteKind, SiteShape,
};
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

use crate::bottleneck::offset;
use crate::{Activation, Sublayers};

/// First values of D and U: N(0, 0.02^2), so that gradients reach both.
const STD: f64 = 0.02;

/// Which entries of D and U are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pruner {
    /// Those of the largest |g v|, g the gradient of the loss for a first value v (Lee et al.,
    /// SNIP, arXiv 1810.02340). It needs a calibration pass.
    #[default]
    Snip,
    /// Those of the largest first values.
    Magnitude,
    /// Any.
    Random,
    /// Any, of each matrix a share in proportion to (rows + columns) / (rows columns), the
    /// Erdos-Renyi rule (Mocanu et al., arXiv 1707.04780): D and U keep equally many.
    ErdosRenyi,
}

/// Configuration of [`SparseAdapter`]. Defaults: SNIP, four fifths pruned, after both sublayers,
/// width 64, ReLU, offsets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SparseAdapterConfig {
    /// `both`, `feed-forward` or `attention`.
    pub after: Sublayers,
    /// Width m of the bottleneck.
    pub width: usize,
    /// Share of the entries of D and U that is pruned, in [0, 1).
    pub sparsity: f64,
    /// As many entries are kept as a dense bottleneck of this width has, whatever the width: the
    /// paper's Large-Sparse. It takes the place of `sparsity`.
    pub dense_width: Option<usize>,
    /// `snip`, `magnitude`, `random` or `erdos-renyi`.
    pub pruner: Pruner,
    /// f.
    pub activation: Activation,
    /// Whether the projections have offsets; they are not pruned.
    pub bias: bool,
    /// s.
    pub scale: f64,
}

impl Default for SparseAdapterConfig {
    fn default() -> Self {
        Self {
            after: Sublayers::Both,
            width: 64,
            sparsity: 0.8,
            dense_width: None,
            pruner: Pruner::Snip,
            activation: Activation::Relu,
            bias: true,
            scale: 1.0,
        }
    }
}

/// z + s (f(z (M . D) + b_D) (N . U) + b_U), z what a sublayer returned, with masks M and N that
/// are fixed before training.
///
/// | symbol | shape | |
/// |---|---|---|
/// | `values` | `[n]` | the kept entries of D [d, m], then of U [m, d]; trained, N(0, 0.02^2) at first |
/// | `stored` | `[n]` | their places in D and U laid end to end; in the file where data chose them |
/// | b_D, b_U | `[m]`, `[d]` | trained, zero at first |
///
/// He et al., SparseAdapter: An Easy Approach for Improving the Parameter-Efficiency of Adapters,
/// arXiv 2210.04284, section 3, and the authors' src/transformers/pruning. A pruned entry is
/// neither trained nor stored; places that follow from the seed are grown from it again. The
/// authors rank the entries of all adapters together, here every adapter keeps the same number, so
/// that counts follow from shapes. Their GraSP needs second derivatives and is left out.
///
/// A pass forms D and U, O(d m), and costs O(tokens d m).
#[derive(Module, Debug)]
pub struct SparseAdapter {
    /// Kept entries, `[n]`.
    pub values: Param<Tensor<1>>,
    /// Their places, `[n]`, where they cannot be grown again.
    pub stored: Option<Param<Tensor<1, Int>>>,
    /// Their places, `[n]`, grown from the seed.
    grown: Option<Tensor<1, Int>>,
    /// b_D, `[m]`.
    pub down_bias: Option<Param<Tensor<1>>>,
    /// b_U, `[d]`.
    pub up_bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    activation: Activation,
    scale: f64,
    #[module(skip)]
    shape: [usize; 2],
}

impl SparseAdapter {
    /// Places of the kept entries, `[n]`.
    pub fn places(&self) -> Tensor<1, Int> {
        match (&self.stored, &self.grown) {
            (Some(stored), _) => stored.val(),
            (None, Some(grown)) => grown.clone(),
            (None, None) => unreachable!("places are stored or grown"),
        }
    }

    /// M . D [d, m] and N . U [m, d].
    pub fn matrices(&self) -> [Tensor<2>; 2] {
        let [d, m] = self.shape;
        let values = self.values.val();
        let none = Tensor::<1>::zeros([2 * d * m], (&values.device(), values.dtype()));
        let all = none.scatter(0, self.places(), values, IndexingUpdateOp::Add);
        [
            all.clone().narrow(0, 0, d * m).reshape([d, m]),
            all.narrow(0, d * m, d * m).reshape([m, d]),
        ]
    }
}

impl SiteAdapter for SparseAdapter {
    fn wrap(&self, _: Tensor<2>, output: Tensor<2>, _: &Ctx) -> Tensor<2> {
        let [down, up] = self.matrices();
        let narrow = offset(output.clone().matmul(down), &self.down_bias);
        let wide = self.activation.apply(narrow).matmul(up);
        output + offset(wide, &self.up_bias) * self.scale
    }
}

impl SparseAdapterConfig {
    /// Number of kept entries on hidden states of width `d`.
    fn kept(&self, d: usize) -> usize {
        match self.dense_width {
            Some(dense) => 2 * d * dense,
            None => {
                let kept = (1.0 - self.sparsity) * (2 * d * self.width) as f64;
                (kept.round() as usize).max(1)
            }
        }
    }

    /// Places of the kept entries, ascending, by the scores of all.
    fn chosen(&self, kept: usize, scores: &[f64]) -> Vec<usize> {
        let half = scores.len() / 2;
        let mut places = match self.pruner {
            Pruner::ErdosRenyi => {
                let of_up = top(&scores[half..], kept / 2);
                let mut places = top(&scores[..half], kept - kept / 2);
                places.extend(of_up.into_iter().map(|place| half + place));
                places
            }
            _ => top(scores, kept),
        };
        places.sort_unstable();
        places
    }
}

/// The places of the `count` largest scores; of equal ones the first.
fn top(scores: &[f64], count: usize) -> Vec<usize> {
    let mut places: Vec<usize> = (0..scores.len()).collect();
    places.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    places.truncate(count);
    places
}

fn indices(places: &[usize], device: &Device) -> Tensor<1, Int> {
    let data: Vec<i64> = places.iter().map(|&place| place as i64).collect();
    Tensor::from_data(TensorData::new(data, [places.len()]), device)
}

impl SiteGraft for SparseAdapterConfig {
    type Adapter = SparseAdapter;

    const SITES: &'static [SiteKind] = &[SiteKind::Sublayer];

    fn takes(&self, site: &SiteShape) -> bool {
        self.after.include(site)
    }

    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, site: &SiteShape) -> Counts {
        let kept = self.kept(site.width);
        let biases = if self.bias {
            self.width + site.width
        } else {
            0
        };
        let places = if self.pruner == Pruner::Snip { kept } else { 0 };
        Counts::with_frozen(kept + biases, places)
    }

    fn probe(&self) -> Option<AnyMethod> {
        let whole = Self {
            sparsity: 0.0,
            dense_width: None,
            pruner: Pruner::Magnitude,
            ..self.clone()
        };
        (self.pruner == Pruner::Snip)
            .then(|| AnyMethod::new(&whole).expect("valid where this one is"))
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<SparseAdapter> {
        let (d, m) = (site.width, self.width);
        let all = 2 * d * m;
        // On the host, so that the choice is the same in every precision.
        let first = Init::Normal { std: STD }.values(all, &ctx.key.child("values"));
        let magnitudes = || first.iter().map(|value| value.abs()).collect();
        let scores: Vec<f64> = match self.pruner {
            Pruner::Magnitude => magnitudes(),
            Pruner::Random | Pruner::ErdosRenyi => {
                Init::Uniform { bound: 1.0 }.values(all, &ctx.key.child("mask"))
            }
            Pruner::Snip => match ctx.statistics()?.own.get("values") {
                Some(gradient) => {
                    let gradient = bridge::values(gradient);
                    gradient
                        .iter()
                        .zip(&first)
                        .map(|(g, v)| (g * v).abs())
                        .collect()
                }
                // A file's places are about to take the place of these.
                None => magnitudes(),
            },
        };
        let places = self.chosen(self.kept(d), &scores);
        let values = places.iter().map(|&place| first[place]).collect();
        let grown = indices(&places, &ctx.device);
        let zeros = |width, role: &str| {
            let draw = || Param::from_tensor(ctx.tensor(Init::ZEROS, [width], role));
            self.bias.then(draw)
        };
        let kept = [places.len()];
        let of_data = self.pruner == Pruner::Snip;
        Ok(SparseAdapter {
            values: Param::from_tensor(bridge::tensor(values, kept, &ctx.device, ctx.dtype)),
            stored: of_data.then(|| Param::initialized(ParamId::new(), grown.clone())),
            grown: (!of_data).then_some(grown),
            down_bias: zeros(m, "down_bias"),
            up_bias: zeros(d, "up_bias"),
            activation: self.activation,
            scale: self.scale,
            shape: [d, m],
        })
    }
}

impl Method for SparseAdapterConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        // |D| |U| of dense Gaussian matrices: 0.02^2 (sqrt(d) + sqrt(m))^2, 0.5 at d = 768, m = 64.
        at_init: AtInit::Bounded(0.5),
        admits: "any sublayer",
        ..MethodMeta::graft(
            "sparse-adapter",
            "SparseAdapter",
            Family::Bottleneck,
            "2210.04284",
            "z + s (f(z (M . D) + b_D) (N . U) + b_U), masks M and N fixed before training",
        )
    };

    fn parts(&self) -> Parts {
        Parts::site(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if self.width == 0 {
            return Err("width 0: expected at least 1".to_owned());
        }
        if !(0.0..1.0).contains(&self.sparsity) {
            return Err(format!(
                "sparsity {}: expected 0 <= sparsity < 1",
                self.sparsity
            ));
        }
        if let Some(dense) = self.dense_width
            && !(1..=self.width).contains(&dense)
        {
            return Err(format!(
                "dense-width {dense}: expected 1 to the width {}",
                self.width
            ));
        }
        if !self.scale.is_finite() {
            return Err(format!("scale {}: expected a finite number", self.scale));
        }
        Ok(())
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            width: 4,
            activation: Activation::Tanh,
            sparsity: 0.6,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                after: Sublayers::FeedForward,
                pruner: Pruner::Magnitude,
                activation: Activation::Gelu,
                bias: false,
                ..small.clone()
            },
            Self {
                after: Sublayers::Attention,
                pruner: Pruner::Random,
                dense_width: Some(1),
                scale: 2.0,
                ..small.clone()
            },
            Self {
                pruner: Pruner::ErdosRenyi,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests;
