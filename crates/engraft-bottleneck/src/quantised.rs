//! A matrix of few bits that is trained straight through.

use burn::module::{Module, Param, ParamId};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use engraft_kernels::bit_stream;
use engraft_tensor::bridge;

use crate::codebook::codebook;

/// Keeps the standardised weights finite, as in the authors' code.
const EPSILON: f64 = 1e-5;

/// W = sigma q((V - mu) / (sigma + 1e-5)) + mu, q the nearest of 2^b values, mu and sigma mean and
/// standard deviation (with n - 1) of the trained V; dq/dz = 1.
///
/// Packed, it is only the codes of q, mu and sigma: n b / 8 bytes and two numbers.
#[derive(Module, Debug)]
pub struct Quantised {
    /// V, [rows, cols]; only while it is trained.
    pub latent: Option<Param<Tensor<2>>>,
    /// The codes of q, b bits each without gaps, as bytes; only packed.
    pub codes: Option<Param<Tensor<1, Int>>>,
    /// mu and sigma, `[2]`; only packed.
    pub moments: Option<Param<Tensor<1>>>,
    /// q(z) - z where the gradient is held.
    held: Option<Tensor<2>>,
    #[module(skip)]
    shape: [usize; 2],
    bits: usize,
}

impl Quantised {
    /// A matrix to be trained, from its first V.
    pub fn new(latent: Tensor<2>, bits: usize) -> Self {
        Self {
            shape: latent.dims(),
            latent: Some(Param::from_tensor(latent)),
            codes: None,
            moments: None,
            held: None,
            bits,
        }
    }

    /// The matrix in as few bits as it needs, frozen.
    pub fn packed(&self) -> Self {
        let Some(latent) = &self.latent else {
            return self.clone();
        };
        let latent = latent.val().detach();
        let (device, dtype) = (latent.device(), latent.dtype());
        let (z, mu, sigma) = standardise(latent);
        let book = codebook(self.bits);
        let codes: Vec<u8> = bridge::values(&z)
            .into_iter()
            .map(|z| book.code(z))
            .collect();
        let moments = Tensor::cat(vec![mu.reshape([1]), sigma.reshape([1])], 0);
        let moments = bridge::tensor(bridge::values(&moments), [2], &device, dtype);
        Self {
            latent: None,
            codes: Some(bytes(bit_stream::pack(&codes, self.bits), &device)),
            moments: Some(Param::from_tensor(moments).set_require_grad(false)),
            held: None,
            shape: self.shape,
            bits: self.bits,
        }
    }

    /// The packed matrix of a file's codes and moments.
    ///
    /// # Errors
    /// Another number of bytes or moments than the shape and the bits say.
    pub fn unpack(
        codes: &TensorData,
        moments: &TensorData,
        shape: [usize; 2],
        bits: usize,
    ) -> Result<Self, String> {
        let size = bit_stream::size(shape[0] * shape[1], bits);
        let (found, device) = (codes.as_bytes(), Device::default());
        if found.len() != size || moments.num_elements() != 2 {
            return Err(format!(
                "{} bytes of codes and {} moments; expected {size} and 2 for {shape:?} of {bits} bits",
                found.len(),
                moments.num_elements()
            ));
        }
        let moments = Tensor::from_data(moments.clone(), (&device, moments.dtype()));
        Ok(Self {
            latent: None,
            codes: Some(bytes(found.to_vec(), &device)),
            moments: Some(Param::from_tensor(moments).set_require_grad(false)),
            held: None,
            shape,
            bits,
        })
    }

    /// Bytes of the packed form of a matrix of `count` entries, two numbers of 32 bits included.
    pub fn packed_bytes(count: usize, bits: usize) -> usize {
        bit_stream::size(count, bits) + 8
    }

    /// W, [rows, cols].
    pub fn weight(&self) -> Tensor<2> {
        match (&self.latent, &self.codes, &self.moments) {
            (Some(latent), _, _) => {
                let (z, mu, sigma) = standardise(latent.val());
                let wide = match &self.held {
                    Some(held) => z + held.clone(),
                    None => self.nearest(z.clone().detach()) + (z.clone() - z.detach()),
                };
                wide * sigma + mu
            }
            (None, Some(codes), Some(moments)) => self.decode(&codes.val(), moments.val()),
            _ => unreachable!("a matrix is either trained or packed"),
        }
    }

    /// The matrix whose exact derivative this one's gradient is.
    pub fn surrogate(&self) -> Self {
        let held = self.latent.as_ref().map(|latent| {
            let (z, ..) = standardise(latent.val().detach());
            self.nearest(z.clone()) - z
        });
        Self {
            held,
            ..self.clone()
        }
    }

    /// q(z) by bisection of the thresholds, b steps.
    fn nearest(&self, z: Tensor<2>) -> Tensor<2> {
        let book = codebook(self.bits);
        let (device, dtype, [rows, cols]) = (z.device(), z.dtype(), z.dims());
        let table = |values: &[f64]| -> Tensor<1> {
            bridge::tensor(values.to_vec(), [values.len()], &device, dtype)
        };
        let thresholds = table(&book.thresholds);
        let z = z.reshape([rows * cols]);
        let mut code = Tensor::<1, Int>::zeros([rows * cols], &device);
        for step in (0..self.bits).rev().map(|bit| 1i64 << bit) {
            let next = thresholds.clone().select(0, code.clone() + (step - 1));
            code = code + z.clone().greater(next).int() * step;
        }
        table(&book.values).select(0, code).reshape([rows, cols])
    }

    fn decode(&self, codes: &Tensor<1, Int>, moments: Tensor<1>) -> Tensor<2> {
        let [rows, cols] = self.shape;
        let packed: Vec<u8> = codes
            .to_data()
            .convert::<u8>()
            .try_to_vec()
            .expect("converted to bytes");
        let book = codebook(self.bits);
        let wide: Vec<f64> = bit_stream::unpack(&packed, rows * cols, self.bits)
            .into_iter()
            .map(|code| book.values[usize::from(code)])
            .collect();
        let wide: Tensor<2> = bridge::tensor(wide, self.shape, &moments.device(), moments.dtype());
        let [mu, sigma] = [0, 1].map(|i| moments.clone().narrow(0, i, 1).reshape([1, 1]));
        wide * sigma + mu
    }
}

/// (V - mu) / (sigma + 1e-5), mu and sigma [1, 1].
fn standardise(latent: Tensor<2>) -> (Tensor<2>, Tensor<2>, Tensor<2>) {
    let [rows, cols] = latent.dims();
    let mu: Tensor<2> = latent.clone().mean().reshape([1, 1]);
    let centred = latent - mu.clone();
    let squares = (centred.clone() * centred.clone()).sum().reshape([1, 1]);
    let sigma = (squares / (rows * cols - 1) as f64).sqrt();
    (centred / (sigma.clone() + EPSILON), mu, sigma)
}

/// Bytes as a stored parameter.
fn bytes(values: Vec<u8>, device: &Device) -> Param<Tensor<1, Int>> {
    let shape = [values.len()];
    let tensor = Tensor::from_data(TensorData::new(values, shape), (device, DType::U8));
    Param::initialized(ParamId::new(), tensor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{apart, draw, entries};

    #[test]
    fn it_takes_as_many_values_as_its_bits_say() {
        for bits in 1..=8 {
            let matrix = Quantised::new(draw([9, 31], "v"), bits);
            let mut values = entries(&matrix.weight());
            values.sort_by(f64::total_cmp);
            values.dedup_by(|a, b| (*a - *b).abs() < 1e-12);
            assert!(values.len() <= 1 << bits, "{bits}: {}", values.len());
            assert!(values.len() > (1 << bits) / 4, "{bits}: {}", values.len());
            let error = apart(&matrix.weight(), &draw([9, 31], "v"));
            assert!(error < [2.5, 2.0, 1.5, 1.0, 0.7, 0.5, 0.4, 0.3][bits - 1]);
        }
    }

    #[test]
    fn packed_it_is_the_same_matrix_in_the_stated_bytes() {
        for bits in 1..=8 {
            let matrix = Quantised::new(draw([5, 7], "v"), bits);
            let packed = matrix.packed();
            let codes = packed.codes.as_ref().unwrap().val().to_data();
            assert_eq!(codes.as_bytes().len(), (35 * bits).div_ceil(8));
            assert_eq!(codes.dtype(), DType::U8);
            assert!(apart(&packed.weight(), &matrix.weight()) < 1e-14);
            let moments = packed.moments.as_ref().unwrap().val().to_data();
            let read = Quantised::unpack(&codes, &moments, [5, 7], bits).unwrap();
            assert_eq!(entries(&read.weight()), entries(&packed.weight()));
            assert!(Quantised::unpack(&codes, &moments, [5, 15], bits).is_err());
        }
    }

    #[test]
    fn one_bit_is_a_sign_around_the_mean() {
        let latent = draw([4, 6], "v");
        let mu = entries(&latent).iter().sum::<f64>() / 24.0;
        let spread = entries(&latent)
            .iter()
            .map(|v| (v - mu).powi(2))
            .sum::<f64>();
        let step = 0.674_489_750_196_081_7 * (spread / 23.0).sqrt();
        let found = entries(&Quantised::new(latent.clone(), 1).weight());
        for (found, v) in found.iter().zip(entries(&latent)) {
            assert!((found - (mu + step * (v - mu).signum())).abs() < 1e-12);
        }
    }
}
