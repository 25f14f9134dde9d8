//! The block of Llama.

use burn::tensor::Tensor;
use engraft_core::{Ctx, Linear, Site};

use super::attention::LlamaAttention;
use super::config::LlamaConfig;
use crate::activation::Activation;
use crate::decoder::{DecoderBlock, LayerCache, Pass, RmsNorm};
use crate::parts::{Builder, model_part};

/// down(a(gate(x)) * up(x)) with the activation a. Shazeer, arXiv 2002.05202.
#[derive(Debug, Clone)]
pub struct GatedFeedForward {
    /// What goes through the activation, [width, inner].
    pub gate_proj: Linear,
    /// What it gates, [width, inner].
    pub up_proj: Linear,
    /// Output, [inner, width].
    pub down_proj: Linear,
    activation: Activation,
}

model_part!(GatedFeedForward, this {
    gate_proj => "gate_proj",
    up_proj => "up_proj",
    down_proj => "down_proj",
} plain { activation });

impl GatedFeedForward {
    fn new(config: &LlamaConfig, builder: &mut Builder<'_>) -> Self {
        let mut builder = builder.within("mlp");
        let LlamaConfig {
            width,
            inner,
            mlp_bias,
            activation,
            ..
        } = *config;
        Self {
            gate_proj: builder.linear("gate_proj", width, inner, mlp_bias),
            up_proj: builder.linear("up_proj", width, inner, mlp_bias),
            down_proj: builder.linear("down_proj", inner, width, mlp_bias),
            activation,
        }
    }

    /// Acts on the last axis of [batch, tokens, width].
    pub fn forward(&self, x: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let gate = self
            .activation
            .forward(self.gate_proj.forward(x.clone(), ctx));
        self.down_proj
            .forward(gate * self.up_proj.forward(x, ctx), ctx)
    }
}

/// h = x + attention(norm(x)); y = h + mlp(norm(h)).
#[derive(Debug, Clone)]
pub struct LlamaBlock {
    /// The sequence that enters the block.
    pub sequence: Site,
    /// Around the attention, between its norm and the residual sum.
    pub attention_site: Site,
    /// Around the feed-forward sublayer, between its norm and the residual sum.
    pub mlp_site: Site,
    /// What leaves the block.
    pub output_site: Site,
    /// Before the attention.
    pub input_layernorm: RmsNorm,
    /// Self-attention.
    pub self_attn: LlamaAttention,
    /// Before the feed-forward sublayer.
    pub post_attention_layernorm: RmsNorm,
    /// Feed-forward sublayer.
    pub mlp: GatedFeedForward,
}

model_part!(LlamaBlock, this {
    sequence => "sites.sequence",
    self_attn => "self_attn",
    attention_site => "sites.attention",
    mlp_site => "sites.mlp",
    output_site => "sites.output",
    input_layernorm => "input_layernorm",
    post_attention_layernorm => "post_attention_layernorm",
    mlp => "mlp",
} plain {});

impl LlamaBlock {
    pub(crate) fn new(config: &LlamaConfig, index: usize, builder: &mut Builder<'_>) -> Self {
        let mut builder = builder.within(&index.to_string());
        let builder = &mut builder;
        let norm = |name: &str, builder: &mut Builder<'_>| {
            RmsNorm::new(name, config.width, config.norm, builder)
        };
        Self {
            sequence: Site::default(),
            attention_site: Site::default(),
            mlp_site: Site::default(),
            output_site: Site::default(),
            input_layernorm: norm("input_layernorm", builder),
            self_attn: LlamaAttention::new(config, config.windows[index], builder),
            post_attention_layernorm: norm("post_attention_layernorm", builder),
            mlp: GatedFeedForward::new(config, builder),
        }
    }
}

impl DecoderBlock for LlamaBlock {
    fn sequence(&self) -> &Site {
        &self.sequence
    }

    fn key_value(&self) -> &Site {
        &self.self_attn.key_value
    }

    fn forward(
        &self,
        x: Tensor<3>,
        pass: &Pass<'_>,
        lead: usize,
        cache: Option<&mut LayerCache>,
        ctx: &Ctx,
    ) -> Tensor<3> {
        let input = self.input_layernorm.forward(x.clone(), ctx);
        let output = self
            .self_attn
            .forward(input.clone(), pass, lead, cache, ctx);
        let site = &self.attention_site;
        let h = x.clone() + site.normed_sublayer(x, input, output, ctx);
        let input = self.post_attention_layernorm.forward(h.clone(), ctx);
        let output = self.mlp.forward(input.clone(), ctx);
        let site = &self.mlp_site;
        let y = h.clone() + site.normed_sublayer(h, input, output, ctx);
        self.output_site.hidden(y, ctx)
    }
}
