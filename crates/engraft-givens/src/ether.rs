//! ETHER: fine-tuning by hyperplane reflections.

use burn::module::Module;
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, AtInit, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result,
};
use engraft_tensor::ops::matmul;
use serde::{Deserialize, Serialize};

use crate::hyperplanes::{Hyperplanes, Sides, admit_blocks};

/// Configuration of [`Ether`] with reflections. Defaults: 32 blocks on the inputs, as in the
/// paper's instruction tuning of Llama-2-7B.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct EtherConfig {
    /// Number n of blocks; it does not change the number of parameters.
    pub blocks: usize,
    /// `input`, `output` or `both`.
    pub sides: Sides,
}

impl Default for EtherConfig {
    fn default() -> Self {
        Self {
            blocks: 32,
            sides: Sides::Input,
        }
    }
}

/// y = (x H) W H~ + b, where H and H~ are block-diagonal reflections ([`EtherConfig`], by default H
/// alone) or relaxed ones ([`EtherPlusConfig`](crate::EtherPlusConfig), by default both).
///
/// | symbol | shape | |
/// |---|---|---|
/// | u | [n, d / n] | trained; the normal of each block's hyperplane, U(-sqrt(n / d), sqrt(n / d)) at first |
/// | v | [n, d / n] | trained, relaxed only; -u at first, so that H = I |
/// | H | [d, d] | blockdiag(I - 2 u u^T), or blockdiag(I - u u^T + v v^T), of unit u and v |
///
/// d is `d_in` for H and `d_out` for H~. A token costs O(d_in + d_out) beside the layer; neither H
/// nor H W is formed. An ETHER adapter is no identity at first: a reflection never is one, and
/// |H - I| = 2 in each block, always.
///
/// Bini et al., ETHER: Efficient Finetuning of Large-Scale Models with Hyperplane Reflections, arXiv
/// 2405.20271, section 3. With more than one block the authors' code (mwbini/ether,
/// `ether-instruct/lit_gpt/ether.py`) reshapes the (out, in) weight so that block k acts on all
/// inputs of the k-th part of the outputs; here, as in the paper, H is block-diagonal in the inputs.
#[derive(Module, Debug)]
pub struct Ether {
    /// H.
    pub input: Option<Hyperplanes>,
    /// H~.
    pub output: Option<Hyperplanes>,
}

impl Ether {
    /// An adapter as initialised.
    pub(crate) fn new(
        blocks: usize,
        sides: Sides,
        relaxed: bool,
        base: &FrozenBase,
        ctx: &InitContext,
    ) -> Self {
        let [input, output] = sides.acts();
        let make = |width, role| Hyperplanes::new(blocks, width, relaxed, role, ctx);
        Self {
            input: input.then(|| make(base.d_in(), "input")),
            output: output.then(|| make(base.d_out(), "output")),
        }
    }
}

impl Adapter for Ether {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let weight = match &self.input {
            Some(h) => h.apply_rows(base.weight()),
            None => base.weight(),
        };
        Ok(base.with_weight(match &self.output {
            Some(h) => h.apply(weight),
            None => weight,
        }))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let x = match &self.input {
            Some(h) => h.apply(x),
            None => x,
        };
        match &self.output {
            Some(h) => base.add_bias(h.apply(matmul(x, base.weight()))),
            None => base.forward(x),
        }
    }
}

impl Graft for EtherConfig {
    type Adapter = Ether;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        self.sides
            .widths(layer)
            .try_for_each(|width| admit_blocks(self.blocks, width))
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.sides.widths(layer).sum())
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Ether> {
        Ok(Ether::new(self.blocks, self.sides, false, base, ctx))
    }
}

impl Method for EtherConfig {
    const META: MethodMeta = MethodMeta {
        at_init: AtInit::NotIdentity,
        admits: "d_in (and d_out, where the outputs are reflected) a multiple of the number of blocks, blocks of at least 2",
        ..MethodMeta::graft(
            "ether",
            "ETHER",
            Family::Givens,
            "2405.20271",
            "y = (x H) W + b, H = blockdiag(I - 2 u u^T), |u| = 1",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        examples(layer, |blocks, sides| Self { blocks, sides })
    }
}

/// Every choice of sides with one block and with several, where the layer admits it.
pub(crate) fn examples<C: Graft>(layer: &LayerShape, make: impl Fn(usize, Sides) -> C) -> Vec<C> {
    let mut examples = Vec::new();
    for sides in [Sides::Input, Sides::Output, Sides::Both] {
        for blocks in [1, 2, 3, 4] {
            let config = make(blocks, sides);
            if config.admits(layer).is_ok() {
                examples.push(config);
            }
        }
    }
    examples
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::DType;

    use super::*;
    use crate::testing::{draw, draw_as, eye, forms_apart, largest, norm};

    #[test]
    fn reflections_stay_orthogonal_and_two_from_the_identity_in_each_block() {
        for (dtype, tolerance) in [(DType::F32, 1e-6), (DType::F64, 1e-15)] {
            let h = Hyperplanes {
                u: Param::from_tensor(draw_as([3, 8], 1, "u", dtype)),
                v: None,
            };
            let identity = eye(24, dtype);
            let matrix = h.apply(identity.clone());
            // H is its own inverse.
            assert!(largest(h.apply(matrix.clone()) - identity.clone()) < tolerance);
            assert!(largest(matrix.clone().transpose() - matrix.clone()) < tolerance);
            assert!((norm(matrix - identity) - 2.0 * 3f64.sqrt()).abs() < 10.0 * tolerance);
        }
    }

    #[test]
    fn both_forms_agree() {
        let hyperplanes = |n, d| Hyperplanes {
            u: Param::from_tensor(draw([n, d / n], 2, "u")),
            v: None,
        };
        let base = FrozenBase::new(draw([15, 9], 2, "w"), Some(draw([9], 2, "b")));
        for (input, output) in [(Some(5), None), (None, Some(3)), (Some(1), Some(1))] {
            let ether = Ether {
                input: input.map(|n| hyperplanes(n, 15)),
                output: output.map(|n| hyperplanes(n, 9)),
            };
            assert!(forms_apart(&ether, &base) < 1e-13);
        }
    }

    #[test]
    fn counts_are_the_published_ones() {
        let count = |d_in, d_out| {
            let layer = LayerShape::linear("", d_in, d_out, true);
            EtherConfig::default().count(&layer).trainable
        };
        // Table 4: the six linear layers of each of DeBERTaV3-base's 12 (printed as 0.09M, and as
        // 0.085M in the text); table 5: q and v of Llama-2-7B's 32, 0.26M.
        assert_eq!(12 * (5 * count(768, 768) + count(3072, 768)), 82_944);
        assert_eq!(64 * count(4096, 4096), 262_144);
    }

    #[test]
    fn a_number_of_blocks_that_does_not_fit_names_the_nearest() {
        let refused = |d_in| {
            let layer = LayerShape::linear("", d_in, 8, false);
            EtherConfig::default().admits(&layer).unwrap_err()
        };
        assert!(refused(48).ends_with("is 24"), "{}", refused(48));
        assert!(refused(1).ends_with("at least 2"), "{}", refused(1));
    }
}
