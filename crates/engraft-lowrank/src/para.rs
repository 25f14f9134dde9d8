//! PaRa: parameter rank reduction.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, AtInit, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result, positive_rank,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::deft::SPREAD;
use crate::projection::Projection;

/// Configuration of [`Para`]. The paper's projection is the orthogonal one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ParaConfig {
    /// Rank r that the outputs lose; at most d_out of it is used.
    pub rank: usize,
    /// How the projection is made from P.
    pub projection: Projection,
}

impl Default for ParaConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            projection: Projection::Qr,
        }
    }
}

/// W' = W (I - S Q^T): what W writes along the directions Q is removed.
///
/// | symbol | shape | |
/// |---|---|---|
/// | P | [d_out, r] | trained, N(0, 0.02^2) at first |
/// | Q, S | [d_out, r] | both the orthonormal factor of P, or P and max(P, 0); see [`Projection`] |
///
/// Chen et al., PaRa: Personalizing Text-to-Image Diffusion via Parameter Rank Reduction, arXiv
/// 2406.05641, section 4. With the orthogonal projection W' has r directions fewer than W, so it
/// does not start at the base. PEFT has it as DEFT with `para`, and the other projection too.
///
/// # Cost
/// A token costs 2 r d_out. With `qr`, each pass brings P to the host for its decomposition.
#[derive(Module, Debug)]
pub struct Para {
    /// P, [d_out, r].
    pub p: Param<Tensor<2>>,
    #[module(skip)]
    projection: Projection,
}

impl Para {
    /// y (I - S Q^T), for the rows of W or the outputs x W alike.
    fn reduce(&self, y: Tensor<2>) -> Tensor<2> {
        let (q, s) = self.projection.factors(self.p.val());
        y.clone() - y.matmul(s).matmul(q.transpose())
    }
}

impl Adapter for Para {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        Ok(base.with_weight(self.reduce(base.weight())))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        base.add_bias(self.reduce(x.matmul(base.weight())))
    }
}

impl Graft for ParaConfig {
    type Adapter = Para;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.rank.min(layer.d_out) * layer.d_out)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Para> {
        let shape = [base.d_out(), self.rank.min(base.d_out())];
        Ok(Para {
            p: Param::from_tensor(ctx.tensor(Init::Normal { std: SPREAD }, shape, "p")),
            projection: self.projection,
        })
    }
}

impl Method for ParaConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("DEFT"),
        at_init: AtInit::NotIdentity,
        ..MethodMeta::graft(
            "para",
            "PaRa",
            Family::Lowrank,
            "2406.05641",
            "W' = W (I - S Q^T), Q and S from P",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        [Projection::Qr, Projection::Relu]
            .map(|projection| Self {
                rank: 3,
                projection,
            })
            .to_vec()
    }
}

#[cfg(test)]
mod tests {
    use engraft_linalg::svd;
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::{counts, llama_3b_qv};
    use crate::trial;

    #[test]
    fn the_weight_loses_rank() {
        let config = ParaConfig {
            rank: 2,
            ..ParaConfig::default()
        };
        let base = trial::base(9, 6, true);
        let para = trial::moved(&config, &base);
        trial::update(&para, &base);
        let effective = para.effective(&base, &Ctx::default()).unwrap();
        let values = svd(&bridge::to_matrix(&effective.weight())).unwrap().s;
        assert!(values[3] > 0.1 && values[4] < 1e-13, "{values:?}");
    }

    #[test]
    fn counts_are_the_published_ones() {
        // PEFT's MetaMathQA benchmark: rank 32 on q and v of Llama-3.2-3B.
        let config = ParaConfig {
            rank: 32,
            ..ParaConfig::default()
        };
        assert_eq!(counts(&config, &llama_3b_qv()).all_trained(), 3_670_016);
    }
}
