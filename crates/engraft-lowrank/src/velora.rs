//! VeLoRA: LoRA that keeps its inputs for the backward pass as one number a group.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Gradient, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result, Scaling, dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::lora::{Lora, LoraConfig};

/// Where the direction v comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VeloraProjection {
    /// The average of the batch's sub-tokens, in every forward pass.
    #[default]
    BatchAverage,
    /// The stored v; while it is zero, the average of the batch ([`Velora::settle`] stores one).
    BatchAverageOnce,
    /// Random and fixed.
    Random,
}

/// Configuration of [`Velora`]. Rank 8, alpha 16 as LoRA; 64 groups of scale 1, as in PEFT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct VeloraConfig {
    /// Rank r.
    pub rank: usize,
    /// alpha; see [`Scaling`].
    pub alpha: f64,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Whether an offset c is trained behind B.
    pub bias: bool,
    /// Sub-tokens G that an input is cut into.
    pub groups: usize,
    /// Factor t of the reconstructed inputs.
    pub scale: f64,
    /// Where v comes from.
    pub projection: VeloraProjection,
}

impl Default for VeloraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            scaling: Scaling::Classic,
            dropout: 0.0,
            bias: false,
            groups: 64,
            scale: 1.0,
            projection: VeloraProjection::BatchAverage,
        }
    }
}

impl VeloraConfig {
    fn lora(&self) -> LoraConfig {
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha,
            scaling: self.scaling,
            dropout: self.dropout,
            bias: self.bias,
            ..LoraConfig::default()
        }
    }

    /// Entries of a sub-token; the last one is filled up with zeros.
    fn width(&self, d_in: usize) -> usize {
        d_in.div_ceil(self.groups)
    }
}

/// y = x W + b + s (x A B + c) exactly, with dL/dA = s x^T dL/dy B^T replaced by s X^T dL/dy B^T.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A, B, c | as in [`Lora`] | trained |
/// | v | `[m]`, m = ceil(d_in / G) | unit length, frozen; in the adapter file |
/// | X | [tokens, d_in] | t (x_g . v) v for each sub-token x_g of x |
///
/// Miles et al., VeLoRA: Memory Efficient Training using Rank-1 Sub-Token Projections, arXiv
/// 2405.17991, section 3, and PEFT's `velora` for the choices of v. The compressed inputs
/// c = (x_g . v), [tokens, G], are all that is kept of x: A's gradient flows through
/// c P(A) with P(A)_g = v^T A_g, [G, r], added as t c (P(A) - P(A_now)), which is zero. So the
/// output stays exact, dL/dx is the exact one, and the backward pass holds tokens x (G + r) numbers
/// instead of tokens x (d_in + r). When A is not tracked, this is LoRA's forward pass.
#[derive(Module, Debug)]
pub struct Velora {
    /// A, B, c and their scaling.
    pub lora: Lora,
    /// v, `[m]`.
    pub embed: Param<Tensor<1>>,
    /// t.
    pub scale: f64,
    groups: usize,
    #[module(skip)]
    projection: VeloraProjection,
    /// A held constant, in the surrogate whose derivative the gradient is.
    held: Option<Tensor<2>>,
}

impl Velora {
    /// x [rows, n] with columns of zeros up to G m, cut into sub-tokens [rows G, m].
    fn grouped(&self, x: Tensor<2>) -> Tensor<2> {
        let ([rows, n], m) = (x.dims(), self.embed.dims()[0]);
        let missing = self.groups * m - n;
        let x = if missing == 0 {
            x
        } else {
            let zeros = Tensor::zeros([rows, missing], (&x.device(), x.dtype()));
            Tensor::cat(vec![x, zeros], 1)
        };
        x.reshape([rows * self.groups, m])
    }

    /// v for the sub-tokens of a batch.
    fn direction(&self, sub_tokens: &Tensor<2>) -> Tensor<1> {
        let stored = self.embed.val();
        match self.projection {
            VeloraProjection::Random => stored,
            VeloraProjection::BatchAverage => average(sub_tokens),
            VeloraProjection::BatchAverageOnce => {
                let settled = (stored.clone() * stored.clone()).sum().greater_elem(0.0);
                let m = stored.dims()[0];
                stored + average(sub_tokens).mask_fill(settled.expand([m]), 0.0)
            }
        }
    }

    /// Stores the average sub-token of a batch as v, for `batch-average-once`.
    pub fn settle(&mut self, x: Tensor<2>) {
        let v = average(&self.grouped(x.detach()));
        self.embed = self.embed.clone().map(|_| v.set_require_grad(false));
    }

    /// P(A), [G, r].
    fn projected(&self, a: Tensor<2>, v: Tensor<1>) -> Tensor<2> {
        let ([_, rank], m) = (a.dims(), v.dims()[0]);
        let groups = self.grouped(a.transpose()).reshape([rank, self.groups, m]);
        (groups * v.reshape([1, 1, m]))
            .sum_dim(2)
            .reshape([rank, self.groups])
            .transpose()
    }

    /// x A, [tokens, r], with the declared gradient.
    fn narrow(&self, x: Tensor<2>) -> Tensor<2> {
        let a = self.lora.a.val();
        if !a.is_require_grad() && self.held.is_none() {
            return x.matmul(a);
        }
        let now = self.held.clone().unwrap_or_else(|| a.clone().detach());
        let sub_tokens = self.grouped(x.clone().detach());
        let v = self.direction(&sub_tokens);
        let compressed = (sub_tokens * v.clone().unsqueeze())
            .sum_dim(1)
            .reshape([x.dims()[0], self.groups]);
        let moved = self.projected(a, v.clone()) - self.projected(now.clone(), v);
        x.matmul(now) + compressed.matmul(moved * self.scale)
    }
}

/// The normalised average of rows [n, m]; the diagonal direction where they average to zero.
fn average(rows: &Tensor<2>) -> Tensor<1> {
    let mean = rows.clone().mean_dim(0).squeeze_dim::<1>(0);
    let m = mean.dims()[0];
    let norm = (mean.clone() * mean.clone()).sum().sqrt();
    let zero = norm.clone().equal_elem(0.0);
    mean.mask_fill(zero.clone().expand([m]), 1.0) / norm.mask_fill(zero, (m as f64).sqrt())
}

impl Adapter for Velora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        self.lora.effective(base, ctx)
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let narrow = self.narrow(dropout(x.clone(), self.lora.dropout, ctx));
        self.lora.widen(x, narrow, base)
    }

    fn surrogate(&self, _: &FrozenBase) -> Self {
        Self {
            held: Some(self.lora.a.val().detach()),
            ..self.clone()
        }
    }
}

impl Graft for VeloraConfig {
    type Adapter = Velora;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let trained = self.lora().count(layer).trainable;
        Counts::with_frozen(trained, self.width(layer.d_in))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Velora> {
        let m = self.width(base.d_in());
        let v = match self.projection {
            VeloraProjection::Random => {
                average(&ctx.tensor(Init::Normal { std: 1.0 }, [1, m], "embed"))
            }
            _ => ctx.tensor(Init::ZEROS, [m], "embed"),
        };
        Ok(Velora {
            lora: self.lora().init(base, ctx)?,
            embed: Param::from_tensor(v).set_require_grad(false),
            scale: self.scale,
            groups: self.groups,
            projection: self.projection,
            held: None,
        })
    }
}

impl Method for VeloraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        gradient: Gradient::Surrogate(
            "A's gradient is taken from inputs compressed to one number a group",
        ),
        ..MethodMeta::graft(
            "velora",
            "VeLoRA",
            Family::Lowrank,
            "2405.17991",
            "y = x W + b + s (x A B + c), dL/dA through t (x_g . v) v instead of x",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if self.groups == 0 {
            return Err("groups 0: expected at least 1".to_owned());
        }
        if !(self.scale.is_finite() && self.scale > 0.0) {
            return Err(format!("scale {}: expected a positive number", self.scale));
        }
        self.lora().validate()
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 2,
            alpha: 3.0,
            groups: 4,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                projection: VeloraProjection::Random,
                scaling: Scaling::RankStabilised,
                bias: true,
                groups: 5,
                scale: 0.5,
                ..small.clone()
            },
            Self {
                projection: VeloraProjection::BatchAverageOnce,
                dropout: 0.1,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::{attach, base, largest, normal};

    /// X as the definition has it, by loops.
    fn reconstructed(x: &Tensor<2>, v: &[f64], groups: usize, scale: f64) -> Tensor<2> {
        let [tokens, d_in] = x.dims();
        let values = bridge::values(x);
        let mut rebuilt = vec![0.0; tokens * d_in];
        for (row, out) in values.chunks(d_in).zip(rebuilt.chunks_mut(d_in)) {
            for (part, out) in row.chunks(v.len()).zip(out.chunks_mut(v.len())) {
                let along: f64 = part.iter().zip(v).map(|(x, v)| x * v).sum();
                out.iter_mut()
                    .zip(v)
                    .for_each(|(o, v)| *o = scale * along * v);
            }
        }
        assert!(v.len() * groups >= d_in);
        bridge::tensor(rebuilt, [tokens, d_in], &x.device(), x.dtype())
    }

    #[test]
    fn the_gradient_of_a_is_that_of_the_compressed_inputs_and_the_others_are_exact() {
        for projection in [VeloraProjection::BatchAverage, VeloraProjection::Random] {
            let config = VeloraConfig {
                rank: 2,
                groups: 3,
                scale: 0.5,
                projection,
                ..VeloraConfig::default()
            };
            let base = base([7, 4]);
            let mut adapter = attach(&config, &base);
            adapter.lora.b = Param::from_tensor(normal([2, 4], "b0"));
            let base = FrozenBase::new(base.weight(), None);
            let tracked = adapter.clone().train();
            let layer = FrozenBase::new(base.weight().autodiff(), None);
            let (x, g) = (normal([6, 7], "x"), normal([6, 4], "g"));
            let input = x.clone().autodiff().require_grad();
            let y = tracked.forward(input.clone(), &layer, &Ctx::default());
            let lora = adapter.lora.forward(x.clone(), &base, &Ctx::default());
            assert!(largest(y.clone().inner() - lora) < 1e-13);
            let grads = (y * g.clone().autodiff()).sum().backward();

            let v = match projection {
                VeloraProjection::Random => bridge::values(&adapter.embed.val()),
                _ => bridge::values(&average(&adapter.grouped(x.clone()))),
            };
            assert!((v.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-12);
            let inner = g.clone().matmul(adapter.lora.b.val().transpose()) * adapter.lora.scaling;
            let expected = reconstructed(&x, &v, 3, 0.5)
                .transpose()
                .matmul(inner.clone());
            let found = tracked.lora.a.val().grad(&grads).unwrap();
            assert!(largest(found - expected) < 1e-12, "{projection:?}");
            let exact = inner.matmul(adapter.lora.a.val().transpose())
                + g.matmul(base.weight().transpose());
            assert!(largest(input.grad(&grads).unwrap() - exact) < 1e-12);
        }
    }

    #[test]
    fn a_settled_direction_stays() {
        let base = base([8, 3]);
        let config = VeloraConfig {
            rank: 1,
            groups: 4,
            projection: VeloraProjection::BatchAverageOnce,
            ..VeloraConfig::default()
        };
        let mut adapter = attach(&config, &base);
        let (first, second) = (normal([5, 8], "first"), normal([5, 8], "second"));
        let of = |adapter: &Velora, x: &Tensor<2>| adapter.direction(&adapter.grouped(x.clone()));
        assert!(largest(of(&adapter, &first) - of(&adapter, &second)) > 0.1);
        adapter.settle(first.clone());
        assert!(largest(of(&adapter, &second) - average(&adapter.grouped(first))) < 1e-15);
    }
}
