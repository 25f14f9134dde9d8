//! SPT: the most sensitive weights are trained, by a low-rank update where there are many of them.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    Adapter, Calibration, Counts, Ctx, Error, Family, FrozenBase, Graft, Include, InitContext,
    LayerShape, Method, MethodMeta, Needs, Parts, Result, Targets,
};
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

use crate::entries::{Entries, added, forward, stored};
use crate::scores::{magnitudes, squared_gradient};
use crate::spt_budget::{SptBudget, allocation};
use crate::top::top;

/// How a layer is tuned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SptTuning {
    /// By this many of its most sensitive entries; none leaves the layer as it is.
    Entries(usize),
    /// By a low-rank update of this rank.
    LowRank(usize),
}

/// Configuration of [`Spt`] on a layer. Default: a low-rank update of rank 8, as the authors give to
/// layers with many sensitive weights; see [`SptConfig::allocate`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SptConfig {
    /// `entries` or `low-rank`, with a number.
    pub tuning: SptTuning,
}

impl Default for SptConfig {
    fn default() -> Self {
        Self {
            tuning: SptTuning::LowRank(8),
        }
    }
}

/// W' = W + S at the most sensitive entries, or W' = W + A B where there are many of them.
///
/// | symbol | shape | |
/// |---|---|---|
/// | S (`values`) | `[n]` | trained, zero at first |
/// | `positions` | `[n]` | place i d_out + j of each, frozen, in the adapter file |
/// | A, B | [d_in, r], [r, d_out] | trained, B zero at first |
///
/// He et al., Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning, arXiv 2303.08566, section 3;
/// authors' code engine.py. The sensitivity of a weight is its squared gradient, summed over
/// calibration batches. The tau most sensitive weights of the whole model are tuned; a layer that has
/// enough of them gets a low-rank update in their place, and tau is as large as the budget
/// allows. That allocation depends on data, so it is made before the adapter is attached and becomes
/// the configuration of each layer ([`SptConfig::allocate`]): counts and files follow from it. The
/// authors sweep tau in steps of 20,000 and take the nearest budget; here it is found exactly and never
/// exceeds the budget. Their tuning of biases and norms is a composition with BitFit's.
///
/// Activation form: n values added into a copy of W, or O(tokens r (d_in + d_out)).
#[derive(Module, Debug)]
pub struct Spt {
    /// Entries of S, `[n]`.
    pub values: Option<Param<Tensor<1>>>,
    /// Positions i d_out + j, `[n]`.
    pub positions: Option<Param<Tensor<1, Int>>>,
    /// A, [d_in, r].
    pub a: Option<Param<Tensor<2>>>,
    /// B, [r, d_out].
    pub b: Option<Param<Tensor<2>>>,
}

impl Spt {
    fn entries(&self) -> Option<Entries> {
        let positions = self.positions.as_ref()?.val();
        Some(Entries::new(positions, self.values.as_ref()?.val()))
    }
}

impl Adapter for Spt {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let mut weight = added(self.entries(), base).weight();
        if let (Some(a), Some(b)) = (&self.a, &self.b) {
            weight = weight + a.val().matmul(b.val());
        }
        Ok(base.with_weight(weight))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let y = forward(self.entries(), x.clone(), base);
        match (&self.a, &self.b) {
            (Some(a), Some(b)) => y + x.matmul(a.val()).matmul(b.val()),
            _ => y,
        }
    }
}

impl SptConfig {
    /// The configuration of each layer under a budget, by path, from a calibration with squared
    /// gradients (that of any `entries` configuration); see [`targets`](Self::targets).
    ///
    /// # Errors
    /// If a layer was not calibrated.
    pub fn allocate(
        budget: SptBudget,
        layers: &[LayerShape],
        calibration: &Calibration,
    ) -> Result<BTreeMap<String, Self>> {
        let mut sensitivities = Vec::with_capacity(layers.len());
        for layer in layers {
            let found = calibration
                .get(&layer.path)
                .and_then(|statistics| statistics.squared_gradient.as_ref());
            let Some(found) = found else {
                return Err(Error::Unsupported(format!(
                    "{}: the calibration has no squared gradient",
                    layer.path
                )));
            };
            let structured = budget.rank * (layer.d_in + layer.d_out);
            sensitivities.push((bridge::values(found), structured));
        }
        let tunings = allocation(&sensitivities, budget);
        let paths = layers.iter().map(|layer| layer.path.clone());
        Ok(paths
            .zip(tunings.into_iter().map(|tuning| Self { tuning }))
            .collect())
    }

    /// The layers that an allocation tunes, each with its own configuration.
    pub fn targets(allocation: &BTreeMap<String, Self>) -> Targets {
        let tuned = allocation
            .iter()
            .filter(|(_, config)| config.tuning != SptTuning::Entries(0));
        let exactly = |path: &str| path.replace('.', r"\.");
        let own = |config: &Self| match serde_json::to_value(config) {
            Ok(serde_json::Value::Object(keys)) => keys,
            other => unreachable!("a configuration is a table, not {other:?}"),
        };
        let patterns: Vec<String> = tuned.clone().map(|(path, _)| exactly(path)).collect();
        Targets {
            include: Include::Regex(patterns.join("|")),
            config_pattern: tuned
                .map(|(path, config)| (format!("^{}", exactly(path)), own(config)))
                .collect(),
            ..Targets::default()
        }
    }
}

impl Graft for SptConfig {
    type Adapter = Spt;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        let all = layer.d_in * layer.d_out;
        match self.tuning {
            SptTuning::Entries(entries) if entries > all => Err(format!(
                "entries {entries}: expected at most d_in d_out = {all}"
            )),
            _ => Ok(()),
        }
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        match self.tuning {
            SptTuning::Entries(entries) => Counts::with_frozen(entries, entries),
            SptTuning::LowRank(rank) => Counts::trained(rank * (layer.d_in + layer.d_out)),
        }
    }

    fn needs(&self) -> Needs {
        Needs {
            squared_gradient: matches!(self.tuning, SptTuning::Entries(entries) if entries > 0),
            ..Needs::default()
        }
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Spt> {
        let (d_in, d_out) = (base.d_in(), base.d_out());
        let mut adapter = Spt {
            values: None,
            positions: None,
            a: None,
            b: None,
        };
        match self.tuning {
            SptTuning::Entries(0) => {}
            SptTuning::Entries(entries) => {
                let mut positions = top(&magnitudes(&squared_gradient(ctx)?), entries);
                positions.sort_unstable();
                let zeros = ctx.tensor(Init::ZEROS, [entries], "values");
                adapter.values = Some(Param::from_tensor(zeros));
                adapter.positions = Some(stored(&positions, &ctx.device));
            }
            SptTuning::LowRank(rank) => {
                let kaiming = Init::KaimingUniform { fan_in: d_in };
                let a = ctx.tensor(kaiming, [d_in, rank], "a");
                let b = ctx.tensor(Init::ZEROS, [rank, d_out], "b");
                adapter.a = Some(Param::from_tensor(a));
                adapter.b = Some(Param::from_tensor(b));
            }
        }
        Ok(adapter)
    }
}

impl Method for SptConfig {
    const META: MethodMeta = MethodMeta {
        admits: "a linear layer with as many entries as are trained",
        ..MethodMeta::graft(
            "spt",
            "SPT",
            Family::Sparse,
            "2303.08566",
            "W' = W + S at the largest squared gradients, or W + A B where there are many",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        match self.tuning {
            SptTuning::LowRank(0) => Err("low-rank 0: expected at least 1".to_owned()),
            _ => Ok(()),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        [
            SptTuning::LowRank(2),
            SptTuning::Entries(1),
            SptTuning::Entries(9),
        ]
        .map(|tuning| Self { tuning })
        .into_iter()
        .filter(|config| config.admits(layer).is_ok())
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::{Adaptable, Adapted, AnyMethod, Injection, Mode};
    use engraft_testkit::{Harness, random};

    use super::*;
    use crate::entries::testing::{assert_forms_agree, attached, layer, normal};

    #[test]
    fn layers_with_many_sensitive_weights_are_tuned_by_a_low_rank_update() {
        // Twelve weights each; a low-rank update has 8 values and replaces 2 sensitive entries.
        let score = |first: f64| (0..12).map(|k| first - k as f64).collect::<Vec<f64>>();
        let layers = [(score(100.0), 8), (score(99.5), 8), (score(50.0), 8)];
        let budget = |parameters| SptBudget {
            parameters,
            rank: 2,
            ease: 4.0,
        };
        let tunings = |parameters| allocation(&layers, budget(parameters));
        use SptTuning::{Entries, LowRank};
        assert_eq!(tunings(0), [Entries(0), Entries(0), Entries(0)]);
        assert_eq!(tunings(1), [Entries(1), Entries(0), Entries(0)]);
        assert_eq!(tunings(9), [LowRank(2), Entries(1), Entries(0)]);
        assert_eq!(tunings(15), [LowRank(2), Entries(1), Entries(0)]);
        assert_eq!(tunings(17), [LowRank(2), LowRank(2), Entries(1)]);
        assert_eq!(tunings(1000), [LowRank(2); 3]);
        for parameters in 0..30 {
            let spent: usize = tunings(parameters)
                .into_iter()
                .map(|tuning| match tuning {
                    Entries(count) => count,
                    LowRank(_) => 8,
                })
                .sum();
            assert!(spent <= parameters);
        }
    }

    #[test]
    fn an_allocation_is_attached_within_its_budget() {
        let device = Device::default().autodiff();
        let layer = LayerShape::linear("block.fc1", 12, 10, true);
        let mut model = Adapted::new(Harness::new(&layer, 0, &device, DType::F64));
        let any = AnyMethod::new(&SptConfig {
            tuning: SptTuning::Entries(1),
        });
        let any = any.unwrap();
        let injection = Injection::new(1).targets(Targets::names(&["fc1", "fc2"]));
        let calibration = model
            .calibrate(&any, &injection, ["one", "two"], |model, batch| {
                let x = random::normal([2, 3, 12], batch, &device, DType::F64);
                let y = model.model.forward(x, &model.ctx(Mode::Eval));
                y.powi_scalar(2).mean()
            })
            .unwrap();
        let layers: Vec<LayerShape> = model.model.shapes().layers[..2].to_vec();
        for parameters in [3, 30, 60] {
            let budget = SptBudget {
                parameters,
                rank: 1,
                ease: 2.0,
            };
            let found = SptConfig::allocate(budget, &layers, &calibration).unwrap();
            let injection = Injection::new(1).targets(SptConfig::targets(&found));
            let mut tuned = model.clone();
            tuned
                .attach_calibrated("spt", &any, &injection, &calibration)
                .unwrap();
            let expected: usize = found
                .iter()
                .zip(&layers)
                .map(|((_, config), layer)| config.count(layer).trainable)
                .sum();
            let trained = tuned.counts("spt").unwrap().trainable;
            assert!(trained == expected && trained <= parameters && trained > 0);
        }
        let none = SptConfig::allocate(SptBudget::new(9), &layers, &Calibration::default());
        assert!(none.unwrap_err().to_string().contains("block.fc1: "));
    }

    #[test]
    fn both_forms_agree() {
        let base = layer(7, 5);
        let mut adapter = attached(&SptConfig::default(), &base);
        adapter.b = Some(Param::from_tensor(normal([8, 5], "b")));
        assert_forms_agree(&adapter, &base);
        adapter.values = Some(Param::from_tensor(normal([3], "values")));
        adapter.positions = Some(stored(&[0, 9, 34], &base.device()));
        assert_forms_agree(&adapter, &base);
        let none = SptConfig {
            tuning: SptTuning::Entries(0),
        };
        assert_forms_agree(&attached(&none, &base), &base);
    }
}
