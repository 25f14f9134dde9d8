//! Attention layers in front of a [`crate::Harness`], for adapters that act on tokens, keys and values.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use engraft_core::{
    AttentionView, Ctx, Embedding, LayerKind, LayerShape, ModelShapes, Part, Site, SiteKind, Slots,
};
use engraft_tensor::ops::{self, Weighing, attention};
use engraft_tensor::{Init, Key};

use crate::harness::rounded;

/// Words of the vocabulary.
const WORDS: usize = 5;
/// Layers.
const LAYERS: usize = 2;

/// x + embedded words, with two layers h + softmax(Q K^T / sqrt(d)) V O behind one another.
///
/// Word t modulo the vocabulary is added to token t. What sites put in front of the sequence is
/// dropped behind the last layer.
#[derive(Module, Debug)]
pub struct Front {
    /// Word embeddings, [5, width].
    pub words: Embedding,
    /// Where embedded tokens enter.
    pub prompt: Site,
    /// The layers.
    pub layers: Vec<Layer>,
}

/// An attention layer of a [`Front`]: two heads, or one where the width is odd.
#[derive(Module, Debug)]
pub struct Layer {
    /// Q, K, V and O, [width, width] each.
    pub projections: Vec<Param<Tensor<2>>>,
    /// Where the sequence enters.
    pub sequence: Site,
    /// Keys and values.
    pub key_value: Site,
    /// What the layer returns.
    pub attended: Site,
}

impl Front {
    /// Layers for tokens of this width, weights from the streams of `key`.
    pub fn new(width: usize, key: &Key, device: &Device, dtype: DType) -> Self {
        let draw = |shape: [usize; 2], name: &str| {
            let std = (width as f64).sqrt().recip();
            rounded(Init::Normal { std }, shape, &key.child(name), device, dtype)
        };
        let layer = |layer: usize| Layer {
            projections: (0..4)
                .map(|index| draw([width, width], &format!("{layer}.{index}")))
                .map(Param::from_tensor)
                .collect(),
            sequence: Site::default(),
            key_value: Site::default(),
            attended: Site::default(),
        };
        Self {
            words: Embedding::new(draw([WORDS, width], "words")),
            prompt: Site::default(),
            layers: (0..LAYERS).map(layer).collect(),
        }
    }

    /// x: [batch, tokens, width] to the same.
    pub fn forward(&self, x: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let [batch, tokens, _] = x.dims();
        let ids = (0..batch * tokens).map(|index| (index % tokens % WORDS) as i64);
        let ids = TensorData::new(ids.collect::<Vec<_>>(), [batch, tokens]);
        let ids = Tensor::<2, Int>::from_data(ids, &x.device());
        let x = self.prompt.sequence(x + self.words.forward(ids, ctx), ctx);
        let last = |x: Tensor<3>, count: usize| {
            let lead = x.dims()[1] - count;
            x.narrow(1, lead, count)
        };
        // A layer's own leading tokens take the place of those of the layer before.
        let entered = x.dims()[1];
        let x = self.layers.iter().fold(x, |x, layer| {
            let x = match layer.sequence.adapters.active().is_empty() {
                true => x,
                false => layer.sequence.sequence(last(x, entered), ctx),
            };
            layer.forward(x, ctx)
        });
        last(x, tokens)
    }

    pub(crate) fn shapes(&self, shapes: &mut ModelShapes, width: usize) {
        shapes.push_param("front.words.weight", WORDS * width, Part::Embedding, false);
        let words = LayerShape::linear("front.words", WORDS, width, false);
        shapes.push_layer(LayerKind::Embedding, words);
        shapes.push_site("front.prompt", SiteKind::Prompt, width);
        for index in 0..self.layers.len() {
            let path = |field: &str| format!("front.layers.{index}.{field}");
            for projection in 0..4 {
                let path = path(&format!("projections.{projection}"));
                shapes.push_param(path, width * width, Part::Body, false);
            }
            shapes.push_site(path("sequence"), SiteKind::Sequence, width);
            shapes.push_site(path("key_value"), SiteKind::KeyValue, width);
            shapes.push_site(path("attended"), SiteKind::Attention, width);
        }
    }

    pub(crate) fn slots(&mut self, slots: &mut Slots<'_>) {
        slots.linear("words", &mut self.words.linear);
        slots.site("prompt", &mut self.prompt);
        for (index, layer) in self.layers.iter_mut().enumerate() {
            slots.within("layers", |slots| {
                slots.within(&index.to_string(), |slots| {
                    slots.site("sequence", &mut layer.sequence);
                    slots.site("key_value", &mut layer.key_value);
                    slots.site("attended", &mut layer.attended);
                });
            });
        }
    }
}

impl Layer {
    /// Tokens [batch, tokens, width] times a projection.
    fn times(&self, x: Tensor<3>, projection: usize) -> Tensor<3> {
        let dims = x.dims();
        let y = ops::matmul(x.flatten(0, 1), self.projections[projection].val());
        y.reshape(dims)
    }

    fn forward(&self, hidden: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let width = hidden.dims()[2];
        let heads = if width.is_multiple_of(2) { 2 } else { 1 };
        let head = width / heads;
        let project = |x: Tensor<3>, projection: usize| {
            let [batch, tokens, _] = x.dims();
            self.times(x, projection)
                .reshape([batch, tokens, heads, head])
        };
        let queries = project(hidden.clone(), 0);
        let heads_first = |x: Tensor<4>| x.swap_dims(1, 2);
        let (keys, values) = self.key_value.key_value(
            heads_first(project(hidden.clone(), 1)),
            heads_first(project(hidden.clone(), 2)),
            ctx,
        );
        let (keys, values) = (heads_first(keys), heads_first(values));
        let output = |attended: Tensor<4>| self.times(attended.flatten::<3>(2, 3), 3);
        let y = output(attention(
            queries.clone(),
            keys,
            values,
            Weighing::default(),
        ));
        let view = AttentionView {
            queries: &queries,
            project: &|x| (project(x.clone(), 1), project(x, 2)),
            output: &output,
        };
        hidden + self.attended.attend(y, &view, ctx)
    }
}
