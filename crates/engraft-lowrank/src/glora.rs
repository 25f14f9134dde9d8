//! GLoRA: generalised low-rank adaptation.

use burn::module::Module;
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, positive_rank,
};
use engraft_tensor::ops::{matmul, modulated, scaled_columns};
use serde::{Deserialize, Serialize};

use crate::glora_path::{GloraPath, Sizes};

/// What A or B is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GloraMatrix {
    /// A product of rank r.
    Lora,
    /// One value for each output.
    Vector,
    /// One value.
    Constant,
    /// Zero.
    None,
}

/// What C is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GloraPrompt {
    /// A product [d_in, r] [r, 1].
    Lora,
    /// One value for each input.
    Vector,
    /// Zero.
    None,
}

/// What D or E is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GloraOffset {
    /// One value for each output.
    Vector,
    /// One value.
    Constant,
    /// Zero.
    None,
}

/// Configuration of [`Glora`]: one of 4 x 4 x 3 x 3 x 3 = 432 combinations, which the paper's
/// search explores. Defaults of PEFT: rank 8, products, and constants for the bias.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct GloraConfig {
    /// Rank r of products.
    pub rank: usize,
    /// What multiplies the weight.
    pub a: GloraMatrix,
    /// What is added to the weight.
    pub b: GloraMatrix,
    /// What goes through the weight into the bias; only where the layer has a bias.
    pub c: GloraPrompt,
    /// What multiplies the bias; only where the layer has one.
    pub d: GloraOffset,
    /// What is added to the bias; only where the layer has one.
    pub e: GloraOffset,
}

impl Default for GloraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            a: GloraMatrix::Lora,
            b: GloraMatrix::Lora,
            c: GloraPrompt::Lora,
            d: GloraOffset::Constant,
            e: GloraOffset::Constant,
        }
    }
}

/// W' = W + W . A + B, b' = b + b . D + E + C^T W.
///
/// | symbol | acts as | as |
/// |---|---|---|
/// | A, B | [d_in, d_out] | a product of rank r, a vector over the outputs, a constant, or zero |
/// | C | [d_in, 1] | a product of rank r, a vector, or zero |
/// | D, E | `[d_out]` | a vector, a constant, or zero |
///
/// Chavan et al., One-for-All: Generalized LoRA for Parameter-Efficient Fine-tuning, arXiv
/// 2306.07967, section 3.2. The authors train a supernet in which each step draws one of the
/// combinations, then search (`GLoRA/layer.py`, `evolution.py`); this is one combination, as in
/// PEFT. Theirs adds E and C^T W to layers without bias too; PEFT, which is followed, has C, D
/// and E only where there is a bias. Products start from PEFT's uniform distribution; the authors
/// use Xavier's.
///
/// # Cost
/// A vector or constant A scales x W. A product A forms W . (1 + A), r d_in d_out once, since T
/// tokens through its r terms would cost r T d_in d_out (see HiRA). B costs what LoRA does or
/// less, C one product of a vector with W.
#[derive(Module, Debug)]
pub struct Glora {
    /// Multiplies the weight.
    pub a: GloraPath,
    /// Is added to the weight.
    pub b: GloraPath,
    /// Goes through the weight into the bias.
    pub c: GloraPath,
    /// Multiplies the bias.
    pub d: GloraPath,
    /// Is added to the bias.
    pub e: GloraPath,
}

impl Glora {
    /// b'.
    fn bias(&self, base: &FrozenBase) -> Option<Tensor<1>> {
        let old = base.bias.clone()?;
        let mut bias = old.clone();
        if let Some(d) = self.d.vector() {
            bias = bias + old * d;
        }
        if let Some(e) = self.e.vector() {
            bias = bias + e;
        }
        let product = self.c.factors().map(|(xu, xd)| xd.matmul(xu).transpose());
        if let Some(c) = product.or_else(|| self.c.vector().map(Tensor::unsqueeze)) {
            bias = bias + c.matmul(base.weight()).squeeze_dim::<1>(0);
        }
        Some(bias)
    }
}

impl Adapter for Glora {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let mut weight = base.weight();
        if let Some(a) = self.a.matrix() {
            weight = weight * (a + 1.0);
        }
        if let Some(b) = self.b.matrix() {
            weight = weight + b;
        }
        Ok(FrozenBase::new(weight, self.bias(base)))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let weight = base.weight();
        let mut y = match (self.a.factors(), self.a.vector()) {
            (Some((xu, xd)), _) => matmul(x.clone(), modulated(weight, xu, xd)),
            (None, Some(a)) => scaled_columns(matmul(x.clone(), weight), a + 1.0, None),
            (None, None) => matmul(x.clone(), weight),
        };
        if let Some((xu, xd)) = self.b.factors() {
            y = y + matmul(matmul(x, xu), xd);
        } else if let Some(b) = self.b.vector() {
            y = y + x.sum_dim(1) * b.unsqueeze();
        }
        match self.bias(base) {
            Some(bias) => y + bias.unsqueeze(),
            None => y,
        }
    }
}

impl GloraConfig {
    /// The sizes of A to E.
    fn sizes(&self, d_in: usize, d_out: usize, bias: bool) -> [Sizes; 5] {
        let rank = self.rank;
        let matrix = |path: GloraMatrix| match path {
            GloraMatrix::Lora => Sizes::Product {
                xd: [rank, d_out],
                xu: [d_in, rank],
                fan_in: d_in,
            },
            GloraMatrix::Vector => Sizes::Vector(d_out),
            GloraMatrix::Constant => Sizes::Vector(1),
            GloraMatrix::None => Sizes::None,
        };
        let offset = |path: GloraOffset| match path {
            GloraOffset::Vector if bias => Sizes::Vector(d_out),
            GloraOffset::Constant if bias => Sizes::Vector(1),
            _ => Sizes::None,
        };
        let prompt = match self.c {
            GloraPrompt::Lora if bias => Sizes::Product {
                xd: [d_in, rank],
                xu: [rank, 1],
                fan_in: 1,
            },
            GloraPrompt::Vector if bias => Sizes::Vector(d_in),
            _ => Sizes::None,
        };
        [
            matrix(self.a),
            matrix(self.b),
            prompt,
            offset(self.d),
            offset(self.e),
        ]
    }
}

impl Graft for GloraConfig {
    type Adapter = Glora;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        let sizes = self.sizes(layer.d_in, layer.d_out, layer.bias);
        if sizes.iter().all(|size| *size == Sizes::None) {
            return Err(
                "every path is `none`, or needs a bias that the layer lacks: expected one of a to e"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let sizes = self.sizes(layer.d_in, layer.d_out, layer.bias);
        Counts::trained(sizes.into_iter().map(Sizes::numel).sum())
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Glora> {
        let [a, b, c, d, e] = self.sizes(base.d_in(), base.d_out(), base.bias.is_some());
        Ok(Glora {
            a: a.init("a", ctx),
            b: b.init("b", ctx),
            c: c.init("c", ctx),
            d: d.init("d", ctx),
            e: e.init("e", ctx),
        })
    }
}

impl Method for GloraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("GLORA"),
        changes_bias: true,
        ..MethodMeta::graft(
            "glora",
            "GLoRA",
            Family::Lowrank,
            "2306.07967",
            "W' = W + W . A + B, b' = b + b . D + E + C^T W",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        use {GloraMatrix as M, GloraOffset as O, GloraPrompt as P};
        let example = |a, b, c, d, e| Self {
            rank: 2,
            a,
            b,
            c,
            d,
            e,
        };
        let mut examples = vec![
            example(M::Lora, M::Lora, P::Lora, O::Constant, O::Constant),
            example(M::Vector, M::Constant, P::Vector, O::Vector, O::None),
            example(M::Constant, M::Vector, P::None, O::None, O::Vector),
            example(M::None, M::Lora, P::Lora, O::Vector, O::Constant),
        ];
        if layer.bias {
            examples.push(example(M::None, M::None, P::Vector, O::None, O::Vector));
        }
        examples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{counts, llama_3b_qv};
    use crate::trial;

    /// Every combination of the paper.
    fn all() -> Vec<GloraConfig> {
        use {GloraMatrix as M, GloraOffset as O, GloraPrompt as P};
        let matrices = [M::Lora, M::Vector, M::Constant, M::None];
        let offsets = [O::Vector, O::Constant, O::None];
        let mut all = Vec::new();
        for a in matrices {
            for b in matrices {
                for c in [P::Lora, P::Vector, P::None] {
                    for d in offsets {
                        all.extend(offsets.map(|e| GloraConfig {
                            rank: 2,
                            a,
                            b,
                            c,
                            d,
                            e,
                        }));
                    }
                }
            }
        }
        all
    }

    #[test]
    fn both_forms_agree_in_all_432_combinations() {
        let (all, base) = (all(), trial::base(5, 3, true));
        assert_eq!(all.len(), 432);
        for config in &all {
            let update = trial::update(&trial::moved(config, &base), &base);
            let still = config.a == GloraMatrix::None && config.b == GloraMatrix::None;
            assert_eq!(update.max_abs() == 0.0, still, "{config:?}");
        }
        let admitted = |bias| {
            let layer = LayerShape::linear("", 5, 3, bias);
            all.iter()
                .filter(|config| config.admits(&layer).is_ok())
                .count()
        };
        assert_eq!((admitted(true), admitted(false)), (431, 432 - 27));
    }

    #[test]
    fn counts_are_the_published_ones() {
        // PEFT's MetaMathQA benchmark on q and v of Llama-3.2-3B, which have no bias.
        let vectors = GloraConfig {
            a: GloraMatrix::Vector,
            b: GloraMatrix::Vector,
            ..GloraConfig::default()
        };
        assert_eq!(counts(&vectors, &llama_3b_qv()).all_trained(), 229_376);
        let products = GloraConfig::default();
        assert_eq!(counts(&products, &llama_3b_qv()).all_trained(), 4_587_520);
    }
}
