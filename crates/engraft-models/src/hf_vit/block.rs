//! The pre-norm transformer block under the names of `transformers`.

use burn::tensor::Tensor;
use engraft_core::{Ctx, Linear, Site};

use super::config::HfVitConfig;
use crate::activation::Activation;
use crate::parts::{AttentionConfig, Builder, Dropout, Norm, Padding, SelfAttention, model_part};

/// h = x + o_proj(attention(norm(x))); y = h + fc2(f(fc1(norm(h)))).
#[derive(Debug, Clone)]
pub struct HfVitBlock {
    /// The sequence that enters the block.
    pub sequence: Site,
    /// Self-attention.
    pub attention: SelfAttention,
    /// Around the attention, between its norm and the residual sum.
    pub attention_site: Site,
    /// Around the feed-forward sublayer, between its norm and the residual sum.
    pub mlp_site: Site,
    /// What leaves the block.
    pub output_site: Site,
    /// Before the attention.
    pub norm_before: Norm,
    /// The attention's output projection.
    pub projection: Linear,
    /// Before the feed-forward sublayer.
    pub norm_after: Norm,
    /// [width, hidden].
    pub fc1: Linear,
    /// [hidden, width].
    pub fc2: Linear,
    activation: Activation,
    dropouts: [Dropout; 2],
}

model_part!(HfVitBlock, this {
    sequence => "sites.sequence",
    attention => "attention",
    attention_site => "sites.attention",
    mlp_site => "sites.mlp",
    output_site => "sites.output",
    norm_before => "layernorm_before",
    projection => "attention.o_proj",
    norm_after => "layernorm_after",
    fc1 => "mlp.fc1",
    fc2 => "mlp.fc2",
} plain { activation, dropouts });

impl HfVitBlock {
    pub(super) fn new(name: &str, config: &HfVitConfig, builder: &mut Builder<'_>) -> Self {
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
            bias: keys.qkv_bias,
            dropout: keys.attention_probs_dropout_prob,
        };
        let names = ["q_proj", "k_proj", "v_proj"];
        Self {
            sequence: Site::default(),
            attention: SelfAttention::new("attention", names, attention, builder),
            attention_site: Site::default(),
            mlp_site: Site::default(),
            output_site: Site::default(),
            norm_before: Norm::new("layernorm_before", width, epsilon, builder),
            projection: builder.linear("attention.o_proj", width, width, true),
            norm_after: Norm::new("layernorm_after", width, epsilon, builder),
            fc1: builder.linear("mlp.fc1", width, hidden, true),
            fc2: builder.linear("mlp.fc2", hidden, width, true),
            activation: config.activation,
            dropouts: ["attention.output", "mlp"]
                .map(|name| Dropout::new(builder.join(name), keys.hidden_dropout_prob)),
        }
    }

    /// Applies the block to [batch, tokens, width].
    pub fn forward(&self, x: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let [attention_dropout, dropout] = &self.dropouts;
        let input = self.norm_before.forward(x.clone(), ctx);
        let padding = Padding::default();
        let output = self
            .attention
            .forward(input.clone(), &self.projection, &padding, ctx);
        let output = attention_dropout.forward(output, ctx);
        let site = &self.attention_site;
        let h = x.clone() + site.normed_sublayer(x, input, output, ctx);
        let input = self.norm_after.forward(h.clone(), ctx);
        let hidden = self
            .activation
            .forward(self.fc1.forward(input.clone(), ctx));
        let output = dropout.forward(self.fc2.forward(hidden, ctx), ctx);
        let site = &self.mlp_site;
        let y = h.clone() + site.normed_sublayer(h, input, output, ctx);
        self.output_site.hidden(y, ctx)
    }
}
