//! How important parameters are to the loss: smoothed sensitivity times uncertainty.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::InitContext;
use engraft_tensor::Init;

/// Running means of the sensitivity I = |w dL/dw| of n quantities and of how much it varies:
///
/// - sensitivity: S = beta1 S + (1 - beta1) I
/// - uncertainty: U = beta2 U + (1 - beta2) |I - S|, with the new S
/// - score: S U
///
/// Zhang et al., PLATON, arXiv 2206.12562, as used by AdaLoRA (arXiv 2303.10512, equations 9 to 11).
#[derive(Module, Debug)]
pub struct Importance {
    /// S, `[n]`.
    pub sensitivity: Param<Tensor<1>>,
    /// U, `[n]`.
    pub uncertainty: Param<Tensor<1>>,
}

impl Importance {
    /// Nothing seen yet of `count` quantities.
    pub(crate) fn new(count: usize, ctx: &InitContext) -> Self {
        let zeros = || frozen(ctx.tensor(Init::ZEROS, [count], "state"));
        Self {
            sensitivity: zeros(),
            uncertainty: zeros(),
        }
    }

    /// Takes in the present sensitivity I, `[n]`.
    pub(crate) fn see(&mut self, now: Tensor<1>, [beta1, beta2]: [f64; 2]) {
        let smooth = plain(self.sensitivity.val()) * beta1 + now.clone() * (1.0 - beta1);
        let spread = (now - smooth.clone()).abs();
        let uncertainty = plain(self.uncertainty.val()) * beta2 + spread * (1.0 - beta2);
        set(&mut self.sensitivity, smooth);
        set(&mut self.uncertainty, uncertainty);
    }

    /// S U, `[n]`.
    pub(crate) fn score(&self) -> Tensor<1> {
        plain(self.sensitivity.val()) * plain(self.uncertainty.val())
    }

    /// Forgets everything.
    pub(crate) fn reset(&mut self) {
        for mean in [&mut self.sensitivity, &mut self.uncertainty] {
            let zeros = plain(mean.val()).zeros_like();
            set(mean, zeros);
        }
    }
}

/// |w dL/dw| of a parameter, flattened; zero where the loss does not depend on it.
pub(crate) fn sensitivity<const D: usize>(
    param: &Param<Tensor<D>>,
    gradient: Option<&Tensor<1>>,
) -> Tensor<1> {
    let value: Tensor<1> = plain(param.val()).flatten(0, D - 1);
    match gradient {
        Some(gradient) => (value * plain(gradient.clone())).abs(),
        None => value.zeros_like(),
    }
}

/// A parameter that is not trained.
pub(crate) fn frozen<const D: usize>(value: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(value).set_require_grad(false)
}

/// A tensor without its tape.
pub(crate) fn plain<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    if tensor.is_autodiff() {
        tensor.inner()
    } else {
        tensor
    }
}

/// Gives a parameter another value; it stays trained or frozen.
pub(crate) fn set<const D: usize>(param: &mut Param<Tensor<D>>, value: Tensor<D>) {
    let trained = param.is_require_grad();
    let changed = param.clone().map(|old| {
        if old.is_autodiff() {
            Tensor::from_inner(plain(value))
        } else {
            value
        }
    });
    *param = changed.set_require_grad(trained);
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::Bank;
    use engraft_tensor::bridge::{tensor, values};

    use super::*;
    use crate::trial;

    #[test]
    fn the_means_follow_their_recurrences() {
        let (base, bank) = (trial::base(2, 2, false), Bank::default());
        let mut seen = Importance::new(1, &InitContext::new(1, "fc", "tested", &base, &bank));
        let (mut mean, mut spread) = (0.0f64, 0.0f64);
        for now in [2.0, 0.5, 1.0] {
            seen.see(
                tensor(vec![now], [1], &Device::default(), DType::F64),
                [0.75, 0.5],
            );
            mean = 0.75 * mean + 0.25 * now;
            spread = 0.5 * spread + 0.5 * (now - mean).abs();
        }
        assert!((values(&seen.score())[0] - mean * spread).abs() < 1e-15);
        seen.reset();
        assert_eq!(values(&seen.score()), [0.0]);
    }
}
