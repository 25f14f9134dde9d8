//! Which keys are seen, and tokens in front of the model's own.

use burn::tensor::{DType, Int, Tensor};
use engraft_core::{Ctx, Error, Result, Site, Text};

/// The lowest finite number, as `transformers` has it: added to a score, it hides a key, and a row
/// that sees no key at all stays finite.
pub(crate) fn lowest(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => f64::MIN,
        DType::F16 => -65504.0,
        // The largest number of 8 significant bits.
        DType::BF16 => -3.389_531_389_251_535_5e38,
        _ => f64::from(f32::MIN),
    }
}

/// What is added to the scores of a text's padding.
#[derive(Debug, Clone, Default)]
pub(crate) struct Padding {
    /// 0 for tokens, the lowest number for padding, [batch, 1, 1, tokens]; `None` without padding.
    added: Option<Tensor<4>>,
}

impl Padding {
    /// The padding of a text for scores of this precision.
    pub fn new(text: &Text, dtype: DType) -> Self {
        let added = text.mask.clone().map(|mask| {
            let [batch, tokens] = mask.dims();
            let hidden = mask.equal_elem(0).float().cast(dtype);
            (hidden * lowest(dtype)).reshape([batch, 1, 1, tokens])
        });
        Self { added }
    }

    /// What is added to the scores of so many keys: those in front of the text's own are visible.
    pub fn for_keys(&self, keys: usize) -> Option<Tensor<4>> {
        let own = self.added.clone()?;
        let [batch, _, _, tokens] = own.dims();
        let front = keys - tokens;
        if front == 0 {
            return Some(own);
        }
        let visible = Tensor::zeros([batch, 1, 1, front], (&own.device(), own.dtype()));
        Some(Tensor::cat(vec![visible, own], 3))
    }
}

/// The sequence with the leading tokens of a block's `sequence` site, if it has any, in place of the
/// `lead` that an earlier block's left; and how many now lead.
pub(crate) fn enter(sequence: &Site, x: Tensor<3>, lead: usize, ctx: &Ctx) -> (Tensor<3>, usize) {
    if !sequence.acts(ctx) {
        return (x, lead);
    }
    let own = crate::block::without_lead(x, lead);
    let tokens = own.dims()[1];
    let extended = sequence.sequence(own, ctx);
    let lead = extended.dims()[1] - tokens;
    (extended, lead)
}

/// Whether a text has tokens, and a mask and segments of its own dimensions.
///
/// # Errors
/// What was found.
pub(crate) fn check_layout(text: &Text) -> Result<()> {
    let dims = text.dims();
    if dims.contains(&0) {
        return Err(Error::Unsupported(format!(
            "found {} texts of {} tokens, expected at least one of at least one",
            dims[0], dims[1]
        )));
    }
    for (what, beside) in [("mask", &text.mask), ("segments", &text.segments)] {
        if let Some(found) = beside.as_ref().map(Tensor::dims)
            && found != dims
        {
            return Err(Error::Unsupported(format!(
                "found {what} of dimensions {found:?}, expected {dims:?} as the tokens have"
            )));
        }
    }
    Ok(())
}

/// Whether indices are inside a table of so many rows.
///
/// # Errors
/// The index outside, and what `what` it is.
pub(crate) fn check_indices(what: &str, indices: &Tensor<2, Int>, rows: usize) -> Result<()> {
    let outside = |index: i64| index < 0 || index >= rows as i64;
    let ends = [indices.clone().min(), indices.clone().max()];
    match ends
        .into_iter()
        .map(|end| end.into_scalar::<i64>())
        .find(|end| outside(*end))
    {
        Some(index) => Err(Error::Unsupported(format!(
            "found {what} {index}, expected 0 to {}: the model has {rows} of them",
            rows as i64 - 1
        ))),
        None => Ok(()),
    }
}
