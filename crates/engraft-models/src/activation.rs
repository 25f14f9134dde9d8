//! Elementwise activations.

use burn::tensor::{Tensor, activation};
use engraft_core::Result;
use engraft_tensor::{ops, suggestion};
use serde::{Deserialize, Serialize};

use crate::shapes::bad;

/// An elementwise activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// max(x, 0).
    Relu,
    /// x Phi(x) = x (1 + erf(x / sqrt(2))) / 2, exact.
    #[default]
    Gelu,
    /// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, close to [`Gelu`](Self::Gelu).
    GeluTanh,
    /// x s(1.702 x), s the logistic function.
    QuickGelu,
    /// x s(x), also called swish.
    Silu,
    /// tanh(x).
    Tanh,
    /// s(x) = 1 / (1 + exp(-x)).
    Sigmoid,
    /// max(x, 0)^2.
    Relu2,
    /// min(max(x, 0), 6).
    Relu6,
    /// x tanh(log(1 + exp(x))).
    Mish,
    /// x.
    Linear,
}

/// Names in a Hugging Face `config.json`.
const NAMES: &[(&str, Activation)] = &[
    ("gelu", Activation::Gelu),
    ("gelu_accurate", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_python", Activation::Gelu),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("linear", Activation::Linear),
    ("mish", Activation::Mish),
    ("quick_gelu", Activation::QuickGelu),
    ("relu", Activation::Relu),
    ("relu2", Activation::Relu2),
    ("relu6", Activation::Relu6),
    ("sigmoid", Activation::Sigmoid),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("tanh", Activation::Tanh),
];

impl Activation {
    /// The activation that a Hugging Face `config.json` calls `name`.
    ///
    /// # Errors
    /// A name that is not known; the message names the nearest.
    pub fn named(name: &str) -> Result<Self> {
        match NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, activation)) => Ok(*activation),
            None => Err(bad(format!(
                "found activation `{name}`{}",
                suggestion(name, NAMES.iter().map(|(known, _)| *known))
            ))),
        }
    }

    /// The activation of every entry.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Relu => ops::relu(x),
            Self::Gelu => ops::gelu(x),
            Self::GeluTanh => {
                // (1 + tanh(z)) / 2 = s(2 z), which keeps its relative precision where it is small.
                let scale = (8.0 / std::f64::consts::PI).sqrt();
                let square = x.clone() * x.clone();
                let z = x.clone() * (square * (0.044_715 * scale) + scale);
                x * ops::sigmoid(z)
            }
            Self::QuickGelu => x.clone() * ops::sigmoid(x * 1.702),
            Self::Silu => ops::silu(x),
            Self::Tanh => ops::tanh(x),
            Self::Sigmoid => ops::sigmoid(x),
            Self::Relu2 => {
                let positive = ops::relu(x);
                positive.clone() * positive
            }
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::Mish => x.clone() * ops::tanh(activation::softplus(x, 1.0)),
            Self::Linear => x,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_tensor::bridge;

    use super::*;

    #[test]
    fn values_are_those_of_the_formulas() {
        let points = [-30.0, -3.0, -0.5, 0.0, 0.25, 2.0, 7.0];
        let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
        let formula = |name: &str, x: f64| match name {
            "gelu_new" => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
            "quick_gelu" => x * logistic(1.702 * x),
            "silu" | "swish" => x * logistic(x),
            "relu" => x.max(0.0),
            "relu2" => x.max(0.0).powi(2),
            "relu6" => x.clamp(0.0, 6.0),
            "mish" => x * x.exp().ln_1p().tanh(),
            "tanh" => x.tanh(),
            "sigmoid" => logistic(x),
            _ => x,
        };
        let names = NAMES.iter().filter(|(name, activation)| {
            *activation != Activation::Gelu
                && (*activation != Activation::GeluTanh || *name == "gelu_new")
        });
        for (name, activation) in names {
            let shape = [points.len()];
            let x = bridge::tensor::<1>(points.to_vec(), shape, &Device::default(), DType::F64);
            for (y, x) in bridge::values(&activation.forward(x))
                .into_iter()
                .zip(points)
            {
                let expected = formula(name, x);
                assert!(
                    (y - expected).abs() < 1e-13,
                    "{name}({x}): {y}, not {expected}"
                );
            }
        }
    }

    #[test]
    fn an_unknown_name_is_an_error_with_the_nearest() {
        let message = Activation::named("gelu_nwe").unwrap_err().to_string();
        assert!(message.contains("gelu_new"), "{message}");
    }
}
