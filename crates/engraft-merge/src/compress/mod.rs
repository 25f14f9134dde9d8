//! Adapters in fewer bytes.
//!
//! | codec | what is stored of a tensor x, or of its change from a base | errors |
//! |---|---|---|
//! | [`Compeft`] | signs of the k d largest, one magnitude: ComPEFT | lossy |
//! | [`Quantised`] | 1 to 8 bits a number, scales | half a step |
//! | BitDelta | signs, a magnitude a matrix | lossy |
//! | Delta | the bytes that differ from the base | none |
//! | Svd | leading singular triples of each update: a LoRA adapter | the triples left out |
//! | [`Amount`] | the largest entries of each update: a SHiRA adapter | the entries left out |
//!
//! The last two leave adapters of PEFT. The others leave one container beside the files that lay beside
//! the tensors: `compressed.safetensors`, with a tensor of bytes (U8) for each of the original's, under
//! its name, and a manifest in JSON under `engraft.compressed` in the file's metadata:
//!
//! | key | value |
//! |---|---|
//! | `version` | 1 |
//! | `codec` | the codec and its options |
//! | `file`, `metadata` | name and metadata of the original file |
//! | `original`, `result`, `base` | SHA-256 of the tensors that went in, come out, and of the base's: over each tensor's precision, shape and bytes, in the order of their names |
//! | `error` | relative error over all tensors |
//! | `magnitude` | ComPEFT over the whole: the bits of the one magnitude in single precision |
//! | `tensors` | in the order of their names: `dtype`, `shape`, `exact` if it is kept exactly, `based` if it is a change from the base's |
//!
//! What bytes mean is said where they are written: gaps and signs in Golomb's code (after 32 bits of
//! magnitude if each tensor has its own), scales and packed numbers, 32 bits of magnitude and packed
//! signs, and for tensors that are kept exactly the bytes that differ from the base's or from zero.
//!
//! Tensors are read and written one at a time: memory is that of a few copies of the largest.
//! Directories get their name when they are complete, and what is decompressed is compared with the
//! SHA-256 of what was compressed.

mod bits;
mod coder;
mod container;
mod exact;
mod golomb;
mod levels;
mod manifest;
mod report;
mod restore;
mod select;
mod signs;
mod source;
mod sparse;
mod svd;
mod ternary;
#[cfg(test)]
mod tests;

use std::path::Path;

pub use coder::{Codec, Options};
pub use levels::{Grouping, Quantised, Scale};
pub use report::{Report, TensorReport};
pub use sparse::Amount;
pub use ternary::{Compeft, Magnitude, Scope};

use crate::error::Result;
use source::Source;

/// Name of the container.
pub const COMPRESSED: &str = "compressed.safetensors";

/// Compresses the adapter or checkpoint of a directory, or a safetensors file, into the directory `out`,
/// which is not there yet or is empty.
///
/// # Errors
/// Files that are missing, truncated or no tensors, numbers that are not finite, options that make no
/// sense or do not fit the input, a base that is missing or has other tensors.
pub fn compress(input: &Path, out: &Path, options: &Options) -> Result<Report> {
    options.check()?;
    let source = Source::open(input)?;
    match options.codec {
        Codec::Svd(how) => svd::truncate(&source, options, how, out),
        Codec::Sparse(how) => sparse::largest(&source, options, how, out),
        _ => container::write(&source, options, out),
    }
}

/// Writes the tensors of a compressed directory or file into the directory `out`, which is not there
/// yet or is empty. `base`: the one it was compressed against, if there was one.
///
/// # Errors
/// Files that are missing, truncated, corrupted or not compressed, a base that is missing or is
/// another one.
pub fn decompress(input: &Path, out: &Path, base: Option<&Path>) -> Result<Report> {
    restore::read(input, out, base)
}
