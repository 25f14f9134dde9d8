//! ETHER+: relaxed reflections on both sides of a weight.

use engraft_core::{
    Counts, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta, Parts, Result,
};
use serde::{Deserialize, Serialize};

use crate::ether::{Ether, examples};
use crate::hyperplanes::{Sides, admit_blocks};

/// Configuration of [`Ether`] with relaxed reflections H+ = I - u u^T + v v^T of unit u and v, which
/// start at the identity and stay within sqrt(2) of it in each block. Defaults: 32 blocks on both
/// sides, as in the paper's instruction tuning of Llama-2-7B.
///
/// arXiv 2405.20271, section 3.3; `sides = "input"` is the one-sided variant of its ablation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct EtherPlusConfig {
    /// Number n of blocks on each side; it does not change the number of parameters.
    pub blocks: usize,
    /// `both`, `input` or `output`.
    pub sides: Sides,
}

impl Default for EtherPlusConfig {
    fn default() -> Self {
        Self {
            blocks: 32,
            sides: Sides::Both,
        }
    }
}

impl Graft for EtherPlusConfig {
    type Adapter = Ether;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        self.sides
            .widths(layer)
            .try_for_each(|width| admit_blocks(self.blocks, width))
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(2 * self.sides.widths(layer).sum::<usize>())
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Ether> {
        Ok(Ether::new(self.blocks, self.sides, true, base, ctx))
    }
}

impl Method for EtherPlusConfig {
    const META: MethodMeta = MethodMeta {
        admits: "d_in and d_out, as far as they are multiplied, multiples of the number of blocks, blocks of at least 2",
        ..MethodMeta::graft(
            "ether-plus",
            "ETHER+",
            Family::Givens,
            "2405.20271",
            "y = (x H+) W H~+ + b, H+ = blockdiag(I - u u^T + v v^T), |u| = |v| = 1",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        examples(layer, |blocks, sides| Self { blocks, sides })
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::DType;

    use super::*;
    use crate::hyperplanes::Hyperplanes;
    use crate::testing::{draw, eye, forms_apart, norm};

    fn moved(n: usize, d: usize, seed: u64) -> Hyperplanes {
        Hyperplanes {
            u: Param::from_tensor(draw([n, d / n], seed, "u")),
            v: Some(Param::from_tensor(draw([n, d / n], seed, "v"))),
        }
    }

    #[test]
    fn relaxed_reflections_stay_near_the_identity() {
        for seed in 0..8 {
            let identity = eye(12, DType::F64);
            let h = moved(3, 12, seed).apply(identity.clone());
            let distance = norm(h - identity);
            assert!(
                distance > 0.1 && distance <= 6f64.sqrt() + 1e-12,
                "{distance}"
            );
        }
    }

    #[test]
    fn both_forms_agree() {
        let base = FrozenBase::new(draw([15, 9], 2, "w"), Some(draw([9], 2, "b")));
        let ether = Ether {
            input: Some(moved(5, 15, 1)),
            output: Some(moved(3, 9, 2)),
        };
        assert!(forms_apart(&ether, &base) < 1e-13);
    }

    #[test]
    fn counts_are_the_published_ones() {
        let count = |d_in, d_out| {
            let layer = LayerShape::linear("", d_in, d_out, true);
            EtherPlusConfig::default().count(&layer).trainable
        };
        // Table 4: DeBERTaV3-base's 12 times six linear layers, 0.33M; table 5: q and v of
        // Llama-2-7B's 32, printed as 1.04M.
        let block = 4 * count(768, 768) + count(768, 3072) + count(3072, 768);
        assert_eq!(12 * block, 331_776);
        assert_eq!(64 * count(4096, 4096), 1_048_576);
    }
}
