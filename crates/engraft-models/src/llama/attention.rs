//! Self-attention of Llama.

use burn::tensor::Tensor;
use engraft_core::{AttentionView, Ctx, Linear, Site};

use super::config::LlamaConfig;
use crate::decoder::{KeyValues, LayerCache, Pass, RmsNorm};
use crate::parts::{Builder, Dropout, heads_attention, model_part};

/// Causal attention with rotated queries and keys, where several heads of queries may share a head
/// of keys and values.
///
/// Su et al., arXiv 2104.09864; Ainslie et al., arXiv 2305.13245. The site `key_value` sees rotated
/// keys and values, the site `attended` what the heads return.
#[derive(Debug, Clone)]
pub struct LlamaAttention {
    /// Keys and values.
    pub key_value: Site,
    /// What the heads return.
    pub attended: Site,
    /// Queries, [width, heads * head width].
    pub q_proj: Linear,
    /// Keys, [width, key heads * head width].
    pub k_proj: Linear,
    /// Values, [width, key heads * head width].
    pub v_proj: Linear,
    /// Output, [heads * head width, width].
    pub o_proj: Linear,
    /// Of each head's queries (Qwen3).
    pub q_norm: Option<RmsNorm>,
    /// Of each head's keys (Qwen3).
    pub k_norm: Option<RmsNorm>,
    heads: usize,
    key_heads: usize,
    window: Option<usize>,
    dropout: Dropout,
}

model_part!(LlamaAttention, this {
    key_value => "key_value",
    attended => "attended",
    q_proj => "q_proj",
    k_proj => "k_proj",
    v_proj => "v_proj",
    o_proj => "o_proj",
    q_norm => "q_norm",
    k_norm => "k_norm",
} plain { heads, key_heads, window, dropout });

impl LlamaAttention {
    pub(crate) fn new(
        config: &LlamaConfig,
        window: Option<usize>,
        builder: &mut Builder<'_>,
    ) -> Self {
        let mut builder = builder.within("self_attn");
        let LlamaConfig {
            width,
            heads,
            key_heads,
            head_width,
            qkv_bias,
            ..
        } = *config;
        let (queries, keys) = (heads * head_width, key_heads * head_width);
        Self {
            key_value: Site::default(),
            attended: Site::default(),
            q_proj: builder.linear("q_proj", width, queries, qkv_bias),
            k_proj: builder.linear("k_proj", width, keys, qkv_bias),
            v_proj: builder.linear("v_proj", width, keys, qkv_bias),
            o_proj: builder.linear("o_proj", queries, width, config.output_bias),
            q_norm: config
                .head_norms
                .then(|| RmsNorm::new("q_norm", head_width, config.norm, &mut builder)),
            k_norm: config
                .head_norms
                .then(|| RmsNorm::new("k_norm", head_width, config.norm, &mut builder)),
            heads,
            key_heads,
            window,
            dropout: Dropout::new(builder.path(), config.attention_dropout),
        }
    }

    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        pass: &Pass<'_>,
        lead: usize,
        cache: Option<&mut LayerCache>,
        ctx: &Ctx,
    ) -> Tensor<3> {
        let angles = pass.angles(lead);
        let queries = split(self.q_proj.forward(x.clone(), ctx), self.heads);
        let queries = angles.turn(normed(&self.q_norm, queries, ctx));
        let (keys, values) = self.project(x, ctx);
        let seen = KeyValues::new([angles.turn(keys), values], &self.key_value, cache, ctx);
        let [batch, tokens, ..] = queries.dims();
        let weighing = pass.weighing(seen.span(tokens, self.window), None);
        let heads = heads_attention(queries.clone(), seen.both, weighing, &self.dropout, ctx);
        let view = AttentionView {
            queries: &queries,
            project: &|hidden| self.project(hidden, ctx),
        };
        let heads = self.attended.attend(heads, &view, ctx);
        let width = heads.dims()[2] * heads.dims()[3];
        self.o_proj
            .forward(heads.reshape([batch, tokens, width]), ctx)
    }

    /// Keys and values [batch, tokens, key heads, head width], without positions.
    fn project(&self, x: Tensor<3>, ctx: &Ctx) -> (Tensor<4>, Tensor<4>) {
        let keys = split(self.k_proj.forward(x.clone(), ctx), self.key_heads);
        let values = split(self.v_proj.forward(x, ctx), self.key_heads);
        (normed(&self.k_norm, keys, ctx), values)
    }
}

/// [batch, tokens, heads * head width] by heads.
fn split(y: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, tokens, width] = y.dims();
    y.reshape([batch, tokens, heads, width / heads])
}

fn normed(norm: &Option<RmsNorm>, heads: Tensor<4>, ctx: &Ctx) -> Tensor<4> {
    match norm {
        Some(norm) => norm.forward(heads, ctx),
        None => heads,
    }
}
