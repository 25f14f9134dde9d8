//! Linear adapters that fold away: ZeroI2V.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, check_dropout, dropout, refuse_dropout,
};
use engraft_tensor::{Init, ops};
use serde::{Deserialize, Serialize};

use crate::bottleneck::offset;

/// On which side of the layer the adapter is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// In front: it changes x.
    #[default]
    Input,
    /// Behind: it changes x W + b.
    Output,
}

/// Configuration of [`LinearAdapter`]. Defaults as in the authors' code: a quarter of the width,
/// offsets, s = 0.5, dropout 0.1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ZeroI2vConfig {
    /// `input` or `output`.
    pub side: Side,
    /// m over the width of that side, rounded down but for an m of at least 1.
    pub ratio: f64,
    /// Whether the projections have offsets.
    pub bias: bool,
    /// s.
    pub scale: f64,
    /// Dropout between the projections.
    pub dropout: f64,
}

impl Default for ZeroI2vConfig {
    fn default() -> Self {
        Self {
            side: Side::Input,
            ratio: 0.25,
            bias: true,
            scale: 0.5,
            dropout: 0.1,
        }
    }
}

/// A(x) W + b in front of a layer, A(x W + b) behind it, with A(h) = h + s ((h D + b_D) U + b_U).
///
/// | symbol | shape | |
/// |---|---|---|
/// | D (`down`), b_D | [d, m], `[m]` | trained, U(-1/sqrt(d), 1/sqrt(d)) |
/// | U (`up`), b_U | [m, d], `[d]` | trained, zero at first |
///
/// with d = d_in in front and d_out behind. Li, Zhu and Wang, ZeroI2V: Zero-Cost Adaptation of
/// Pre-trained Transformers from Image to Video, arXiv 2310.01324, section 3.3: without a
/// nonlinearity the adapter is absorbed by the layer next to it,
///
/// in front: W' = W + s D (U W), b' = b + s (b_D U + b_U) W;
/// behind: W' = W + s (W D) U, b' = b + s ((b D + b_D) U + b_U).
///
/// The authors put one in front of the attention's joint input layer and of the first feed-forward
/// layer, one behind the attention's output layer (tools/weight_reparam.py, vit_zero_clip.py). Where
/// queries, keys and values are separate layers, each has an adapter of its own here. The paper's
/// temporal heads are no part of it.
///
/// Activation form: O(tokens d m) beside the frozen product.
#[derive(Module, Debug)]
pub struct LinearAdapter {
    /// D, [d, m].
    pub down: Param<Tensor<2>>,
    /// b_D, `[m]`.
    pub down_bias: Option<Param<Tensor<1>>>,
    /// U, [m, d].
    pub up: Param<Tensor<2>>,
    /// b_U, `[d]`.
    pub up_bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    side: Side,
    scale: f64,
    dropout: f64,
}

impl LinearAdapter {
    /// A(h) for h [tokens, d].
    fn apply(&self, h: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let narrow = offset(ops::matmul(h.clone(), self.down.val()), &self.down_bias);
        let wide = ops::matmul(dropout(narrow, self.dropout, ctx), self.up.val());
        h + offset(wide, &self.up_bias) * self.scale
    }

    /// s (b_D U + b_U), [1, d].
    fn shift(&self) -> Option<Tensor<2>> {
        let (down, up) = (self.down_bias.as_ref()?, self.up_bias.as_ref()?);
        let shift = down.val().unsqueeze::<2>().matmul(self.up.val()) + up.val().unsqueeze();
        Some(shift * self.scale)
    }
}

impl Adapter for LinearAdapter {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("zero-i2v", self.dropout, ctx)?;
        let (down, up) = (self.down.val(), self.up.val());
        let bias = base.bias.clone().map(|bias| bias.unsqueeze::<2>());
        let (factors, added) = match self.side {
            Side::Input => {
                let added = self.shift().map(|shift| shift.matmul(base.weight()));
                ((down, up.matmul(base.weight())), added)
            }
            Side::Output => {
                let through = bias
                    .clone()
                    .map(|bias| bias.matmul(down.clone()).matmul(up.clone()) * self.scale);
                let added = match (through, self.shift()) {
                    (Some(through), Some(shift)) => Some(through + shift),
                    (through, shift) => through.or(shift),
                };
                ((base.weight().matmul(down), up), added)
            }
        };
        let bias = match (bias, added) {
            (Some(bias), Some(added)) => Some(bias + added),
            (bias, added) => bias.or(added),
        };
        let folded = base.with_low_rank(factors, self.scale);
        Ok(FrozenBase::new(
            folded.weight(),
            bias.map(|bias| bias.squeeze_dim(0)),
        ))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        match self.side {
            Side::Input => base.forward(self.apply(x, ctx)),
            Side::Output => self.apply(base.forward(x), ctx),
        }
    }
}

impl ZeroI2vConfig {
    /// d and m.
    fn widths(&self, [d_in, d_out]: [usize; 2]) -> [usize; 2] {
        let d = match self.side {
            Side::Input => d_in,
            Side::Output => d_out,
        };
        [d, ((d as f64 * self.ratio) as usize).max(1)]
    }
}

impl Graft for ZeroI2vConfig {
    type Adapter = LinearAdapter;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let [d, m] = self.widths([layer.d_in, layer.d_out]);
        Counts::trained(2 * d * m + if self.bias { d + m } else { 0 })
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<LinearAdapter> {
        let [d, m] = self.widths([base.d_in(), base.d_out()]);
        let start = Init::KaimingUniform { fan_in: d };
        let vector = |init, width, role: &str| {
            let draw = || Param::from_tensor(ctx.tensor(init, [width], role));
            self.bias.then(draw)
        };
        Ok(LinearAdapter {
            down: Param::from_tensor(ctx.tensor(start, [d, m], "down")),
            down_bias: vector(start, m, "down_bias"),
            up: Param::from_tensor(ctx.tensor(Init::ZEROS, [m, d], "up")),
            up_bias: vector(Init::ZEROS, d, "up_bias"),
            side: self.side,
            scale: self.scale,
            dropout: self.dropout,
        })
    }
}

impl Method for ZeroI2vConfig {
    const META: MethodMeta = MethodMeta {
        changes_bias: true,
        ..MethodMeta::graft(
            "zero-i2v",
            "Linear adapter (ZeroI2V)",
            Family::Bottleneck,
            "2310.01324",
            "A(x) W + b or A(x W + b), A(h) = h + s ((h D + b_D) U + b_U)",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if !(self.ratio > 0.0 && self.ratio.is_finite()) {
            return Err(format!("ratio {}: expected a positive number", self.ratio));
        }
        if !self.scale.is_finite() {
            return Err(format!("scale {}: expected a finite number", self.scale));
        }
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let plain = Self {
            dropout: 0.0,
            ..Self::default()
        };
        vec![
            plain.clone(),
            Self {
                side: Side::Output,
                scale: 1.5,
                ..plain.clone()
            },
            Self {
                bias: false,
                ratio: 0.4,
                ..plain.clone()
            },
            Self {
                side: Side::Output,
                bias: false,
                ..plain
            },
            Self::default(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::Bank;

    use super::*;
    use crate::testing::{apart, draw};

    #[test]
    fn folded_it_computes_the_same() {
        for (side, bias, own) in [
            (Side::Input, true, true),
            (Side::Input, false, true),
            (Side::Output, true, true),
            (Side::Output, true, false),
            (Side::Output, false, true),
            (Side::Output, false, false),
        ] {
            let base = FrozenBase::new(
                draw([7, 5], "w"),
                bias.then(|| draw([1, 5], "b").reshape([5])),
            );
            let config = ZeroI2vConfig {
                side,
                bias: own,
                ratio: 0.5,
                ..ZeroI2vConfig::default()
            };
            let bank = Bank::default();
            let ctx = InitContext::new(0, "fc", "default", &base, &bank);
            let mut adapter = config.init(&base, &ctx).unwrap();
            let [m, d] = adapter.up.dims();
            adapter.up = Param::from_tensor(draw([m, d], "up"));
            adapter.up_bias = own.then(|| Param::from_tensor(draw([1, d], "u").reshape([d])));
            let (x, ctx) = (draw([4, 7], "x"), Ctx::default());
            let folded = adapter.effective(&base, &ctx).unwrap().forward(x.clone());
            let found = adapter.forward(x, &base, &ctx);
            assert!(apart(&found, &folded) < 1e-12, "{side:?} {bias} {own}");
        }
    }
}
