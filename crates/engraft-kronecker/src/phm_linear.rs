//! PHM linear: Compacter's map as the update of a weight.

use burn::module::Module;
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, BankSpec, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result, check_dropout, dropout, refuse_dropout,
};
use serde::{Deserialize, Serialize};

use crate::phm::{self, Phm, Rules};

/// Configuration of [`PhmLinear`]. Paper defaults: n = 4, rank 1, trained rules.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PhmLinearConfig {
    /// n, a divisor of d_in and d_out.
    pub division: usize,
    /// Rank r of each s_k t_k.
    pub rank: usize,
    /// `trained` or `frozen`.
    pub rules: Rules,
    /// Factor c of the update.
    pub scale: f64,
    /// Probability of zeroing an input of the update in training.
    pub dropout: f64,
}

impl Default for PhmLinearConfig {
    fn default() -> Self {
        Self {
            division: 4,
            rank: 1,
            rules: Rules::Trained,
            scale: 1.0,
            dropout: 0.0,
        }
    }
}

/// y = x W + b + c x sum_k A_k (x) (s_k t_k), k = 1 ... n, with (x) the Kronecker product.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A_k | [n, n] | bank, shared by all layers; N(0, 0.01^2) at first |
/// | s_k | [d_in / n, r] | trained; Glorot uniform at first |
/// | t_k | [r, d_out / n] | trained; zero at first |
///
/// Karimi Mahabadi et al., Compacter: Efficient Low-Rank Hypercomplex Adapter Layers, arXiv
/// 2106.04647, sections 4.1 and 4.2. There the map is the projection of a bottleneck
/// ([`crate::Compacter`]) and t_k starts as s_k does; as the update of a weight t_k starts at zero,
/// so that training starts at the base model.
///
/// A token costs O(n r (d_in + n^2 + d_out)) beside the frozen layer.
#[derive(Module, Debug)]
pub struct PhmLinear {
    /// s and t.
    pub phm: Phm,
    /// c.
    pub scale: f64,
    /// Dropout probability on the inputs of the update.
    pub dropout: f64,
    #[module(skip)]
    rules: String,
}

impl Adapter for PhmLinear {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("phm-linear", self.dropout, ctx)?;
        let rules = phm::rules(ctx, &self.rules) * self.scale;
        Ok(base.with_weight(self.phm.added_to(base.weight(), rules)))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let dropped = dropout(x.clone(), self.dropout, ctx);
        let update = self.phm.apply(dropped, phm::rules(ctx, &self.rules));
        base.forward(x) + update * self.scale
    }
}

impl Graft for PhmLinearConfig {
    type Adapter = PhmLinear;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        phm::admit_division(self.division, &[layer.d_in, layer.d_out])
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.rank * (layer.d_in + layer.d_out))
    }

    fn banks(&self, _: &[LayerShape]) -> Vec<BankSpec> {
        vec![self.rules.bank(self.division)]
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<PhmLinear> {
        let widths = [base.d_in(), base.d_out()];
        Ok(PhmLinear {
            phm: Phm::init([self.division, self.rank], widths, true, "phm", ctx),
            scale: self.scale,
            dropout: self.dropout,
            rules: phm::rules_name(ctx),
        })
    }
}

impl Method for PhmLinearConfig {
    const META: MethodMeta = MethodMeta {
        admits: "a linear layer whose widths n divides",
        ..MethodMeta::graft(
            "phm-linear",
            "PHM linear",
            Family::Kronecker,
            "2106.04647",
            "y = x W + b + c x sum_k A_k (x) (s_k t_k), A_k shared by all layers",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        phm::check_sizes(self.division, self.rank)?;
        check_dropout(self.dropout)
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let small = Self {
            division: phm::common_divisor(layer.d_in, layer.d_out, 4),
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                rank: 2,
                rules: Rules::Frozen,
                scale: 3.0,
                dropout: 0.2,
                ..small.clone()
            },
            Self {
                division: 1,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::{DType, Device};
    use engraft_core::Bank;
    use engraft_tensor::{Init, Key, bridge};

    use super::*;

    #[test]
    fn both_forms_are_the_sum_over_the_shared_rules() {
        let device = Device::default();
        let draw = |shape, role: &str| {
            Init::Normal { std: 1.0 }.tensor(shape, &Key::new(3).child(role), &device, DType::F64)
        };
        let config = PhmLinearConfig {
            division: 3,
            rank: 2,
            ..PhmLinearConfig::default()
        };
        let weight: Tensor<3> = draw([1, 6, 15], "w");
        let base = FrozenBase::new(weight.reshape([6, 15]), None);
        let mut bank = Bank::default();
        bank.grow("default", &config.banks(&[]), 1, &device, DType::F64);
        let mut adapter = config
            .init(&base, &InitContext::new(1, "fc", "default", &base, &bank))
            .unwrap();
        adapter.phm.t = Param::from_tensor(draw([3, 2, 5], "t"));

        let ctx = Ctx::new(&bank, engraft_core::Mode::Eval);
        let effective = adapter.effective(&base, &ctx).unwrap();
        let rules = bridge::to_matrix(&bank.get("default/rules").unwrap());
        let (s, t) = (adapter.phm.s.val(), adapter.phm.t.val());
        let slice =
            |of: &Tensor<3>, k| bridge::to_matrix(&of.clone().narrow(0, k, 1).squeeze_dim::<2>(0));
        let mut expected = bridge::to_matrix(&base.weight());
        for k in 0..3 {
            let rule = engraft_linalg::Matrix::from_fn(3, 3, |i, j| rules.get(k, 3 * i + j));
            let fast = slice(&s, k).matmul(&slice(&t, k)).unwrap();
            expected = expected.add(&rule.kron(&fast)).unwrap();
        }
        let found = bridge::to_matrix(&effective.weight());
        assert!(found.max_abs_diff(&expected).unwrap() < 1e-13);

        let x: Tensor<2> = draw([1, 4, 6], "x").reshape([4, 6]);
        let distance = adapter.forward(x.clone(), &base, &ctx) - effective.forward(x);
        assert!(bridge::to_matrix(&distance).max_abs() < 1e-12);
    }

    #[test]
    fn the_rules_are_counted_once() {
        let config = PhmLinearConfig::default();
        let layer = LayerShape::linear("fc", 768, 24, true);
        let shared: usize = config
            .banks(&[layer.clone(), layer.clone()])
            .iter()
            .map(|bank| bank.count().shared)
            .sum();
        assert_eq!((config.count(&layer).trainable, shared), (792, 64));
    }
}
