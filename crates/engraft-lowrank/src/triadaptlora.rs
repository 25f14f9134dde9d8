//! TriAdaptLoRA: triangular adaptive low-rank adaptation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, BankSpec, Counts, Ctx, Evolve, Evolving, Family, FrozenBase, Graft, InitContext,
    LayerShape, Method, MethodMeta, Parts, Result, Time, check_dropout, positive_rank,
    refuse_dropout,
};
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

use crate::adalora::check_weight;
use crate::importance::{frozen, plain, set};
use crate::schedule::{GrowthSchedule, Threshold, highest};
use crate::triplets::{self, RANK_EPSILON, SPREAD};

/// Configuration of [`Triadaptlora`]. Defaults of the authors' code: rank 1 growing to 8 on average, by 4 at
/// a time, linear threshold, orthogonality 0.5; alpha 32 as in its example.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TriadaptloraConfig {
    /// Rank at first: size of the first block.
    pub rank: usize,
    /// Average rank of a layer at which growth ends.
    pub target_rank: usize,
    /// Largest number of blocks that a layer adds to the first, for which there is room from the
    /// start.
    pub max_growths: usize,
    /// Size of each further block (half the target in the authors' code).
    pub growth: usize,
    /// How many layers grow at a time.
    pub threshold: Threshold,
    /// alpha.
    pub alpha: f64,
    /// Probability of zeroing an input in training.
    pub dropout: f64,
    /// Weight of the orthogonality penalty.
    pub orthogonality: f64,
    /// When ranks grow.
    pub schedule: GrowthSchedule,
}

impl Default for TriadaptloraConfig {
    fn default() -> Self {
        Self {
            rank: 1,
            target_rank: 8,
            max_growths: 5,
            growth: 4,
            threshold: Threshold::Linear,
            alpha: 32.0,
            dropout: 0.0,
            orthogonality: 0.5,
            schedule: GrowthSchedule::default(),
        }
    }
}

impl TriadaptloraConfig {
    /// R.
    fn room(&self) -> usize {
        self.rank + self.max_growths * self.growth
    }

    /// The block that each index belongs to.
    fn blocks(&self) -> Vec<usize> {
        let later = |block| (0..self.growth).map(move |_| block);
        (0..self.rank)
            .map(|_| 0)
            .chain((1..=self.max_growths).flat_map(later))
            .collect()
    }
}

/// W' = W + s A (L + U) B, s = alpha / (r + 1e-5): LoRA with a square matrix C = L + U between its
/// factors that grows by a block of rows of L and a block of columns of U at a time.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [d_in, R] | trained, N(0, 0.02^2) at first |
/// | L (`lower`) | [R, R] | trained, lower block-triangular, zero at first |
/// | U (`upper`) | [R, R] | trained, upper block-triangular, zero at first |
/// | B | [R, d_out] | trained, N(0, 0.02^2) at first |
///
/// Only the first r of R indices are active. At intervals the layers whose |C|_F, divided by the
/// number of blocks, rose most since the last time gain a block, as many layers as [`Threshold`]
/// says, until the ranks reach the target on average. Blocks on the diagonal belong to both L and U.
///
/// Liang, Wang, Zeng, TriAdaptLoRA: Brain-Inspired Triangular Adaptive Low-Rank Adaptation for
/// Parameter-Efficient Fine-Tuning, arXiv 2501.08008; the details are those of a fork of PEFT that
/// implements it (`TriAdaptLoraModel`). That code starts everything but the first A at zero, where no
/// gradient leaves zero; here A and B are random and C is zero, as lambda is in AdaLoRA, so that
/// neither the start nor growth changes the output. Room for R indices is held from the start, so
/// that a run can be resumed; the code has no limit to the rank of a layer. With that room, entries
/// of L and U outside their triangles are parameters too, and never used.
///
/// # Cost
/// A token costs R (d_in + d_out); A C costs R^2 d_in a pass.
#[derive(Module, Debug)]
pub struct Triadaptlora {
    /// A, [d_in, R].
    pub a: Param<Tensor<2>>,
    /// L, [R, R].
    pub lower: Param<Tensor<2>>,
    /// U, [R, R].
    pub upper: Param<Tensor<2>>,
    /// B, [R, d_out].
    pub b: Param<Tensor<2>>,
    /// 1 for active indices, else 0, `[R]`.
    pub active: Param<Tensor<1>>,
    /// alpha.
    pub alpha: f64,
    /// Dropout probability on the inputs.
    pub dropout: f64,
    /// Weight of the penalty.
    pub orthogonality: f64,
    /// What training remembers.
    pub state: TriadaptloraState,
    /// 1 where the block of the row is not before the block of the column, [R, R].
    below: Tensor<2>,
    #[module(skip)]
    share: String,
}

/// What [`Triadaptlora`] remembers while it trains.
#[derive(Module, Debug)]
pub struct TriadaptloraState {
    /// |C|_F by the number of blocks when it was last looked at, `[1]`.
    pub importance: Param<Tensor<1>>,
}

impl Triadaptlora {
    /// C = L + U, [R, R].
    fn core(&self) -> Tensor<2> {
        let row: Tensor<2> = self.active.val().unsqueeze();
        let active = row.clone().transpose() * row;
        let triangles = self.lower.val() * self.below.clone()
            + self.upper.val() * self.below.clone().transpose();
        triangles * active
    }

    /// s A C, [d_in, R].
    fn down(&self) -> Tensor<2> {
        let scaling = (self.active.val().sum() + RANK_EPSILON).recip() * self.alpha;
        self.a.val().matmul(self.core() * scaling.unsqueeze())
    }

    /// r.
    fn rank(&self) -> usize {
        bridge::values(&self.active.val()).iter().sum::<f64>() as usize
    }

    /// |C|_F divided by the number of `blocks`.
    fn importance(&self, blocks: usize) -> f64 {
        let core = bridge::values(&plain(self.core()));
        core.iter().map(|entry| entry * entry).sum::<f64>().sqrt() / blocks as f64
    }

    fn set_rank(&mut self, rank: usize) {
        let room = self.active.dims()[0];
        let like = plain(self.active.val());
        let values = (0..room).map(|index| if index < rank { 1.0 } else { 0.0 });
        let active = bridge::tensor(values.collect(), [room], &like.device(), like.dtype());
        set(&mut self.active, active);
    }
}

impl Adapter for Triadaptlora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("triadaptlora", self.dropout, ctx)?;
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
        let departure = triplets::departure(self.a.val(), self.b.val(), Some(self.active.val()));
        Some(departure * share * self.orthogonality)
    }
}

impl Graft for TriadaptloraConfig {
    type Adapter = Triadaptlora;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    /// With all room that is held.
    fn count(&self, layer: &LayerShape) -> Counts {
        let room = self.room();
        Counts::with_frozen(room * (layer.d_in + layer.d_out + 2 * room), room)
    }

    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        vec![triplets::share(layers)]
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Triadaptlora> {
        let (d_in, d_out, room) = (base.d_in(), base.d_out(), self.room());
        let random = Init::Normal { std: SPREAD };
        let zeros = || Param::from_tensor(ctx.tensor(Init::ZEROS, [room, room], "c"));
        let blocks = self.blocks();
        let below = (0..room * room).map(|index| {
            let (row, column) = (index / room, index % room);
            f64::from(u8::from(blocks[row] >= blocks[column]))
        });
        let mut adapter = Triadaptlora {
            a: Param::from_tensor(ctx.tensor(random, [d_in, room], "a")),
            lower: zeros(),
            upper: zeros(),
            b: Param::from_tensor(ctx.tensor(random, [room, d_out], "b")),
            active: frozen(ctx.tensor(Init::ZEROS, [room], "active")),
            alpha: self.alpha,
            dropout: self.dropout,
            orthogonality: self.orthogonality,
            state: TriadaptloraState {
                importance: frozen(ctx.tensor(Init::ZEROS, [1], "state")),
            },
            below: bridge::tensor(below.collect(), [room, room], &ctx.device, ctx.dtype),
            share: ctx.shared_name(triplets::SHARE),
        };
        adapter.set_rank(self.rank);
        Ok(adapter)
    }
}

impl Evolve for TriadaptloraConfig {
    fn evolve(&self, time: Time, layers: &mut [Evolving<'_, Triadaptlora>]) -> Result<()> {
        let ranks: Vec<usize> = layers.iter().map(|one| one.adapter().rank()).collect();
        let (step, target) = (time.step + 1, self.target_rank * layers.len());
        let mut missing = target.saturating_sub(ranks.iter().sum());
        if missing == 0 || !self.schedule.grows(step) {
            return Ok(());
        }
        let mut scores = Vec::new();
        for (layer, rank) in layers.iter_mut().zip(&ranks) {
            let blocks = 1 + (rank - self.rank) / self.growth;
            let now = layer.adapter().importance(blocks);
            let state = &mut layer.adapter_mut().state.importance;
            let before = plain(state.val());
            // A full layer comes last.
            scores.push(match *rank < self.room() {
                true => now - bridge::values(&before)[0],
                false => f64::NEG_INFINITY,
            });
            let now = bridge::tensor(vec![now], [1], &before.device(), before.dtype());
            set(state, now);
        }
        let count = self
            .threshold
            .layers(step, time.total, self.schedule.warmup, missing);
        for index in highest(&scores, count) {
            if missing > 0 && ranks[index] < self.room() {
                missing = missing.saturating_sub(self.growth);
                layers[index]
                    .adapter_mut()
                    .set_rank(ranks[index] + self.growth);
            }
        }
        Ok(())
    }

    fn report(&self, adapter: &Triadaptlora) -> Vec<(&'static str, f64)> {
        vec![("rank", adapter.rank() as f64)]
    }
}

impl Method for TriadaptloraConfig {
    const META: MethodMeta = MethodMeta {
        regularised: true,
        ..MethodMeta::graft(
            "triadaptlora",
            "TriAdaptLoRA",
            Family::Lowrank,
            "2501.08008",
            "W' = W + s A (L + U) B, s = alpha / (r + 1e-5), r growing by blocks",
        )
    };

    fn parts(&self) -> Parts {
        Parts::evolving(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        if self.growth == 0 {
            return Err("growth 0: expected at least 1".to_owned());
        }
        if self.rank > self.target_rank || self.target_rank > self.room() {
            return Err(format!(
                "target-rank {}: expected {} to {}, from the rank at first to the room for max-growths",
                self.target_rank,
                self.rank,
                self.room()
            ));
        }
        check_weight(self.orthogonality)?;
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 2,
            target_rank: 3,
            max_growths: 1,
            growth: 2,
            alpha: 3.0,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                rank: 1,
                threshold: Threshold::Exponential,
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
    fn the_core_is_made_of_two_triangles() {
        let base = trial::base(9, 8, true);
        let config = TriadaptloraConfig {
            rank: 1,
            target_rank: 3,
            max_growths: 2,
            growth: 2,
            ..TriadaptloraConfig::default()
        };
        let mut adapter = trial::moved(&config, &base);
        for rank in [1, 3, 5] {
            adapter.set_rank(rank);
            let values = svd(&trial::update(&adapter, &base)).unwrap().s;
            assert!(
                values[rank - 1] > 1e-3 && values[rank] < 1e-12,
                "{values:?}"
            );
        }
        let (core, lower) = (
            bridge::to_matrix(&adapter.core()),
            trial::matrix(&adapter.lower),
        );
        let upper = trial::matrix(&adapter.upper);
        let diagonal = lower.get(2, 1) + upper.get(2, 1);
        assert_eq!(core.get(3, 0), lower.get(3, 0));
        assert_eq!(core.get(0, 3), upper.get(0, 3));
        assert!((core.get(2, 1) - diagonal).abs() < 1e-15);
    }
}
