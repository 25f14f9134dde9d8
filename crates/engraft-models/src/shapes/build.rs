//! What all architectures are made of.

use engraft_core::{LayerKind, LayerShape, ModelShapes, Part, SiteKind};

pub(super) trait Build {
    /// A table of `rows` vectors, which is a slot.
    fn embedding(&mut self, path: &str, rows: usize, width: usize);

    /// A norm with a gain and, if `bias`, an offset.
    fn norm(&mut self, path: &str, width: usize, bias: bool);

    /// A linear layer of the body.
    fn linear(&mut self, path: &str, d_in: usize, d_out: usize, bias: bool);

    /// A linear layer of the task head.
    fn output(&mut self, path: &str, d_in: usize, d_out: usize, bias: bool);

    /// The site of the embedded tokens of the model whose paths start with `model`.
    fn prompt_site(&mut self, model: &str, width: usize);

    /// The sites of a block whose self-attention is at `attention`.
    fn block_sites(&mut self, block: &str, attention: &str, width: usize, key_value: usize) {
        self.attention_sites(block, attention, width, key_value);
        self.sublayer_sites(block, width);
    }

    /// The sites of a block up to what its self-attention returns.
    fn attention_sites(&mut self, block: &str, attention: &str, width: usize, key_value: usize);

    /// The sites of a block around its sublayers.
    fn sublayer_sites(&mut self, block: &str, width: usize);
}

impl Build for ModelShapes {
    fn embedding(&mut self, path: &str, rows: usize, width: usize) {
        self.push_param(
            format!("{path}.weight"),
            rows * width,
            Part::Embedding,
            false,
        );
        self.push_layer(
            LayerKind::Embedding,
            LayerShape::linear(path, rows, width, false),
        );
    }

    fn norm(&mut self, path: &str, width: usize, bias: bool) {
        self.push_param(format!("{path}.weight"), width, Part::Norm, false);
        if bias {
            self.push_param(format!("{path}.bias"), width, Part::Norm, true);
        }
        self.push_site(format!("{path}.output"), SiteKind::Hidden, width);
    }

    fn linear(&mut self, path: &str, d_in: usize, d_out: usize, bias: bool) {
        self.push_linear(path, d_in, d_out, bias, Part::Body);
    }

    fn output(&mut self, path: &str, d_in: usize, d_out: usize, bias: bool) {
        self.push_linear(path, d_in, d_out, bias, Part::Head);
    }

    fn prompt_site(&mut self, model: &str, width: usize) {
        self.push_site(format!("{model}sites.prompt"), SiteKind::Prompt, width);
    }

    fn attention_sites(&mut self, block: &str, attention: &str, width: usize, key_value: usize) {
        self.push_site(format!("{block}.sites.sequence"), SiteKind::Sequence, width);
        self.push_site(
            format!("{attention}.key_value"),
            SiteKind::KeyValue,
            key_value,
        );
        self.push_site(format!("{attention}.attended"), SiteKind::Attention, width);
    }

    fn sublayer_sites(&mut self, block: &str, width: usize) {
        self.push_site(
            format!("{block}.sites.attention"),
            SiteKind::Sublayer,
            width,
        );
        self.push_site(format!("{block}.sites.mlp"), SiteKind::Sublayer, width);
    }
}
