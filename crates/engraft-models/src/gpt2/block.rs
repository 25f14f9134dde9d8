//! The block of GPT-2.

use burn::tensor::Tensor;
use engraft_core::{AttentionView, Ctx, Linear, Site};

use super::config::Gpt2Config;
use crate::activation::Activation;
use crate::decoder::{DecoderBlock, KeyValues, LayerCache, Pass};
use crate::parts::{Builder, Dropout, Norm, heads_attention, model_part};

/// Causal attention whose queries, keys and values come from one layer.
///
/// The site `key_value` sees keys and values, the site `attended` what the heads return.
#[derive(Debug, Clone)]
pub struct Gpt2Attention {
    /// Keys and values.
    pub key_value: Site,
    /// What the heads return.
    pub attended: Site,
    /// Queries, keys and values, [width, 3 width].
    pub c_attn: Linear,
    /// Output, [width, width].
    pub c_proj: Linear,
    heads: usize,
    scale: f64,
    dropout: Dropout,
}

model_part!(Gpt2Attention, this {
    key_value => "key_value",
    attended => "attended",
    c_attn => "c_attn",
    c_proj => "c_proj",
} plain { heads, scale, dropout });

impl Gpt2Attention {
    fn new(config: &Gpt2Config, index: usize, builder: &mut Builder<'_>) -> Self {
        let mut builder = builder.within("attn");
        let width = config.width;
        Self {
            key_value: Site::default(),
            attended: Site::default(),
            c_attn: builder.conv1d("c_attn", width, 3 * width),
            c_proj: builder.conv1d("c_proj", width, width),
            heads: config.heads,
            scale: config.scale(index),
            dropout: Dropout::new(builder.path(), config.attention_dropout),
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        pass: &Pass<'_>,
        cache: Option<&mut LayerCache>,
        ctx: &Ctx,
    ) -> Tensor<3> {
        let tokens = x.dims()[1];
        let [queries, keys, values] = self.project(x, ctx);
        let seen = KeyValues::new([keys, values], &self.key_value, cache, ctx);
        let weighing = pass.weighing(seen.span(tokens, None), Some(self.scale));
        let heads = heads_attention(queries.clone(), seen.both, weighing, &self.dropout, ctx);
        let output = |heads: Tensor<4>| self.c_proj.forward(heads.flatten::<3>(2, 3), ctx);
        let view = AttentionView {
            queries: &queries,
            project: &|hidden| {
                let [_, keys, values] = self.project(hidden, ctx);
                (keys, values)
            },
            output: &output,
        };
        self.attended.attend(output(heads), &view, ctx)
    }

    /// Queries, keys and values, [batch, tokens, heads, head width].
    fn project(&self, x: Tensor<3>, ctx: &Ctx) -> [Tensor<4>; 3] {
        let [batch, tokens, width] = x.dims();
        let joint = self.c_attn.forward(x, ctx);
        [0, 1, 2].map(|part| {
            let own = joint.clone().narrow(2, part * width, width);
            own.reshape([batch, tokens, self.heads, width / self.heads])
        })
    }
}

/// c_proj(a(c_fc(x))) with the activation a.
#[derive(Debug, Clone)]
pub struct Gpt2FeedForward {
    /// [width, inner].
    pub c_fc: Linear,
    /// [inner, width].
    pub c_proj: Linear,
    activation: Activation,
}

model_part!(Gpt2FeedForward, this { c_fc => "c_fc", c_proj => "c_proj" } plain { activation });

impl Gpt2FeedForward {
    fn new(config: &Gpt2Config, builder: &mut Builder<'_>) -> Self {
        let mut builder = builder.within("mlp");
        Self {
            c_fc: builder.conv1d("c_fc", config.width, config.inner),
            c_proj: builder.conv1d("c_proj", config.inner, config.width),
            activation: config.activation,
        }
    }

    /// Acts on the last axis of [batch, tokens, width].
    pub fn forward(&self, x: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let inner = self.activation.forward(self.c_fc.forward(x, ctx));
        self.c_proj.forward(inner, ctx)
    }
}

/// h = x + attention(ln_1(x)); y = h + mlp(ln_2(h)).
#[derive(Debug, Clone)]
pub struct Gpt2Block {
    /// The sequence that enters the block.
    pub sequence: Site,
    /// Around the attention, between its norm and the residual sum.
    pub attention_site: Site,
    /// Around the feed-forward sublayer, between its norm and the residual sum.
    pub mlp_site: Site,
    /// What leaves the block.
    pub output_site: Site,
    /// Before the attention.
    pub ln_1: Norm,
    /// Self-attention.
    pub attn: Gpt2Attention,
    /// Before the feed-forward sublayer.
    pub ln_2: Norm,
    /// Feed-forward sublayer.
    pub mlp: Gpt2FeedForward,
    dropouts: [Dropout; 2],
}

model_part!(Gpt2Block, this {
    sequence => "sites.sequence",
    attn => "attn",
    attention_site => "sites.attention",
    mlp_site => "sites.mlp",
    output_site => "sites.output",
    ln_1 => "ln_1",
    ln_2 => "ln_2",
    mlp => "mlp",
} plain { dropouts });

impl Gpt2Block {
    pub(crate) fn new(config: &Gpt2Config, index: usize, builder: &mut Builder<'_>) -> Self {
        let mut builder = builder.within(&index.to_string());
        let (width, epsilon) = (config.width, config.epsilon);
        let dropout = |name| Dropout::new(builder.join(name), config.residual_dropout);
        let dropouts = [dropout("attn.resid_dropout"), dropout("mlp.dropout")];
        Self {
            sequence: Site::default(),
            attention_site: Site::default(),
            mlp_site: Site::default(),
            output_site: Site::default(),
            ln_1: Norm::new("ln_1", width, epsilon, &mut builder),
            attn: Gpt2Attention::new(config, index, &mut builder),
            ln_2: Norm::new("ln_2", width, epsilon, &mut builder),
            mlp: Gpt2FeedForward::new(config, &mut builder),
            dropouts,
        }
    }
}

impl DecoderBlock for Gpt2Block {
    fn sequence(&self) -> &Site {
        &self.sequence
    }

    fn key_value(&self) -> &Site {
        &self.attn.key_value
    }

    fn forward(
        &self,
        x: Tensor<3>,
        pass: &Pass<'_>,
        _: usize,
        cache: Option<&mut LayerCache>,
        ctx: &Ctx,
    ) -> Tensor<3> {
        let [after_attention, after_mlp] = &self.dropouts;
        let input = self.ln_1.forward(x.clone(), ctx);
        let output = self.attn.forward(input.clone(), pass, cache, ctx);
        let output = after_attention.forward(output, ctx);
        let site = &self.attention_site;
        let h = x.clone() + site.normed_sublayer(x, input, output, ctx);
        let input = self.ln_2.forward(h.clone(), ctx);
        let output = after_mlp.forward(self.mlp.forward(input.clone(), ctx), ctx);
        let site = &self.mlp_site;
        let y = h.clone() + site.normed_sublayer(h, input, output, ctx);
        self.output_site.hidden(y, ctx)
    }
}
