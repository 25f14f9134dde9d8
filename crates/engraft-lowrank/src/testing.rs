//! What the unit tests of this crate share.

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{
    Adapted, Adapter, AnyMethod, Bank, Counts, Ctx, FrozenBase, Graft, InitContext, Injection,
    LayerShape, Method, Mode, ModelShapes, Part, Plan,
};
use engraft_tensor::{Init, Key, bridge};
use engraft_testkit::{Harness, compare, random};

/// Name of the adapter under test.
pub const NAME: &str = "tested";

/// The harness around a layer in f64, with the method attached and its trained parameters moved.
pub fn moved(config: &impl Method, d_in: usize, d_out: usize) -> Adapted<Harness> {
    let layer = LayerShape::linear("block.fc1", d_in, d_out, true);
    let mut adapted = Adapted::new(Harness::new(&layer, 0, &Device::default(), DType::F64));
    let method = AnyMethod::new(config).unwrap();
    adapted.attach(NAME, &method, &Injection::new(1)).unwrap();
    random::perturb_trained(adapted, 0.1, 2)
}

/// Whether both forms of the adapter on `block.fc1` agree on a layer of this shape.
pub fn forms_agree(config: &impl Method, d_in: usize, d_out: usize) -> Result<(), String> {
    let adapted = moved(config, d_in, d_out);
    let (layer, ctx) = (&adapted.model.block.fc1, adapted.ctx(Mode::Eval));
    let x = random::normal([5, d_in], "x", &Device::default(), DType::F64);
    let weight_form = layer.effective(&ctx).map_err(|error| error.to_string())?;
    compare::close(
        "forms",
        &layer.forward(x.clone(), &ctx),
        &weight_form.forward(x),
        d_in + d_out,
    )
}

/// What a method trains on these layers.
pub fn counts(config: &impl Method, layers: &[LayerShape]) -> Counts {
    let mut shapes = ModelShapes::default();
    for layer in layers {
        shapes.push_linear(&layer.path, layer.d_in, layer.d_out, layer.bias, Part::Body);
    }
    let method = AnyMethod::new(config).unwrap();
    Plan::new(&method, &shapes, &Injection::new(1))
        .unwrap()
        .counts()
}

/// The same layers in each of `blocks` blocks.
pub fn blocks(blocks: usize, layers: &[(&str, usize, usize)]) -> Vec<LayerShape> {
    let shape = |block: usize, (name, d_in, d_out): &(&str, usize, usize)| {
        LayerShape::linear(format!("layers.{block}.{name}"), *d_in, *d_out, false)
    };
    (0..blocks)
        .flat_map(|block| layers.iter().map(move |layer| shape(block, layer)))
        .collect()
}

/// Queries and values of Llama-3.2-3B, whose counts PEFT's benchmark publishes.
pub fn llama_3b_qv() -> Vec<LayerShape> {
    blocks(28, &[("q_proj", 3072, 3072), ("v_proj", 3072, 1024)])
}

/// N(0, 1) in f64.
pub(crate) fn normal<const D: usize>(shape: [usize; D], role: &str) -> Tensor<D> {
    Init::Normal { std: 1.0 }.tensor(
        shape,
        &Key::new(1).child(role),
        &Device::default(),
        DType::F64,
    )
}

/// A random layer with a bias, in f64.
pub(crate) fn base([d_in, d_out]: [usize; 2]) -> FrozenBase {
    FrozenBase::new(normal([d_in, d_out], "w"), Some(normal([d_out], "b")))
}

/// The adapter that a configuration makes for `base`.
pub(crate) fn attach<G: Graft>(config: &G, base: &FrozenBase) -> G::Adapter {
    let bank = Bank::default();
    config
        .init(base, &InitContext::new(3, "fc", "default", base, &bank))
        .unwrap()
}

/// The largest difference between activation form and weight form on random tokens.
pub(crate) fn forms_differ(adapter: &impl Adapter, base: &FrozenBase) -> f64 {
    let (x, ctx) = (normal([4, base.d_in()], "x"), Ctx::default());
    let weight_form = adapter.effective(base, &ctx).unwrap().forward(x.clone());
    largest(adapter.forward(x, base, &ctx) - weight_form)
}

/// The largest absolute value.
pub(crate) fn largest<const D: usize>(tensor: Tensor<D>) -> f64 {
    bridge::values(&tensor)
        .into_iter()
        .fold(0.0, |most, value| most.max(value.abs()))
}
