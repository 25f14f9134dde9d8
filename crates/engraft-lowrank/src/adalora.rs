//! AdaLoRA: adaptive budget allocation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, BankSpec, Counts, Ctx, Error, Evolve, Evolving, Family, FrozenBase, Graft,
    InitContext, LayerShape, Method, MethodMeta, Parts, Result, Time, check_dropout,
    refuse_dropout,
};
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

use crate::importance::{Importance, frozen, plain, sensitivity, set};
use crate::schedule::{Allocation, BudgetSchedule, survivors};
use crate::triplets::{self, RANK_EPSILON, SPREAD};

/// Configuration of [`Adalora`]. Defaults of PEFT: rank 12 shrinking to 8 on average, alpha 8,
/// smoothing 0.85, orthogonality 0.5, no warm-up and no settling.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AdaloraConfig {
    /// Rank at first, which also divides alpha.
    pub rank: usize,
    /// Triplets that the layer really has, if not `rank`: what a file kept after pruning.
    pub kept: Option<usize>,
    /// Average rank of a layer at the end.
    pub target_rank: usize,
    /// alpha.
    pub alpha: f64,
    /// Probability of zeroing an input in training.
    pub dropout: f64,
    /// Weight gamma of the orthogonality penalty.
    pub orthogonality: f64,
    /// How slowly the sensitivity follows.
    pub beta1: f64,
    /// How slowly the uncertainty follows.
    pub beta2: f64,
    /// When ranks shrink.
    pub schedule: BudgetSchedule,
}

impl Default for AdaloraConfig {
    fn default() -> Self {
        Self {
            rank: 12,
            kept: None,
            target_rank: 8,
            alpha: 8.0,
            dropout: 0.0,
            orthogonality: 0.5,
            beta1: 0.85,
            beta2: 0.85,
            schedule: BudgetSchedule::default(),
        }
    }
}

impl AdaloraConfig {
    /// Triplets of a layer.
    fn triplets(&self) -> usize {
        self.kept.unwrap_or(self.rank)
    }
}

/// W' = W + s A diag(lambda) B, with s = alpha / (r + 1e-5) and penalty gamma times the mean over
/// all A and B of |A^T A - I|_F and |B B^T - I|_F.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A (the paper's P or Q^T) | [d_in, r] | trained, N(0, 0.02^2) at first |
/// | lambda (`e`) | `[r]` | trained, zero at first; zero where a triplet was removed |
/// | B | [r, d_out] | trained, N(0, 0.02^2) at first |
///
/// After each update the triplets of all layers are ranked together by the importance of lambda
/// plus the mean importances of the column of A and of the row of B ([`Importance`]), and those
/// beyond the budget ([`BudgetSchedule`]) lose their lambda; they may come back until the budget
/// settles. r in s stays the rank at first.
///
/// Zhang et al., AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning, arXiv
/// 2303.10512, section 3. The penalty takes norms where the paper has squared norms, and s has the
/// 1e-5, as in the authors' code and in PEFT.
///
/// # Cost
/// A token costs r (d_in + d_out). Training keeps two running means of each parameter.
#[derive(Module, Debug)]
pub struct Adalora {
    /// A, [d_in, r].
    pub a: Param<Tensor<2>>,
    /// lambda, `[r]`.
    pub e: Param<Tensor<1>>,
    /// B, [r, d_out].
    pub b: Param<Tensor<2>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs.
    pub dropout: f64,
    /// gamma.
    pub orthogonality: f64,
    /// What training remembers.
    pub state: AdaloraState,
    /// Entry of the bank with the weight of one matrix in the mean.
    #[module(skip)]
    share: String,
}

/// What [`Adalora`] remembers while it trains.
#[derive(Module, Debug)]
pub struct AdaloraState {
    /// Of A, flattened.
    pub a: Importance,
    /// Of lambda.
    pub e: Importance,
    /// Of B, flattened.
    pub b: Importance,
    /// 1 for the triplets that are there, 0 for those that were removed, `[r]`.
    pub kept: Param<Tensor<1>>,
}

impl Adalora {
    /// s A diag(lambda), [d_in, r].
    fn down(&self) -> Tensor<2> {
        triplets::weighted(self.a.val(), self.e.val() * self.scaling)
    }

    /// The importance of each triplet.
    fn scores(&self) -> Vec<f64> {
        let (d_in, d_out) = (self.a.dims()[0], self.b.dims()[1]);
        let rank = self.e.dims()[0];
        if rank == 0 {
            return Vec::new();
        }
        let of_a = self.state.a.score().reshape([d_in, rank]).mean_dim(0);
        let of_b = self.state.b.score().reshape([rank, d_out]).mean_dim(1);
        let mean = of_a.reshape([rank]) + of_b.reshape([rank]);
        bridge::values(&(self.state.e.score() + mean))
    }

    /// Zeroes lambda where a triplet was removed.
    fn mask(&mut self) {
        let kept = plain(self.state.kept.val());
        let masked = plain(self.e.val()).mask_fill(kept.equal_elem(0), 0);
        set(&mut self.e, masked);
    }
}

impl Adapter for Adalora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("adalora", self.dropout, ctx)?;
        Ok(triplets::added_to(base, self.down(), self.b.val()))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        triplets::forward(x, base, (self.down(), self.b.val()), self.dropout, ctx)
    }

    fn penalty(&self, _: &FrozenBase, ctx: &Ctx) -> Option<Tensor<1>> {
        if self.orthogonality == 0.0 || self.e.dims()[0] == 0 {
            return None;
        }
        let share: Tensor<1> = ctx.shared(&self.share).reshape([1]);
        let departure = triplets::departure(self.a.val(), self.b.val(), None);
        Some(departure * share * self.orthogonality)
    }
}

impl Graft for AdaloraConfig {
    type Adapter = Adalora;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.triplets() * (layer.d_in + layer.d_out + 1))
    }

    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        vec![triplets::share(layers)]
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Adalora> {
        let (d_in, d_out, rank) = (base.d_in(), base.d_out(), self.triplets());
        let random = Init::Normal { std: SPREAD };
        Ok(Adalora {
            a: Param::from_tensor(ctx.tensor(random, [d_in, rank], "a")),
            e: Param::from_tensor(ctx.tensor(Init::ZEROS, [rank], "e")),
            b: Param::from_tensor(ctx.tensor(random, [rank, d_out], "b")),
            scaling: self.alpha / (self.rank as f64 + RANK_EPSILON),
            dropout: self.dropout,
            orthogonality: self.orthogonality,
            state: AdaloraState {
                a: Importance::new(d_in * rank, ctx),
                e: Importance::new(rank, ctx),
                b: Importance::new(rank * d_out, ctx),
                kept: frozen(ctx.tensor(Init::ONES, [rank], "kept")),
            },
            share: ctx.shared_name(triplets::SHARE),
        })
    }
}

impl Evolve for AdaloraConfig {
    fn evolve(&self, time: Time, layers: &mut [Evolving<'_, Adalora>]) -> Result<()> {
        let total = self.schedule.steps.unwrap_or(time.total);
        self.schedule
            .check(total)
            .map_err(|reason| Error::BadConfig {
                what: Self::META.id.to_owned(),
                reason,
            })?;
        // The importances are of the parameters after the update.
        let step = time.step + 1;
        if self.schedule.measures(step, total) {
            for layer in &mut *layers {
                let now = layer.adapter();
                let a = sensitivity(&now.a, layer.gradient("a"));
                let e = sensitivity(&now.e, layer.gradient("e"));
                let b = sensitivity(&now.b, layer.gradient("b"));
                let (state, betas) = (&mut layer.adapter_mut().state, [self.beta1, self.beta2]);
                state.a.see(a, betas);
                state.e.see(e, betas);
                state.b.see(b, betas);
            }
        }
        let initial = layers.iter().map(|one| one.adapter().e.dims()[0]).sum();
        let last = self.target_rank * layers.len();
        match self.schedule.allocation(step, total, initial, last) {
            Allocation::Keep => {}
            Allocation::Choose(budget) => allocate(layers, budget),
            Allocation::Settle(budget) => {
                allocate(layers, budget);
                for layer in layers {
                    let state = &mut layer.adapter_mut().state;
                    for seen in [&mut state.a, &mut state.e, &mut state.b] {
                        seen.reset();
                    }
                }
            }
            Allocation::Hold => layers
                .iter_mut()
                .for_each(|layer| layer.adapter_mut().mask()),
        }
        Ok(())
    }

    fn report(&self, adapter: &Adalora) -> Vec<(&'static str, f64)> {
        let kept: f64 = bridge::values(&adapter.state.kept.val()).iter().sum();
        vec![("rank", kept)]
    }
}

/// Keeps the `budget` most important triplets of all layers.
fn allocate(layers: &mut [Evolving<'_, Adalora>], budget: usize) {
    let scores: Vec<Vec<f64>> = layers.iter().map(|one| one.adapter().scores()).collect();
    let kept = survivors(&scores.concat(), budget);
    let mut rest = kept.as_slice();
    for (layer, own) in layers.iter_mut().zip(&scores) {
        let (own, others) = rest.split_at(own.len());
        rest = others;
        let adapter = layer.adapter_mut();
        let flags = plain(adapter.state.kept.val());
        let values = own.iter().map(|kept| f64::from(u8::from(*kept))).collect();
        let flags = bridge::tensor(values, [own.len()], &flags.device(), flags.dtype());
        set(&mut adapter.state.kept, flags);
        adapter.mask();
    }
}

impl Method for AdaloraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("ADALORA"),
        regularised: true,
        ..MethodMeta::graft(
            "adalora",
            "AdaLoRA",
            Family::Lowrank,
            "2303.10512",
            "W' = W + s A diag(lambda) B, s = alpha / (r + 1e-5)",
        )
    };

    fn parts(&self) -> Parts {
        Parts::evolving(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        check_smoothing(self.beta1, self.beta2)?;
        check_weight(self.orthogonality)?;
        // The length of the run is not known here; any that is long enough will do.
        self.schedule
            .check(self.schedule.steps.unwrap_or(u64::MAX))?;
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 3,
            target_rank: 2,
            alpha: 6.0,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                kept: Some(2),
                orthogonality: 0.0,
                dropout: 0.1,
                ..small
            },
        ]
    }
}

/// Whether both smoothing factors are in (0, 1): the reason if not.
pub(crate) fn check_smoothing(beta1: f64, beta2: f64) -> Result<(), String> {
    for (name, beta) in [("beta1", beta1), ("beta2", beta2)] {
        if !(beta > 0.0 && beta < 1.0) {
            return Err(format!("{name} {beta}: expected 0 < {name} < 1"));
        }
    }
    Ok(())
}

/// Whether the weight of a penalty is at least 0: the reason if not.
pub(crate) fn check_weight(orthogonality: f64) -> Result<(), String> {
    match orthogonality >= 0.0 {
        true => Ok(()),
        false => Err(format!(
            "orthogonality {orthogonality}: expected at least 0"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trial;

    fn config() -> AdaloraConfig {
        AdaloraConfig {
            rank: 4,
            target_rank: 2,
            alpha: 6.0,
            schedule: BudgetSchedule {
                warmup: 2,
                settle: 3,
                ..BudgetSchedule::default()
            },
            ..AdaloraConfig::default()
        }
    }

    #[test]
    fn forms_agree_also_without_any_triplet() {
        let base = trial::base(7, 5, true);
        trial::update(&trial::moved(&config(), &base), &base);
        let nothing = AdaloraConfig {
            kept: Some(0),
            ..config()
        };
        let update = trial::update(&trial::fresh(&nothing, &base), &base);
        assert_eq!(update.max_abs(), 0.0);
    }

    #[test]
    fn counts_are_the_published_ones() {
        // PEFT's MetaMathQA benchmark: rank 64 at first, on q and v of Llama-3.2-3B.
        let config = AdaloraConfig {
            rank: 64,
            ..AdaloraConfig::default()
        };
        assert_eq!(
            crate::testing::counts(&config, &crate::testing::llama_3b_qv()).all_trained(),
            18_353_664
        );
    }
}
