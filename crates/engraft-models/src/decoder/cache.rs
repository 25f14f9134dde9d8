//! Keys and values that later passes look at again.

use burn::tensor::{Int, Tensor, TensorData};
use engraft_core::{Ctx, Relay, Site, Text};

use super::pass::{Span, present};
use crate::parts::extended;

/// What a decoder keeps of the tokens it has read: keys and values of each layer, in buffers that
/// grow by half, so that a token is written once.
///
/// A cache belongs to one model, one batch and one choice of active adapters.
#[derive(Debug, Default)]
pub struct Cache {
    layers: Vec<LayerCache>,
    pub(crate) present: Option<Vec<bool>>,
    /// Tokens of the prompt that leads the text.
    pub(crate) prompt: usize,
    len: usize,
    ids: Option<Tensor<2, Int>>,
    /// What adapters hand on, from pass to pass too.
    pub(crate) relay: Relay,
}

/// Keys and values of a layer, [batch, capacity, key heads, head width] each.
#[derive(Debug, Default)]
pub(crate) struct LayerCache {
    held: Option<[Tensor<4>; 2]>,
    len: usize,
    unplaced: usize,
    /// Leading tokens of the block.
    pub lead: usize,
}

impl Cache {
    /// Number of tokens read of each sequence, padding included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was read yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn layer(&mut self, index: usize) -> &mut LayerCache {
        while self.layers.len() <= index {
            self.layers.push(LayerCache::default());
        }
        &mut self.layers[index]
    }

    /// Takes note of the tokens that follow and returns the whole text so far.
    pub(crate) fn extend(&mut self, text: &Text) -> Text {
        let [batch, tokens] = text.dims();
        let new = present(text);
        if self.present.is_some() || new.is_some() {
            let part = |part: &Option<Vec<bool>>, row: usize, len: usize| match part {
                Some(present) => present[row * len..(row + 1) * len].to_vec(),
                None => vec![true; len],
            };
            let rows = (0..batch).flat_map(|row| {
                [part(&self.present, row, self.len), part(&new, row, tokens)].concat()
            });
            self.present = Some(rows.collect());
        }
        let ids = match self.ids.take() {
            Some(ids) => Tensor::cat(vec![ids, text.ids.clone()], 1),
            None => text.ids.clone(),
        };
        self.ids = Some(ids.clone());
        self.len += tokens;
        let mask = self.present.as_ref().map(|present| {
            let values: Vec<i64> = present.iter().map(|present| i64::from(*present)).collect();
            Tensor::from_data(TensorData::new(values, [batch, self.len]), &ids.device())
        });
        Text {
            mask,
            tasks: text.tasks.clone(),
            ..Text::new(ids)
        }
    }
}

impl LayerCache {
    /// Everything held, with these tokens behind it.
    fn append(&mut self, new: [Tensor<4>; 2]) -> [Tensor<4>; 2] {
        let [batch, tokens, heads, width] = new[0].dims();
        let (start, end) = (self.len, self.len + tokens);
        let held = match self.held.take() {
            Some(held) if end <= held[0].dims()[1] => held,
            held => {
                let shape = [batch, end + end / 2 + 16, heads, width];
                let empty = |like: &Tensor<4>| Tensor::zeros(shape, (&like.device(), like.dtype()));
                let empty = new.each_ref().map(empty);
                match held {
                    Some(held) => write(empty, held.map(|held| held.narrow(1, 0, start)), 0),
                    None => empty,
                }
            }
        };
        let held = write(held, new.map(Tensor::detach), start);
        let all = held.each_ref().map(|held| held.clone().narrow(1, 0, end));
        self.held = Some(held);
        self.len = end;
        all
    }
}

/// The buffers with these tokens from `start` on: in place, where nobody else holds them.
fn write(held: [Tensor<4>; 2], new: [Tensor<4>; 2], start: usize) -> [Tensor<4>; 2] {
    let into = |held: Tensor<4>, new: Tensor<4>| {
        let [batch, tokens, heads, width] = new.dims();
        held.slice_assign([0..batch, start..start + tokens, 0..heads, 0..width], new)
    };
    let ([keys, values], [new_keys, new_values]) = (held, new);
    [into(keys, new_keys), into(values, new_values)]
}

/// Keys and values that the queries of a layer look at, [batch, tokens, key heads, head width].
#[derive(Debug)]
pub(crate) struct KeyValues {
    pub both: [Tensor<4>; 2],
    unplaced: usize,
}

impl KeyValues {
    /// The tokens' own with those that the site's adapters put in front; behind those in the cache,
    /// if there are any, which begin with the adapters'.
    pub fn new(
        own: [Tensor<4>; 2],
        site: &Site,
        cache: Option<&mut LayerCache>,
        ctx: &Ctx,
    ) -> Self {
        match cache {
            Some(cache) if cache.len > 0 => Self {
                both: cache.append(own),
                unplaced: cache.unplaced,
            },
            cache => {
                let tokens = own[0].dims()[1];
                let [keys, values] = own;
                let (keys, values) = extended(site, keys, values, ctx);
                let front = keys.dims()[1] - tokens;
                let unplaced = front - front.min(site.positions(ctx));
                let both = match cache {
                    Some(cache) => {
                        cache.unplaced = unplaced;
                        cache.append([keys, values])
                    }
                    None => [keys, values],
                };
                Self { both, unplaced }
            }
        }
    }

    /// What so many queries, the last of these tokens, may see.
    pub fn span(&self, queries: usize, window: Option<usize>) -> Span {
        Span {
            queries,
            keys: self.both[0].dims()[1],
            unplaced: self.unplaced,
            window,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use engraft_tensor::bridge;

    use super::*;

    #[test]
    fn what_was_appended_is_there_in_order() {
        let device = Device::default();
        let draw = |start: usize, tokens: usize| {
            let values = Tensor::<1, Int>::arange(start as i64..(start + tokens) as i64, &device);
            values.float().reshape([1, tokens, 1, 1])
        };
        let mut cache = LayerCache::default();
        let mut len = 0;
        for tokens in [3, 1, 1, 40, 1] {
            let new = draw(len, tokens);
            len += tokens;
            let [keys, values] = cache.append([new.clone(), new * 2.0]);
            let expected: Vec<f64> = (0..len).map(|at| at as f64).collect();
            assert_eq!(bridge::values(&keys), expected);
            assert_eq!(bridge::values(&(values / 2.0)), expected);
        }
    }

    #[test]
    fn padding_is_remembered_for_the_tokens_that_follow() {
        let ids = |values: Vec<i64>, tokens| {
            Tensor::<2, Int>::from_data(TensorData::new(values, [2, tokens]), &Device::default())
        };
        let mut cache = Cache::default();
        let mask = ids(vec![0, 1, 1, 1], 2);
        cache.extend(&Text::new(ids(vec![0, 5, 6, 7], 2)).with_mask(mask));
        let all = cache.extend(&Text::new(ids(vec![8, 9], 1)));
        assert_eq!(all.dims(), [2, 3]);
        let present = [false, true, true, true, true, true];
        assert_eq!(cache.present.as_deref(), Some(&present[..]));
        assert_eq!(super::present(&all).as_deref(), Some(&present[..]));
    }
}
