//! Numbers of 1 to 8 bits with a scale for each group.
//!
//! `absmax`: q = round(x / s) from -(2^(b-1) - 1) to 2^(b-1) - 1 with s = max |x| / (2^(b-1) - 1), x ~ s q;
//! one bit is the sign, with s = mean |x|, the least squared error. `affine`: q = round((x - l) / s) from
//! 0 to 2^b - 1 with l = min x, s = (max x - min x) / (2^b - 1), x ~ l + s q. Rounding is to the nearest:
//! but for signs no error exceeds s / 2.

use engraft_kernels::bit_stream;
use serde::{Deserialize, Serialize};

use super::coder::Coded;
use crate::error::{Error, Result};

/// Numbers that share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grouping {
    /// A whole tensor.
    Tensor,
    /// One entry of the first dimension: an output of a weight. A vector is one row.
    #[default]
    Row,
    /// So many numbers one after the other; the last of a tensor may be fewer.
    Group(usize),
}

impl Grouping {
    pub(super) fn len(self, shape: &[usize]) -> usize {
        let count: usize = shape.iter().product();
        let len = match self {
            Self::Row if shape.len() > 1 => shape[1..].iter().product(),
            Self::Row | Self::Tensor => count,
            Self::Group(len) => len,
        };
        len.max(1)
    }
}

/// How a group's numbers lie on its levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scale {
    /// Around zero, as far as the largest magnitude; one bit: the sign times the mean magnitude.
    #[default]
    Absmax,
    /// From the least to the largest.
    Affine,
}

/// Options of quantised adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quantised {
    /// Bits of a number, 1 to 8.
    pub bits: usize,
    /// What shares a scale.
    pub grouping: Grouping,
    /// How numbers lie on the levels.
    pub scale: Scale,
}

impl Default for Quantised {
    /// Four bits, a scale for each row.
    fn default() -> Self {
        Self {
            bits: 4,
            grouping: Grouping::Row,
            scale: Scale::Absmax,
        }
    }
}

/// A group's levels: `low + step q`.
#[derive(Debug, Clone, Copy)]
struct Levels {
    low: f32,
    step: f32,
    most: f32,
}

impl Quantised {
    pub(super) fn check(&self) -> Result<()> {
        if !(1..=8).contains(&self.bits) {
            let reason = format!("{} bits, expected 1 to 8", self.bits);
            return Err(Error::input(reason));
        }
        match self.grouping {
            Grouping::Group(0) => Err(Error::input("groups of 0 numbers, expected at least 1")),
            _ => Ok(()),
        }
    }

    /// Bits of a tensor of a shape: b d and 32 for each scale.
    #[must_use]
    pub fn predicted(&self, shape: &[usize]) -> u64 {
        let count: usize = shape.iter().product();
        let groups = count.div_ceil(self.grouping.len(shape));
        (self.bits * count + 32 * self.parameters() * groups) as u64
    }

    /// Numbers that a group stores.
    fn parameters(&self) -> usize {
        match self.scale {
            Scale::Absmax => 1,
            Scale::Affine => 2,
        }
    }

    fn fit(&self, group: &[f32]) -> Levels {
        let most = ((1u32 << self.bits) - 1) as f32;
        match self.scale {
            Scale::Affine => {
                let low = group.iter().copied().fold(f32::INFINITY, f32::min);
                let high = group.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let step = (f64::from(high) - f64::from(low)) / f64::from(most);
                self.levels(low, step as f32)
            }
            Scale::Absmax if self.bits == 1 => {
                let sum: f64 = group.iter().map(|x| f64::from(x.abs())).sum();
                self.levels(0.0, (sum / group.len().max(1) as f64) as f32)
            }
            Scale::Absmax => {
                let largest = group.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
                let side = (1 << (self.bits - 1)) - 1;
                self.levels(0.0, largest / side as f32)
            }
        }
    }

    /// The levels of the numbers that a group stores.
    fn levels(&self, low: f32, step: f32) -> Levels {
        let most = ((1u32 << self.bits) - 1) as f32;
        match self.scale {
            Scale::Affine => Levels { low, step, most },
            // -s and s.
            Scale::Absmax if self.bits == 1 => Levels {
                low: -step,
                step: 2.0 * step,
                most,
            },
            // As many below zero as above: the last code is not used.
            Scale::Absmax => {
                let side = ((1 << (self.bits - 1)) - 1) as f32;
                Levels {
                    low: -side * step,
                    step,
                    most: most - 1.0,
                }
            }
        }
    }

    pub(super) fn encode(&self, numbers: &[f32], shape: &[usize]) -> Coded {
        let mut bytes = Vec::new();
        let mut codes = Vec::with_capacity(numbers.len());
        for group in numbers.chunks(self.grouping.len(shape)) {
            let levels = self.fit(group);
            let step = match (self.scale, self.bits) {
                (Scale::Affine, _) => {
                    bytes.extend(levels.low.to_le_bytes());
                    levels.step
                }
                (Scale::Absmax, 1) => -levels.low,
                (Scale::Absmax, _) => levels.step,
            };
            bytes.extend(step.to_le_bytes());
            codes.extend(group.iter().map(|x| levels.code(*x)));
        }
        bytes.extend(bit_stream::pack(&codes, self.bits));
        let predicted = self.predicted(shape);
        Coded {
            bytes,
            bits: predicted,
            predicted: Some(predicted as f64),
        }
    }

    /// The numbers that bytes stand for; none if they are not such.
    pub(super) fn decode(&self, bytes: &[u8], shape: &[usize]) -> Option<Vec<f32>> {
        let count: usize = shape.iter().product();
        let len = self.grouping.len(shape);
        let stored = 4 * self.parameters();
        let (scales, packed) = bytes.split_at_checked(stored * count.div_ceil(len))?;
        if packed.len() != bit_stream::size(count, self.bits) {
            return None;
        }
        let codes = bit_stream::unpack(packed, count, self.bits);
        let mut numbers = Vec::with_capacity(count);
        for (group, stored) in codes.chunks(len).zip(scales.chunks(stored)) {
            let mut stored = stored
                .as_chunks::<4>()
                .0
                .iter()
                .map(|b| f32::from_le_bytes(*b));
            let low = match self.scale {
                Scale::Affine => stored.next()?,
                Scale::Absmax => 0.0,
            };
            let levels = self.levels(low, stored.next()?);
            numbers.extend(group.iter().map(|code| levels.value(*code)));
        }
        numbers.iter().all(|x| x.is_finite()).then_some(numbers)
    }

    /// The largest error of a group whose stored step is this: half of it, and rounding. None for signs.
    #[cfg(test)]
    fn bound(&self, group: &[f32]) -> Option<f32> {
        let levels = self.fit(group);
        let largest = group.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
        let signs = self.scale == Scale::Absmax && self.bits == 1;
        (!signs).then_some(levels.step / 2.0 + 4.0 * f32::EPSILON * largest)
    }
}

impl Levels {
    fn code(self, x: f32) -> u8 {
        let level = (f64::from(x) - f64::from(self.low)) / f64::from(self.step);
        match level.is_finite() {
            true => level.round().clamp(0.0, f64::from(self.most)) as u8,
            // A group without extent: its lowest level is its only one.
            false => 0,
        }
    }

    fn value(self, code: u8) -> f32 {
        (f64::from(self.low) + f64::from(self.step) * f64::from(code)) as f32
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn options() -> impl Strategy<Value = Quantised> {
        let grouping = prop_oneof![
            Just(Grouping::Tensor),
            Just(Grouping::Row),
            (1usize..9).prop_map(Grouping::Group)
        ];
        let scale = prop_oneof![Just(Scale::Absmax), Just(Scale::Affine)];
        (1usize..9, grouping, scale).prop_map(|(bits, grouping, scale)| Quantised {
            bits,
            grouping,
            scale,
        })
    }

    proptest! {
        #[test]
        fn no_error_exceeds_half_a_step(how in options(), rows in 1usize..6, columns in 1usize..20, pool in vec(prop_oneof![-3.0f32..3.0, Just(0.0)], 120)) {
            let numbers = &pool[..rows * columns];
            let shape = [rows, columns];
            let coded = how.encode(numbers, &shape);
            prop_assert_eq!(coded.bytes.len() as u64, how.predicted(&shape).div_ceil(8));
            let found = how.decode(&coded.bytes, &shape).unwrap();
            let len = how.grouping.len(&shape);
            for (group, found) in numbers.chunks(len).zip(found.chunks(len)) {
                match how.bound(group) {
                    Some(bound) => for (x, y) in group.iter().zip(found) {
                        prop_assert!((x - y).abs() <= bound, "{x} {y} {bound}");
                    },
                    None => {
                        let mean = group.iter().map(|x| x.abs()).sum::<f32>() / group.len() as f32;
                        for (x, y) in group.iter().zip(found) {
                            prop_assert!((y.abs() - mean).abs() <= 1e-5 * mean && (*y >= 0.0) == (*x >= 0.0));
                        }
                    }
                }
            }
            prop_assert_eq!(how.decode(&coded.bytes[1..], &shape), None);
        }

        #[test]
        fn what_lies_on_levels_is_exact(bits in 2usize..9, codes in vec(-127i32..128, 1..40)) {
            let how = Quantised { bits, grouping: Grouping::Tensor, scale: Scale::Absmax };
            let side = (1 << (bits - 1)) - 1;
            let mut numbers: Vec<f32> = codes.iter().map(|c| (c % (side + 1)) as f32 / 4.0).collect();
            numbers.push(side as f32 / 4.0);
            let shape = [numbers.len()];
            prop_assert_eq!(how.decode(&how.encode(&numbers, &shape).bytes, &shape), Some(numbers));
        }
    }
}
