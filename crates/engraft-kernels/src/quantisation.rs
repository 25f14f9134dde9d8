//! How matrices are quantised, and the scales of their blocks.

use serde::{Deserialize, Serialize};

use crate::bit_stream;
use crate::levels::Levels;
use crate::number_format::{NumberFormat, dynamic};

/// How a matrix is quantised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Quantisation {
    /// The numbers of a block, between -1 and 1.
    pub format: NumberFormat,
    /// Entries with a scale of their own: so many one after the other of the rows, one row after the
    /// other; the last block may be shorter.
    pub block: usize,
    /// Whether the scales are quantised too: less their mean, to 8 bits, 256 of them with one scale.
    /// QLoRA, section 3.
    pub double: bool,
}

impl Default for Quantisation {
    /// QLoRA's: NF4 in blocks of 64.
    fn default() -> Self {
        Self::new(NumberFormat::Nf4)
    }
}

impl Quantisation {
    /// Blocks of 64 of these numbers, scales in single precision.
    pub fn new(format: NumberFormat) -> Self {
        Self {
            format,
            block: 64,
            double: false,
        }
    }

    /// Whether blocks have entries: the reason if not.
    ///
    /// # Errors
    /// A block of none.
    pub fn validate(&self) -> Result<(), String> {
        match self.block {
            0 => Err("block 0: expected at least 1 entry".to_owned()),
            _ => Ok(()),
        }
    }

    /// Bytes of so many quantised entries: b / 8 each, and a scale a block.
    pub fn bytes(&self, entries: usize) -> usize {
        let scales = entries.div_ceil(self.block);
        let of_scales = match self.double {
            true => scales + 4 * scales.div_ceil(SCALES) + 4,
            false => 4 * scales,
        };
        bit_stream::size(entries, self.format.bits()) + of_scales
    }
}

/// Scales with one scale of their own.
const SCALES: usize = 256;

/// A scale for each block.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scales {
    Single(Vec<f32>),
    Double {
        codes: Vec<u8>,
        scales: Vec<f32>,
        mean: f32,
    },
}

impl Scales {
    pub fn new(scales: Vec<f32>, double: bool) -> Self {
        if !double || scales.is_empty() {
            return Self::Single(scales);
        }
        let sum: f64 = scales.iter().copied().map(f64::from).sum();
        let mean = (sum / scales.len() as f64) as f32;
        let (mut codes, mut outer) = (Vec::with_capacity(scales.len()), Vec::new());
        for block in scales.chunks(SCALES) {
            let centred = || block.iter().map(|scale| scale - mean);
            let most = centred().fold(0.0, |most: f32, scale| most.max(scale.abs()));
            codes.extend(centred().map(|scale| code(dynamic(), scale.into(), most)));
            outer.push(most);
        }
        Self::Double {
            codes,
            scales: outer,
            mean,
        }
    }

    pub fn get(&self, block: usize) -> f32 {
        match self {
            Self::Single(scales) => scales[block],
            Self::Double {
                codes,
                scales,
                mean,
            } => {
                let level = dynamic().values[usize::from(codes[block])] as f32;
                level * scales[block / SCALES] + mean
            }
        }
    }
}

/// The code of the level nearest to `value / scale`; that of 0 in a block of zeros.
pub(crate) fn code(levels: &Levels, value: f64, scale: f32) -> u8 {
    match scale {
        0.0 => levels.code(0.0),
        _ => levels.code(value / f64::from(scale)),
    }
}
