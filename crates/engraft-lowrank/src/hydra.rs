//! Hydra: a low-rank branch beside the layer and one behind it.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

/// Configuration of [`Hydra`]. VTAB-1K: rank 2 for both branches, with biases, scale from 0.01 to
/// 10 by task. GLUE: ranks 4 and 8 without biases on the second layer of the feed-forward network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct HydraConfig {
    /// Rank of the parallel branch; 0 leaves it out.
    pub parallel: usize,
    /// Rank of the sequential branch; 0 leaves it out.
    pub sequential: usize,
    /// Factor s of both branches.
    pub scale: f64,
    /// Whether the four projections have biases.
    pub bias: bool,
}

impl Default for HydraConfig {
    fn default() -> Self {
        Self {
            parallel: 2,
            sequential: 2,
            scale: 1.0,
            bias: true,
        }
    }
}

/// x to (x A + a) B + b.
#[derive(Module, Debug)]
pub struct Branch {
    /// A, [inputs, r]: trained, Xavier-uniform at first.
    pub down: Param<Tensor<2>>,
    /// B, [r, d_out]: trained, zero at first.
    pub up: Param<Tensor<2>>,
    /// a, `[r]`: trained, zero at first; only with `bias`.
    pub down_bias: Option<Param<Tensor<1>>>,
    /// b, `[d_out]`: trained, zero at first; only with `bias`.
    pub up_bias: Option<Param<Tensor<1>>>,
}

impl Branch {
    fn new([inputs, rank, d_out]: [usize; 3], bias: bool, role: &str, ctx: &InitContext) -> Self {
        let bound = (6.0 / (inputs + rank) as f64).sqrt();
        let zeros = |width, part: &str| {
            let role = format!("{role}.{part}");
            bias.then(|| Param::from_tensor(ctx.tensor(Init::ZEROS, [width], &role)))
        };
        Self {
            down: Param::from_tensor(ctx.tensor(
                Init::Uniform { bound },
                [inputs, rank],
                &format!("{role}.down"),
            )),
            up: Param::from_tensor(ctx.tensor(Init::ZEROS, [rank, d_out], role)),
            down_bias: zeros(rank, "down_bias"),
            up_bias: zeros(d_out, "up_bias"),
        }
    }

    fn count([inputs, rank, d_out]: [usize; 3], bias: bool) -> usize {
        rank * (inputs + d_out) + if bias { rank + d_out } else { 0 }
    }

    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let add = |y: Tensor<2>, bias: &Option<Param<Tensor<1>>>| match bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        };
        let narrow = add(x.matmul(self.down.val()), &self.down_bias);
        add(narrow.matmul(self.up.val()), &self.up_bias)
    }

    /// x A B, without the biases.
    fn linear(&self, x: Tensor<2>) -> Tensor<2> {
        x.matmul(self.down.val()).matmul(self.up.val())
    }

    /// a B + b, [1, d_out].
    fn offset(&self) -> Option<Tensor<2>> {
        let narrow = self.down_bias.as_ref()?.val().unsqueeze::<2>();
        let up = self.up_bias.as_ref()?.val().unsqueeze::<2>();
        Some(narrow.matmul(self.up.val()) + up)
    }
}

/// y = f(x) + s P(x) + s S(f(x)), f(x) = x W + b, with P and S low-rank maps (a [`Branch`] each).
///
/// W' = W + s (A B + W C D) and b' = b + s b C D, and the branches' own offsets: the sequential
/// branch moves the bias of the layer too.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A, B | [d_in, r_p], [r_p, d_out] | the parallel branch: LoRA |
/// | C, D | [d_out, r_s], [r_s, d_out] | the sequential branch, on the layer's output |
/// | s | | `scale` |
///
/// Kim et al., Hydra: Multi-head Low-rank Adaptation for Parameter Efficient Fine-tuning, arXiv
/// 2309.06922, section 3. Starts and biases as in the authors' `vtab1k/hydra.py` (the GLUE code has
/// no biases, and as released never enters its branches for a misspelt option). The activation form
/// costs O(tokens (d_in d_out + r_p (d_in + d_out) + 2 r_s d_out)).
#[derive(Module, Debug)]
pub struct Hydra {
    /// P.
    pub parallel: Option<Branch>,
    /// S.
    pub sequential: Option<Branch>,
    /// s.
    pub scale: f64,
}

impl Adapter for Hydra {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let mut weight = base.weight();
        let mut bias = base.bias.clone();
        let mut add = |offset: Option<Tensor<2>>| {
            if let Some(offset) = offset {
                let offset = offset.squeeze_dim::<1>(0) * self.scale;
                bias = Some(bias.take().map_or(offset.clone(), |bias| bias + offset));
            }
        };
        if let Some(parallel) = &self.parallel {
            weight = weight + parallel.down.val().matmul(parallel.up.val()) * self.scale;
            add(parallel.offset());
        }
        if let Some(sequential) = &self.sequential {
            weight = weight + sequential.linear(base.weight()) * self.scale;
            let moved = base
                .bias
                .clone()
                .map(|bias| sequential.linear(bias.unsqueeze()));
            add(moved);
            add(sequential.offset());
        }
        Ok(FrozenBase::new(weight, bias))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let layer = base.forward(x.clone());
        let mut y = layer.clone();
        if let Some(parallel) = &self.parallel {
            y = y + parallel.forward(x) * self.scale;
        }
        if let Some(sequential) = &self.sequential {
            y = y + sequential.forward(layer) * self.scale;
        }
        y
    }
}

impl HydraConfig {
    /// [inputs, rank, d_out] of the branches that are there.
    fn branches(&self, layer: &LayerShape) -> [Option<[usize; 3]>; 2] {
        let shape = |inputs, rank| (rank > 0).then_some([inputs, rank, layer.d_out]);
        [
            shape(layer.d_in, self.parallel),
            shape(layer.d_out, self.sequential),
        ]
    }
}

impl Graft for HydraConfig {
    type Adapter = Hydra;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let branches = self.branches(layer).into_iter().flatten();
        Counts::trained(branches.map(|shape| Branch::count(shape, self.bias)).sum())
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Hydra> {
        let [parallel, sequential] = self.branches(&base.shape(ctx.path));
        let branch = |shape: Option<[usize; 3]>, role| {
            shape.map(|shape| Branch::new(shape, self.bias, role, ctx))
        };
        Ok(Hydra {
            parallel: branch(parallel, "parallel"),
            sequential: branch(sequential, "sequential"),
            scale: self.scale,
        })
    }
}

impl Method for HydraConfig {
    const META: MethodMeta = MethodMeta {
        changes_bias: true,
        ..MethodMeta::graft(
            "hydra",
            "Hydra",
            Family::Lowrank,
            "2309.06922",
            "y = f(x) + s P(x) + s S(f(x)), f(x) = x W + b, P and S low-rank",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if self.parallel + self.sequential == 0 {
            return Err("ranks 0 and 0: expected at least one branch".to_owned());
        }
        if !self.scale.is_finite() {
            return Err(format!("scale {}: expected a finite number", self.scale));
        }
        Ok(())
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        vec![
            Self::default(),
            Self {
                parallel: 3,
                sequential: 1,
                scale: 0.5,
                bias: false,
            },
            Self {
                parallel: 0,
                ..Self::default()
            },
            Self {
                sequential: 0,
                ..Self::default()
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{attach, base, forms_differ, largest, normal};

    #[test]
    fn the_sequential_branch_acts_behind_the_layer() {
        let base = base([7, 5]);
        let config = HydraConfig {
            parallel: 0,
            bias: false,
            scale: 0.5,
            ..HydraConfig::default()
        };
        let mut adapter = attach(&config, &base);
        let branch = adapter.sequential.as_mut().unwrap();
        branch.up = Param::from_tensor(normal([2, 5], "up"));
        let x = normal([3, 7], "x");
        let layer = base.forward(x.clone());
        let moved = layer
            .clone()
            .matmul(branch.down.val())
            .matmul(branch.up.val())
            * 0.5;
        let y = adapter.forward(x, &base, &Ctx::default());
        assert!(largest(y - layer - moved) < 1e-13);
        assert!(forms_differ(&adapter, &base) < 1e-12);
    }

    #[test]
    fn counts_are_the_published_ones() {
        // ViT-B/16, VTAB-1K: both branches on the attention's projection and the second layer.
        let count = |config: &HydraConfig, d_in| {
            config
                .count(&LayerShape::linear("fc", d_in, 768, true))
                .trainable
        };
        let vtab = HydraConfig::default();
        assert_eq!(12 * (count(&vtab, 3072) + count(&vtab, 768)), 239_712);
        // RoBERTa-base: 0.3M.
        let glue = HydraConfig {
            parallel: 4,
            sequential: 8,
            bias: false,
            ..HydraConfig::default()
        };
        assert_eq!(12 * count(&glue, 3072), 331_776);
    }
}
