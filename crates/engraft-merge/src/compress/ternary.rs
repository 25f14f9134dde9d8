//! ComPEFT (Yadav et al., arXiv 2311.13171, section 2): the signs of the largest changes and one
//! magnitude.
//!
//! Of a task vector tau of d numbers the k d of largest magnitude are kept, and all of them get the
//! magnitude alpha std(tau), the standard deviation being that of all of tau before anything is left
//! out: `[-(k log2 k + (1 - k) log2(1 - k)) + k] d + 16` bits say which they are, their signs, and the
//! magnitude, which has 32 bits here. In the paper tau is the whole adapter.

use serde::{Deserialize, Serialize};

use super::bits::{BitReader, BitWriter};
use super::coder::Coded;
use super::golomb;
use super::select::{Parts, Selection};
use crate::error::{Error, Result};

/// Over what numbers the largest are chosen and the deviation is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// All tensors together, as in the paper.
    #[default]
    Whole,
    /// Each tensor for itself.
    Tensor,
}

/// The magnitude of what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Magnitude {
    /// alpha std(tau), with n - 1 in the deviation. The paper chooses alpha on validation data; 1 is
    /// its choice for large models.
    Deviation(f64),
    /// The mean of the magnitudes that are kept: the least error (sparse ternary compression, Sattler
    /// et al., arXiv 1903.02891).
    Mean,
}

/// Options of ComPEFT.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Compeft {
    /// The share k that is kept, above 0 and at most 1.
    pub density: f64,
    /// The magnitude of what is kept.
    pub magnitude: Magnitude,
    /// Over what the largest are chosen.
    pub scope: Scope,
}

impl Default for Compeft {
    /// A tenth of the whole adapter, at one standard deviation.
    fn default() -> Self {
        Self {
            density: 0.1,
            magnitude: Magnitude::Deviation(1.0),
            scope: Scope::Whole,
        }
    }
}

impl Compeft {
    pub(super) fn check(&self) -> Result<()> {
        if !(self.density > 0.0 && self.density <= 1.0) {
            let reason = format!("density {}, expected a share in (0, 1]", self.density);
            return Err(Error::input(reason));
        }
        match self.magnitude {
            Magnitude::Deviation(alpha) if !(alpha.is_finite() && alpha > 0.0) => Err(
                Error::input(format!("alpha {alpha}, expected a number above 0")),
            ),
            _ => Ok(()),
        }
    }

    /// Which of `count` numbers are kept, and their magnitude.
    pub(super) fn choice(&self, count: u64, parts: &mut Parts) -> Result<Choice> {
        let keep = (self.density * count as f64).round() as u64;
        let selection = Selection::largest(keep, parts)?;
        let scale = match self.magnitude {
            Magnitude::Mean => selection.sum / (selection.kept.max(1)) as f64,
            Magnitude::Deviation(alpha) => alpha * deviation(count, parts)?,
        };
        Ok(Choice {
            selection,
            scale: scale as f32,
        })
    }
}

/// The standard deviation, with n - 1; 0 of a single number.
fn deviation(count: u64, parts: &mut Parts) -> Result<f64> {
    let mut sum = 0.0;
    parts(&mut |part| sum += part.iter().copied().map(f64::from).sum::<f64>())?;
    let mean = sum / count.max(1) as f64;
    let mut squares = 0.0;
    parts(&mut |part| {
        let centred = part.iter().map(|x| (f64::from(*x) - mean).powi(2));
        squares += centred.sum::<f64>();
    })?;
    Ok((squares / count.saturating_sub(1).max(1) as f64).sqrt())
}

/// What is kept of some numbers, and its magnitude.
#[derive(Debug, Clone, Copy)]
pub(super) struct Choice {
    pub selection: Selection,
    pub scale: f32,
}

impl Choice {
    /// The next numbers: their signs in Golomb's code, after the magnitude if it is theirs alone.
    pub fn encode(&mut self, numbers: &[f32], scope: Scope) -> Coded {
        let signs: Vec<i8> = numbers
            .iter()
            .map(|x| match self.selection.keeps(*x) {
                true if *x < 0.0 => -1,
                true => 1,
                false => 0,
            })
            .collect();
        let mut bits = BitWriter::default();
        let own = match scope {
            Scope::Whole => 0.0,
            Scope::Tensor => {
                bits.write(u64::from(self.scale.to_bits()), 32);
                16.0
            }
        };
        golomb::write(&signs, &mut bits);
        let kept = signs.iter().filter(|sign| **sign != 0).count();
        Coded {
            bits: bits.len(),
            predicted: Some(entropy_bits(kept, signs.len()) + own),
            bytes: bits.finish(),
        }
    }
}

/// The numbers that bytes stand for; none if they are not such. `scale`: that of all tensors, if there
/// is one.
pub(super) fn decode(bytes: &[u8], scale: Option<f32>, count: usize) -> Option<Vec<f32>> {
    let mut bits = BitReader::new(bytes);
    let scale = match scale {
        Some(scale) => scale,
        None => f32::from_bits(bits.read(32)? as u32),
    };
    let signs = golomb::read(&mut bits, count)?;
    let value = |sign: i8| match sign {
        0 => 0.0,
        sign => f32::from(sign) * scale,
    };
    scale
        .is_finite()
        .then(|| signs.into_iter().map(value).collect())
}

/// [-(k log2 k + (1 - k) log2(1 - k)) + k] d for k d = `kept` and d = `count`.
pub(super) fn entropy_bits(kept: usize, count: usize) -> f64 {
    let part = |share: f64| match share {
        0.0 => 0.0,
        share => -share * share.log2(),
    };
    let k = kept as f64 / count.max(1) as f64;
    (part(k) + part(1.0 - k) + k) * count as f64
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_read_is_the_ternary_vector(numbers in vec(-3.0f32..3.0, 1..400), density in 0.01f64..1.0, alpha in 0.5f64..2.0) {
            let compeft = Compeft { density, magnitude: Magnitude::Deviation(alpha), scope: Scope::Tensor };
            let parts: &mut Parts = &mut |visit| { visit(&numbers); Ok(()) };
            let mut choice = compeft.choice(numbers.len() as u64, parts).unwrap();
            let coded = choice.encode(&numbers, Scope::Tensor);
            let n = numbers.len() as f64;
            let mean = numbers.iter().copied().map(f64::from).sum::<f64>() / n;
            let squares = numbers.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>();
            let magnitude = alpha * (squares / (n - 1.0).max(1.0)).sqrt();
            let mut order: Vec<usize> = (0..numbers.len()).collect();
            order.sort_by(|a, b| numbers[*b].abs().total_cmp(&numbers[*a].abs()).then(a.cmp(b)));
            let mut expected = vec![0.0; numbers.len()];
            for at in order.into_iter().take((density * n).round() as usize) {
                if numbers[at] != 0.0 {
                    expected[at] = numbers[at].signum() * magnitude as f32;
                }
            }
            prop_assert_eq!(decode(&coded.bytes, None, numbers.len()), Some(expected));
            prop_assert_eq!(decode(&coded.bytes[..coded.bytes.len() - 1], None, numbers.len()), None);
        }

        #[test]
        fn the_mean_has_the_least_error(numbers in vec(-3.0f32..3.0, 2..100), other in 0.0f32..3.0) {
            let compeft = Compeft { density: 0.5, magnitude: Magnitude::Mean, scope: Scope::Tensor };
            let parts: &mut Parts = &mut |visit| { visit(&numbers); Ok(()) };
            let mut choice = compeft.choice(numbers.len() as u64, parts).unwrap();
            let error = |mut choice: Choice| {
                let found = decode(&choice.encode(&numbers, Scope::Tensor).bytes, None, numbers.len()).unwrap();
                numbers.iter().zip(found).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
            };
            let least = error(choice);
            choice.scale = other;
            prop_assert!(least <= error(choice) * (1.0 + 1e-5) + 1e-5);
        }
    }
}
