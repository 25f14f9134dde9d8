//! Which tokens of a prompt are edited.

use std::fmt;

use burn::tensor::{Int, Tensor, TensorData};
use engraft_core::Ctx;
use serde::{Deserialize, Serialize};

/// The first and the last tokens of each prompt, written `f7+l7`, `f3`, `l1`, or `all`.
///
/// Padding on either side is not part of the prompt, nor are virtual tokens in front, nor the
/// completion where the text says where the prompt ends ([`Text::prompt`](engraft_core::Text)).
/// Where both ends are chosen, each has at most half of a prompt's tokens (rounded down), so that no
/// token is edited twice; this is how the authors' code shortens them (pyreft/dataset.py). Hidden
/// states of another kind of input, such as images, are prompts throughout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Positions {
    /// How many tokens from the beginning.
    pub first: usize,
    /// How many tokens from the end.
    pub last: usize,
}

impl Positions {
    /// Every token.
    pub const ALL: Self = Self {
        first: usize::MAX,
        last: 0,
    };

    /// Whether both ends of a prompt are edited.
    pub fn has_both(self) -> bool {
        self.first > 0 && self.last > 0
    }

    /// The tokens at either end, where there are any.
    pub(crate) fn choose(self, hidden: &Tensor<2>, ctx: &Ctx) -> [Option<Chosen>; 2] {
        let [batch, tokens] = ctx.sequences().unwrap_or([1, hidden.dims()[0]]);
        let known = match ctx.own_text() {
            None => Some(Prompts::whole(tokens)),
            Some(text) => {
                let mask = text.prompt.as_ref().or(text.mask.as_ref());
                let own = mask.map_or(text.dims()[1], |mask| mask.dims()[1]);
                // Of a text longer than what passes here, only a continuation passes.
                tokens.checked_sub(own).map(|lead| Prompts {
                    lead,
                    tokens: own,
                    mask: mask.cloned(),
                })
            }
        };
        let Some(prompts) = known else {
            return [None, None];
        };
        let share = if self.has_both() { 2 } else { 1 };
        [(self.first, false), (self.last, true)].map(|(count, from_end)| {
            let count = count.min(prompts.tokens / share);
            (count > 0 && batch > 0)
                .then(|| prompts.end(count, share, from_end, [batch, tokens], hidden))
        })
    }
}

/// Tokens, the same number of each sequence.
#[derive(Debug)]
pub(crate) struct Chosen {
    /// Their positions among all tokens, `[batch * count]`.
    pub tokens: Tensor<1, Int>,
    /// 1 for those that are there, 0 where a prompt is too short, [batch * count, 1]; `None` where all
    /// are there.
    pub there: Option<Tensor<2>>,
}

/// Where the prompts are among the tokens of a batch.
struct Prompts {
    /// Virtual tokens in front.
    lead: usize,
    /// Tokens of the text.
    tokens: usize,
    /// 1 for those of the prompt, [batch, tokens]; `None` for all.
    mask: Option<Tensor<2, Int>>,
}

impl Prompts {
    fn whole(tokens: usize) -> Self {
        Self {
            lead: 0,
            tokens,
            mask: None,
        }
    }

    /// `count` tokens from one end of each prompt, at most a `share`-th part of it, in a batch of
    /// [batch, tokens]. With a mask everything stays on the device.
    fn end(
        &self,
        count: usize,
        share: usize,
        from_end: bool,
        [batch, tokens]: [usize; 2],
        hidden: &Tensor<2>,
    ) -> Chosen {
        let Some(mask) = &self.mask else {
            let start = self.lead + if from_end { self.tokens - count } else { 0 };
            let at = |row: usize| (0..count).map(move |k| (row * tokens + start + k) as i64);
            let values: Vec<i64> = (0..batch).flat_map(at).collect();
            let data = TensorData::new(values, [batch * count]);
            return Chosen {
                tokens: Tensor::from_data(data, &hidden.device()),
                there: None,
            };
        };
        let dtype = mask.dtype();
        let ints = |values: Vec<i64>, shape: [usize; 2]| {
            let data = TensorData::new(values, shape).convert_dtype(dtype);
            Tensor::<2, Int>::from_data(data, (&mask.device(), dtype))
        };
        let steps = ints((0..count as i64).collect(), [1, count]);
        let padded = mask.clone().cumsum(1).equal_elem(0).int().cast(dtype);
        let start = padded.sum_dim(1);
        let length = mask.clone().sum_dim(1);
        let places = match from_end {
            false => start + steps.clone(),
            true => start + length.clone() - 1 - steps.clone(),
        };
        let rows = ints(
            (0..batch)
                .map(|row| (row * tokens + self.lead) as i64)
                .collect(),
            [batch, 1],
        );
        let places = places.clamp(0, self.tokens as i64 - 1) + rows;
        let there = ((steps + 1) * share as i64).lower_equal(length);
        Chosen {
            tokens: places.reshape([batch * count]),
            there: Some(
                there
                    .float()
                    .cast(hidden.dtype())
                    .reshape([batch * count, 1]),
            ),
        }
    }
}

impl TryFrom<String> for Positions {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::ALL);
        }
        let bad = || {
            format!(
                "positions `{text}`: expected `f7+l7`, `f7`, `l7` or `all` (the first and last tokens of the prompt)"
            )
        };
        let (mut first, mut last) = (None, None);
        for part in text.split('+') {
            let (end, count) = if let Some(count) = part.strip_prefix('f') {
                (&mut first, count)
            } else if let Some(count) = part.strip_prefix('l') {
                (&mut last, count)
            } else {
                return Err(bad());
            };
            let count: usize = count.parse().map_err(|_| bad())?;
            if end.replace(count).is_some() {
                return Err(bad());
            }
        }
        let positions = Self {
            first: first.unwrap_or(0),
            last: last.unwrap_or(0),
        };
        match positions {
            Self { first: 0, last: 0 } => Err(bad()),
            positions => Ok(positions),
        }
    }
}

impl From<Positions> for String {
    fn from(positions: Positions) -> Self {
        positions.to_string()
    }
}

impl fmt::Display for Positions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::ALL => write!(f, "all"),
            Self { first, last: 0 } => write!(f, "f{first}"),
            Self { first: 0, last } => write!(f, "l{last}"),
            Self { first, last } => write!(f, "f{first}+l{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notation_of_the_paper() {
        let read = |text: &str| Positions::try_from(text.to_owned());
        for (text, first, last) in [
            ("f7+l7", 7, 7),
            ("f3", 3, 0),
            ("l1", 0, 1),
            ("all", usize::MAX, 0),
        ] {
            let positions = read(text).unwrap();
            assert_eq!(positions, Positions { first, last });
            assert_eq!(positions.to_string(), text);
        }
        assert_eq!(read("l2+f1").unwrap(), Positions { first: 1, last: 2 });
        for text in ["", "f", "7", "f0", "f1+f2", "f1+l-2", "f0+l0"] {
            assert!(read(text).unwrap_err().contains("f7+l7"), "{text}");
        }
    }
}
