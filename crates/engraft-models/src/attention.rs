//! Multi-head self-attention.

use burn::module::Module;
use burn::tensor::Tensor;
use engraft_core::{Ctx, Linear, ModelShapes, Part, Site, SiteKind, Slots};
use engraft_tensor::ops::{Weighing, attention};

use crate::init::Start;

/// out_proj(softmax(q k^T / sqrt(d)) v) with q, k, v projections of their own and d = width / heads.
///
/// Vaswani et al., arXiv 1706.03762, section 3.2.2. The site `key_value` sees keys and values,
/// [batch, heads, tokens, d] each.
#[derive(Module, Debug)]
pub struct Attention {
    /// Queries, [width, width].
    pub q_proj: Linear,
    /// Keys, [width, width].
    pub k_proj: Linear,
    /// Values, [width, width].
    pub v_proj: Linear,
    /// Keys and values.
    pub key_value: Site,
    /// Output, [width, width].
    pub out_proj: Linear,
    heads: usize,
}

impl Attention {
    pub(crate) fn new(width: usize, heads: usize, start: &Start) -> Self {
        let linear = |name| start.glorot(name, width, width);
        Self {
            q_proj: linear("q_proj"),
            k_proj: linear("k_proj"),
            v_proj: linear("v_proj"),
            key_value: Site::default(),
            out_proj: linear("out_proj"),
            heads,
        }
    }

    /// Attends within each sequence of [batch, tokens, width].
    pub fn forward(&self, x: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let [batch, tokens, width] = x.dims();
        let split = |y: Tensor<3>| y.reshape([batch, tokens, self.heads, width / self.heads]);
        let q = split(self.q_proj.forward(x.clone(), ctx));
        let k = split(self.k_proj.forward(x.clone(), ctx));
        let v = split(self.v_proj.forward(x, ctx));
        let heads_first = |y: Tensor<4>| y.swap_dims(1, 2);
        let (k, v) = self
            .key_value
            .key_value(heads_first(k), heads_first(v), ctx);
        let attended = attention(q, heads_first(k), heads_first(v), Weighing::default());
        self.out_proj
            .forward(attended.reshape([batch, tokens, width]), ctx)
    }

    pub(crate) fn slots(&mut self, slots: &mut Slots<'_>) {
        slots
            .linear("q_proj", &mut self.q_proj)
            .linear("k_proj", &mut self.k_proj)
            .linear("v_proj", &mut self.v_proj)
            .site("key_value", &mut self.key_value)
            .linear("out_proj", &mut self.out_proj);
    }

    pub(crate) fn push_shapes(shapes: &mut ModelShapes, path: &str, width: usize) {
        for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
            shapes.push_linear(&format!("{path}.{name}"), width, width, true, Part::Body);
        }
        shapes.push_site(format!("{path}.key_value"), SiteKind::KeyValue, width);
    }
}
