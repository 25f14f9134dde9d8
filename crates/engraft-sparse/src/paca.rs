//! PaCA: a few rows of the weight are trained, so that a few activations are kept.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, admit_rank, positive_rank,
};
use engraft_tensor::bridge;
use rand::seq::index;
use serde::{Deserialize, Serialize};

use crate::entries::{add_rows, stored};
use crate::top::top;

/// How PaCA chooses its inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PacaChoice {
    /// Uniformly at random without replacement, the paper's choice.
    #[default]
    Random,
    /// The inputs whose weights have the largest norm.
    Norm,
}

/// Configuration of [`Paca`]. Default: r = 8, the paper's smallest for language models. The paper's
/// scaling alpha / r cancels at the start and only rescales the learning rate of P: alpha = r here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PacaConfig {
    /// r, the number of trained inputs.
    pub rank: usize,
    /// alpha of s = alpha / r.
    pub alpha: f64,
    /// `random` or `norm`.
    pub choice: PacaChoice,
}

impl Default for PacaConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            choice: PacaChoice::Random,
        }
    }
}

/// y = x W + b + x_I (s P - W_I): the rows I of W are replaced by s P.
///
/// | symbol | shape | |
/// |---|---|---|
/// | P | [r, d_out] | trained, W_I / s at first |
/// | I (`inputs`) | `[r]` | chosen inputs, frozen, in the adapter file |
/// | s | | alpha / r |
///
/// PaCA: Partial Connection Adaptation for Efficient Fine-Tuning, arXiv 2503.01905. The rows of W
/// are the columns of the (out, in) weight that the paper calls partial connections. The gradient
/// of P is x_I^T g, so the backward pass keeps the r chosen activations of each token and not the
/// d_in that a trained weight needs; unlike LoRA there is no second product in series. s follows
/// the authors' code (peft/tuners/paca/layer.py), which divides the initial rows by it.
///
/// Activation form: O(tokens r d_out) beside the frozen product.
#[derive(Module, Debug)]
pub struct Paca {
    /// P, [r, d_out].
    pub p: Param<Tensor<2>>,
    /// I, `[r]`.
    pub inputs: Param<Tensor<1, Int>>,
    /// s.
    pub scaling: f64,
}

impl Paca {
    /// s P - W_I, [r, d_out].
    fn delta(&self, base: &FrozenBase) -> Tensor<2> {
        self.p.val() * self.scaling - base.weight().select(0, self.inputs.val())
    }
}

impl Adapter for Paca {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let rows = self.inputs.val();
        Ok(base.with_weight(add_rows(base.weight(), rows, self.delta(base))))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let chosen = x.clone().select(1, self.inputs.val());
        base.forward(x) + chosen.matmul(self.delta(base))
    }
}

impl Graft for PacaConfig {
    type Adapter = Paca;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_rank(self.rank, layer.d_in)
            .map_err(|_| format!("rank {}: expected 1 to d_in = {}", self.rank, layer.d_in))
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::with_frozen(self.rank * layer.d_out, self.rank)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Paca> {
        let (d_in, d_out) = (base.d_in(), base.d_out());
        let mut inputs = match self.choice {
            PacaChoice::Random => {
                index::sample(&mut ctx.key.child("inputs").rng(), d_in, self.rank).into_vec()
            }
            PacaChoice::Norm => {
                let weight = bridge::values(&base.weight());
                let squares = |row: &[f64]| row.iter().map(|w| w * w).sum();
                let norms: Vec<f64> = weight.chunks(d_out).map(squares).collect();
                top(&norms, self.rank)
            }
        };
        inputs.sort_unstable();
        let inputs = stored(&inputs, &ctx.device);
        let scaling = self.alpha / self.rank as f64;
        let rows = base.weight().select(0, inputs.val()).detach();
        Ok(Paca {
            p: Param::from_tensor(rows / scaling),
            inputs,
            scaling,
        })
    }
}

impl Method for PacaConfig {
    const META: MethodMeta = MethodMeta {
        admits: "a linear layer with at least r inputs",
        ..MethodMeta::graft(
            "paca",
            "PaCA",
            Family::Sparse,
            "2503.01905",
            "y = x W + b + x_I (s P - W_I), I r chosen inputs",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        if self.alpha > 0.0 {
            Ok(())
        } else {
            Err(format!("alpha {}: expected more than 0", self.alpha))
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let example = |rank, alpha, choice| Self {
            rank,
            alpha,
            choice,
        };
        [
            example(1, 1.0, PacaChoice::Random),
            example(3, 1.5, PacaChoice::Random),
            example(2, 4.0, PacaChoice::Norm),
        ]
        .into_iter()
        .filter(|config| config.admits(layer).is_ok())
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entries::places;
    use crate::entries::testing::{assert_forms_agree, attached, change, layer, normal};

    #[test]
    fn only_the_chosen_rows_change_and_become_s_p() {
        let base = layer(7, 5);
        let config = PacaConfig {
            rank: 3,
            alpha: 6.0,
            choice: PacaChoice::Norm,
        };
        let mut adapter = attached(&config, &base);
        adapter.p = Param::from_tensor(normal([3, 5], "p"));
        assert_forms_agree(&adapter, &base);
        let rows = places(&adapter.inputs.val());
        let (change, weight) = (change(&adapter, &base), bridge::values(&base.weight()));
        let p = bridge::values(&adapter.p.val());
        for (place, change) in change.iter().enumerate() {
            match rows.iter().position(|row| *row == place / 5) {
                None => assert_eq!(*change, 0.0),
                Some(row) => {
                    let expected = 2.0 * p[row * 5 + place % 5] - weight[place];
                    assert!((change - expected).abs() < 1e-14);
                }
            }
        }
    }

    /// On the Flex backend a tensor's buffer is handed out without a copy when nobody else holds
    /// it: whether a forward pass has kept x shows in the address of its values afterwards.
    #[cfg(feature = "flex")]
    #[test]
    fn the_backward_pass_keeps_the_chosen_activations_and_not_x() {
        use burn::tensor::{Device, TensorData};

        let device = Device::flex().autodiff();
        let matrix = |rows: usize, cols: usize| {
            let values = (0..rows * cols).map(|k| (k as f32).sin()).collect();
            TensorData::new::<f32, _>(values, [rows, cols])
        };
        let on_device = |data| Tensor::<2>::from_data(data, &device);
        let is_kept = |forward: &dyn Fn(Tensor<2>) -> Tensor<2>| {
            let data = matrix(64, 32);
            let before = data.as_bytes().as_ptr();
            let x = on_device(data).require_grad();
            let y = forward(x.clone());
            let after = x.into_data();
            drop(y);
            after.as_bytes().as_ptr() != before
        };
        let base = FrozenBase::new(on_device(matrix(32, 8)), None);
        let config = PacaConfig {
            rank: 2,
            ..PacaConfig::default()
        };
        let adapter = attached(&config, &base).train();
        assert!(!is_kept(&|x| adapter.forward(x, &base, &Ctx::default())));
        // A trained weight keeps x.
        let trained = base.weight().require_grad();
        assert!(is_kept(&|x| x.matmul(trained.clone())));

        let x = on_device(matrix(64, 32));
        let y = adapter.forward(x.clone(), &base, &Ctx::default());
        let gradients = y.sum().backward();
        let found = adapter.p.val().grad(&gradients).expect("P is trained");
        let expected = x
            .select(1, adapter.inputs.val())
            .transpose()
            .matmul(Tensor::ones([64, 8], &device))
            * adapter.scaling;
        let distance = bridge::values(&(found - expected.inner()))
            .iter()
            .fold(0.0f64, |largest, x| largest.max(x.abs()));
        assert!(distance < 1e-4, "{distance}");
    }

    #[test]
    fn counts_are_the_published_ones() {
        // LLaMA2-7B, all seven linear layers: 11M at r = 8 and 22M at r = 16.
        let outputs = 32 * (5 * 4096 + 2 * 11008);
        let count = |rank| {
            let config = PacaConfig {
                rank,
                ..PacaConfig::default()
            };
            config
                .count(&LayerShape::linear("all", 4096, outputs, false))
                .trainable
        };
        assert_eq!([count(8), count(16)], [10_878_976, 21_757_952]);
    }
}
