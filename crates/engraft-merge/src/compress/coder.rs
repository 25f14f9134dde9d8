//! How the numbers of one tensor become bytes, and bytes numbers.

use std::path::PathBuf;

use safetensors::Dtype;
use serde::{Deserialize, Serialize};

use super::sparse::Amount;
use super::{Compeft, Quantised, exact, signs, svd, ternary};
use crate::error::{Error, Result};
use crate::factorise::Rank;
use crate::file::{narrow, size, widen};

/// A way to store an adapter in fewer bytes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Codec {
    /// Signs of the largest changes and one magnitude.
    Compeft(Compeft),
    /// 1 to 8 bits a number.
    Quantised(Quantised),
    /// The sign of every change and a magnitude a matrix; against a base.
    BitDelta,
    /// The bytes that differ from a base: lossless.
    Delta,
    /// Leading singular triples of every module's update: a LoRA adapter of PEFT.
    Svd(Rank),
    /// The largest entries of every module's update: a SHiRA adapter of PEFT.
    Sparse(Amount),
}

impl Codec {
    /// What it is called.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Compeft(_) => "compeft",
            Self::Quantised(_) => "quantised",
            Self::BitDelta => "bitdelta",
            Self::Delta => "delta",
            Self::Svd(_) => "svd",
            Self::Sparse(_) => "sparse",
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Compeft(how) => how.check(),
            Self::Quantised(how) => how.check(),
            Self::Svd(rank) => svd::check(*rank),
            Self::Sparse(how) => how.check(),
            Self::BitDelta | Self::Delta => Ok(()),
        }
    }
}

/// What is compressed, how, and against what.
#[derive(Debug, Clone, PartialEq)]
pub struct Options {
    /// The codec.
    pub codec: Codec,
    /// An adapter or checkpoint with tensors of the same names: what is coded is the change from it.
    /// Tensors that it lacks, or has in another shape, are kept exactly.
    pub base: Option<PathBuf>,
    /// Tensors whose names contain one of these are kept exactly.
    pub keep: Vec<String>,
}

impl Options {
    /// A codec without a base. BitDelta keeps embeddings and output layers exactly, as in its paper.
    #[must_use]
    pub fn new(codec: Codec) -> Self {
        let keep: &[&str] = match codec {
            Codec::BitDelta => &["embed", "wte", "wpe", "lm_head"],
            _ => &[],
        };
        Self {
            codec,
            base: None,
            keep: keep.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    /// The same against a base.
    #[must_use]
    pub fn against(self, base: impl Into<PathBuf>) -> Self {
        Self {
            base: Some(base.into()),
            ..self
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        self.codec.check()?;
        match (&self.codec, &self.base) {
            (Codec::BitDelta | Codec::Delta, None) => Err(Error::input(format!(
                "codec {} stores what differs from a base: give `base`, a directory or file with tensors of the same names",
                self.codec.name()
            ))),
            _ => Ok(()),
        }
    }

    pub(super) fn keeps(&self, name: &str) -> bool {
        self.keep.iter().any(|part| name.contains(part.as_str()))
    }
}

/// A coded tensor.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Coded {
    pub bytes: Vec<u8>,
    /// Bits in use: the last byte may have others.
    pub bits: u64,
    /// Bits by the codec's formula.
    pub predicted: Option<f64>,
}

/// What the manifest says of a tensor.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Whether it is kept exactly, whatever the codec.
    #[serde(default, skip_serializing_if = "is_false")]
    pub exact: bool,
    /// Whether it is a change from the base's.
    #[serde(default, skip_serializing_if = "is_false")]
    pub based: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

impl Entry {
    /// How many numbers; none for a shape that no memory holds.
    fn count(&self) -> Option<usize> {
        let mut sides = self.shape.iter();
        sides.try_fold(1usize, |count, side| count.checked_mul(*side))
    }

    /// Bytes of the tensor.
    fn len(&self) -> Option<usize> {
        Some(self.count()?.checked_mul(self.dtype.bitsize())? / 8)
    }

    /// Bytes of a number, as the exact coding takes them apart.
    pub fn width(&self) -> usize {
        (self.dtype.bitsize() / 8).max(1)
    }

    /// The tensor's bytes from coded ones; none if these are not such. `scale`: ComPEFT's of all
    /// tensors.
    pub fn decode(
        &self,
        codec: &Codec,
        scale: Option<f32>,
        coded: &[u8],
        base: Option<(Dtype, &[u8])>,
    ) -> Option<Vec<u8>> {
        let (count, len) = (self.count()?, self.len()?);
        if self.exact {
            let base = base.map(|(_, bytes)| bytes);
            if base.is_some_and(|base| base.len() != len) {
                return None;
            }
            return exact::decode(coded, base, self.width(), len);
        }
        let change = match codec {
            Codec::Compeft(_) => ternary::decode(coded, scale, count)?,
            Codec::Quantised(how) => how.decode(coded, &self.shape)?,
            Codec::BitDelta => signs::decode(coded, count)?,
            Codec::Delta | Codec::Svd(_) | Codec::Sparse(_) => return None,
        };
        let mut numbers = change;
        if let Some((dtype, bytes)) = base {
            if bytes.len() != count * size(dtype) {
                return None;
            }
            let mut from = vec![0.0; count];
            widen(dtype, bytes, &mut from);
            let sums = numbers.iter_mut().zip(from);
            sums.for_each(|(x, base)| *x += base);
        }
        let mut bytes = vec![0; len];
        narrow(self.dtype, &numbers, &mut bytes);
        Some(bytes)
    }
}
