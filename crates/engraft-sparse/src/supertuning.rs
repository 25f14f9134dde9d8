//! Super-Tuning: the largest or smallest weights are trained, alone or beside a low-rank update.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, check_dropout, dropout, positive_rank, refuse_dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::entries::{Entries, added, forward, indices, stored};
use crate::scores::magnitudes;
use crate::top::{bottom, top};

/// Which weights are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Support {
    /// Those of largest magnitude (Super).
    #[default]
    Largest,
    /// Those of smallest magnitude (Super-bottom).
    Smallest,
}

/// The low-rank update of the hybrid (Supra).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Supra {
    /// Rank r.
    pub rank: usize,
    /// alpha; 2 r where it is not given.
    #[serde(default)]
    pub alpha: Option<f64>,
    /// Probability of zeroing an input of the low-rank part in training.
    #[serde(default)]
    pub dropout: f64,
}

impl Supra {
    /// s = alpha / r.
    fn scaling(&self) -> f64 {
        self.alpha.unwrap_or(2.0 * self.rank as f64) / self.rank as f64
    }
}

/// Configuration of [`SuperTuning`]. Defaults: the paper's best single mechanism, the 1% of largest
/// magnitude and no low-rank part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SuperTuningConfig {
    /// Share of the weights that is not trained, in [0, 1).
    pub sparsity: f64,
    /// `largest` or `smallest`.
    pub support: Support,
    /// The low-rank update of Supra.
    pub supra: Option<Supra>,
    /// Whether the positions are in the adapter file. Without, they are found again from the base.
    pub store_positions: bool,
}

impl Default for SuperTuningConfig {
    fn default() -> Self {
        Self {
            sparsity: 0.99,
            support: Support::Largest,
            supra: None,
            store_positions: true,
        }
    }
}

impl SuperTuningConfig {
    /// Number of trained weights, rounded down.
    fn entries(&self, d_in: usize, d_out: usize) -> usize {
        ((d_in * d_out) as f64 * (1.0 - self.sparsity)) as usize
    }
}

/// y = x W + b + x S + s x A B, with S zero but for the positions of the largest |W|.
///
/// | symbol | shape | |
/// |---|---|---|
/// | `values` | `[n]` | trained entries of S, zero at first; n = floor(d_in d_out (1 - sparsity)) |
/// | `positions` | `[n]` | place i d_out + j of each, the extreme first |
/// | A, B | [d_in, r], [r, d_out] | Supra only: trained, B zero at first |
/// | s | | alpha / r |
///
/// Super-Tuning, arXiv 2607.09287, as implemented in PEFT 0.21.2 (tuners/supertuning), which is
/// followed: magnitudes of the base weight score the entries, and no data is needed. The paper's
/// activation-weighted scores are not in PEFT either.
///
/// Activation form: n values are added into a copy of W, and the low-rank part costs
/// O(tokens r (d_in + d_out)).
#[derive(Module, Debug)]
pub struct SuperTuning {
    /// Entries of S, `[n]`.
    pub values: Param<Tensor<1>>,
    /// Positions i d_out + j, `[n]`, where they are stored.
    pub positions: Option<Param<Tensor<1, Int>>>,
    /// A, [d_in, r].
    pub a: Option<Param<Tensor<2>>>,
    /// B, [r, d_out].
    pub b: Option<Param<Tensor<2>>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of A.
    pub dropout: f64,
    /// Positions that are found again from the base.
    derived: Option<Tensor<1, Int>>,
}

impl SuperTuning {
    /// S.
    fn entries(&self) -> Option<Entries> {
        let positions = match (&self.positions, &self.derived) {
            (Some(positions), _) => positions.val(),
            (None, derived) => derived.clone()?,
        };
        Some(Entries::new(positions, self.values.val()))
    }

    fn low_rank(&self) -> Option<(Tensor<2>, Tensor<2>)> {
        Some((self.a.as_ref()?.val(), self.b.as_ref()?.val()))
    }
}

impl Adapter for SuperTuning {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("supertuning", self.dropout, ctx)?;
        let sparse = added(self.entries(), base);
        Ok(match self.low_rank() {
            None => sparse,
            Some((a, b)) => base.with_weight(sparse.weight() + a.matmul(b) * self.scaling),
        })
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let y = forward(self.entries(), x.clone(), base);
        match self.low_rank() {
            None => y,
            Some((a, b)) => y + (dropout(x, self.dropout, ctx).matmul(a) * self.scaling).matmul(b),
        }
    }
}

impl Graft for SuperTuningConfig {
    type Adapter = SuperTuning;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        if self.entries(layer.d_in, layer.d_out) == 0 {
            return Err(format!(
                "sparsity {} leaves none of {} weights to train: expected less",
                self.sparsity,
                layer.d_in * layer.d_out
            ));
        }
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let entries = self.entries(layer.d_in, layer.d_out);
        let low_rank = self
            .supra
            .as_ref()
            .map_or(0, |supra| supra.rank * (layer.d_in + layer.d_out));
        let frozen = if self.store_positions { entries } else { 0 };
        Counts::with_frozen(entries + low_rank, frozen)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<SuperTuning> {
        let (d_in, d_out) = (base.d_in(), base.d_out());
        let entries = self.entries(d_in, d_out);
        let sizes = magnitudes(&base.weight());
        let positions = match self.support {
            Support::Largest => top(&sizes, entries),
            Support::Smallest => bottom(&sizes, entries),
        };
        let param = |init, shape, role| Param::from_tensor(ctx.tensor(init, shape, role));
        let kaiming = Init::KaimingUniform { fan_in: d_in };
        let supra = self.supra.as_ref();
        Ok(SuperTuning {
            values: Param::from_tensor(ctx.tensor(Init::ZEROS, [entries], "values")),
            positions: self
                .store_positions
                .then(|| stored(&positions, &ctx.device)),
            a: supra.map(|supra| param(kaiming, [d_in, supra.rank], "a")),
            b: supra.map(|supra| param(Init::ZEROS, [supra.rank, d_out], "b")),
            scaling: supra.map_or(1.0, Supra::scaling),
            dropout: supra.map_or(0.0, |supra| supra.dropout),
            derived: (!self.store_positions).then(|| indices(&positions, &ctx.device)),
        })
    }
}

impl Method for SuperTuningConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("SUPERTUNING"),
        admits: "a linear layer of which the sparsity leaves at least one weight",
        ..MethodMeta::graft(
            "supertuning",
            "Super-Tuning",
            Family::Sparse,
            "2607.09287",
            "W' = W + S + s A B, S zero but at the largest (or smallest) |W|",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if !(0.0..1.0).contains(&self.sparsity) {
            return Err(format!(
                "sparsity {}: expected 0 <= sparsity < 1",
                self.sparsity
            ));
        }
        match &self.supra {
            None => Ok(()),
            Some(supra) => {
                positive_rank(supra.rank)?;
                check_dropout(supra.dropout)
            }
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let supra = |rank, alpha, dropout| {
            Some(Supra {
                rank,
                alpha,
                dropout,
            })
        };
        let all = Self {
            sparsity: 0.0,
            supra: supra(2, None, 0.2),
            ..Self::default()
        };
        let few = Self {
            sparsity: 0.8,
            support: Support::Smallest,
            supra: supra(3, Some(4.0), 0.0),
            ..Self::default()
        };
        let derived = Self {
            sparsity: 0.7,
            store_positions: false,
            ..Self::default()
        };
        [all, few, derived]
            .into_iter()
            .filter(|config| config.admits(layer).is_ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge;

    use super::*;
    use crate::entries::testing::{assert_forms_agree, attached, change, layer, normal};

    #[test]
    fn the_extreme_weights_and_no_others_change() {
        let base = layer(6, 5);
        let weight = bridge::values(&base.weight());
        for support in [Support::Largest, Support::Smallest] {
            let config = SuperTuningConfig {
                sparsity: 0.75,
                support,
                ..SuperTuningConfig::default()
            };
            let mut adapter = attached(&config, &base);
            // 30 (1 - 0.75) rounded down.
            adapter.values = Param::from_tensor(normal([7], "values"));
            assert_forms_agree(&adapter, &base);
            let change = change(&adapter, &base);
            let split = |changed: bool| -> Vec<f64> {
                let chosen = weight.iter().zip(&change);
                chosen
                    .filter(|(_, change)| (**change != 0.0) == changed)
                    .map(|(weight, _)| weight.abs())
                    .collect()
            };
            let (inside, outside) = (split(true), split(false));
            assert_eq!(inside.len(), 7);
            let beyond = |inside: &f64| {
                outside.iter().all(|outside| match support {
                    Support::Largest => inside > outside,
                    Support::Smallest => inside < outside,
                })
            };
            assert!(inside.iter().all(beyond));
        }
    }
}
