//! Sharing out the rows or the positions of a batch.

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::ctx::Ctx;
use crate::setup::{Piece, Setup};

/// What a block shares out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Axis {
    Rows,
    Positions,
}

/// Where each child of a block takes its tokens from.
#[derive(Debug)]
pub(crate) struct Share<'a> {
    /// The child.
    pub of: &'a Setup,
    /// Positions of its tokens among all that are flattened.
    pub members: Vec<i64>,
    /// Sequences, and tokens of each.
    pub sequences: [usize; 2],
}

impl Share<'_> {
    /// The positions as a tensor.
    pub fn on(&self, device: &Device) -> Tensor<1, Int> {
        let members = self.members.clone();
        let count = members.len();
        Tensor::from_data(TensorData::new(members, [count]), device)
    }
}

/// The shares of a block that shares out its `tokens`; nothing for other blocks.
///
/// # Panics
/// If the shares do not fit: [`Setup::check_batch`] says so beforehand.
pub(crate) fn shares<'a>(setup: &'a Setup, tokens: usize, ctx: &Ctx) -> Option<Vec<Share<'a>>> {
    let [rows, length] = ctx.sequences().unwrap_or([tokens, 1]);
    let pieces = |pieces: &'a [Piece]| -> Vec<(&'a Setup, usize)> {
        pieces.iter().map(|piece| (&piece.of, piece.size)).collect()
    };
    let (axis, pieces) = match setup {
        Setup::Parallel(of) => {
            let each = rows / of.len().max(1);
            (Axis::Rows, of.iter().map(|child| (child, each)).collect())
        }
        Setup::BatchSplit(of) => (Axis::Rows, pieces(of)),
        Setup::Split(of) => (Axis::Positions, pieces(of)),
        _ => return None,
    };
    let total: usize = pieces.iter().map(|(_, size)| size).sum();
    let (found, what) = match axis {
        Axis::Rows => (rows, "rows"),
        Axis::Positions => (length, "positions"),
    };
    assert!(
        total == found,
        "{}: the composition shares out {total} {what}, found {found}",
        ctx.path()
    );
    let mut start = 0;
    let each = pieces.into_iter().map(|(of, size)| {
        let own = start..start + size;
        start += size;
        let (rows, positions) = match axis {
            Axis::Rows => (own, 0..length),
            Axis::Positions => (0..rows, own),
        };
        let sequences = [rows.len(), positions.len()];
        let members = rows
            .flat_map(|row| positions.clone().map(move |at| (row * length + at) as i64))
            .collect();
        Share {
            of,
            members,
            sequences,
        }
    });
    Some(each.collect())
}

/// The shares' results in the places that their tokens came from.
pub(crate) fn gathered(shares: &[Share<'_>], results: Vec<Tensor<2>>) -> Tensor<2> {
    let device = results[0].device();
    let order = shares.iter().flat_map(|share| &share.members);
    let count: usize = shares.iter().map(|share| share.members.len()).sum();
    let mut places = vec![0i64; count];
    order
        .enumerate()
        .for_each(|(at, &member)| places[member as usize] = at as i64);
    let places = Tensor::from_data(TensorData::new(places, [count]), &device);
    Tensor::cat(results, 0).select(0, places)
}
