//! (IA)^3: infused adapter by inhibiting and amplifying inner activations.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerKind, LayerShape, Method,
    MethodMeta, Parts, Result, Targets,
};
use engraft_tensor::Init;
use engraft_tensor::ops::{matmul, scaled_columns};
use serde::{Deserialize, Serialize};

use crate::ia3_targets;

/// Which side of a layer is scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scales {
    /// Its outputs, bias included: keys and values.
    #[default]
    Output,
    /// Its inputs: the inner activation before the last feed-forward layer (a layer among PEFT's
    /// `feedforward_modules`).
    Input,
}

/// Configuration of [`Ia3`]. The paper scales the outputs of the key and value projections and the
/// inputs of the second feed-forward layer. In an architecture of Hugging Face these are the default
/// targets, by PEFT's table; elsewhere name them, with `scales = "input"` for the latter in
/// `config-pattern`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Ia3Config {
    /// `output` or `input`.
    pub scales: Scales,
}

/// y = l . (x W + b), or y = (l . x) W + b.
///
/// | symbol | shape | |
/// |---|---|---|
/// | l | `[d_out]`, or `[d_in]` | trained, one at first |
///
/// On a convolution the inputs are channels: one entry of l scales all pixels of its channel.
///
/// Liu et al., Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context
/// Learning, arXiv 2205.05638, section 3.3.
#[derive(Module, Debug)]
pub struct Ia3 {
    /// l, `[d_out]` or `[d_in]`; `[channels]` for the inputs of a convolution.
    pub l: Param<Tensor<1>>,
    /// Which side l scales.
    #[module(skip)]
    pub scales: Scales,
    /// Inputs that share an entry of l: the pixels of a convolution's patch.
    #[module(skip)]
    pixels: usize,
}

impl Ia3 {
    /// l by output or by input, `[d_out]` or `[d_in]`.
    fn scale(&self) -> Tensor<1> {
        let l = self.l.val();
        let [width] = l.dims();
        match (self.scales, self.pixels) {
            (Scales::Output, _) | (_, 1) => l,
            (Scales::Input, pixels) => l
                .reshape([width, 1])
                .repeat_dim(1, pixels)
                .reshape([width * pixels]),
        }
    }
}

impl Adapter for Ia3 {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let l = self.scale();
        Ok(match self.scales {
            Scales::Output => FrozenBase::new(
                scaled_columns(base.weight(), l.clone(), None),
                base.bias.clone().map(|bias| bias * l),
            ),
            Scales::Input => base.with_weight(base.weight() * l.unsqueeze_dim(1)),
        })
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let l = self.scale();
        match self.scales {
            Scales::Output => {
                let bias = base.bias.clone().map(|bias| bias * l.clone());
                scaled_columns(matmul(x, base.weight()), l, bias)
            }
            Scales::Input => base.forward(scaled_columns(x, l, None)),
        }
    }
}

impl Ia3Config {
    fn width(&self, kind: LayerKind, d_in: usize, d_out: usize) -> usize {
        match self.scales {
            Scales::Output => d_out,
            Scales::Input => d_in / kind.pixels(),
        }
    }
}

impl Graft for Ia3Config {
    type Adapter = Ia3;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.width(layer.kind, layer.d_in, layer.d_out))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Ia3> {
        let width = self.width(ctx.kind, base.d_in(), base.d_out());
        Ok(Ia3 {
            l: Param::from_tensor(ctx.tensor(Init::ONES, [width], "l")),
            scales: self.scales,
            pixels: ctx.kind.pixels(),
        })
    }
}

impl Method for Ia3Config {
    const META: MethodMeta = MethodMeta {
        peft: Some("IA3"),
        changes_bias: true,
        ..MethodMeta::graft(
            "ia3",
            "(IA)^3",
            Family::Features,
            "2205.05638",
            "y = l . (x W + b), or y = (l . x) W + b",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn usual_targets(architecture: &str) -> Option<Targets> {
        ia3_targets::usual(architecture)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        [Scales::Output, Scales::Input]
            .map(|scales| Self { scales })
            .to_vec()
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::Bank;
    use engraft_tensor::{Key, bridge};

    use super::*;

    #[test]
    fn both_sides_have_equal_forms() {
        let draw = |shape: [usize; 2], role: &str| {
            Init::Normal { std: 1.0 }.tensor(
                shape,
                &Key::new(1).child(role),
                &Device::default(),
                DType::F64,
            )
        };
        let base = FrozenBase::new(draw([5, 3], "w"), Some(draw([1, 3], "b").reshape([3])));
        for scales in [Scales::Output, Scales::Input] {
            let mut adapter = Ia3Config { scales }
                .init(
                    &base,
                    &InitContext::new(0, "fc", "default", &base, &Bank::default()),
                )
                .unwrap();
            adapter.l = adapter.l.map(|l| {
                let width = l.dims();
                l * draw([1, width[0]], "l").reshape(width)
            });
            let (x, ctx) = (draw([4, 5], "x"), Ctx::default());
            let difference = adapter.forward(x.clone(), &base, &ctx)
                - adapter.effective(&base, &ctx).unwrap().forward(x);
            assert!(bridge::to_matrix(&difference).max_abs() < 1e-13);
        }
    }

    #[test]
    fn counts_are_the_published_ones() {
        let (output, input) = (
            Ia3Config::default(),
            Ia3Config {
                scales: Scales::Input,
            },
        );
        let layer = |d_in, d_out| LayerShape::linear("fc", d_in, d_out, false);
        // T0-3B: 540K. Keys and values of 24 encoder and 48 decoder attentions, 48 feed-forward layers.
        let (kv, ff) = (
            output.count(&layer(2048, 2048)).trainable,
            input.count(&layer(5120, 2048)).trainable,
        );
        assert_eq!(24 * (2 * kv + ff) + 24 * (4 * kv + ff), 540_672);
        // PEFT benchmark on Llama-3.2-3B: k, v and down.
        let (kv, down) = (
            output.count(&layer(3072, 1024)).trainable,
            input.count(&layer(8192, 3072)).trainable,
        );
        assert_eq!(28 * (2 * kv + down), 286_720);
    }
}
