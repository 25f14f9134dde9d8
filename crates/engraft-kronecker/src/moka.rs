//! MoKA: mixture of Kronecker adapters.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, check_dropout, dropout, refuse_dropout,
};
use engraft_tensor::Init;
use engraft_tensor::ops::{kronecker, kronecker_update};
use serde::{Deserialize, Serialize};

use crate::factor::factorisation;

/// Configuration of [`Moka`]. Defaults: five shapes, each used twice, so that r = 10.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MokaConfig {
    /// [inputs, outputs] wanted of A, one pair a shape; where one is no divisor of the width, the
    /// largest divisor up to it and the square root of the width takes its place.
    pub shapes: Vec<[usize; 2]>,
    /// How many components have each shape.
    pub copies: usize,
    /// Probability of zeroing an input of the mixture in training.
    pub dropout: f64,
}

impl Default for MokaConfig {
    fn default() -> Self {
        Self {
            shapes: vec![[64, 64], [32, 128], [128, 32], [16, 256], [256, 16]],
            copies: 2,
            dropout: 0.0,
        }
    }
}

/// y = x W + b + x sum_i alpha_i A_i (x) B_i, alpha = softmax(g), i = 1 ... r, with (x) the
/// Kronecker product.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A_i | [m_in, m_out], its own for each i | trained; U(-1/sqrt(m_in), 1/sqrt(m_in)) at first |
/// | B_i | [d_in / m_in, d_out / m_out] | trained; zero at first |
/// | g | `[r]` | trained; one at first, so that alpha = 1 / r |
///
/// Sadeghi et al., MoKA: Mixture of Kronecker Adapters, arXiv 2508.03527. A tall A beside a wide B,
/// or the reverse, has as many values as two square ones but another rank: rank(A) rank(B). No code
/// of the authors is public; that r is 10, from five shapes used twice, and the starting values
/// are a third-party port's. The paper's table of shapes was not to be had: the default ones give
/// both factors 4,096 entries on a layer of 4096 x 4096.
///
/// No product is formed: with B_i [n_in, n_out], a token costs the sum over i of the smaller of
/// d_in n_out + m_in d_out (B first) and d_in m_out + n_in d_out (A first), beside the frozen layer.
#[derive(Module, Debug)]
pub struct Moka {
    /// A_1, ..., A_r.
    pub a: Vec<Param<Tensor<2>>>,
    /// B_1, ..., B_r.
    pub b: Vec<Param<Tensor<2>>>,
    /// g, `[r]`.
    pub g: Param<Tensor<1>>,
    /// Dropout probability on the inputs of the mixture.
    pub dropout: f64,
}

impl Moka {
    /// alpha, `[r]`. Written out, because the backend's own softmax rounds otherwise than the one
    /// under autodiff.
    fn gates(&self) -> Tensor<1> {
        let g = self.g.val();
        let raised = (g.clone() - g.max().detach()).exp();
        raised.clone() / raised.sum()
    }

    /// alpha_i A_i and B_i.
    fn components(&self) -> impl Iterator<Item = (Tensor<2>, Tensor<2>)> {
        let gates = self.gates();
        self.a
            .iter()
            .zip(&self.b)
            .enumerate()
            .map(move |(i, (a, b))| {
                let gate: Tensor<2> = gates.clone().narrow(0, i, 1).unsqueeze();
                (a.val() * gate, b.val())
            })
    }
}

impl Adapter for Moka {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("moka", self.dropout, ctx)?;
        let weight = self.components().fold(base.weight(), |weight, (a, b)| {
            kronecker_update(weight, a.unsqueeze(), b.unsqueeze())
        });
        Ok(base.with_weight(weight))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let dropped = dropout(x.clone(), self.dropout, ctx);
        self.components().fold(base.forward(x), |y, (a, b)| {
            y + kronecker(dropped.clone(), None, a.unsqueeze(), b.unsqueeze())
        })
    }
}

impl MokaConfig {
    /// The shapes of A and B of every component on a layer.
    fn factors(&self, d_in: usize, d_out: usize) -> Vec<([usize; 2], [usize; 2])> {
        let split = |width, wanted: usize| factorisation(width, wanted as i64);
        let shapes = self.shapes.iter().map(|&[inputs, outputs]| {
            let ((m_in, n_in), (m_out, n_out)) = (split(d_in, inputs), split(d_out, outputs));
            ([m_in, m_out], [n_in, n_out])
        });
        let shapes: Vec<_> = shapes.collect();
        shapes.repeat(self.copies)
    }
}

impl Graft for MokaConfig {
    type Adapter = Moka;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let factors = self.factors(layer.d_in, layer.d_out);
        let values = factors
            .iter()
            .map(|(a, b)| a.iter().product::<usize>() + b.iter().product::<usize>());
        Counts::trained(values.sum::<usize>() + factors.len())
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Moka> {
        let factors = self.factors(base.d_in(), base.d_out());
        let draw = |i: usize, shape: [usize; 2], init, name| {
            Param::from_tensor(ctx.tensor(init, shape, &format!("{name}.{i}")))
        };
        let (a, b) = factors
            .iter()
            .enumerate()
            .map(|(i, &(a, b))| {
                let kaiming = Init::KaimingUniform { fan_in: a[0] };
                (draw(i, a, kaiming, "a"), draw(i, b, Init::ZEROS, "b"))
            })
            .unzip();
        Ok(Moka {
            a,
            b,
            g: Param::from_tensor(ctx.tensor(Init::ONES, [factors.len()], "g")),
            dropout: self.dropout,
        })
    }
}

impl Method for MokaConfig {
    const META: MethodMeta = MethodMeta::graft(
        "moka",
        "MoKA",
        Family::Kronecker,
        "2508.03527",
        "y = x W + b + x sum_i softmax(g)_i A_i (x) B_i, each i with its own factor shapes",
    );

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if self.shapes.is_empty() || self.copies == 0 {
            return Err("no component: expected at least one shape and one copy".to_owned());
        }
        if let Some([inputs, outputs]) = self.shapes.iter().find(|shape| shape.contains(&0)) {
            return Err(format!(
                "shape [{inputs}, {outputs}]: expected numbers of at least 1"
            ));
        }
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        vec![
            Self {
                shapes: vec![[2, 4], [4, 2]],
                copies: 2,
                dropout: 0.0,
            },
            Self {
                shapes: vec![[3, 5], [1, 8], [24, 1]],
                copies: 1,
                dropout: 0.1,
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::Bank;
    use engraft_linalg::Matrix;
    use engraft_tensor::{Key, bridge};

    use super::*;

    fn draw<const D: usize>(shape: [usize; D], role: &str) -> Tensor<D> {
        Init::Normal { std: 1.0 }.tensor(
            shape,
            &Key::new(1).child(role),
            &Device::default(),
            DType::F64,
        )
    }

    #[test]
    fn the_update_is_the_gated_sum_of_products_of_different_shapes() {
        let config = MokaConfig {
            shapes: vec![[2, 5], [6, 1], [4, 5]],
            copies: 1,
            dropout: 0.0,
        };
        let base = FrozenBase::new(draw([12, 10], "w"), Some(draw([10], "bias")));
        let bank = Bank::default();
        let mut moka = config
            .init(&base, &InitContext::new(1, "fc", "default", &base, &bank))
            .unwrap();
        moka.g = Param::from_tensor(draw([3], "g"));
        for (i, b) in moka.b.iter_mut().enumerate() {
            *b = Param::from_tensor(draw(b.dims(), &format!("b{i}")));
        }
        let gates: Vec<f64> = bridge::values(&moka.g.val());
        let total: f64 = gates.iter().map(|gate| gate.exp()).sum();
        let mut expected = bridge::to_matrix(&base.weight());
        for (i, gate) in gates.iter().enumerate() {
            let factor = |param: &Param<Tensor<2>>| bridge::to_matrix(&param.val());
            let product: Matrix = factor(&moka.a[i]).kron(&factor(&moka.b[i]));
            expected = expected.add(&product.scale(gate.exp() / total)).unwrap();
        }
        let effective = moka.effective(&base, &Ctx::default()).unwrap();
        let found = bridge::to_matrix(&effective.weight());
        assert!(found.max_abs_diff(&expected).unwrap() < 1e-13);
        let x = draw([3, 12], "x");
        let distance = moka.forward(x.clone(), &base, &Ctx::default()) - effective.forward(x);
        assert!(bridge::to_matrix(&distance).max_abs() < 1e-12);
    }

    #[test]
    fn default_shapes_cost_the_same_and_differ_in_rank() {
        let config = MokaConfig::default();
        let layer = LayerShape::linear("q", 4096, 4096, false);
        assert_eq!(config.count(&layer).trainable, 10 * 8192 + 10);
        let ranks: Vec<usize> = config
            .factors(4096, 4096)
            .iter()
            .take(5)
            .map(|(a, b)| a[0].min(a[1]) * b[0].min(b[1]))
            .collect();
        assert_eq!(ranks, [4096, 1024, 1024, 256, 256]);
        // A prime width is split 1 x width.
        assert_eq!(config.factors(13, 64)[0], ([1, 64], [13, 1]));
    }
}
