//! Multi-head self-attention of encoders.

use burn::tensor::Tensor;
use engraft_core::{AttentionView, Ctx, Linear, Site};
use engraft_tensor::ops::{Weighing, attention, softmax};

use super::{Builder, Dropout, Padding, model_part};

/// softmax(q k^T / sqrt(d)) v with q, k, v projections of their own and d = width / heads, through
/// the block's output projection.
///
/// Vaswani et al., arXiv 1706.03762, section 3.2.2. The site `key_value` sees keys and values,
/// [batch, heads, tokens, d] each; the site `attended` what the layer
/// returns.
#[derive(Debug, Clone)]
pub struct SelfAttention {
    /// Keys and values.
    pub key_value: Site,
    /// What the layer returns.
    pub attended: Site,
    /// Queries, [width, width].
    pub query: Linear,
    /// Keys, [width, width].
    pub key: Linear,
    /// Values, [width, width].
    pub value: Linear,
    names: [&'static str; 3],
    heads: usize,
    dropout: Dropout,
}

model_part!(SelfAttention, this {
    key_value => "key_value",
    attended => "attended",
    query => this.names[0],
    key => this.names[1],
    value => this.names[2],
} plain { names, heads, dropout });

/// What decides the shape of a [`SelfAttention`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionConfig {
    pub width: usize,
    pub heads: usize,
    pub bias: bool,
    /// Of the probabilities.
    pub dropout: f64,
}

impl SelfAttention {
    /// The attention of the module called `name`, whose projections of queries, keys and values are
    /// called `names`.
    pub(crate) fn new(
        name: &str,
        names: [&'static str; 3],
        config: AttentionConfig,
        builder: &mut Builder<'_>,
    ) -> Self {
        let mut builder = builder.within(name);
        let AttentionConfig { width, bias, .. } = config;
        let [query, key, value] = names.map(|name| builder.linear(name, width, width, bias));
        Self {
            key_value: Site::default(),
            attended: Site::default(),
            query,
            key,
            value,
            names,
            heads: config.heads,
            dropout: Dropout::new(builder.path(), config.dropout),
        }
    }

    /// Attends within each sequence of [batch, tokens, width]; `projection` is that of the output.
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        projection: &Linear,
        padding: &Padding,
        ctx: &Ctx,
    ) -> Tensor<3> {
        let split = |y: Tensor<3>| {
            let [batch, tokens, width] = y.dims();
            y.reshape([batch, tokens, self.heads, width / self.heads])
        };
        let project = |x: Tensor<3>| {
            let keys = split(self.key.forward(x.clone(), ctx));
            (keys, split(self.value.forward(x, ctx)))
        };
        let queries = split(self.query.forward(x.clone(), ctx));
        let (keys, values) = project(x);
        let (keys, values) = extended(&self.key_value, keys, values, ctx);
        let weighing = Weighing {
            mask: padding.for_keys(keys.dims()[1]),
            ..Weighing::default()
        };
        let heads = heads_attention(
            queries.clone(),
            [keys, values],
            weighing,
            &self.dropout,
            ctx,
        );
        let output = |heads: Tensor<4>| projection.forward(heads.flatten::<3>(2, 3), ctx);
        let view = AttentionView {
            queries: &queries,
            project: &project,
            output: &output,
        };
        self.attended.attend(output(heads), &view, ctx)
    }
}

/// Keys and values [batch, tokens, heads, head width] after a `key_value` site.
pub(crate) fn extended(
    site: &Site,
    keys: Tensor<4>,
    values: Tensor<4>,
    ctx: &Ctx,
) -> (Tensor<4>, Tensor<4>) {
    if !site.acts(ctx) {
        return (keys, values);
    }
    let swap = |x: Tensor<4>| x.swap_dims(1, 2);
    let (keys, values) = site.key_value(swap(keys), swap(values), ctx);
    (swap(keys), swap(values))
}

/// [`attention`] with dropout of the probabilities in training: there the probabilities are formed.
pub(crate) fn heads_attention(
    queries: Tensor<4>,
    [keys, values]: [Tensor<4>; 2],
    weighing: Weighing,
    dropout: &Dropout,
    ctx: &Ctx,
) -> Tensor<4> {
    if !dropout.acts(ctx) {
        return attention(queries, keys, values, weighing);
    }
    let [batch, tokens, heads, width] = queries.dims();
    let [_, seen, key_heads, _] = keys.dims();
    let spread = |x: Tensor<4>| {
        let shape = [batch, key_heads, heads / key_heads, seen, width];
        let x = x.swap_dims(1, 2).unsqueeze_dim::<5>(2).expand(shape);
        x.reshape([batch, heads, seen, width])
    };
    let scale = weighing.scale.unwrap_or((width as f64).sqrt().recip());
    let mut scores = (queries.swap_dims(1, 2) * scale).matmul(spread(keys).swap_dims(2, 3));
    if let Some(mask) = weighing.mask {
        scores = scores + mask;
    }
    if weighing.causal {
        let (device, offset) = (scores.device(), (seen - tokens) as i64);
        let unseen = Tensor::<2, burn::tensor::Bool>::tril_mask([tokens, seen], offset, &device);
        let unseen = unseen.unsqueeze::<4>().expand(scores.dims());
        scores = scores.mask_fill(unseen, f64::NEG_INFINITY);
    }
    let probabilities = dropout.forward(softmax(scores), ctx);
    probabilities.matmul(spread(values)).swap_dims(1, 2)
}
