//! What the blocks of a decoder share in one forward pass.

use std::cell::RefCell;

use burn::tensor::{DType, Device, Tensor, TensorData};
use engraft_core::Text;
use engraft_tensor::bridge;
use engraft_tensor::ops::{Weighing, rotary};

use super::rope_scaling::Rope;
use crate::parts::lowest;

/// The tokens of one forward pass, where they are and what they see.
///
/// Masks and angles are made when the first block asks for them and kept for the others. What a
/// query sees is none of padding, so a mask holds the lowest finite number, as in transformers: a
/// query that sees nothing at all (padding on the left) weighs all keys alike.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    /// Tokens of the text in earlier passes.
    pub seen: usize,
    /// Tokens of the text in this pass.
    pub tokens: usize,
    /// Whether each token so far is one, rather than padding, [batch, seen + tokens]; `None` where
    /// nothing is padded.
    pub present: Option<Vec<bool>>,
    /// Whether padding takes no position.
    pub counted: bool,
    /// Positions in front of the sequence.
    pub offset: usize,
    pub rope: Option<&'a Rope>,
    pub device: Device,
    pub dtype: DType,
    pub masks: RefCell<Vec<(Span, Tensor<4>)>>,
    pub angles: RefCell<Vec<(usize, Angles)>>,
}

/// Queries and the keys they may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// The last of the keys belong to the queries.
    pub queries: usize,
    pub keys: usize,
    /// Keys in front that have no position: a window does not end before them.
    pub unplaced: usize,
    /// How many keys a query sees, itself included.
    pub window: Option<usize>,
}

/// Cosines and sines, [batch or 1, tokens, head width / 2].
#[derive(Debug, Clone)]
pub(crate) struct Angles {
    cos: Tensor<3>,
    sin: Tensor<3>,
}

impl Angles {
    /// Heads [batch, tokens, heads, head width] turned by them.
    pub fn turn(&self, heads: Tensor<4>) -> Tensor<4> {
        rotary(heads, self.cos.clone(), self.sin.clone())
    }
}

/// Which tokens of [batch, tokens] are not padding; `None` if all are.
pub(crate) fn present(text: &Text) -> Option<Vec<bool>> {
    let data = text.mask.as_ref()?.to_data().convert::<i64>();
    let values = data.try_to_vec::<i64>().expect("converted to i64");
    let present: Vec<bool> = values.into_iter().map(|value| value != 0).collect();
    (!present.iter().all(|present| *present)).then_some(present)
}

impl Pass<'_> {
    /// Whether nothing was seen before.
    pub fn is_first(&self) -> bool {
        self.seen == 0
    }

    /// The positions of the tokens of this pass behind `lead` leading ones, which the first pass
    /// has itself: one row, or one for each sequence.
    pub fn positions(&self, lead: usize) -> Vec<Vec<usize>> {
        let front = self.offset + lead;
        let leading = if self.is_first() {
            self.offset..front
        } else {
            0..0
        };
        let total = self.seen + self.tokens;
        match &self.present {
            Some(present) if self.counted => {
                let row = |present: &[bool]| {
                    let counts = present.iter().scan(front, |next, present| {
                        let position = *next;
                        *next += usize::from(*present);
                        Some(position)
                    });
                    leading.clone().chain(counts.skip(self.seen)).collect()
                };
                present.chunks(total).map(row).collect()
            }
            _ => vec![leading.chain(front + self.seen..front + total).collect()],
        }
    }

    /// The angles of the tokens of this pass behind `lead` leading ones.
    ///
    /// # Panics
    /// In a model without rotary positions.
    pub fn angles(&self, lead: usize) -> Angles {
        let mut made = self.angles.borrow_mut();
        if let Some((_, angles)) = made.iter().find(|(of, _)| *of == lead) {
            return angles.clone();
        }
        let rope = self.rope.expect("asked by models with rotary positions");
        let positions = self.positions(lead);
        let [rows, tokens] = [positions.len(), positions[0].len()];
        let last = positions
            .iter()
            .flatten()
            .max()
            .copied()
            .unwrap_or_default();
        let frequencies = rope.frequencies(last + 1);
        let factor = rope.attention_factor();
        let shape = [rows, tokens, frequencies.len()];
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions.into_iter().flatten() {
            for frequency in &frequencies {
                let angle = f64::from(position as f32 * frequency);
                cos.push(factor * angle.cos());
                sin.push(factor * angle.sin());
            }
        }
        let table = |values| bridge::tensor(values, shape, &self.device, self.dtype);
        let angles = Angles {
            cos: table(cos),
            sin: table(sin),
        };
        made.push((lead, angles.clone()));
        angles
    }

    /// How queries weigh keys: causal without a mask where nothing is padded and no window ends.
    pub fn weighing(&self, span: Span, scale: Option<f64>) -> Weighing {
        let placed = span.keys - span.unplaced;
        let all = span.window.is_none_or(|window| placed <= window);
        let mask = (self.present.is_some() || !all).then(|| self.mask(span));
        Weighing {
            scale,
            causal: mask.is_none(),
            mask,
        }
    }

    fn mask(&self, span: Span) -> Tensor<4> {
        let mut made = self.masks.borrow_mut();
        if let Some((_, mask)) = made.iter().find(|(of, _)| *of == span) {
            return mask.clone();
        }
        let lowest = lowest(self.dtype);
        let own = self.seen + self.tokens;
        let rows: Vec<Option<&[bool]>> = match &self.present {
            Some(present) => present.chunks(own).map(Some).collect(),
            None => vec![None],
        };
        let visible = rows.iter().flat_map(|row| self.visible(span, *row));
        let shape = [rows.len(), 1, span.queries, span.keys];
        let data = match self.dtype {
            DType::F64 => {
                let values = visible.map(|visible| if visible { 0.0 } else { lowest });
                TensorData::new(values.collect::<Vec<f64>>(), shape)
            }
            dtype => {
                let lowest = lowest as f32;
                let values = visible.map(|visible| if visible { 0.0 } else { lowest });
                TensorData::new(values.collect::<Vec<f32>>(), shape).convert_dtype(dtype)
            }
        };
        let mask = Tensor::from_data(data, (&self.device, self.dtype));
        made.push((span, mask.clone()));
        mask
    }

    /// Whether each query sees each key, [queries, keys], in a row whose own tokens are `present`.
    fn visible(&self, span: Span, present: Option<&[bool]>) -> Vec<bool> {
        let Span {
            queries,
            keys,
            unplaced,
            window,
        } = span;
        let front = keys - (self.seen + self.tokens);
        let is_present = |key: usize| match (key.checked_sub(front), present) {
            (Some(own), Some(present)) => present[own],
            _ => true,
        };
        // Where each key is: windows count padding where positions do.
        let mut next = 0;
        let places: Vec<usize> = (0..keys)
            .map(|key| {
                let place = next;
                next += usize::from(!self.counted || is_present(key));
                place
            })
            .collect();
        let sees = |query: usize, key: usize| {
            let itself = keys - queries + query;
            let inside = window.is_none_or(|window| places[key] + window > places[itself]);
            key <= itself && (key < unplaced || inside) && is_present(key)
        };
        (0..queries * keys)
            .map(|at| sees(at / keys, at % keys))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(seen: usize, tokens: usize, present: Option<Vec<bool>>) -> Pass<'static> {
        Pass {
            seen,
            tokens,
            present,
            counted: true,
            offset: 2,
            rope: None,
            device: Device::default(),
            dtype: DType::F32,
            masks: RefCell::default(),
            angles: RefCell::default(),
        }
    }

    #[test]
    fn positions_count_tokens_behind_what_leads() {
        assert_eq!(pass(0, 3, None).positions(1), [vec![2, 3, 4, 5]]);
        assert_eq!(pass(3, 1, None).positions(1), [vec![6]]);
        let padded = vec![false, true, true, true, true, true];
        assert_eq!(
            pass(0, 3, Some(padded.clone())).positions(0),
            [vec![2, 2, 3], vec![2, 3, 4]]
        );
        assert_eq!(pass(2, 1, Some(padded)).positions(0), [vec![3], vec![4]]);
    }

    #[test]
    fn a_query_sees_what_is_before_it_in_its_window_and_no_padding() {
        let span = Span {
            queries: 2,
            keys: 5,
            unplaced: 1,
            window: Some(2),
        };
        let seen = |pass: &Pass| -> Vec<bool> {
            let mask = pass.weighing(span, None).mask.expect("a window ends");
            bridge::values(&mask)
                .iter()
                .map(|value| *value == 0.0)
                .collect()
        };
        let [no, yes] = [false, true];
        assert_eq!(
            seen(&pass(0, 2, None)),
            [yes, no, yes, yes, no, yes, no, no, yes, yes]
        );
        assert_eq!(
            seen(&pass(0, 2, Some(vec![no, yes]))),
            [yes, no, yes, no, no, yes, no, yes, no, yes]
        );
        let wide = Span {
            window: Some(4),
            ..span
        };
        assert!(pass(0, 2, None).weighing(wide, None).causal);
    }
}
