//! SHIRA: dW = S, values at fixed places (SHiRA, arXiv 2406.13175, section 4).

use super::{Form, Parts};
use crate::error::Result;
use crate::update::{Sparse, Update};

pub(super) struct Shira;

impl Form for Shira {
    fn name(&self) -> &'static str {
        "SHIRA"
    }

    fn fields(&self) -> &'static [&'static str] {
        &["shira_weight", "shira_indices"]
    }

    fn update(&self, parts: &Parts<'_>) -> Result<Update> {
        let values = parts.tensor("shira_weight")?.data;
        let indices = parts.integers("shira_indices")?;
        if indices.len() != 2 * values.len() {
            return Err(parts.error(format!(
                "{} values have {} coordinates, expected two each",
                values.len(),
                indices.len()
            )));
        }
        let (rows, columns) = indices.split_at(values.len());
        let Some([height, width]) = parts.shape()? else {
            let reason = "only the base knows the shape of its weight: give `base`";
            return Err(parts.error(reason));
        };
        let mut entries = Vec::with_capacity(values.len());
        for ((&i, &j), value) in rows.iter().zip(columns).zip(values) {
            let (Ok(i), Ok(j)) = (usize::try_from(i), usize::try_from(j)) else {
                return Err(parts.error(format!("place ({i}, {j}) is negative")));
            };
            if i >= height || j >= width {
                let reason = format!("place ({i}, {j}) is outside the base's {height}x{width}");
                return Err(parts.error(reason));
            }
            entries.push(((i * width + j) as u64, value));
        }
        Ok(Update::sparse(height, width, Sparse::new(entries)))
    }
}
