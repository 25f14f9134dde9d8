//! The frozen linear layer whose weight is a few bits an entry.

use std::borrow::Cow;
use std::sync::Arc;

use burn::tensor::{DType, Device, Element, Tensor, TensorData};
use engraft_kernels::{NotFinite, Onto, Quantisation, QuantisedMatrix, Real, column_sums};

use super::fused::{Input, Kernel, Operand, Returned, fused};
use super::linear::{biased, with_bias};

/// A frozen weight W [d_in, d_out] of few bits an entry, on the host; see [`QuantisedMatrix`].
///
/// Its matrix is W^T, PyTorch's (out, in), in which blocks run along the inputs of one output.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantisedWeight(Arc<QuantisedMatrix>);

impl QuantisedWeight {
    /// W, quantised.
    ///
    /// # Errors
    /// An entry that is not finite in single precision; its position is that in W^T.
    pub fn new(weight: &Tensor<2>, how: Quantisation) -> Result<Self, NotFinite> {
        let turned = weight.clone().detach().transpose();
        Self::from_stored(&turned.to_data(), how)
    }

    /// W^T [d_out, d_in], quantised.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    ///
    /// # Panics
    /// Unless the data is a matrix.
    pub fn from_stored(data: &TensorData, how: Quantisation) -> Result<Self, NotFinite> {
        let dims: [usize; 2] = data.shape().dims();
        let matrix = match data.dtype() {
            DType::F64 => QuantisedMatrix::new(&numbers::<f64>(data), dims, how),
            _ => QuantisedMatrix::new(&numbers::<f32>(data), dims, how),
        };
        Ok(Self(Arc::new(matrix?)))
    }

    /// d_in and d_out.
    pub fn dims(&self) -> [usize; 2] {
        let [d_out, d_in] = self.0.dims();
        [d_in, d_out]
    }

    /// How it was quantised.
    pub fn how(&self) -> Quantisation {
        self.0.how()
    }

    /// Bytes of codes and scales.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// W as a tensor.
    pub fn dense(&self, device: &Device, dtype: DType) -> Tensor<2> {
        let [d_in, d_out] = self.dims();
        let data = match dtype {
            DType::F64 => TensorData::new(self.0.decode::<f64>(), [d_out, d_in]),
            _ => TensorData::new(self.0.decode::<f32>(), [d_out, d_in]),
        };
        Tensor::<2>::from_data(data.convert_dtype(dtype), (device, dtype)).transpose()
    }

    /// Squares of the Frobenius norms of what quantising W^T lost, and of W^T.
    ///
    /// # Panics
    /// Unless the data has the weight's entries.
    pub fn loss(&self, stored: &TensorData) -> [f64; 2] {
        match stored.dtype() {
            DType::F64 => self.0.loss(&numbers::<f64>(stored)),
            _ => self.0.loss(&numbers::<f32>(stored)),
        }
    }
}

/// The numbers as they lie there, or converted.
fn numbers<T: Element>(data: &TensorData) -> Cow<'_, [T]> {
    match data.as_slice::<T>() {
        Ok(numbers) => Cow::Borrowed(numbers),
        Err(_) => {
            let converted = data.clone().convert::<T>().try_to_vec();
            Cow::Owned(converted.expect("converted to this type"))
        }
    }
}

/// x W + b, or x W^T if `tied`; inputs x and, perhaps, b.
#[derive(Debug, Clone)]
struct Quantised {
    weight: Arc<QuantisedMatrix>,
    tied: bool,
}

impl Quantised {
    /// Runs over W^T of the weight that is applied.
    fn run<T: Real>(&self, forward: bool, x: &[T], onto: Onto, y: &mut [T]) {
        match forward != self.tied {
            true => self.weight.apply(x, onto, y),
            false => self.weight.apply_transposed(x, onto, y),
        }
    }
}

impl Kernel for Quantised {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        let [d_out, d_in] = self.weight.dims();
        vec![shapes[0][0], if self.tied { d_in } else { d_out }]
    }

    fn keeps(&self, _: usize, _: &[bool]) -> bool {
        false
    }

    fn start<T: Real>(&self, x: &[Input<'_, T>], len: usize) -> Vec<T> {
        biased(x.get(1).map(|bias| bias.data), len)
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        let onto = match x.len() {
            1 => Onto::Nothing,
            _ => Onto::Present,
        };
        self.run(true, x[0].data, onto, y);
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let gx = wanted[0].then(|| {
            let mut gx = vec![T::ZERO; x[0].shape.iter().product()];
            self.run(false, gy, Onto::Nothing, &mut gx);
            gx
        });
        let mut all = vec![gx];
        if let Some(wanted) = wanted.get(1) {
            all.push(wanted.then(|| column_sums(gy, x[1].shape[0])));
        }
        all
    }
}

/// y = x W + b for tokens x: [tokens, d_in], W: [d_in, d_out], b: `[d_out]`.
///
/// On flex the weight is decoded a panel of outputs at a time, forward and backward, and nothing is
/// kept for the backward pass: beside the packed weight at most 2^18 numbers are held. Elsewhere it
/// is decoded whole on every pass and kept until its backward one.
pub fn quantised_linear(
    x: Tensor<2>,
    weight: &QuantisedWeight,
    bias: Option<Tensor<1>>,
) -> Tensor<2> {
    run(x, weight, bias, false)
}

/// y = x W^T for tokens x: [tokens, d_out], W: [d_in, d_out], as [`quantised_linear`].
pub fn quantised_tied(x: Tensor<2>, weight: &QuantisedWeight) -> Tensor<2> {
    run(x, weight, None, true)
}

fn run(x: Tensor<2>, weight: &QuantisedWeight, bias: Option<Tensor<1>>, tied: bool) -> Tensor<2> {
    let kernel = Quantised {
        weight: weight.0.clone(),
        tied,
    };
    let mut inputs = vec![Operand::from(x)];
    inputs.extend(bias.map(Operand::from));
    fused(kernel, inputs).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        composed(inputs.next(), weight, inputs.optional(), tied)
    })
}

/// The product with the decoded weight.
fn composed(
    x: Tensor<2>,
    weight: &QuantisedWeight,
    bias: Option<Tensor<1>>,
    tied: bool,
) -> Tensor<2> {
    let dense = weight.dense(&x.device(), x.dtype());
    match tied {
        true => x.matmul(dense.transpose()),
        false => with_bias(x.matmul(dense), bias),
    }
}

#[cfg(test)]
mod tests {
    use engraft_kernels::NumberFormat;

    use super::super::testing::{agree, draw};
    use super::*;
    use crate::bridge;

    fn quantised(dims: &[usize; 2], how: Quantisation) -> QuantisedWeight {
        QuantisedWeight::new(&draw("w", dims, &Device::default()), how).unwrap()
    }

    #[test]
    fn values_and_gradients_equal_the_composition() {
        for [tokens, d_in, d_out] in [[1, 1, 1], [7, 5, 3], [33, 40, 17]] {
            for format in NumberFormat::ALL {
                let how = Quantisation {
                    block: 12,
                    double: format == NumberFormat::Nf4,
                    ..Quantisation::new(format)
                };
                let weight = quantised(&[d_in, d_out], how);
                agree(&[&[tokens, d_in], &[d_out]], d_in + d_out, |x, fast| {
                    let (x, bias) = (x[0].matrix(), Some(x[1].vector()));
                    match fast {
                        true => quantised_linear(x, &weight, bias),
                        false => composed(x, &weight, bias, false),
                    }
                });
                agree(&[&[tokens, d_out]], d_in + d_out, |x, fast| match fast {
                    true => quantised_tied(x[0].matrix(), &weight),
                    false => composed(x[0].matrix(), &weight, None, true),
                });
            }
        }
    }

    #[test]
    fn blocks_run_along_the_inputs_of_an_output() {
        // One block an output: each column of W has its own largest entry, kept exactly.
        let how = Quantisation {
            block: 9,
            ..Quantisation::default()
        };
        let dense = draw("w", &[9, 4], &Device::default());
        let weight = QuantisedWeight::new(&dense, how).unwrap();
        assert_eq!(weight.dims(), [9, 4]);
        let kept = weight.dense(&Device::default(), DType::F32);
        let most = |w: Tensor<2>| bridge::values(&w.abs().max_dim(0));
        assert_eq!(most(kept.clone()), most(dense.clone()));
        let [lost, norm] = weight.loss(&dense.clone().transpose().to_data());
        let squares = |w: Tensor<2>| bridge::values(&w).iter().map(|w| w * w).sum::<f64>();
        assert!((squares(kept - dense.clone()) - lost).abs() < 1e-5 * norm);
        assert!((squares(dense) - norm).abs() < 1e-5 * norm);
        // NF4 keeps normal numbers to about a tenth.
        assert!((0.05..0.15).contains(&(lost / norm).sqrt()));
    }

    #[test]
    fn half_precision_decodes_the_same_weight() {
        let weight = quantised(&[6, 5], Quantisation::default());
        let half = weight.dense(&Device::default(), DType::BF16);
        assert_eq!(half.dtype(), DType::BF16);
        let x = draw("x", &[3, 6], &Device::default());
        let y = quantised_linear(x.clone().cast(DType::BF16), &weight, None);
        let expected = quantised_linear(x, &weight, None);
        for (found, expected) in bridge::values(&y).iter().zip(bridge::values(&expected)) {
            assert!((found - expected).abs() < 0.1, "{found} {expected}");
        }
    }
}
