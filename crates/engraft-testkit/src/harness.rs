//! The model that methods are attached to.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor};
use engraft_core::{
    Adaptable, Ctx, LayerShape, Linear, ModelShapes, Part, Relay, Site, SiteKind, Slots, Text,
};
use engraft_tensor::{Init, Key};

use crate::Front;

/// Outputs of the head.
const CLASSES: usize = 3;

/// One block with residual sums around two sublayers, and a head:
///
/// e = embedding(x), u = fc2(e), h = u + attention(u, tanh(fc1(e))), n = norm(gamma . h + beta),
/// y = head(output(h + mlp(n, tanh(n)))),
///
/// where `attention` and `mlp` are sublayer sites, `embedding`, `norm` and `output` hidden sites.
/// Both layers have the shape under test, so that a configuration fits both and banks are really
/// shared; every function is smooth, so that central differences converge; no width degenerates at 1.
///
/// With a [`Front`], x has gone through its attention layers.
///
/// # Shapes
/// - x: [batch, tokens, d_in]
/// - y: [batch, tokens, 3]
#[derive(Module, Debug)]
pub struct Harness {
    /// Layers in front of the block.
    pub front: Option<Front>,
    /// The embedded tokens.
    pub embedding: Site,
    /// The block.
    pub block: Block,
    /// The task head.
    pub head: Linear,
}

/// The block of a [`Harness`].
#[derive(Module, Debug)]
pub struct Block {
    /// Layer under the nonlinearity.
    pub fc1: Linear,
    /// Layer on the residual stream.
    pub fc2: Linear,
    /// Gain and offset.
    pub norm: Norm,
    /// Named sites.
    pub sites: Sites,
}

/// Gain and offset of a normalisation, without the division (a width of 1 would be all zeros).
#[derive(Module, Debug)]
pub struct Norm {
    /// Gain, `[width]`.
    pub gamma: Param<Tensor<1>>,
    /// Offset, `[width]`.
    pub beta: Param<Tensor<1>>,
}

/// The sites of a [`Block`].
#[derive(Module, Debug, Default)]
pub struct Sites {
    /// Around the first sublayer.
    pub attention: Site,
    /// Around the second sublayer.
    pub mlp: Site,
    /// After the norm.
    pub norm: Site,
    /// After the block.
    pub output: Site,
}

impl Harness {
    /// The model whose layers are like `layer`, its weights from the streams of `seed`. Weights are
    /// rounded to f32 in every precision: an f64 model computes with the same numbers.
    pub fn new(layer: &LayerShape, seed: u64, device: &Device, dtype: DType) -> Self {
        let key = Key::new(seed).child("harness");
        let (d_in, d_out) = (layer.d_in, layer.d_out);
        let linear = |name: &str, inputs: usize, outputs: usize, bias: bool| {
            let std = (inputs as f64).sqrt().recip();
            let key = key.child(name);
            Linear::from_tensors(
                rounded(
                    Init::Normal { std },
                    [inputs, outputs],
                    &key.child("weight"),
                    device,
                    dtype,
                ),
                bias.then(|| {
                    rounded(
                        Init::Normal { std },
                        [outputs],
                        &key.child("bias"),
                        device,
                        dtype,
                    )
                }),
            )
        };
        let gain = rounded(
            Init::Normal { std: 0.1 },
            [d_out],
            &key.child("gamma"),
            device,
            dtype,
        ) + 1.0;
        let norm = Norm {
            gamma: Param::from_tensor(gain.cast(DType::F32).cast(dtype)),
            beta: Param::from_tensor(rounded(
                Init::Normal { std: 0.1 },
                [d_out],
                &key.child("beta"),
                device,
                dtype,
            )),
        };
        let block = Block {
            fc1: linear("fc1", d_in, d_out, layer.bias),
            fc2: linear("fc2", d_in, d_out, layer.bias),
            norm,
            sites: Sites::default(),
        };
        Self {
            front: None,
            embedding: Site::default(),
            block,
            head: linear("head", d_out, CLASSES, true),
        }
    }

    /// The same model with attention layers in front of the block, from the streams of `seed`.
    pub fn with_front(self, seed: u64) -> Self {
        let weight = self.block.fc1.weight.val();
        let key = Key::new(seed).child("front");
        let front = Front::new(weight.dims()[0], &key, &weight.device(), weight.dtype());
        Self {
            front: Some(front),
            ..self
        }
    }

    /// x: [batch, tokens, d_in] to y: [batch, tokens, 3]. To those who ask, every row is the text
    /// 0, 1, 2 ...
    pub fn forward(&self, x: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let [batch, tokens, _] = x.dims();
        let ids = Tensor::<1, Int>::arange(0..tokens as i64, &x.device());
        let text = Text::new(ids.unsqueeze_dim::<2>(0).expand([batch, tokens]));
        let relay = Relay::default();
        let ctx = &ctx.with_text(&text).with_relay(&relay);
        let Block {
            fc1,
            fc2,
            norm,
            sites,
        } = &self.block;
        let x = match &self.front {
            Some(front) => front.forward(x, ctx),
            None => x,
        };
        let ctx = &ctx.with_grid([1, x.dims()[1]]);
        let x = self.embedding.hidden(x, ctx);
        let stream = fc2.forward(x.clone(), ctx);
        let first = fc1.forward(x, ctx).tanh();
        let hidden = stream.clone() + sites.attention.sublayer(stream, first, ctx);
        let normed = hidden.clone() * norm.gamma.val().unsqueeze() + norm.beta.val().unsqueeze();
        let normed = sites.norm.hidden(normed, ctx);
        let second = normed.clone().tanh();
        let second = sites
            .mlp
            .normed_sublayer(hidden.clone(), normed, second, ctx);
        self.head
            .forward(sites.output.hidden(hidden + second, ctx), ctx)
    }
}

pub(crate) fn rounded<const D: usize>(
    init: Init,
    shape: [usize; D],
    key: &Key,
    device: &Device,
    dtype: DType,
) -> Tensor<D> {
    init.tensor(shape, key, device, DType::F32).cast(dtype)
}

impl Adaptable for Harness {
    fn shapes(&self) -> ModelShapes {
        let Block { fc1, fc2, .. } = &self.block;
        let [d_in, d_out] = fc1.weight.dims();
        let mut shapes = ModelShapes::default();
        if let Some(front) = &self.front {
            front.shapes(&mut shapes, d_in);
        }
        shapes.push_site("embedding", SiteKind::Hidden, d_in);
        shapes.push_linear("block.fc1", d_in, d_out, fc1.bias.is_some(), Part::Body);
        shapes.push_linear("block.fc2", d_in, d_out, fc2.bias.is_some(), Part::Body);
        shapes.push_param("block.norm.gamma", d_out, Part::Norm, false);
        shapes.push_param("block.norm.beta", d_out, Part::Norm, true);
        shapes.push_site("block.sites.attention", SiteKind::Sublayer, d_out);
        shapes.push_site("block.sites.norm", SiteKind::Hidden, d_out);
        shapes.push_site("block.sites.mlp", SiteKind::Sublayer, d_out);
        shapes.push_site("block.sites.output", SiteKind::Hidden, d_out);
        shapes.push_linear("head", d_out, CLASSES, true, Part::Head);
        shapes
    }

    fn slots(&mut self, slots: &mut Slots<'_>) {
        let Block {
            fc1, fc2, sites, ..
        } = &mut self.block;
        if let Some(front) = &mut self.front {
            slots.within("front", |slots| front.slots(slots));
        }
        slots.site("embedding", &mut self.embedding);
        slots.within("block", |slots| {
            slots.linear("fc1", fc1).linear("fc2", fc2);
            slots.within("sites", |slots| {
                slots.site("attention", &mut sites.attention);
                slots.site("norm", &mut sites.norm);
                slots.site("mlp", &mut sites.mlp);
                slots.site("output", &mut sites.output);
            });
        });
        slots.linear("head", &mut self.head);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_it_states_are_those_of_its_record() {
        let layer = LayerShape::linear("x", 5, 4, true);
        let harness = Harness::new(&layer, 0, &Device::default(), DType::F32).with_front(0);
        let mut stated: Vec<(String, usize)> = harness
            .shapes()
            .params
            .into_iter()
            .map(|param| (param.path, param.numel))
            .collect();
        let mut real: Vec<(String, usize)> = engraft_core::params::list(&harness)
            .into_iter()
            .map(|found| (found.path, found.shape.iter().product()))
            .collect();
        stated.sort();
        real.sort();
        assert_eq!(stated, real);
    }
}
