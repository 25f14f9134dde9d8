//! AdamW on all parameters of a module at once.

use burn::tensor::Tensor;
pub use engraft_kernels::AdamW;

/// A parameter under AdamW: flattened tensors of one length and precision, without autodiff.
#[derive(Debug, Clone)]
pub struct AdamWParameter {
    /// The parameter.
    pub values: Tensor<1>,
    /// Its gradient.
    pub gradient: Tensor<1>,
    /// Means of the gradient and of its square; none before the first step.
    pub moments: Option<[Tensor<1>; 2]>,
    /// Learning rate.
    pub lr: f64,
    /// Number of this step of the parameter, counted from 1.
    pub step: u64,
}

/// Values and moments after a step of AdamW on every parameter, which is
///
/// ```text
/// p <- p (1 - lr weight_decay)
/// m <- beta1 m + (1 - beta1) g          v <- beta2 v + (1 - beta2) g^2
/// p <- p - lr / (1 - beta1^step) * m / (sqrt(v) / sqrt(1 - beta2^step) + eps)
/// ```
///
/// Loshchilov and Hutter, arXiv 1711.05101, algorithm 2, with PyTorch's eps. On flex, in `f32` and
/// `f64`, one pass over all parameters that reads four numbers and writes three for each of them,
/// in place where a tensor is the only owner of its memory; elsewhere a composition of tensor
/// operations.
pub fn adamw(config: &AdamW, parameters: Vec<AdamWParameter>) -> Vec<(Tensor<1>, [Tensor<1>; 2])> {
    #[cfg(feature = "flex")]
    let parameters = match host::step(config, parameters) {
        Ok(stepped) => return stepped,
        Err(parameters) => parameters,
    };
    let step = |parameter| composed(config, parameter);
    parameters.into_iter().map(step).collect()
}

fn composed(config: &AdamW, parameter: AdamWParameter) -> (Tensor<1>, [Tensor<1>; 2]) {
    let AdamW {
        beta1,
        beta2,
        eps,
        weight_decay,
    } = *config;
    let AdamWParameter {
        values: p,
        gradient: g,
        moments,
        lr,
        step,
    } = parameter;
    let correction = |beta: f64| 1.0 - beta.powf(step as f64);
    let first = g.clone() * (1.0 - beta1);
    let second = g.clone() * g * (1.0 - beta2);
    let (m, v) = match moments {
        Some([m, v]) => (m * beta1 + first, v * beta2 + second),
        None => (first, second),
    };
    let root = v.clone().sqrt() * correction(beta2).sqrt().recip() + eps;
    let p = p * (1.0 - lr * weight_decay) - m.clone() / root * (lr / correction(beta1));
    (p, [m, v])
}

/// The step on numbers in memory.
#[cfg(feature = "flex")]
mod host {
    use burn::backend::flex::FlexTensor;
    use burn::tensor::{DType, Tensor};
    use engraft_kernels::{AdamW, Parameter, Real};

    use super::AdamWParameter;
    use crate::ops::flex::{own, release};

    struct Held {
        values: FlexTensor,
        gradient: FlexTensor,
        moments: [FlexTensor; 2],
        lr: f64,
        step: u64,
    }

    type Stepped = Vec<(Tensor<1>, [Tensor<1>; 2])>;

    /// The parameters come back unless all of them are on flex in single or double precision.
    pub(super) fn step(
        config: &AdamW,
        parameters: Vec<AdamWParameter>,
    ) -> Result<Stepped, Vec<AdamWParameter>> {
        if !parameters
            .iter()
            .all(|p| crate::ops::flex::is_host(&p.values))
        {
            return Err(parameters);
        }
        let hold = |parameter: AdamWParameter| {
            let zeros = || parameter.values.zeros_like();
            let moments = parameter.moments.unwrap_or_else(|| [zeros(), zeros()]);
            Held {
                values: own(parameter.values),
                gradient: own(parameter.gradient),
                moments: moments.map(own),
                lr: parameter.lr,
                step: parameter.step,
            }
        };
        let mut held: Vec<Held> = parameters.into_iter().map(hold).collect();
        run(
            config,
            &mut held,
            DType::F32,
            FlexTensor::storage::<f32>,
            FlexTensor::storage_mut,
        );
        run(
            config,
            &mut held,
            DType::F64,
            FlexTensor::storage::<f64>,
            FlexTensor::storage_mut,
        );
        let release = |held: Held| (release(held.values), held.moments.map(release));
        Ok(held.into_iter().map(release).collect())
    }

    fn run<T: Real>(
        config: &AdamW,
        held: &mut [Held],
        dtype: DType,
        read: fn(&FlexTensor) -> &[T],
        write: fn(&mut FlexTensor) -> &mut [T],
    ) {
        let own = held.iter_mut().filter(|held| held.values.dtype() == dtype);
        let parameters = own.map(|held| {
            let [first_moment, second_moment] = held.moments.each_mut().map(write);
            Parameter {
                values: write(&mut held.values),
                gradient: read(&held.gradient),
                first_moment,
                second_moment,
                lr: held.lr,
                step: held.step,
            }
        });
        config.step(parameters.collect());
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::{Init, Key, bridge};

    #[test]
    fn all_at_once_equals_the_composition_of_each() {
        let device = Device::default();
        let draw = |name: &str, len, dtype| {
            Init::Normal { std: 1.0 }.tensor::<1>([len], &Key::new(1).child(name), &device, dtype)
        };
        let config = AdamW {
            weight_decay: 0.1,
            ..AdamW::default()
        };
        let parameter = |(index, dtype): (usize, DType)| {
            let len = [1, 77, 1000][index % 3];
            let old = index % 2 == 1;
            AdamWParameter {
                values: draw("p", len, dtype),
                gradient: draw("g", len, dtype),
                moments: old.then(|| [draw("m", len, dtype), draw("v", len, dtype).abs()]),
                lr: 0.1 / (index + 1) as f64,
                step: if old { 7 } else { 1 },
            }
        };
        // Mixed precisions in one call, and one of them without a kernel of its own.
        let mixed = [DType::F32, DType::F64, DType::F32, DType::F64, DType::F32];
        let (mut half, dtypes) = (mixed, mixed);
        half[2] = DType::BF16;
        for dtypes in [dtypes, half] {
            let parameters: Vec<_> = dtypes.into_iter().enumerate().map(parameter).collect();
            let stepped = adamw(&config, parameters.clone());
            for ((p, [m, v]), parameter) in stepped.iter().zip(parameters) {
                let tolerance = match parameter.values.dtype() {
                    DType::F64 => 1e-14,
                    DType::F32 => 1e-6,
                    _ => 0.0,
                };
                let (slow_p, [slow_m, slow_v]) = composed(&config, parameter);
                for (fast, slow) in [(p, slow_p), (m, slow_m), (v, slow_v)] {
                    for (a, b) in bridge::values(fast).iter().zip(bridge::values(&slow)) {
                        assert!(
                            (a - b).abs() <= tolerance * (1.0 + b.abs()),
                            "{a} against {b}"
                        );
                    }
                }
            }
        }
    }

    #[cfg(feature = "flex")]
    #[test]
    fn memory_of_one_owner_is_used_again_and_of_two_left_alone() {
        use burn::backend::Flex;
        let address = |tensor: &Tensor<1>| {
            let primitive = tensor.clone().try_into_primitive::<Flex>().unwrap();
            primitive.bytes().as_ptr()
        };
        let ones = |len| Tensor::<1>::ones([len], &Device::default());
        let parameter = |values: Tensor<1>| AdamWParameter {
            gradient: values.ones_like(),
            moments: Some([values.zeros_like(), values.zeros_like()]),
            values,
            lr: 0.1,
            step: 1,
        };
        let alone = parameter(ones(5));
        let before = [&alone.values, &alone.moments.as_ref().unwrap()[1]].map(address);
        let shared = ones(5);
        let view = Tensor::<1>::ones([9], &Device::default()).narrow(0, 2, 5);
        let parameters = vec![alone, parameter(shared.clone()), parameter(view)];
        let stepped = adamw(&AdamW::default(), parameters);
        let (p, [_, v]) = &stepped[0];
        assert_eq!([p, v].map(address), before);
        assert_eq!(bridge::values(&shared), [1.0; 5]);
        for (p, _) in &stepped {
            assert_eq!(bridge::values(p), bridge::values(&stepped[0].0));
        }
    }
}
