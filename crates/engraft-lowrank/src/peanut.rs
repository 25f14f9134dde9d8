//! PEANuT: weight-aware neural tweakers.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, positive_rank,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::activation::Activation;

/// Configuration of [`Peanut`]. Defaults of PEFT: rank 32, no hidden layers, ReLU, scaling 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct PeanutConfig {
    /// Rank r: width of the network.
    pub rank: usize,
    /// Hidden layers on each of its two sides.
    pub depth: usize,
    /// What follows every layer but the last.
    pub activation: Activation,
    /// s.
    pub scaling: f64,
}

impl Default for PeanutConfig {
    fn default() -> Self {
        Self {
            rank: 32,
            depth: 0,
            activation: Activation::Relu,
            scaling: 1.0,
        }
    }
}

/// W' = W + s f(W) B, where a small network f reads the rows of the frozen W: H_0 = act(W A), then
/// encoders H_i = act(H_{i-1} E_i), then decoders H = act(H D_i) + H_{depth - i}.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [d_out, r] | trained, random at first |
/// | E_i, D_i | [r, r], `depth` of each | trained, random at first |
/// | B | [r, d_out] | trained, zero at first |
/// | s | | scaling |
///
/// Zhong et al., PEANuT: Parameter-Efficient Adaptation with Weight-aware Neural Tweakers (first
/// version: NEAT), arXiv 2410.01870, section 4. The residual connections between encoders and
/// decoders are those of PEFT: decoder i receives what encoder depth + 1 - i was given.
///
/// # Cost
/// f(W) costs r d_in (d_out + 2 depth r) a pass, whatever the number of tokens; a token then costs
/// r (d_in + d_out). The update is not formed.
#[derive(Module, Debug)]
pub struct Peanut {
    /// A, [d_out, r].
    pub a: Param<Tensor<2>>,
    /// E_i, [r, r] each.
    pub encoders: Vec<Param<Tensor<2>>>,
    /// D_i, [r, r] each.
    pub decoders: Vec<Param<Tensor<2>>>,
    /// B, [r, d_out].
    pub b: Param<Tensor<2>>,
    /// s.
    pub scaling: f64,
    #[module(skip)]
    activation: Activation,
}

impl Peanut {
    /// s f(W), [d_in, r].
    fn read(&self, weight: Tensor<2>) -> Tensor<2> {
        let layer =
            |h: Tensor<2>, matrix: &Param<Tensor<2>>| self.activation.apply(h.matmul(matrix.val()));
        let mut h = layer(weight, &self.a);
        let mut given = Vec::with_capacity(self.encoders.len());
        for encoder in &self.encoders {
            given.push(h.clone());
            h = layer(h, encoder);
        }
        for (decoder, residual) in self.decoders.iter().zip(given.into_iter().rev()) {
            h = layer(h, decoder) + residual;
        }
        h * self.scaling
    }
}

impl Adapter for Peanut {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let update = self.read(base.weight()).matmul(self.b.val());
        Ok(base.with_weight(base.weight() + update))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let narrow = x.clone().matmul(self.read(base.weight()));
        base.forward(x) + narrow.matmul(self.b.val())
    }
}

impl Graft for PeanutConfig {
    type Adapter = Peanut;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(2 * self.rank * (layer.d_out + self.depth * self.rank))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Peanut> {
        let (rank, d_out) = (self.rank, base.d_out());
        let random = |shape: [usize; 2], role: &str| {
            let init = Init::KaimingUniform { fan_in: shape[0] };
            Param::from_tensor(ctx.tensor(init, shape, role))
        };
        let hidden = |name: &str| {
            (0..self.depth)
                .map(|i| random([rank, rank], &format!("{name}.{i}")))
                .collect()
        };
        Ok(Peanut {
            a: random([d_out, rank], "a"),
            encoders: hidden("encoders"),
            decoders: hidden("decoders"),
            b: Param::from_tensor(ctx.tensor(Init::ZEROS, [rank, d_out], "b")),
            scaling: self.scaling,
            activation: self.activation,
        })
    }
}

impl Method for PeanutConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("PEANUT"),
        ..MethodMeta::graft(
            "peanut",
            "PEANuT",
            Family::Lowrank,
            "2410.01870",
            "W' = W + s f(W) B, f a network of width r on the rows of W",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let example = |rank, depth, activation, scaling| Self {
            rank,
            depth,
            activation,
            scaling,
        };
        vec![
            example(3, 0, Activation::Relu, 2.0),
            example(2, 2, Activation::Silu, 0.5),
            example(4, 1, Activation::Gelu, 1.0),
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_linalg::svd;
    use engraft_testkit::compare;

    use super::*;
    use crate::testing::{counts, llama_3b_qv};
    use crate::trial;

    fn config(depth: usize, activation: Activation) -> PeanutConfig {
        PeanutConfig {
            rank: 2,
            depth,
            activation,
            scaling: 0.5,
        }
    }

    #[test]
    fn the_update_has_rank_r_and_depends_on_the_weight() {
        let base = trial::base(9, 7, true);
        let peanut = trial::moved(&config(1, Activation::Silu), &base);
        let update = trial::update(&peanut, &base);
        assert!(svd(&update).unwrap().s[2] < 1e-13 * update.max_abs());
        let other = base.with_weight(base.weight() * 2.0);
        let update_there = trial::update(&peanut, &other);
        assert!(update_there.max_abs_diff(&update).unwrap() > 1e-3);
    }

    #[test]
    fn a_linear_network_is_a_product_with_residuals() {
        let base = trial::base(6, 5, false);
        let peanut = trial::moved(&config(2, Activation::Linear), &base);
        let h0 = base.weight().matmul(peanut.a.val());
        let h1 = h0.clone().matmul(peanut.encoders[0].val());
        let h2 = h1.clone().matmul(peanut.encoders[1].val());
        let d1 = h2.matmul(peanut.decoders[0].val()) + h1;
        let d2 = d1.matmul(peanut.decoders[1].val()) + h0;
        let found = peanut.read(base.weight());
        compare::close("f(W)", &found, &(d2 * 0.5), 64).unwrap();
    }

    #[test]
    fn counts_are_the_published_ones() {
        // PEFT's MetaMathQA benchmark: rank 1, depth 0 on q and v of Llama-3.2-3B.
        let config = PeanutConfig {
            rank: 1,
            ..PeanutConfig::default()
        };
        assert_eq!(counts(&config, &llama_3b_qv()).all_trained(), 229_376);
    }
}
