//! Tables of trained tokens: how they start, and how they are put in front of what a model has.

use burn::tensor::{Int, Tensor, TensorData};
use engraft_core::{Error, InitContext, Result};
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

/// How a table of virtual tokens starts.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// N(0, 1), as PyTorch's `Embedding`.
    #[default]
    Random,
    /// The embeddings of words drawn from the vocabulary, each with the same probability.
    SampledVocabulary,
    /// The embeddings of these words of a text, repeated or cut to the number of virtual tokens.
    Tokens(Vec<usize>),
}

impl Start {
    /// Whether it makes sense: the reason if not.
    ///
    /// # Errors
    /// The sentence for `Method::validate`.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Self::Tokens(ids) if ids.is_empty() => {
                Err("start.tokens is empty: expected the ids of a text".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// The table [count, width] for the stream `role`.
    pub(crate) fn table(
        &self,
        [count, width]: [usize; 2],
        role: &str,
        ctx: &InitContext,
    ) -> Result<Tensor<2>> {
        let ids: Vec<usize> = match self {
            Self::Random => {
                return Ok(ctx.tensor(Init::Normal { std: 1.0 }, [count, width], role));
            }
            Self::SampledVocabulary => {
                let [vocabulary, _] = words(ctx)?.dims();
                let uniform = Init::Uniform { bound: 0.5 };
                let draws = uniform.values(count, &ctx.key.child(role));
                let id = |draw: f64| ((draw + 0.5) * vocabulary as f64) as usize;
                draws
                    .into_iter()
                    .map(|draw| id(draw).min(vocabulary - 1))
                    .collect()
            }
            Self::Tokens(ids) => ids.iter().copied().cycle().take(count).collect(),
        };
        embedded(&ids, width, ctx)
    }
}

/// The model's word embeddings, [vocabulary, width].
fn words(ctx: &InitContext) -> Result<Tensor<2>> {
    let words = ctx.embeddings.map(|words| words.weight().detach());
    words.ok_or_else(|| {
        Error::Unsupported(format!(
            "{}: this start takes the model's word embeddings, and the model shows none; start at random",
            ctx.path
        ))
    })
}

/// The word embeddings [ids, width] of these ids.
pub(crate) fn embedded(ids: &[usize], width: usize, ctx: &InitContext) -> Result<Tensor<2>> {
    let words = words(ctx)?;
    let [vocabulary, found] = words.dims();
    if found != width {
        return Err(Error::Unsupported(format!(
            "{}: the word embeddings are {found} wide, and the tokens here {width}; start at random",
            ctx.path
        )));
    }
    if let Some(id) = ids.iter().find(|id| **id >= vocabulary) {
        return Err(Error::BadConfig {
            what: "token ids".to_owned(),
            reason: format!("found {id}, expected less than the vocabulary's {vocabulary}"),
        });
    }
    let ids: Vec<i64> = ids.iter().map(|id| *id as i64).collect();
    let ids =
        Tensor::<1, Int>::from_data(TensorData::new(ids.clone(), [ids.len()]), &words.device());
    Ok(words.select(0, ids).cast(ctx.dtype))
}

/// The sequence [batch, tokens, width] with the rows of `table` in front, the same in every batch row.
pub(crate) fn prepend(table: Tensor<2>, tokens: Tensor<3>) -> Tensor<3> {
    let (batch, [count, width]) = (tokens.dims()[0], table.dims());
    let table = table.unsqueeze::<3>().expand([batch, count, width]);
    Tensor::cat(vec![table, tokens], 1)
}

/// Keys and values [batch, heads, tokens, head width] with those of `table` in front: [count, 2
/// width], each row the keys of all heads, then their values.
pub(crate) fn prepend_cache(
    table: Tensor<2>,
    keys: Tensor<4>,
    values: Tensor<4>,
) -> (Tensor<4>, Tensor<4>) {
    let width = table.dims()[1] / 2;
    let half = |half: usize| table.clone().narrow(1, half * width, width);
    (
        Tensor::cat(vec![by_head(half(0), &keys), keys], 2),
        Tensor::cat(vec![by_head(half(1), &values), values], 2),
    )
}

/// The rows of `table` [count, heads * head width] as keys like `like`: [batch, heads, count, head
/// width].
pub(crate) fn by_head(table: Tensor<2>, like: &Tensor<4>) -> Tensor<4> {
    let ([batch, heads, _, width], count) = (like.dims(), table.dims()[0]);
    let table: Tensor<3> = table.reshape([count, heads, width]).swap_dims(0, 1);
    table.unsqueeze::<4>().expand([batch, heads, count, width])
}

/// Whether a number of tokens is positive: the reason if not.
///
/// # Errors
/// The sentence for `Method::validate`.
pub(crate) fn positive(key: &str, count: usize) -> Result<(), String> {
    match count {
        0 => Err(format!("{key} 0: expected at least 1")),
        _ => Ok(()),
    }
}

/// A column of numbers as a tensor like `like`.
pub(crate) fn column(values: Vec<f64>, like: &Tensor<2>) -> Tensor<2> {
    let shape = [values.len(), 1];
    bridge::tensor(values, shape, &like.device(), like.dtype())
}

#[cfg(test)]
mod tests {
    use engraft_core::{Bank, FrozenBase};
    use engraft_tensor::bridge::values;

    use super::*;
    use crate::testing::draw;

    #[test]
    fn tokens_start_as_the_words_they_are_given() {
        let words = FrozenBase::new(draw([6, 3], "words"), None);
        let bank = Bank::default();
        let ctx = InitContext::new(0, "prompt", "default", &words, &bank);
        let known = ctx.clone().with_embeddings(Some(&words));
        let row = |id: usize| values(&words.weight().narrow(0, id, 1));
        let table = |start: &Start, ctx: &InitContext| start.table([5, 3], "tokens", ctx);

        let text = values(&table(&Start::Tokens(vec![4, 1]), &known).unwrap());
        assert_eq!(text, [row(4), row(1), row(4), row(1), row(4)].concat());
        let sampled = values(&table(&Start::SampledVocabulary, &known).unwrap());
        assert!(
            sampled
                .chunks(3)
                .all(|token| (0..6).any(|id| row(id) == token))
        );
        assert!(table(&Start::SampledVocabulary, &ctx).is_err());
        let message = table(&Start::Tokens(vec![6]), &known)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("found 6") && message.contains("vocabulary's 6"),
            "{message}"
        );
    }

    #[test]
    fn heads_split_a_row_in_order() {
        let table = draw([2, 6], "table");
        let like = Tensor::<4>::zeros([1, 3, 4, 2], &table.device()).cast(table.dtype());
        let split = by_head(table.clone(), &like);
        assert_eq!(split.dims(), [1, 3, 2, 2]);
        let second = split.narrow(1, 1, 1).reshape([2, 2]);
        assert_eq!(values(&second), values(&table.narrow(1, 2, 2)));
    }
}
