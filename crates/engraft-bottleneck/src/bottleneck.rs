//! The bottleneck itself, shared by the methods that place it.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{Counts, InitContext, standardised};
use engraft_tensor::Init;

use crate::Activation;

/// What a bottleneck looks like; its config writes these keys out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BottleneckShape {
    /// Width m of the bottleneck; the reduction factor decides where it is left out.
    pub width: Option<usize>,
    /// d / m, rounded down but for an m of at least 1.
    pub reduction_factor: usize,
    /// f.
    pub activation: Activation,
    /// Whether the projections have offsets.
    pub bias: bool,
    /// Whether a trained layer norm comes first.
    pub layer_norm: bool,
    /// s.
    pub scale: f64,
}

impl BottleneckShape {
    /// m on hidden states of width `d`.
    pub fn width(&self, d: usize) -> usize {
        self.width.unwrap_or((d / self.reduction_factor).max(1))
    }

    /// Trained values on hidden states of width `d`: 2 d m, m + d of offsets, 2 d of the norm.
    pub fn count(&self, d: usize) -> Counts {
        let m = self.width(d);
        Counts::trained(
            2 * d * m + if self.bias { m + d } else { 0 } + if self.layer_norm { 2 * d } else { 0 },
        )
    }

    /// Whether the numbers make sense: the reason if not.
    ///
    /// # Errors
    /// The sentence for `Method::validate`.
    pub fn validate(&self) -> Result<(), String> {
        if self.width == Some(0) {
            return Err("width 0: expected at least 1".to_owned());
        }
        if self.reduction_factor == 0 {
            return Err("reduction-factor 0: expected at least 1".to_owned());
        }
        if !self.scale.is_finite() {
            return Err(format!("scale {}: expected a finite number", self.scale));
        }
        Ok(())
    }

    /// A bottleneck for hidden states of width `d` that returns zero: U and the offsets are zero, D
    /// is U(-1/sqrt(d), 1/sqrt(d)), the norm's gain one.
    pub fn init(&self, d: usize, ctx: &InitContext) -> Bottleneck {
        self.init_from(d, [Init::KaimingUniform { fan_in: d }, Init::ZEROS], ctx)
    }

    /// The same with other starting values of D and U.
    pub fn init_from(&self, d: usize, [down, up]: [Init; 2], ctx: &InitContext) -> Bottleneck {
        let m = self.width(d);
        let vector = |init: Init, width, role| Param::from_tensor(ctx.tensor(init, [width], role));
        Bottleneck {
            norm_gain: self.layer_norm.then(|| vector(Init::ONES, d, "norm_gain")),
            norm_bias: self.layer_norm.then(|| vector(Init::ZEROS, d, "norm_bias")),
            down: Param::from_tensor(ctx.tensor(down, [d, m], "down")),
            down_bias: self.bias.then(|| vector(Init::ZEROS, m, "down_bias")),
            up: Param::from_tensor(ctx.tensor(up, [m, d], "up")),
            up_bias: self.bias.then(|| vector(Init::ZEROS, d, "up_bias")),
            activation: self.activation,
            scale: self.scale,
        }
    }
}

/// s (f(norm(h) D + b_D) U + b_U) for hidden states h [tokens, d].
///
/// | symbol | shape | |
/// |---|---|---|
/// | D (`down`), b_D | [d, m], `[m]` | trained; b_D zero at first |
/// | U (`up`), b_U | [m, d], `[d]` | trained, zero at first |
/// | gain and offset of the norm | `[d]` each | trained; only with `layer-norm` |
///
/// It costs O(tokens d m).
#[derive(Module, Debug)]
pub struct Bottleneck {
    /// Gain of the layer norm, `[d]`.
    pub norm_gain: Option<Param<Tensor<1>>>,
    /// Offset of the layer norm, `[d]`.
    pub norm_bias: Option<Param<Tensor<1>>>,
    /// D, [d, m].
    pub down: Param<Tensor<2>>,
    /// b_D, `[m]`.
    pub down_bias: Option<Param<Tensor<1>>>,
    /// U, [m, d].
    pub up: Param<Tensor<2>>,
    /// b_U, `[d]`.
    pub up_bias: Option<Param<Tensor<1>>>,
    /// f.
    #[module(skip)]
    pub activation: Activation,
    /// s.
    pub scale: f64,
}

impl Bottleneck {
    /// What is added to the residual stream, [tokens, d].
    pub fn forward(&self, hidden: Tensor<2>) -> Tensor<2> {
        let hidden = match (&self.norm_gain, &self.norm_bias) {
            (Some(gain), Some(bias)) => {
                standardised(hidden) * gain.val().unsqueeze() + bias.val().unsqueeze()
            }
            _ => hidden,
        };
        let narrow = self
            .activation
            .apply(offset(hidden.matmul(self.down.val()), &self.down_bias));
        offset(narrow.matmul(self.up.val()), &self.up_bias) * self.scale
    }
}

/// y + b, where there is a b.
pub(crate) fn offset(y: Tensor<2>, bias: &Option<Param<Tensor<1>>>) -> Tensor<2> {
    match bias {
        Some(bias) => y + bias.val().unsqueeze(),
        None => y,
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::{Bank, FrozenBase};
    use engraft_tensor::{Key, bridge};

    use super::*;

    #[test]
    fn equals_the_equation_entry_by_entry() {
        let draw = |shape: [usize; 2], role: &str| {
            Init::Normal { std: 1.0 }.tensor(
                shape,
                &Key::new(1).child(role),
                &Device::default(),
                DType::F64,
            )
        };
        let base = FrozenBase::new(draw([3, 3], "w"), None);
        let shape = BottleneckShape {
            width: Some(2),
            reduction_factor: 1,
            activation: Activation::Tanh,
            bias: true,
            layer_norm: true,
            scale: 0.5,
        };
        let mut bottleneck = shape.init(
            3,
            &InitContext::new(0, "mlp", "default", &base, &Bank::default()),
        );
        let x = draw([4, 3], "x");
        assert!(
            bridge::values(&bottleneck.forward(x.clone()))
                .iter()
                .all(|value| *value == 0.0)
        );

        bottleneck.up = Param::from_tensor(draw([2, 3], "up"));
        bottleneck.up_bias = Some(Param::from_tensor(draw([1, 3], "up_bias").reshape([3])));
        bottleneck.down_bias = Some(Param::from_tensor(draw([1, 2], "down_bias").reshape([2])));
        bottleneck.norm_gain = Some(Param::from_tensor(draw([1, 3], "gain").reshape([3])));
        bottleneck.norm_bias = Some(Param::from_tensor(draw([1, 3], "offset").reshape([3])));
        let vector =
            |param: &Option<Param<Tensor<1>>>| bridge::values(&param.as_ref().unwrap().val());
        let (gain, shift, b_down, b_up) = (
            vector(&bottleneck.norm_gain),
            vector(&bottleneck.norm_bias),
            vector(&bottleneck.down_bias),
            vector(&bottleneck.up_bias),
        );
        let (down, up) = (
            bridge::to_matrix(&bottleneck.down.val()),
            bridge::to_matrix(&bottleneck.up.val()),
        );
        let (found, x) = (
            bridge::to_matrix(&bottleneck.forward(x.clone())),
            bridge::to_matrix(&x),
        );
        for token in 0..4 {
            let row = x.row(token);
            let mean = row.iter().sum::<f64>() / 3.0;
            let variance = row.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / 3.0;
            let h: Vec<f64> = (0..3)
                .map(|i| (row[i] - mean) / (variance + 1e-5).sqrt() * gain[i] + shift[i])
                .collect();
            let narrow: Vec<f64> = (0..2)
                .map(|k| ((0..3).map(|i| h[i] * down.get(i, k)).sum::<f64>() + b_down[k]).tanh())
                .collect();
            for (j, offset) in b_up.iter().enumerate() {
                let expected =
                    0.5 * ((0..2).map(|k| narrow[k] * up.get(k, j)).sum::<f64>() + offset);
                assert!((found.get(token, j) - expected).abs() < 1e-12);
            }
        }
    }
}
