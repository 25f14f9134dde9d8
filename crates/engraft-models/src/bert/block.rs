//! The post-norm transformer block.

use burn::tensor::Tensor;
use engraft_core::{Ctx, Linear, Site};

use super::config::BertConfig;
use crate::activation::Activation;
use crate::parts::{AttentionConfig, Builder, Dropout, Norm, Padding, SelfAttention, model_part};

/// h = norm(x + dense(attention(x))); y = norm(h + dense(f(dense(h)))).
///
/// Devlin et al., arXiv 1810.04805, after Vaswani et al., arXiv 1706.03762.
#[derive(Debug, Clone)]
pub struct BertBlock {
    /// The sequence that enters the block.
    pub sequence: Site,
    /// Self-attention.
    pub attention: SelfAttention,
    /// Around the attention with its output projection, before the residual sum.
    pub attention_site: Site,
    /// Around the feed-forward sublayer, before the residual sum.
    pub mlp_site: Site,
    /// What leaves the block.
    pub output_site: Site,
    /// The attention's output projection.
    pub projection: Linear,
    /// After the attention.
    pub attention_norm: Norm,
    /// [width, hidden].
    pub intermediate: Linear,
    /// [hidden, width].
    pub output: Linear,
    /// After the feed-forward sublayer.
    pub norm: Norm,
    activation: Activation,
    dropouts: [Dropout; 2],
}

model_part!(BertBlock, this {
    sequence => "sites.sequence",
    attention => "attention.self",
    attention_site => "sites.attention",
    mlp_site => "sites.mlp",
    output_site => "sites.output",
    projection => "attention.output.dense",
    attention_norm => "attention.output.LayerNorm",
    intermediate => "intermediate.dense",
    output => "output.dense",
    norm => "output.LayerNorm",
} plain { activation, dropouts });

impl BertBlock {
    pub(super) fn new(name: &str, config: &BertConfig, builder: &mut Builder<'_>) -> Self {
        let mut builder = builder.within(name);
        let builder = &mut builder;
        let keys = &config.keys;
        let (width, hidden, epsilon) = (
            keys.hidden_size,
            keys.intermediate_size,
            keys.layer_norm_eps,
        );
        let attention = AttentionConfig {
            width,
            heads: keys.num_attention_heads,
            bias: true,
            dropout: keys.attention_probs_dropout_prob,
        };
        let names = ["query", "key", "value"];
        Self {
            sequence: Site::default(),
            attention: SelfAttention::new("attention.self", names, attention, builder),
            attention_site: Site::default(),
            mlp_site: Site::default(),
            output_site: Site::default(),
            projection: builder.linear("attention.output.dense", width, width, true),
            attention_norm: Norm::new("attention.output.LayerNorm", width, epsilon, builder),
            intermediate: builder.linear("intermediate.dense", width, hidden, true),
            output: builder.linear("output.dense", hidden, width, true),
            norm: Norm::new("output.LayerNorm", width, epsilon, builder),
            activation: config.activation,
            dropouts: ["attention.output", "output"]
                .map(|name| Dropout::new(builder.join(name), keys.hidden_dropout_prob)),
        }
    }

    /// Applies the block to [batch, tokens, width].
    pub(crate) fn forward(&self, x: Tensor<3>, padding: &Padding, ctx: &Ctx) -> Tensor<3> {
        let [attention_dropout, dropout] = &self.dropouts;
        let output = self
            .attention
            .forward(x.clone(), &self.projection, padding, ctx);
        let output = attention_dropout.forward(output, ctx);
        let output = self.attention_site.sublayer(x.clone(), output, ctx);
        let h = self.attention_norm.forward(x + output, ctx);
        let hidden = self.intermediate.forward(h.clone(), ctx);
        let output = self.output.forward(self.activation.forward(hidden), ctx);
        let output = dropout.forward(output, ctx);
        let output = self.mlp_site.sublayer(h.clone(), output, ctx);
        self.output_site
            .hidden(self.norm.forward(h + output, ctx), ctx)
    }
}
