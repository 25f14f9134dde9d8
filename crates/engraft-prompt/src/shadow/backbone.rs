//! The small decoder that makes the first shadow.

use burn::tensor::{DType, Int, Tensor};
use engraft_core::{BankSpec, Ctx};
use engraft_tensor::ops::{Weighing, attention, matmul, rotary, silu};
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

/// A decoder of the Llama family without embeddings and head, as wide as the model that it shadows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct BackboneConfig {
    /// Blocks.
    pub blocks: usize,
    /// Width between the layers of the feed-forward sublayer.
    pub inner: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub key_heads: usize,
    /// Width of a head, even.
    pub head_width: usize,
    /// Base of the rotary frequencies theta^(-2 j / head width).
    pub theta: f64,
    /// Added to mean squares in norms.
    pub epsilon: f64,
}

impl Default for BackboneConfig {
    fn default() -> Self {
        Self {
            blocks: 1,
            inner: 64,
            heads: 4,
            key_heads: 4,
            head_width: 16,
            theta: 10_000.0,
            epsilon: 1e-6,
        }
    }
}

/// Standard deviation of fresh weights: the `initializer_range` of transformers.
const STD: f64 = 0.02;

impl BackboneConfig {
    /// Whether the values make sense: the reason if not.
    ///
    /// # Errors
    /// The sentence for `Method::validate`.
    pub fn validate(&self) -> Result<(), String> {
        if [self.blocks, self.inner, self.heads, self.key_heads].contains(&0) {
            return Err(
                "backbone: found 0 blocks, heads or inner width, expected at least 1".to_owned(),
            );
        }
        if !self.heads.is_multiple_of(self.key_heads) {
            return Err(format!(
                "backbone: found {} heads and {} heads of keys, expected a multiple",
                self.heads, self.key_heads
            ));
        }
        match self.head_width.is_multiple_of(2) && self.head_width > 0 {
            true => Ok(()),
            false => Err(format!(
                "backbone: found heads of {} numbers, expected an even number",
                self.head_width
            )),
        }
    }

    /// Its parameters for hidden states of this width, as Hugging Face names them: matrices [d_in,
    /// d_out], gains [1, width].
    pub fn params(&self, width: usize) -> Vec<(String, [usize; 2])> {
        let (query, key) = (
            self.heads * self.head_width,
            self.key_heads * self.head_width,
        );
        let block = |index: usize| {
            [
                ("input_layernorm", [1, width]),
                ("self_attn.q_proj", [width, query]),
                ("self_attn.k_proj", [width, key]),
                ("self_attn.v_proj", [width, key]),
                ("self_attn.o_proj", [query, width]),
                ("post_attention_layernorm", [1, width]),
                ("mlp.gate_proj", [width, self.inner]),
                ("mlp.up_proj", [width, self.inner]),
                ("mlp.down_proj", [self.inner, width]),
            ]
            .map(|(name, shape)| (format!("layers.{index}.{name}.weight"), shape))
        };
        let blocks = (0..self.blocks).flat_map(block);
        blocks
            .chain([("norm.weight".to_owned(), [1, width])])
            .collect()
    }

    pub(super) fn bank(&self, width: usize) -> Vec<BankSpec> {
        let spec = |(name, shape): (String, [usize; 2])| {
            let init = match name.contains("norm") {
                true => Init::Constant(1.0),
                false => Init::Normal { std: STD },
            };
            BankSpec::trained(entry(&name), shape, init)
        };
        self.params(width).into_iter().map(spec).collect()
    }

    /// The last hidden states of embedded tokens [batch, tokens, width], which follow those of `past`
    /// and are added to it. `shared` has the parameters.
    pub(super) fn forward(
        &self,
        embedded: Tensor<3>,
        past: &mut Past,
        shared: impl Fn(&str) -> Tensor<2>,
        ctx: &Ctx,
    ) -> Tensor<3> {
        let [batch, tokens, width] = embedded.dims();
        let pass = Pass::new(self, &embedded, past.tokens, ctx);
        past.tokens += tokens;
        let mut x: Tensor<2> = embedded.reshape([batch * tokens, width]);
        for index in 0..self.blocks {
            let get = |name: &str| shared(&format!("layers.{index}.{name}.weight"));
            let normed = self.norm(x.clone(), get("input_layernorm"));
            let split = |name: &str, heads: usize| -> Tensor<4> {
                let y = matmul(normed.clone(), get(name));
                y.reshape([batch, tokens, heads, self.head_width])
            };
            let q = pass.turn(split("self_attn.q_proj", self.heads));
            let k = pass.turn(split("self_attn.k_proj", self.key_heads));
            let v = split("self_attn.v_proj", self.key_heads);
            let [k, v] = past.append(index, [k, v]);
            let heads = attention(q, k, v, pass.weighing.clone());
            let heads = heads.reshape([batch * tokens, self.heads * self.head_width]);
            x = x + matmul(heads, get("self_attn.o_proj"));
            let normed = self.norm(x.clone(), get("post_attention_layernorm"));
            let gate = silu(matmul(normed.clone(), get("mlp.gate_proj")));
            let inner = gate * matmul(normed, get("mlp.up_proj"));
            x = x + matmul(inner, get("mlp.down_proj"));
        }
        let x = self.norm(x, shared("norm.weight"));
        x.reshape([batch, tokens, width])
    }

    /// g . x / sqrt(mean(x^2) + epsilon).
    fn norm(&self, x: Tensor<2>, gain: Tensor<2>) -> Tensor<2> {
        let mean = x.clone().powi_scalar(2).mean_dim(1);
        x / (mean + self.epsilon).sqrt() * gain
    }
}

/// The bank's name of a parameter.
pub(super) fn entry(name: &str) -> String {
    format!("backbone.{name}")
}

/// What the backbone keeps of the tokens that it has read.
#[derive(Debug, Default)]
pub(super) struct Past {
    tokens: usize,
    /// Keys and values of each block, [batch, tokens, key heads, head width].
    blocks: Vec<[Tensor<4>; 2]>,
}

impl Past {
    /// All keys and values of a block, these ones last.
    fn append(&mut self, block: usize, new: [Tensor<4>; 2]) -> [Tensor<4>; 2] {
        let Some(held) = self.blocks.get_mut(block) else {
            self.blocks.push(new.clone());
            return new;
        };
        let ([keys, values], [new_keys, new_values]) = (held.clone(), new);
        *held = [
            Tensor::cat(vec![keys, new_keys], 1),
            Tensor::cat(vec![values, new_values], 1),
        ];
        held.clone()
    }
}

/// Angles and mask of one forward pass.
struct Pass {
    cos: Tensor<3>,
    sin: Tensor<3>,
    weighing: Weighing,
}

impl Pass {
    fn new(config: &BackboneConfig, embedded: &Tensor<3>, seen: usize, ctx: &Ctx) -> Self {
        let [_, tokens, _] = embedded.dims();
        let (device, dtype) = (embedded.device(), embedded.dtype());
        let half = config.head_width / 2;
        let angles: Vec<f64> = (0..tokens * half)
            .map(|at| {
                let exponent = -2.0 * (at % half) as f64 / config.head_width as f64;
                (seen + at / half) as f64 * config.theta.powf(exponent)
            })
            .collect();
        let table = |of: fn(f64) -> f64| {
            let values = angles.iter().map(|angle| of(*angle)).collect();
            bridge::tensor(values, [1, tokens, half], &device, dtype)
        };
        Self {
            cos: table(f64::cos),
            sin: table(f64::sin),
            weighing: weighing(embedded, seen, ctx),
        }
    }

    fn turn(&self, heads: Tensor<4>) -> Tensor<4> {
        rotary(heads, self.cos.clone(), self.sin.clone())
    }
}

/// Causal, and no padding is seen: the tokens follow `seen` earlier ones. What leads the text is no
/// padding.
fn weighing(embedded: &Tensor<3>, seen: usize, ctx: &Ctx) -> Weighing {
    let [batch, tokens, _] = embedded.dims();
    let keys = seen + tokens;
    let padding = ctx.own_text().and_then(|text| text.mask);
    let padding = padding.filter(|mask| mask.dims()[0] == batch && mask.dims()[1] <= keys);
    let mask = padding.map(|present| {
        let device = embedded.device();
        let places =
            |from: usize, to: usize| Tensor::<1, Int>::arange(from as i64..to as i64, &device);
        let dims = [batch, 1, tokens, keys];
        let rows = places(seen, keys).reshape([1, 1, tokens, 1]).expand(dims);
        let columns = places(0, keys).reshape([1, 1, 1, keys]).expand(dims);
        let lead = Tensor::ones([batch, keys - present.dims()[1]], &device);
        let absent = Tensor::cat(vec![lead, present], 1)
            .equal_elem(0)
            .reshape([batch, 1, 1, keys])
            .expand(dims);
        let hidden = columns.greater(rows).bool_or(absent);
        let lowest = match embedded.dtype() {
            DType::F16 => -65_504.0,
            _ => -1e30,
        };
        let zeros = Tensor::<4>::zeros(dims, (&device, embedded.dtype()));
        zeros.mask_fill(hidden, lowest)
    });
    Weighing {
        scale: None,
        causal: mask.is_none(),
        mask,
    }
}
