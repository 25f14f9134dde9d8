//! IncreLoRA: incremental parameter allocation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, AtInit, BankSpec, Counts, Ctx, Evolve, Evolving, Family, FrozenBase, Graft,
    InitContext, LayerShape, Method, MethodMeta, Parts, Result, Time, check_dropout, positive_rank,
    refuse_dropout,
};
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

use crate::adalora::{check_smoothing, check_weight};
use crate::importance::{Importance, frozen, plain, set};
use crate::schedule::{GrowthSchedule, highest};
use crate::triplets::{self, RANK_EPSILON, SPREAD};

/// lambda of a triplet in reserve, and of one that has just become active.
const RESERVE: f64 = 1e-5;

/// Configuration of [`Increlora`]. Defaults of the authors' scripts: rank 1 growing to 8 on average,
/// by 4 at a time on 4 layers, alpha 32, orthogonality 0.1, smoothing 0.85.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct IncreloraConfig {
    /// Rank at first.
    pub rank: usize,
    /// Average rank of a layer at which growth ends.
    pub target_rank: usize,
    /// Largest rank of a layer, for which there is room from the start.
    pub max_rank: usize,
    /// Triplets that a layer gains when it grows (half the target in the authors' code).
    pub growth: usize,
    /// Layers that grow at a time.
    pub top: usize,
    /// Whether triplets are trained in reserve before they become active.
    pub advance: bool,
    /// alpha.
    pub alpha: f64,
    /// Probability of zeroing an input in training.
    pub dropout: f64,
    /// Weight of the orthogonality penalty.
    pub orthogonality: f64,
    /// How slowly the sensitivity follows.
    pub beta1: f64,
    /// How slowly the uncertainty follows.
    pub beta2: f64,
    /// When ranks grow.
    pub schedule: GrowthSchedule,
}

impl Default for IncreloraConfig {
    fn default() -> Self {
        Self {
            rank: 1,
            target_rank: 8,
            max_rank: 24,
            growth: 4,
            top: 4,
            advance: true,
            alpha: 32.0,
            dropout: 0.0,
            orthogonality: 0.1,
            beta1: 0.85,
            beta2: 0.85,
            schedule: GrowthSchedule::default(),
        }
    }
}

/// W' = W + s sum_k lambda_k a_k b_k, s = alpha / (r + 1e-5), whose rank r grows where it matters.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A (columns a_k) | [d_in, R] | trained, N(0, 0.02^2) at first |
/// | lambda (`e`) | `[R]` | trained where active, zero at first |
/// | B (rows b_k) | [R, d_out] | trained, N(0, 0.02^2) at first |
///
/// The first r of R triplets are active. The next ones are in reserve: lambda is held at 1e-5, so
/// that their a and b learn a direction in advance without a say in the output. At intervals
/// ([`GrowthSchedule`]) the layers of the highest score gain triplets from their reserve; the score
/// of a layer is the [`Importance`] of sum |dW . dL/dW'| / sqrt(d_in d_out). When the ranks reach
/// the target on average the reserve is dismissed. The penalty is AdaLoRA's, over active and reserve
/// triplets.
///
/// Zhang et al., IncreLoRA: Incremental Parameter Allocation Method for Parameter-Efficient
/// Fine-tuning, arXiv 2308.12043, section 3, and the authors' code (loralib/increlora.py), which is
/// followed: it does not divide dW by its norm in the score. Its penalty only sees the length of each
/// a_k and b_k; the paper's, which is followed there, is AdaLoRA's. Room for R triplets is held from
/// the start, so that a run can be resumed; the authors have no limit to the rank of a layer.
///
/// # Cost
/// A token costs R (d_in + d_out). While ranks may grow, each step also costs the gradient of W.
#[derive(Module, Debug)]
pub struct Increlora {
    /// A, [d_in, R].
    pub a: Param<Tensor<2>>,
    /// lambda, `[R]`.
    pub e: Param<Tensor<1>>,
    /// B, [R, d_out].
    pub b: Param<Tensor<2>>,
    /// 1 for active triplets, else 0, `[R]`.
    pub active: Param<Tensor<1>>,
    /// The constant lambda of triplets in reserve, else 0, `[R]`.
    pub reserve: Param<Tensor<1>>,
    /// alpha.
    pub alpha: f64,
    /// Dropout probability on the inputs.
    pub dropout: f64,
    /// Weight of the penalty.
    pub orthogonality: f64,
    /// Importance of the whole update, `[1]`.
    pub state: Importance,
    #[module(skip)]
    share: String,
}

impl Increlora {
    /// s A diag(lambda), [d_in, R].
    fn down(&self) -> Tensor<2> {
        let active = self.active.val();
        let scaling = (active.clone().sum() + RANK_EPSILON).recip() * self.alpha;
        let lambda = self.e.val() * active + self.reserve.val();
        triplets::weighted(self.a.val(), lambda * scaling)
    }

    /// r.
    fn rank(&self) -> usize {
        bridge::values(&self.active.val()).iter().sum::<f64>() as usize
    }

    /// sum |dW . gradient| / sqrt(d_in d_out), `[1]`.
    fn sensitivity(&self, gradient: Tensor<2>) -> Tensor<1> {
        let count = gradient.shape().num_elements() as f64;
        let update = plain(self.down()).matmul(plain(self.b.val()));
        (update * plain(gradient)).abs().sum() / count.sqrt()
    }

    /// Sets which triplets are active, and how many behind them are in reserve.
    fn appoint(&mut self, rank: usize, reserve: usize) {
        let room = self.e.dims()[0];
        let marked = |from: usize, to: usize, value: f64| -> Vec<f64> {
            let mark = |index| {
                if (from..to).contains(&index) {
                    value
                } else {
                    0.0
                }
            };
            (0..room).map(mark).collect()
        };
        let like = plain(self.e.val());
        let tensor = |values| bridge::tensor(values, [room], &like.device(), like.dtype());
        let reserve = marked(rank, rank + reserve, RESERVE);
        set(&mut self.active, tensor(marked(0, rank, 1.0)));
        set(&mut self.reserve, tensor(reserve));
    }
}

impl Adapter for Increlora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("increlora", self.dropout, ctx)?;
        Ok(triplets::added_to(base, self.down(), self.b.val()))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        triplets::forward(x, base, (self.down(), self.b.val()), self.dropout, ctx)
    }

    fn penalty(&self, _: &FrozenBase, ctx: &Ctx) -> Option<Tensor<1>> {
        if self.orthogonality == 0.0 {
            return None;
        }
        let share: Tensor<1> = ctx.shared(&self.share).reshape([1]);
        let mask = self.active.val() + self.reserve.val().sign();
        let departure = triplets::departure(self.a.val(), self.b.val(), Some(mask));
        Some(departure * share * self.orthogonality)
    }
}

impl IncreloraConfig {
    /// Triplets in reserve behind `rank` active ones.
    fn reserve(&self, rank: usize) -> usize {
        if self.advance {
            self.growth.min(self.max_rank - rank)
        } else {
            0
        }
    }

    /// The last step at which ranks grow, if every growth is a full one.
    fn last_growth(&self, layers: usize) -> u64 {
        let missing = self.target_rank.saturating_sub(self.rank) * layers;
        let at_a_time = self.top.min(layers).max(1) * self.growth.max(1);
        self.schedule.step_of(missing.div_ceil(at_a_time) as u64)
    }

    /// Makes the layers of the highest score gain triplets, and dismisses the reserve when the
    /// target is reached.
    fn grow(&self, layers: &mut [Evolving<'_, Increlora>]) {
        let ranks: Vec<usize> = layers.iter().map(|one| one.adapter().rank()).collect();
        let mut missing = (self.target_rank * layers.len()).saturating_sub(ranks.iter().sum());
        let score = |(layer, rank): (&Evolving<'_, Increlora>, &usize)| {
            // A full layer comes last.
            match *rank < self.max_rank {
                true => bridge::values(&layer.adapter().state.score())[0],
                false => -1.0,
            }
        };
        let scores: Vec<f64> = layers.iter().zip(&ranks).map(score).collect();
        let mut can_grow = false;
        for index in highest(&scores, self.top.min(missing)) {
            let rank = ranks[index];
            let gained = self.growth.min(missing).min(self.max_rank - rank);
            if gained == 0 {
                continue;
            }
            missing -= gained;
            can_grow = true;
            let layer = &mut layers[index];
            let adapter = layer.adapter_mut();
            let mut lambda = bridge::values(&adapter.e.val());
            lambda[rank..rank + gained].fill(if self.advance { RESERVE } else { 0.0 });
            let like = plain(adapter.e.val());
            let lambda = bridge::tensor(lambda, like.dims(), &like.device(), like.dtype());
            set(&mut adapter.e, lambda);
            adapter.appoint(rank + gained, self.reserve(rank + gained));
            layer.reset("e", Some((rank..rank + gained).collect()));
        }
        if missing == 0 || !can_grow {
            for layer in layers {
                let rank = layer.adapter().rank();
                layer.adapter_mut().appoint(rank, 0);
            }
        }
    }
}

impl Graft for IncreloraConfig {
    type Adapter = Increlora;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    /// With all room that is held.
    fn count(&self, layer: &LayerShape) -> Counts {
        let trained = self.max_rank * (layer.d_in + layer.d_out + 1);
        Counts::with_frozen(trained, 2 * self.max_rank)
    }

    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        vec![triplets::share(layers)]
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Increlora> {
        let (d_in, d_out, room) = (base.d_in(), base.d_out(), self.max_rank);
        let random = Init::Normal { std: SPREAD };
        let zeros = || ctx.tensor(Init::ZEROS, [room], "e");
        let mut adapter = Increlora {
            a: Param::from_tensor(ctx.tensor(random, [d_in, room], "a")),
            e: Param::from_tensor(zeros()),
            b: Param::from_tensor(ctx.tensor(random, [room, d_out], "b")),
            active: frozen(zeros()),
            reserve: frozen(zeros()),
            alpha: self.alpha,
            dropout: self.dropout,
            orthogonality: self.orthogonality,
            state: Importance::new(1, ctx),
            share: ctx.shared_name(triplets::SHARE),
        };
        adapter.appoint(self.rank, self.reserve(self.rank));
        Ok(adapter)
    }
}

impl Evolve for IncreloraConfig {
    fn wants(&self, time: Time, _: usize, layers: usize) -> bool {
        time.step < self.last_growth(layers)
    }

    fn evolve(&self, time: Time, layers: &mut [Evolving<'_, Increlora>]) -> Result<()> {
        let total: usize = layers.iter().map(|one| one.adapter().rank()).sum();
        if total >= self.target_rank * layers.len() {
            return Ok(());
        }
        for layer in &mut *layers {
            if let Some(gradient) = layer.weight_gradient.clone() {
                let now = layer.adapter().sensitivity(gradient);
                let state = &mut layer.adapter_mut().state;
                state.see(now, [self.beta1, self.beta2]);
            }
        }
        if self.schedule.grows(time.step + 1) {
            self.grow(layers);
        }
        Ok(())
    }

    fn report(&self, adapter: &Increlora) -> Vec<(&'static str, f64)> {
        vec![("rank", adapter.rank() as f64)]
    }
}

impl Method for IncreloraConfig {
    const META: MethodMeta = MethodMeta {
        regularised: true,
        at_init: AtInit::Bounded(1e-4),
        ..MethodMeta::graft(
            "increlora",
            "IncreLoRA",
            Family::Lowrank,
            "2308.12043",
            "W' = W + s A diag(lambda) B, s = alpha / (r + 1e-5), r growing",
        )
    };

    fn parts(&self) -> Parts {
        Parts::evolving(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        if self.rank > self.target_rank || self.target_rank > self.max_rank {
            return Err(format!(
                "rank {}, target-rank {}, max-rank {}: expected them in ascending order",
                self.rank, self.target_rank, self.max_rank
            ));
        }
        for (name, value) in [("growth", self.growth), ("top", self.top)] {
            if value == 0 {
                return Err(format!("{name} 0: expected at least 1"));
            }
        }
        check_smoothing(self.beta1, self.beta2)?;
        check_weight(self.orthogonality)?;
        check_dropout(self.dropout)
    }

    fn at_init(&self) -> AtInit {
        if self.advance {
            Self::META.at_init
        } else {
            AtInit::Identity
        }
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            target_rank: 2,
            max_rank: 5,
            growth: 2,
            alpha: 3.0,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                rank: 2,
                max_rank: 3,
                advance: false,
                orthogonality: 0.0,
                dropout: 0.1,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_linalg::svd;

    use super::*;
    use crate::trial;

    #[test]
    fn only_active_triplets_and_the_reserve_make_the_update() {
        let base = trial::base(9, 7, true);
        let config = IncreloraConfig {
            rank: 2,
            target_rank: 3,
            max_rank: 6,
            growth: 1,
            ..IncreloraConfig::default()
        };
        let mut adapter = trial::moved(&config, &base);
        let values = svd(&trial::update(&adapter, &base)).unwrap().s;
        assert!(values[1] > 1e-3 && values[2] > 1e-9 && values[2] < 1e-2 && values[3] < 1e-13);
        adapter.appoint(3, 0);
        assert_eq!(adapter.rank(), 3);
        let values = svd(&trial::update(&adapter, &base)).unwrap().s;
        assert!(values[2] > 1e-3 && values[3] < 1e-13, "{values:?}");
    }
}
