//! LoKr: low-rank Kronecker product adaptation.

use burn::module::Module;
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerKind, LayerShape, Method,
    MethodMeta, Parts, Result, positive_rank,
};
use serde::{Deserialize, Serialize};

use engraft_tensor::ops::{kronecker, kronecker_update};

use crate::factor::{Factor, factorisation};
use crate::shape::{Form, Shape};

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
    /// Whether a product on a convolution has a core for the pixels of the kernel.
    pub effective_conv2d: bool,
}

impl Default for LokrConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            factor: -1,
            decompose_both: false,
            init: LokrInit::ZeroW1,
            effective_conv2d: false,
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
/// On a convolution of kernel kh x kw the channels are split, in = m_in n_in, and the pixels go to
/// w2, [n_in kh kw, n_out]. With `effective-conv2d` a product for w2 is the Tucker form with a core
/// T [r, r, kh, kw], see [`Factor`], unless the kernel is 1 x 1.
///
/// The update is never formed in `forward`: a token costs d_in n_out + m_in n_out m_out, or
/// d_out m_in + m_in n_out n_in where that is less.
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
        let (w1, w2) = self.factors();
        Ok(base.with_weight(kronecker_update(base.weight(), w1, w2)))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let (w1, w2) = self.factors();
        base.beside(x, 0.0, ctx, |x, base| kronecker(x, base, w1, w2))
    }
}

impl Lokr {
    /// s w1, [1, m_in, m_out], and w2, [1, n_in, n_out].
    fn factors(&self) -> (Tensor<3>, Tensor<3>) {
        let w1 = self.w1.matrix() * self.scaling;
        (w1.unsqueeze(), self.w2.matrix().unsqueeze())
    }
}

/// kh and kw of a convolution; [1, 1] for any other layer.
fn kernel(kind: LayerKind) -> [usize; 2] {
    match kind {
        LayerKind::Conv2d { kernel } => kernel,
        _ => [1, 1],
    }
}

impl LokrConfig {
    /// The sizes of w1 and w2 on a layer.
    fn shapes(&self, kernel: [usize; 2], d_in: usize, d_out: usize) -> [Shape; 2] {
        let (m_in, n_in) = factorisation(d_in / (kernel[0] * kernel[1]), self.factor);
        let (m_out, n_out) = factorisation(d_out, self.factor);
        let core = self.effective_conv2d && kernel != [1, 1];
        let form = |channels: usize, cols: usize, decompose: bool, core: bool| {
            // The pixels of a kernel do not count here.
            if !decompose || 2 * self.rank >= channels.max(cols) {
                Form::Dense
            } else if core {
                Form::Core(self.rank)
            } else {
                Form::Product(self.rank)
            }
        };
        [
            Shape {
                channels: m_in,
                kernel: [1, 1],
                cols: m_out,
                form: form(m_in, m_out, self.decompose_both, false),
            },
            Shape {
                channels: n_in,
                kernel,
                cols: n_out,
                form: form(n_in, n_out, true, core),
            },
        ]
    }
}

impl Graft for LokrConfig {
    type Adapter = Lokr;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let shapes = self.shapes(kernel(layer.kind), layer.d_in, layer.d_out);
        Counts::trained(shapes.map(Shape::numel).iter().sum())
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Lokr> {
        let [w1, w2] = self.shapes(kernel(ctx.kind), base.d_in(), base.d_out());
        // Of a product, PEFT zeroes the output side of w1, LyCORIS the input side of w2.
        let zero_w1 = self.init == LokrInit::ZeroW1;
        Ok(Lokr {
            w1: w1.init("w1", [false, zero_w1], ctx),
            w2: w2.init("w2", [!zero_w1, false], ctx),
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
    use engraft_tensor::{Init, Key, bridge};
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
            lokr.w1 = Factor { a: random(&lokr.w1.a, "1a"), b: lokr.w1.b.as_ref().map(|b| random(b, "1b")), t: None };
            lokr.w2 = Factor { a: random(&lokr.w2.a, "2a"), b: lokr.w2.b.as_ref().map(|b| random(b, "2b")), t: None };

            let effective = lokr.effective(&base, &Ctx::default()).unwrap();
            let (w, w1, w2) = (bridge::to_matrix(&base.weight()), bridge::to_matrix(&lokr.w1.matrix()), bridge::to_matrix(&lokr.w2.matrix()));
            let found = bridge::to_matrix(&effective.weight());
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

    #[test]
    fn a_convolution_splits_its_channels_and_its_core_is_the_tucker_form() {
        let config = LokrConfig {
            rank: 1,
            effective_conv2d: true,
            ..LokrConfig::default()
        };
        // 4 channels, kernel 3 x 3, 16 outputs, as in PEFT: w1 (4, 2), w2_b (1, 2), w2_a (1, 4).
        let [w1, w2] = config.shapes([3, 3], 36, 16);
        assert_eq!((w1.channels, w1.cols, w1.form), (2, 4, Form::Dense));
        assert_eq!((w2.channels, w2.cols, w2.form), (2, 4, Form::Core(1)));
        assert_eq!((w1.numel(), w2.numel()), (8, 2 + 4 + 9));
        assert_eq!(config.shapes([1, 1], 4, 16)[1].form, Form::Product(1));

        let (a, b, t) = (
            draw([3, 2], 1, "a"),
            draw([2, 5], 1, "b"),
            draw([2, 2, 2, 3], 1, "t"),
        );
        let factor = Factor::new(a.clone(), Some(b.clone())).with_core(t.clone());
        assert_eq!((factor.rows(), factor.cols()), (18, 5));
        let (a, b, t) = (
            bridge::to_matrix(&a),
            bridge::to_matrix(&b),
            bridge::values(&t),
        );
        let found = bridge::to_matrix(&factor.matrix());
        for row in 0..18 {
            let (c, pixel) = (row / 6, row % 6);
            for o in 0..5 {
                let expected: f64 = (0..2)
                    .flat_map(|i| (0..2).map(move |j| (i, j)))
                    .map(|(i, j)| a.get(c, j) * t[(i * 2 + j) * 6 + pixel] * b.get(i, o))
                    .sum();
                assert!((found.get(row, o) - expected).abs() < 1e-13);
            }
        }
    }

    #[test]
    fn on_a_convolution_every_form_is_counted_and_applied_as_its_matrix() {
        // 12 channels, kernel 2 x 3, 20 outputs: w2 has 4 channels and 5 outputs.
        let kind = LayerKind::Conv2d { kernel: [2, 3] };
        let base = FrozenBase::new(draw([72, 20], 1, "w"), None);
        let (bank, x) = (Bank::default(), draw([3, 72], 1, "x"));
        for (rank, effective_conv2d, values) in [
            (1, true, 12 + 4 + 5 + 6),
            (2, false, 12 + 2 * (24 + 5)),
            (8, true, 12 + 24 * 5),
        ] {
            let config = LokrConfig {
                rank,
                effective_conv2d,
                init: LokrInit::ZeroW2,
                ..LokrConfig::default()
            };
            let layer = LayerShape {
                kind,
                ..LayerShape::linear("conv", 72, 20, false)
            };
            assert_eq!(config.count(&layer).trainable, values);
            let ctx = InitContext::new(1, "conv", "default", &base, &bank).of_kind(kind);
            let mut lokr = config.init(&base, &ctx).unwrap();
            lokr.w2.a = Param::from_tensor(draw(lokr.w2.a.dims(), 2, "a"));
            let effective = lokr.effective(&base, &Ctx::default()).unwrap();
            let found = lokr.forward(x.clone(), &base, &Ctx::default());
            let distance = bridge::to_matrix(&(found - effective.forward(x.clone())));
            assert!(distance.max_abs() < 1e-12);
        }
    }
}
