//! NeuroAda: every neuron trains bypasses of a few of its own inputs.

use burn::module::{Module, Param, ParamId};
use burn::tensor::{Int, Tensor, TensorData};
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result,
};
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

use crate::entries::Entries;
use crate::top::top;

/// Configuration of [`NeuroAda`]. Default: k = 1, the smaller of the two budgets of the authors'
/// results (k = 1 and k = 20).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct NeuroAdaConfig {
    /// k, the trained inputs of each output.
    pub inputs: usize,
}

impl Default for NeuroAdaConfig {
    fn default() -> Self {
        Self { inputs: 1 }
    }
}

/// y_j = x W_j + b_j + sum_k x_(i(k, j)) delta_kj, with i(., j) the inputs of largest |W_ij|.
///
/// | symbol | shape | |
/// |---|---|---|
/// | delta | [k, d_out] | trained, zero at first |
/// | i (`inputs`) | [k, d_out] | input of each entry, frozen, in the adapter file |
///
/// NeuroAda: Activating Each Neuron's Potential for Parameter-Efficient Fine-Tuning, arXiv
/// 2510.18940. Every output keeps the same number of trained inputs, so that no neuron is left
/// out, as it may be under one threshold for the whole matrix; the choice needs no data, and
/// merging is an addition.
///
/// Activation form: as of [`Shira`](crate::Shira), k d_out values added into copies of panels of W.
#[derive(Module, Debug)]
pub struct NeuroAda {
    /// delta, [k, d_out].
    pub delta: Param<Tensor<2>>,
    /// i, [k, d_out].
    pub inputs: Param<Tensor<2, Int>>,
}

impl NeuroAda {
    /// The entries at i d_out + j, row by row of `delta`.
    fn entries(&self) -> Entries {
        let inputs = self.inputs.val();
        let [k, d_out] = inputs.dims();
        let columns = Tensor::<1, Int>::arange(0..d_out as i64, &inputs.device());
        let positions = (inputs * d_out as i64 + columns.unsqueeze()).reshape([k * d_out]);
        Entries::new(positions, self.delta.val().reshape([k * d_out]))
    }
}

impl Adapter for NeuroAda {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        Ok(self.entries().added(base))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        self.entries().forward(x, base)
    }
}

impl Graft for NeuroAdaConfig {
    type Adapter = NeuroAda;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        if self.inputs > layer.d_in {
            return Err(format!(
                "inputs {}: expected at most d_in = {}",
                self.inputs, layer.d_in
            ));
        }
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let entries = self.inputs * layer.d_out;
        Counts::with_frozen(entries, entries)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<NeuroAda> {
        let (k, d_in, d_out) = (self.inputs, base.d_in(), base.d_out());
        let weight = bridge::values(&base.weight());
        let mut inputs = vec![0i64; k * d_out];
        for output in 0..d_out {
            let sizes: Vec<f64> = (0..d_in)
                .map(|input| weight[input * d_out + output].abs())
                .collect();
            for (row, input) in top(&sizes, k).into_iter().enumerate() {
                inputs[row * d_out + output] = input as i64;
            }
        }
        let inputs = Tensor::from_data(TensorData::new(inputs, [k, d_out]), &ctx.device);
        Ok(NeuroAda {
            delta: Param::from_tensor(ctx.tensor(Init::ZEROS, [k, d_out], "delta")),
            inputs: Param::initialized(ParamId::new(), inputs),
        })
    }
}

impl Method for NeuroAdaConfig {
    const META: MethodMeta = MethodMeta {
        admits: "a linear layer with at least k inputs",
        ..MethodMeta::graft(
            "neuroada",
            "NeuroAda",
            Family::Sparse,
            "2510.18940",
            "y_j = x W_j + b_j + sum_k x_(i(k,j)) delta_kj, i(., j) the inputs of largest |W_ij|",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        match self.inputs {
            0 => Err("inputs 0: expected at least 1".to_owned()),
            _ => Ok(()),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        [1, 3]
            .map(|inputs| Self { inputs })
            .into_iter()
            .filter(|config| config.admits(layer).is_ok())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::testing::{assert_forms_agree, attached, change, layer, normal};

    #[test]
    fn every_output_changes_at_its_largest_inputs_and_nowhere_else() {
        let base = layer(7, 5);
        let weight = bridge::values(&base.weight());
        for k in [1, 2, 7] {
            let mut adapter = attached(&NeuroAdaConfig { inputs: k }, &base);
            assert!(change(&adapter, &base).iter().all(|change| *change == 0.0));
            adapter.delta = Param::from_tensor(normal([k, 5], "delta"));
            assert_forms_agree(&adapter, &base);
            let change = change(&adapter, &base);
            for output in 0..5 {
                let column = |of: &[f64]| -> Vec<f64> {
                    (0..7).map(|input| of[input * 5 + output]).collect()
                };
                let sizes: Vec<f64> = column(&weight).iter().map(|w| w.abs()).collect();
                let changed = column(&change);
                let mut found: Vec<usize> = (0..7).filter(|&i| changed[i] != 0.0).collect();
                let mut expected = top(&sizes, k);
                found.sort_unstable();
                expected.sort_unstable();
                assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn counts_are_the_authors_percentages() {
        // Authors' README, all seven linear layers: LLaMA-7B, LLaMA-13B, Llama-3-8B; k = 20, 1.
        let models = [
            (
                32,
                5 * 4096 + 2 * 11008,
                6_738_415_616usize,
                [0.404, 0.020],
                27_197_440,
            ),
            (
                40,
                5 * 5120 + 2 * 13824,
                13_015_864_320,
                [0.327, 0.016],
                42_598_400,
            ),
            (
                32,
                3 * 4096 + 2 * 1024 + 2 * 14336,
                8_030_261_248,
                [0.343, 0.017],
                27_525_120,
            ),
        ];
        for (layers, outputs, total, published, at_twenty) in models {
            let count = |inputs| {
                let layer = LayerShape::linear("all", 4096, outputs, false);
                layers * NeuroAdaConfig { inputs }.count(&layer).trainable
            };
            assert_eq!(count(20), at_twenty);
            for (k, published) in [20, 1].into_iter().zip(published) {
                let percent = 100.0 * count(k) as f64 / total as f64;
                assert!(
                    (percent - published).abs() <= 0.0005,
                    "{percent} {published}"
                );
            }
        }
    }
}
