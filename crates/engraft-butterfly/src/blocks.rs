//! How an input width is cut into the blocks of a rotation.

use engraft_core::{Error, FrozenBase, InitContext};
use serde::{Deserialize, Serialize};

/// The blocks of a rotation, by their size, exactly or nearly, or by their number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blocks {
    /// Block size b.
    Size(usize),
    /// The block size that fits and is nearest to this, the smaller of two: one setting for layers
    /// of different widths.
    Near(usize),
    /// Number of blocks d_in / b.
    Number(usize),
}

/// Blocks on one layer: `number` of them, `size` x `size` each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockLayout {
    /// Number of blocks n.
    pub number: usize,
    /// Block size b; n b = d_in.
    pub size: usize,
}

impl Blocks {
    /// The blocks on a layer of width `d_in` under `factors` butterfly factors: the size divides
    /// d_in and is at least 2 (a 1 x 1 rotation is the identity). With several factors it is even
    /// and the number of blocks is a multiple of 2^(factors - 1).
    ///
    /// # Errors
    /// The sentence for [`engraft_core::Graft::admits`], with the nearest choices that fit.
    pub fn resolve(self, d_in: usize, factors: usize) -> Result<BlockLayout, String> {
        // The stride of the last factor, in half blocks.
        let groups = 1usize
            .checked_shl(factors.saturating_sub(1) as u32)
            .unwrap_or(usize::MAX);
        let fits = |size: usize| {
            size >= 2
                && d_in.is_multiple_of(size)
                && (factors <= 1
                    || (size.is_multiple_of(2) && (d_in / size).is_multiple_of(groups)))
        };
        let (found, size) = match self {
            Self::Size(size) => (size, size),
            Self::Near(size) => {
                let nearest = (2..=d_in)
                    .filter(|&choice| fits(choice))
                    .min_by_key(|choice| choice.abs_diff(size));
                (size, nearest.unwrap_or(0))
            }
            Self::Number(number) => (
                number,
                if number > 0 && d_in.is_multiple_of(number) {
                    d_in / number
                } else {
                    0
                },
            ),
        };
        if fits(size) {
            return Ok(BlockLayout {
                number: d_in / size,
                size,
            });
        }
        let (what, choices): (_, Vec<usize>) = match self {
            Self::Size(_) | Self::Near(_) => (
                "block size",
                (2..=d_in).filter(|&size| fits(size)).collect(),
            ),
            Self::Number(_) => (
                "number of blocks",
                (1..=d_in / 2)
                    .filter(|&number| d_in.is_multiple_of(number) && fits(d_in / number))
                    .collect(),
            ),
        };
        let below = choices.iter().rev().find(|&&choice| choice < found);
        let above = choices.iter().find(|&&choice| choice > found);
        let for_factors = if factors > 1 {
            format!(" with {factors} butterfly factors")
        } else {
            String::new()
        };
        Err(match (below, above) {
            (Some(below), Some(above)) => format!(
                "{what} {found} does not fit d_in = {d_in}{for_factors}; the nearest that do are {below} and {above}"
            ),
            (Some(near), None) | (None, Some(near)) => format!(
                "{what} {found} does not fit d_in = {d_in}{for_factors}; the nearest that does is {near}"
            ),
            (None, None) => format!(
                "d_in = {d_in} cannot be cut into blocks{for_factors}; expected {}",
                if factors > 1 {
                    format!("a multiple of 2^{factors}")
                } else {
                    "at least 2".to_owned()
                }
            ),
        })
    }
}

/// The error of an `init` that was not preceded by `admits`.
pub(crate) fn inadmissible(
    method: &str,
    base: &FrozenBase,
    ctx: &InitContext,
    reason: String,
) -> Error {
    Error::Inadmissible {
        method: method.to_owned(),
        path: ctx.path.to_owned(),
        d_in: base.d_in(),
        d_out: base.d_out(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_fit_or_the_nearest_that_do_are_named() {
        assert_eq!(
            Blocks::Size(4).resolve(24, 1),
            Ok(BlockLayout { number: 6, size: 4 })
        );
        assert_eq!(
            Blocks::Number(4).resolve(24, 1),
            Ok(BlockLayout { number: 4, size: 6 })
        );
        for (asked, size) in [(5, 4), (7, 6), (9, 8), (100, 24)] {
            let number = 24 / size;
            assert_eq!(
                Blocks::Near(asked).resolve(24, 1),
                Ok(BlockLayout { number, size })
            );
        }
        assert!(Blocks::Near(4).resolve(7, 2).is_err());
        assert_eq!(
            Blocks::Size(4).resolve(32, 3),
            Ok(BlockLayout { number: 8, size: 4 })
        );
        assert!(
            Blocks::Size(5)
                .resolve(24, 1)
                .unwrap_err()
                .ends_with("are 4 and 6")
        );
        assert!(
            Blocks::Size(32)
                .resolve(24, 1)
                .unwrap_err()
                .ends_with("is 24")
        );
        assert!(
            Blocks::Number(24)
                .resolve(24, 1)
                .unwrap_err()
                .ends_with("is 12")
        );
        assert!(
            Blocks::Size(8)
                .resolve(24, 2)
                .unwrap_err()
                .ends_with("are 6 and 12")
        );
        assert!(
            Blocks::Size(2)
                .resolve(7, 2)
                .unwrap_err()
                .ends_with("a multiple of 2^2")
        );
        assert!(
            Blocks::Size(2)
                .resolve(1, 1)
                .unwrap_err()
                .ends_with("at least 2")
        );
        assert!(
            Blocks::Number(0)
                .resolve(6, 1)
                .unwrap_err()
                .ends_with("is 1")
        );
    }
}
