//! Entrywise functions between trained matrices.

use burn::tensor::Tensor;
use burn::tensor::activation;
use engraft_tensor::ops;
use serde::{Deserialize, Serialize};

/// Mean and standard deviation of Laplace's normal distribution, to transformers' digits.
#[expect(
    clippy::approx_constant,
    reason = "the functions that models were trained with have these six digits"
)]
const LAPLACE: [f64; 2] = [0.707_107, 0.282_095];
/// xIELU's alpha (of both signs), 0.8 as the bfloat16 arithmetic of transformers gives it.
const XIELU_ALPHA: f64 = 0.800_781_25;
/// xIELU's beta.
const XIELU_BETA: f64 = 0.5;
/// Where xIELU's exponential ends.
const XIELU_END: f64 = -1e-6;

/// A function f, entry by entry. Phi is the normal distribution function, sigma the logistic one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activation {
    /// max(x, 0).
    #[default]
    Relu,
    /// max(x, 0)^2.
    Relu2,
    /// min(max(x, 0), 6).
    Relu6,
    /// max(x, 0.01 x).
    LeakyRelu,
    /// max(x, 0.25 x), with the slope that PyTorch's trained one starts from.
    Prelu,
    /// x Phi(x).
    Gelu,
    /// x Phi(x), between -10 and 10.
    #[serde(rename = "gelu-10")]
    Gelu10,
    /// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.
    GeluTanh,
    /// x sigma(1.702 x).
    QuickGelu,
    /// x sigma(x), also called swish.
    Silu,
    /// x tanh(softplus(x)).
    Mish,
    /// x min(max(x + 3, 0), 6) / 6.
    Hardswish,
    /// tanh(x).
    Tanh,
    /// sigma(x).
    Sigmoid,
    /// Phi((x - 0.707107) / 0.282095), a bounded alternative to the squared ReLU.
    Laplace,
    /// sqrt(log(1 + exp(x))).
    Sqrtsoftplus,
    /// 0.8 x^2 + x / 2 above 0, 0.8 (exp(x) - 1 - x) + x / 2 below (arXiv 2411.13010), untrained.
    Xielu,
    /// x.
    Linear,
}

impl Activation {
    /// f(x).
    pub fn apply(self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Relu => activation::relu(x),
            Self::Relu2 => {
                let x = activation::relu(x);
                x.clone() * x
            }
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::LeakyRelu => activation::leaky_relu(x, 0.01),
            Self::Prelu => activation::leaky_relu(x, 0.25),
            Self::Gelu => ops::gelu(x),
            Self::Gelu10 => ops::gelu(x).clamp(-10.0, 10.0),
            Self::GeluTanh => {
                let cubed = x.clone() * x.clone() * x.clone();
                let inner = (x.clone() + cubed * 0.044715) * std::f64::consts::FRAC_2_PI.sqrt();
                x * (inner.tanh() + 1.0) * 0.5
            }
            Self::QuickGelu => x.clone() * activation::sigmoid(x * 1.702),
            Self::Silu => activation::silu(x),
            Self::Mish => x.clone() * softplus(x).tanh(),
            Self::Hardswish => x.clone() * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Self::Tanh => x.tanh(),
            Self::Sigmoid => activation::sigmoid(x),
            Self::Laplace => {
                let [mean, deviation] = LAPLACE;
                let scaled = (x - mean) / (deviation * std::f64::consts::SQRT_2);
                (scaled.erf() + 1.0) * 0.5
            }
            Self::Sqrtsoftplus => softplus(x).sqrt(),
            Self::Xielu => {
                let line = x.clone() * XIELU_BETA;
                let above = x.clone() * x.clone() * XIELU_ALPHA;
                let below = (x.clone().clamp_max(XIELU_END).exp() - 1.0 - x.clone()) * XIELU_ALPHA;
                below.mask_where(x.greater_elem(0.0), above) + line
            }
            Self::Linear => x,
        }
    }
}

/// log(1 + exp(x)), which is x where exp would overflow.
fn softplus(x: Tensor<2>) -> Tensor<2> {
    activation::relu(x.clone()) + ((-x.abs()).exp() + 1.0).log()
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_tensor::bridge;

    use super::*;

    #[test]
    fn values_are_those_of_pytorch() {
        // f(-1.5) and f(0.7), computed from the definitions in f64.
        use Activation as A;
        let expected = [
            (A::Relu, [0.0, 0.7]),
            (A::Relu2, [0.0, 0.49]),
            (A::Relu6, [0.0, 0.7]),
            (A::LeakyRelu, [-0.015, 0.7]),
            (A::Prelu, [-0.375, 0.7]),
            (A::Gelu, [-0.1002108019033, 0.5306254434438]),
            (A::Gelu10, [-0.1002108019033, 0.5306254434438]),
            (A::GeluTanh, [-0.1004284230198, 0.5305701347051]),
            (A::QuickGelu, [-0.1083378015529, 0.5368939517232]),
            (A::Silu, [-0.2736382857095, 0.4677314405177]),
            (A::Mish, [-0.2980997421668, 0.5611483776439]),
            (A::Hardswish, [-0.375, 0.7 * 3.7 / 6.0]),
            (A::Tanh, [(-1.5f64).tanh(), 0.7f64.tanh()]),
            (A::Sigmoid, [0.1824255238064, 0.6681877721682]),
            (A::Laplace, [0.0000000000000, 0.4899502547706]),
            (A::Sqrtsoftplus, [0.4487909067514, 1.0503266391392]),
            (A::Xielu, [-0.1709309264436, 0.7423828125000]),
            (A::Linear, [-1.5, 0.7]),
        ];
        let x = bridge::tensor(vec![-1.5, 0.7], [1, 2], &Device::default(), DType::F64);
        for (function, expected) in expected {
            let found = bridge::values(&function.apply(x.clone()));
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-12, "{function:?}: {found}");
            }
        }
    }
}
