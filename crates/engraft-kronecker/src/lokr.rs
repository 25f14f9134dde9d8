//! LoKr: low-rank Kronecker product adaptation.

use burn::module::Module;
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, positive_rank,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::factor::{Factor, factorisation, kronecker, kronecker_apply};

/// Which factor starts at zero. Everything else is drawn as in PyTorch's `Linear`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LokrInit {
    /// w1: PEFT's rule.
    #[default]
    ZeroW1,
    /// w2: LyCORIS's rule.
    ZeroW2,
}

/// Configuration of [`Lokr`]. Defaults: rank 8, alpha 8, the split closest to a square.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LokrConfig {
    /// Rank r of a factor that is a product.
    pub rank: usize,
    /// alpha.
    pub alpha: f64,
    /// Which divisor of each width goes to w1; -1 for the closest to the square root.
    pub factor: i64,
    /// Whether w1 too is a product of rank r, where that is smaller.
    pub decompose_both: bool,
    /// Which factor starts at zero.
    pub init: LokrInit,
}

impl Default for LokrConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            factor: -1,
            decompose_both: false,
            init: LokrInit::ZeroW1,
        }
    }
}

/// y = x W + b + s x (w1 (x) w2), with (x) the Kronecker product.
///
/// | symbol | shape | |
/// |---|---|---|
/// | w1 | [m_in, m_out] | trained; zero at first |
/// | w2 | [n_in, n_out] | trained; dense, or a product of rank r |
/// | s | | alpha / r |
///
/// d_in = m_in n_in and d_out = m_out n_out, see [`factorisation`]. w2 is a product where
/// r < max(n_in, n_out) / 2; so is w1, by its own sizes, with `decompose-both`.
///
/// The update is never formed in `forward`: a token costs O(d_in n_out + m_in n_out m_out).
///
/// Yeh et al., Navigating Text-to-Image Customization: From LyCORIS Fine-Tuning to Model
/// Evaluation, arXiv 2309.14859, section 3. As in LyCORIS and PEFT, s is alpha / r even where
/// both factors are dense.
#[derive(Module, Debug)]
pub struct Lokr {
    /// w1, [m_in, m_out].
    pub w1: Factor,
    /// w2, [n_in, n_out].
    pub w2: Factor,
    /// s.
    pub scaling: f64,
}

impl Adapter for Lokr {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        Ok(base.with_weight(
            base.weight.clone() + kronecker(self.w1.matrix() * self.scaling, self.w2.matrix()),
        ))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        base.forward(x.clone()) + kronecker_apply(x, &self.w1, &self.w2) * self.scaling
    }
}

/// Sizes of a factor on one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    rows: usize,
    cols: usize,
    /// The rank of the product; without it, the factor is dense.
    rank: Option<usize>,
}

impl Shape {
    fn numel(self) -> usize {
        self.rank
            .map_or(self.rows * self.cols, |rank| rank * (self.rows + self.cols))
    }
}

impl LokrConfig {
    /// The sizes of w1 and w2 on a layer.
    fn shapes(&self, d_in: usize, d_out: usize) -> [Shape; 2] {
        let (m_in, n_in) = factorisation(d_in, self.factor);
        let (m_out, n_out) = factorisation(d_out, self.factor);
        let shape = |rows: usize, cols: usize, decompose: bool| {
            let smaller = decompose && 2 * self.rank < rows.max(cols);
            Shape {
                rows,
                cols,
                rank: smaller.then_some(self.rank),
            }
        };
        [
            shape(m_in, m_out, self.decompose_both),
            shape(n_in, n_out, true),
        ]
    }
}

impl Graft for LokrConfig {
    type Adapter = Lokr;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(
            self.shapes(layer.d_in, layer.d_out)
                .map(Shape::numel)
                .iter()
                .sum(),
        )
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Lokr> {
        let draw = |rows: usize, cols: usize, zero: bool, role: &str| {
            // Fan-in is what PyTorch sees in (out, in) layout: our rows.
            let init = if zero {
                Init::ZEROS
            } else {
                Init::KaimingUniform { fan_in: rows }
            };
            ctx.tensor(init, [rows, cols], role)
        };
        let factor = |Shape { rows, cols, rank }: Shape, name: &str, zero_a: bool, zero_b: bool| {
            match rank {
                None => Factor::new(draw(rows, cols, zero_a || zero_b, name), None),
                Some(rank) => Factor::new(
                    draw(rows, rank, zero_a, &format!("{name}.a")),
                    Some(draw(rank, cols, zero_b, &format!("{name}.b"))),
                ),
            }
        };
        let [w1, w2] = self.shapes(base.d_in(), base.d_out());
        // Of a product, PEFT zeroes the output side of w1, LyCORIS the input side of w2.
        let zero_w1 = self.init == LokrInit::ZeroW1;
        let (w1, w2) = (
            factor(w1, "w1", false, zero_w1),
            factor(w2, "w2", !zero_w1, false),
        );
        Ok(Lokr {
            w1,
            w2,
            scaling: self.alpha / self.rank as f64,
        })
    }
}

impl Method for LokrConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LOKR"),
        ..MethodMeta::graft(
            "lokr",
            "LoKr",
            Family::Kronecker,
            "2309.14859",
            "y = x W + b + s x (w1 (x) w2), s = alpha / r",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        if self.factor == -1 || self.factor > 0 {
            Ok(())
        } else {
            Err(format!("factor {}: expected -1 or at least 1", self.factor))
        }
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 1,
            alpha: 3.0,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                decompose_both: true,
                ..small.clone()
            },
            Self {
                decompose_both: true,
                init: LokrInit::ZeroW2,
                ..small.clone()
            },
            Self {
                rank: 64,
                factor: 4,
                init: LokrInit::ZeroW2,
                ..small.clone()
            },
            Self {
                rank: 2,
                factor: 5,
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
    use engraft_tensor::{Key, bridge};
    use proptest::prelude::*;

    use super::*;

    fn draw<const D: usize>(shape: [usize; D], seed: u64, role: &str) -> Tensor<D> {
        Init::Normal { std: 1.0 }.tensor(
            shape,
            &Key::new(seed).child(role),
            &Device::default(),
            DType::F64,
        )
    }

    fn count(config: &LokrConfig, d_in: usize, d_out: usize) -> usize {
        config
            .count(&LayerShape::linear("", d_in, d_out, false))
            .trainable
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn both_forms_are_the_kronecker_product(
            d_in in 1usize..40, d_out in 1usize..40, rank in 1usize..4, factor in prop_oneof![Just(-1i64), 1i64..7],
            decompose_both: bool, seed: u64,
        ) {
            let config = LokrConfig { rank, factor, decompose_both, alpha: 3.0, ..LokrConfig::default() };
            let base = FrozenBase::new(draw([d_in, d_out], seed, "w"), Some(draw([d_out], seed, "b")));
            let bank = Bank::default();
            let mut lokr = config.init(&base, &InitContext::new(seed, "fc", "lokr", &base, &bank)).unwrap();
            let random = |param: &Param<Tensor<2>>, role| Param::from_tensor(draw(param.dims(), seed, role));
            lokr.w1 = Factor { a: random(&lokr.w1.a, "1a"), b: lokr.w1.b.as_ref().map(|b| random(b, "1b")) };
            lokr.w2 = Factor { a: random(&lokr.w2.a, "2a"), b: lokr.w2.b.as_ref().map(|b| random(b, "2b")) };

            let effective = lokr.effective(&base, &Ctx::default()).unwrap();
            let (w, w1, w2) = (bridge::to_matrix(&base.weight), bridge::to_matrix(&lokr.w1.matrix()), bridge::to_matrix(&lokr.w2.matrix()));
            let found = bridge::to_matrix(&effective.weight);
            for i in 0..d_in {
                for j in 0..d_out {
                    let update = w1.get(i / w2.rows(), j / w2.cols()) * w2.get(i % w2.rows(), j % w2.cols()) * 3.0 / rank as f64;
                    prop_assert!((found.get(i, j) - w.get(i, j) - update).abs() < 1e-12 * (1.0 + update.abs()));
                }
            }
            let x = draw([3, d_in], seed, "x");
            let (direct, merged) = (lokr.forward(x.clone(), &base, &Ctx::default()), effective.forward(x));
            let scale = bridge::values(&merged).iter().fold(1.0f64, |largest, value| largest.max(value.abs()));
            let distance = bridge::values(&(direct - merged)).iter().fold(0.0f64, |largest, value| largest.max(value.abs()));
            prop_assert!(distance < 1e-13 * scale * d_in as f64);
        }
    }

    #[test]
    fn counts_are_the_published_ones() {
        // PEFT's MetaMathQA benchmark: rank 32, factor 4 on q and v of Llama-3.2-3B's 28 layers.
        let config = LokrConfig {
            rank: 32,
            factor: 4,
            ..LokrConfig::default()
        };
        assert_eq!(
            28 * (count(&config, 3072, 3072) + count(&config, 3072, 1024)),
            2_294_656
        );
        // PEFT's documentation: rank 16 on q and v of ViT-B/16, 116,069 with the head of 101 classes.
        let config = LokrConfig {
            rank: 16,
            ..LokrConfig::default()
        };
        assert_eq!(24 * count(&config, 768, 768) + 101 * 769, 116_069);
    }
}
