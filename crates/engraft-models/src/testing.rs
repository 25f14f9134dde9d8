//! What every model's tests ask.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{Adaptable, Ctx, LayerShape, SiteAdapter, Slot, Slots, params};

/// The shapes, computed from the configuration, against the parameters, slots and sites there are.
pub(crate) fn agrees_with_its_shapes<M: Adaptable>(mut model: M) {
    let shapes = model.shapes();
    let mut listed: Vec<(String, usize)> = params::list(&model)
        .into_iter()
        .map(|found| (found.path, found.shape.iter().product()))
        .collect();
    let mut stated: Vec<(String, usize)> = shapes
        .params
        .iter()
        .map(|param| (param.path.clone(), param.numel))
        .collect();
    listed.sort();
    stated.sort();
    assert_eq!(listed, stated);

    let (mut layers, mut sites) = (Vec::new(), Vec::new());
    model.slots(&mut Slots::new(&mut |path, slot| match slot {
        Slot::Linear(linear) => layers.push(linear.base().shape(path)),
        Slot::Site(_) => sites.push(path.to_owned()),
    }));
    let plain = |layer: &LayerShape| {
        LayerShape::linear(layer.path.clone(), layer.d_in, layer.d_out, layer.bias)
    };
    assert_eq!(layers, shapes.layers.iter().map(plain).collect::<Vec<_>>());
    assert_eq!(
        sites,
        shapes
            .sites
            .iter()
            .map(|site| site.path.clone())
            .collect::<Vec<_>>()
    );
}

/// Trained tokens in front of the sequence.
#[derive(Module, Debug)]
pub(crate) struct Prompt {
    tokens: Param<Tensor<2>>,
}

impl Prompt {
    pub fn new(tokens: Tensor<2>) -> Self {
        Self {
            tokens: Param::from_tensor(tokens),
        }
    }
}

impl SiteAdapter for Prompt {
    fn extend_sequence(&self, tokens: Tensor<3>, _: &Ctx) -> Tensor<3> {
        let [batch, _, width] = tokens.dims();
        let own = self.tokens.val();
        let count = own.dims()[0];
        Tensor::cat(
            vec![own.unsqueeze::<3>().expand([batch, count, width]), tokens],
            1,
        )
    }
}
