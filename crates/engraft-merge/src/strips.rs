//! Several updates of one weight, some rows at a time.

use crate::error::{Error, Result};
use crate::update::Update;

/// Numbers of one update in a strip: a megabyte each.
const NUMBERS: usize = 1 << 18;

/// The shape that all updates have.
///
/// # Errors
/// No updates, updates of different shapes, or of one that only the base knows.
pub(crate) fn common_shape(updates: &[&Update]) -> Result<(usize, usize)> {
    let Some(first) = updates.first() else {
        return Err(Error::input("no updates: give at least one"));
    };
    let mut all = Update {
        shape: first.shape,
        ..Update::default()
    };
    for update in updates {
        all.shape = all.common_shape(update)?;
    }
    all.known_shape()
}

/// `visit(first place, rows of each update)` for strips of whole rows, top to bottom.
///
/// # Errors
/// As [`common_shape`], a base that is missing, and those of `visit`.
pub(crate) fn for_each_strip(
    updates: &[&Update],
    base: Option<&[f32]>,
    mut visit: impl FnMut(usize, &[Vec<f32>]) -> Result<()>,
) -> Result<()> {
    let (rows, columns) = common_shape(updates)?;
    let height = (NUMBERS / columns.max(1)).max(1);
    for start in (0..rows).step_by(height) {
        let range = start..(start + height).min(rows);
        let base = base.map(|base| &base[range.start * columns..range.end * columns]);
        let strips = updates.iter().map(|update| {
            let known = Update {
                shape: [Some(rows), Some(columns)],
                ..Update::default()
            };
            match update.shape {
                [Some(_), Some(_)] => update.strip(range.clone(), base),
                _ => known.plus(update)?.strip(range.clone(), base),
            }
        });
        visit(start * columns, &strips.collect::<Result<Vec<_>>>()?)?;
    }
    Ok(())
}
