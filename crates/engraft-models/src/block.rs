//! The pre-norm transformer block.

use burn::module::Module;
use burn::tensor::Tensor;
use engraft_core::{Ctx, ModelShapes, Site, SiteKind, Slots};

use crate::attention::Attention;
use crate::feed_forward::FeedForward;
use crate::init::Start;
use crate::layer_norm::LayerNorm;
use crate::vit_config::VitConfig;

/// The sites of a block. The name of a site is its role: methods that choose by sublayer look for
/// paths that end in `.attention` and `.mlp`.
#[derive(Module, Debug, Default)]
pub struct BlockSites {
    /// The sequence that enters the block.
    pub sequence: Site,
    /// Around the attention, between its norm and the residual sum.
    pub attention: Site,
    /// Around the feed-forward sublayer, between its norm and the residual sum.
    pub mlp: Site,
    /// The hidden states that leave the block.
    pub output: Site,
}

/// h = x + attention(norm1(x)); y = h + mlp(norm2(h)).
#[derive(Module, Debug)]
pub struct Block {
    /// Before the attention.
    pub norm1: LayerNorm,
    /// Self-attention.
    pub attention: Attention,
    /// Before the feed-forward sublayer.
    pub norm2: LayerNorm,
    /// Feed-forward sublayer.
    pub mlp: FeedForward,
    /// Sites.
    pub sites: BlockSites,
}

impl Block {
    pub(crate) fn new(config: &VitConfig, start: &Start) -> Self {
        Self {
            norm1: LayerNorm::new(config.width, config.epsilon, &start.child("norm1")),
            attention: Attention::new(config.width, config.heads, &start.child("attention")),
            norm2: LayerNorm::new(config.width, config.epsilon, &start.child("norm2")),
            mlp: FeedForward::new(config.width, config.mlp_width, &start.child("mlp")),
            sites: BlockSites::default(),
        }
    }

    /// The sequence with this block's own leading tokens, if its `sequence` site has any, in place
    /// of the `lead` that an earlier block left; and how many now lead.
    pub(crate) fn enter(&self, x: Tensor<3>, lead: usize, ctx: &Ctx) -> (Tensor<3>, usize) {
        if !self.sites.sequence.acts(ctx) {
            return (x, lead);
        }
        let own = without_lead(x, lead);
        let tokens = own.dims()[1];
        let extended = self.sites.sequence.sequence(own, ctx);
        let lead = extended.dims()[1] - tokens;
        (extended, lead)
    }

    /// Applies the block to [batch, tokens, width].
    pub fn forward(&self, x: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let input = self.norm1.forward(x.clone(), ctx);
        let output = self.attention.forward(input.clone(), ctx);
        let attention = &self.sites.attention;
        let h = x.clone() + attention.normed_sublayer(x, input, output, ctx);
        let input = self.norm2.forward(h.clone(), ctx);
        let output = self.mlp.forward(input.clone(), ctx);
        let mlp = &self.sites.mlp;
        let y = h.clone() + mlp.normed_sublayer(h, input, output, ctx);
        self.sites.output.hidden(y, ctx)
    }

    pub(crate) fn slots(&mut self, slots: &mut Slots<'_>) {
        let Self {
            norm1,
            attention,
            norm2,
            mlp,
            sites,
        } = self;
        slots
            .within("sites", |slots| {
                slots.site("sequence", &mut sites.sequence);
            })
            .within("norm1", |slots| norm1.slots(slots))
            .within("attention", |slots| attention.slots(slots))
            .within("sites", |slots| {
                slots.site("attention", &mut sites.attention);
            })
            .within("norm2", |slots| norm2.slots(slots))
            .within("mlp", |slots| mlp.slots(slots))
            .within("sites", |slots| {
                slots.site("mlp", &mut sites.mlp);
                slots.site("output", &mut sites.output);
            });
    }

    pub(crate) fn push_shapes(shapes: &mut ModelShapes, path: &str, config: &VitConfig) {
        shapes.push_site(
            format!("{path}.sites.sequence"),
            SiteKind::Sequence,
            config.width,
        );
        LayerNorm::push_shapes(shapes, &format!("{path}.norm1"), config.width);
        Attention::push_shapes(shapes, &format!("{path}.attention"), config.width);
        shapes.push_site(
            format!("{path}.sites.attention"),
            SiteKind::Sublayer,
            config.width,
        );
        LayerNorm::push_shapes(shapes, &format!("{path}.norm2"), config.width);
        FeedForward::push_shapes(
            shapes,
            &format!("{path}.mlp"),
            config.width,
            config.mlp_width,
        );
        shapes.push_site(
            format!("{path}.sites.mlp"),
            SiteKind::Sublayer,
            config.width,
        );
        shapes.push_site(
            format!("{path}.sites.output"),
            SiteKind::Hidden,
            config.width,
        );
    }
}

/// The sequence without its first `lead` tokens.
pub(crate) fn without_lead(x: Tensor<3>, lead: usize) -> Tensor<3> {
    let tokens = x.dims()[1];
    if lead == 0 {
        x
    } else {
        x.narrow(1, lead, tokens - lead)
    }
}
