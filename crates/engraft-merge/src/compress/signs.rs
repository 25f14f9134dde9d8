//! BitDelta (Liu et al., arXiv 2402.10193, section 3.1): the sign of each change and one magnitude.
//!
//! dW ~ alpha sign(dW) with alpha = mean |dW| for each matrix, the least squared error; a change of
//! zero counts as positive. The paper then trains alpha on a few texts, which needs the model.

use engraft_kernels::bit_stream;

use super::coder::Coded;

pub(super) fn encode(numbers: &[f32]) -> Coded {
    let sum: f64 = numbers.iter().map(|x| f64::from(x.abs())).sum();
    let alpha = (sum / numbers.len().max(1) as f64) as f32;
    let negative: Vec<u8> = numbers.iter().map(|x| u8::from(*x < 0.0)).collect();
    let mut bytes = alpha.to_le_bytes().to_vec();
    bytes.extend(bit_stream::pack(&negative, 1));
    Coded {
        bytes,
        bits: 32 + numbers.len() as u64,
        predicted: Some(32.0 + numbers.len() as f64),
    }
}

/// The numbers that bytes stand for; none if they are not such.
pub(super) fn decode(bytes: &[u8], count: usize) -> Option<Vec<f32>> {
    let (alpha, packed) = bytes.split_first_chunk::<4>()?;
    let alpha = f32::from_le_bytes(*alpha);
    if packed.len() != bit_stream::size(count, 1) || !alpha.is_finite() {
        return None;
    }
    let negative = bit_stream::unpack(packed, count, 1).into_iter();
    Some(
        negative
            .map(|bit| if bit == 1 { -alpha } else { alpha })
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_mean_has_the_least_error(numbers in vec(-3.0f32..3.0, 1..100), other in 0.0f32..3.0) {
            let coded = encode(&numbers);
            let found = decode(&coded.bytes, numbers.len()).unwrap();
            prop_assert_eq!(coded.bytes.len() as u64, coded.bits.div_ceil(8));
            let error = |found: &[f32]| numbers.iter().zip(found).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            let others: Vec<f32> = found.iter().map(|x| other * x.signum()).collect();
            prop_assert!(error(&found) <= error(&others) * (1.0 + 1e-5) + 1e-5);
            for (x, y) in numbers.iter().zip(&found) {
                prop_assert_eq!(*x < 0.0, *y < 0.0);
            }
            prop_assert_eq!(decode(&coded.bytes[1..], numbers.len()), None);
        }
    }
}
