//! C3A: circular convolution adaptation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, AtInit, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result,
};
use engraft_tensor::Init;
use engraft_tensor::ops::{circular_linear, circular_weight};
use serde::{Deserialize, Serialize};

/// How the kernels start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum C3aInit {
    /// U(-a, a), a = sqrt(6 / (d_in + d_out)): the default of PEFT and of the authors' code there.
    #[default]
    XavierUniform,
    /// U(-1/sqrt(d_in), 1/sqrt(d_in)).
    KaimingUniform,
    /// N(0, 1).
    Gaussian,
    /// Zero: training starts at the base model.
    Zeros,
}

impl C3aInit {
    fn draw(self, d_in: usize, d_out: usize) -> Init {
        match self {
            Self::XavierUniform => Init::Uniform {
                bound: (6.0 / (d_in + d_out) as f64).sqrt(),
            },
            Self::KaimingUniform => Init::KaimingUniform { fan_in: d_in },
            Self::Gaussian => Init::Normal { std: 1.0 },
            Self::Zeros => Init::ZEROS,
        }
    }
}

/// Configuration of [`C3a`]. Defaults of PEFT: blocks of 256, Xavier's init. The paper takes the
/// greatest common divisor of all widths, or a fraction of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct C3aConfig {
    /// Side b of a block; divides d_in and d_out.
    pub block_size: usize,
    /// How the kernels start.
    pub init: C3aInit,
}

impl Default for C3aConfig {
    fn default() -> Self {
        Self {
            block_size: 256,
            init: C3aInit::XavierUniform,
        }
    }
}

/// y = x (W + C(w) / d_in) + b with circulant blocks C(w).
///
/// | symbol | shape | |
/// |---|---|---|
/// | w (`kernel`) | [m, n, b] | trained; m = d_out / b, n = d_in / b |
/// | C(w) | [d_in, d_out] | w[j, i, (r - s) mod b] in row i b + r, column j b + s |
///
/// Chen et al., Parameter-Efficient Fine-Tuning via Circular Convolution, arXiv 2407.19342,
/// section 3. The division by d_in and the order inside a block are those of the authors' code in
/// PEFT (`c3a/layer.py`, `c3a/utils.py`), which is followed; the gradient of the input that its
/// hand-written backward pass returns is not the derivative, and is not followed.
///
/// The activation form transforms every block of a token, multiplies the transforms and transforms
/// back: O((n + m) b log b + n m b) a token, and half as much again for both gradients together. For
/// 768 x 768 and b = 256 that is 3 percent of the dense product's operations. Blocks are formed only
/// in the weight form, and on backends without the transform.
#[derive(Module, Debug)]
pub struct C3a {
    /// w, [d_out / b, d_in / b, b].
    pub kernel: Param<Tensor<3>>,
}

impl Adapter for C3a {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let scaling = 1.0 / base.d_in() as f64;
        let weight = circular_weight(base.weight(), self.kernel.val(), scaling);
        Ok(base.with_weight(weight))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let frozen = (base.weight(), base.bias.clone());
        circular_linear(x, frozen, self.kernel.val(), 1.0 / base.d_in() as f64)
    }
}

impl Graft for C3aConfig {
    type Adapter = C3a;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        let size = self.block_size;
        if layer.d_in.is_multiple_of(size) && layer.d_out.is_multiple_of(size) {
            return Ok(());
        }
        Err(format!(
            "block-size {size} does not divide both {} and {}: expected a divisor of {}",
            layer.d_in,
            layer.d_out,
            common_divisor(layer.d_in, layer.d_out)
        ))
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(layer.d_in * layer.d_out / self.block_size)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<C3a> {
        let (d_in, d_out, size) = (base.d_in(), base.d_out(), self.block_size);
        let shape = [d_out / size, d_in / size, size];
        let kernel = ctx.tensor(self.init.draw(d_in, d_out), shape, "kernel");
        Ok(C3a {
            kernel: Param::from_tensor(kernel),
        })
    }
}

fn common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

impl Method for C3aConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("C3A"),
        at_init: AtInit::NotIdentity,
        admits: "block-size divides d_in and d_out",
        ..MethodMeta::graft(
            "c3a",
            "C3A",
            Family::Structured,
            "2407.19342",
            "y = x (W + C(w) / d_in) + b, C(w) of circulant blocks",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        match self.block_size {
            0 => Err("block-size 0: expected at least 1".to_owned()),
            _ => Ok(()),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let widest = common_divisor(layer.d_in, layer.d_out);
        let smaller = (1..widest).rev().find(|b| widest.is_multiple_of(*b));
        let mut examples = vec![
            Self {
                block_size: widest,
                init: C3aInit::Gaussian,
            },
            Self {
                block_size: 1,
                init: C3aInit::XavierUniform,
            },
        ];
        examples.extend(smaller.map(|block_size| Self {
            block_size,
            init: C3aInit::KaimingUniform,
        }));
        examples
    }
}

#[cfg(test)]
mod tests {
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::{Layer, distance};

    #[test]
    fn blocks_are_circulant_and_both_forms_agree() {
        let layer = Layer::new(12, 18);
        let config = C3aConfig {
            block_size: 6,
            init: C3aInit::Gaussian,
        };
        let adapter = layer.adapt(&config);
        assert!(layer.forms_distance(&adapter) < 1e-13);
        let update = layer.update(&adapter);
        for (i, row) in update.iter().enumerate() {
            for (j, value) in row.iter().enumerate() {
                let turned = |at: usize| at / 6 * 6 + (at + 1) % 6;
                assert!((value - update[turned(i)][turned(j)]).abs() < 1e-15);
            }
        }
        // The first column of each block is its kernel over d_in.
        let kernel = bridge::values(&adapter.kernel.val());
        let block: Vec<f64> = (0..6).map(|r| 12.0 * update[6 + r][12]).collect();
        assert!(distance(&block, &kernel[(2 * 2 + 1) * 6..][..6]) < 1e-14);
    }

    #[test]
    fn zeros_start_at_the_base() {
        let layer = Layer::new(4, 8);
        let adapter = layer.adapt(&C3aConfig {
            block_size: 4,
            init: C3aInit::Zeros,
        });
        assert!(layer.update(&adapter).concat().iter().all(|x| *x == 0.0));
    }

    #[test]
    fn counts_are_the_published_ones() {
        let count = |block_size, d_in, d_out| {
            let config = C3aConfig {
                block_size,
                ..C3aConfig::default()
            };
            config
                .count(&LayerShape::linear("", d_in, d_out, false))
                .all_trained()
        };
        // PEFT's benchmark: q and v of Llama-3.2-3B's 28 layers, b = 64.
        assert_eq!(
            28 * (count(64, 3072, 3072) + count(64, 3072, 1024)),
            5_505_024
        );
        // PEFT's notebook: q and v of RoBERTa-base, b = 768, with a head of 592,130.
        assert_eq!(24 * count(768, 768, 768) + 592_130, 610_562);
        let config = C3aConfig::default();
        let refused = config
            .admits(&LayerShape::linear("", 24, 16, false))
            .unwrap_err();
        assert!(refused.contains("a divisor of 8"), "{refused}");
    }
}
