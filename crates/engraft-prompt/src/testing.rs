//! What the unit tests of this crate share.

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{AnyMethod, Counts, Injection, Method, ModelShapes, Plan, SiteKind};
use engraft_testkit::random;

/// A standard normal matrix in f64.
pub fn draw<const D: usize>(shape: [usize; D], role: &str) -> Tensor<D> {
    random::normal(shape, role, &Device::default(), DType::F64)
}

/// What a method trains on a model of `layers` blocks of this width, keys and values of `cache`.
pub fn counts(config: &impl Method, layers: usize, width: usize, cache: usize) -> Counts {
    let mut shapes = ModelShapes::default();
    shapes.push_site("sites.prompt", SiteKind::Prompt, width);
    for layer in 0..layers {
        shapes.push_site(
            format!("layers.{layer}.sequence"),
            SiteKind::Sequence,
            width,
        );
        shapes.push_site(
            format!("layers.{layer}.key_value"),
            SiteKind::KeyValue,
            cache,
        );
        shapes.push_site(
            format!("layers.{layer}.attended"),
            SiteKind::Attention,
            width,
        );
    }
    let method = AnyMethod::new(config).unwrap();
    Plan::new(&method, &shapes, &Injection::new(1))
        .unwrap()
        .counts()
}
