//! Generation of text, token by token.

use burn::tensor::{Int, Tensor, TensorData};
use engraft_core::{Ctx, Error, Result, Text};
use engraft_tensor::{Key, bridge};
use serde::{Deserialize, Serialize};

use super::cache::Cache;
use super::causal_lm::CausalLm;
use super::pass::present;
use super::sampling::Sampling;

/// What is generated.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Generation {
    /// Most tokens that follow a prompt.
    pub max_new_tokens: usize,
    /// Tokens after which a text is complete; they are part of it.
    pub stop: Vec<i64>,
    /// How tokens are chosen.
    pub sampling: Sampling,
}

impl Default for Generation {
    /// 64 tokens, those of the highest scores.
    fn default() -> Self {
        Self {
            max_new_tokens: 64,
            stop: Vec::new(),
            sampling: Sampling::default(),
        }
    }
}

/// The tokens that follow each prompt. Prompts of different lengths are padded on the left; what
/// follows one does not depend on the others, with sampling aside, whose streams are those of the
/// row. Run it on a model without autodiff.
///
/// # Errors
/// A model without an output layer, numbers without sense, prompts that are empty or padded on the
/// right, more tokens than positions.
pub fn generate<M: CausalLm + ?Sized>(
    model: &M,
    prompt: &Text,
    generation: &Generation,
    ctx: &Ctx,
) -> Result<Vec<Vec<i64>>> {
    let sampling = &generation.sampling;
    sampling.validate()?;
    check(model, prompt)?;
    model.fits(prompt, generation.max_new_tokens, ctx)?;
    let [batch, _] = prompt.dims();
    let device = prompt.ids.device();
    let mut occurred = tokens(prompt);
    let mut texts = vec![Vec::new(); batch];
    let mut open = vec![true; batch];
    let mut cache = Cache::default();
    let mut read = prompt.clone();
    for step in 0..generation.max_new_tokens {
        let scores = model.next(&read, &mut cache, ctx);
        let vocabulary = scores.dims()[1];
        let scores = bridge::values(&scores);
        let mut chosen = vec![0; batch];
        for (row, scores) in scores.chunks(vocabulary).enumerate() {
            if !open[row] {
                continue;
            }
            let key = Key::new(sampling.seed).child(&format!("{row}/{step}"));
            let token = sampling.choose(scores.to_vec(), &occurred[row], &key) as i64;
            chosen[row] = token;
            occurred[row].push(token);
            texts[row].push(token);
            open[row] = !generation.stop.contains(&token);
        }
        if !open.contains(&true) {
            break;
        }
        let data = TensorData::new(chosen, [batch, 1]);
        read = Text::new(Tensor::<2, Int>::from_data(data, &device));
    }
    Ok(texts)
}

/// The tokens of each text without its padding.
fn tokens(text: &Text) -> Vec<Vec<i64>> {
    let [batch, tokens] = text.dims();
    let ids = text.ids.to_data().convert::<i64>();
    let ids = ids.try_to_vec::<i64>().expect("converted to i64");
    let present = present(text).unwrap_or_else(|| vec![true; batch * tokens]);
    let row = |(ids, present): (&[i64], &[bool])| {
        let pairs = ids.iter().zip(present);
        pairs
            .filter_map(|(id, present)| present.then_some(*id))
            .collect()
    };
    ids.chunks(tokens)
        .zip(present.chunks(tokens))
        .map(row)
        .collect()
}

fn check<M: CausalLm + ?Sized>(model: &M, prompt: &Text) -> Result<()> {
    needs_output_layer(model)?;
    let [batch, tokens] = prompt.dims();
    if batch == 0 || tokens == 0 {
        return Err(Error::Unsupported(format!(
            "found {batch} prompts of {tokens} tokens, expected at least one of each"
        )));
    }
    let present = present(prompt).unwrap_or_default();
    match present
        .chunks(tokens)
        .position(|row| row.last() == Some(&false))
    {
        Some(row) => Err(Error::Unsupported(format!(
            "prompt {row} ends with padding: pad prompts on the left"
        ))),
        None => Ok(()),
    }
}

pub(super) fn needs_output_layer<M: CausalLm + ?Sized>(model: &M) -> Result<()> {
    match model.has_output_layer() {
        true => Ok(()),
        false => Err(Error::Unsupported(
            "this model has no scores for the next token: expected one with an output layer \
             (`...ForCausalLM`, `...LMHeadModel`)"
                .to_owned(),
        )),
    }
}
