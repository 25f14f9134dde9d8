//! What the tests of this family share.

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{
    AnySite, Bank, Ctx, FrozenBase, InitContext, Mode, Site, SiteAdapter, SiteGraft, SiteKind,
    SiteShape,
};
use engraft_tensor::{Init, Key, bridge};

/// N(0, 1) in f64.
pub(crate) fn draw<const D: usize>(shape: [usize; D], role: &str) -> Tensor<D> {
    Init::Normal { std: 1.0 }.tensor(
        shape,
        &Key::new(1).child(role),
        &Device::default(),
        DType::F64,
    )
}

pub(crate) fn entries<const D: usize>(tensor: &Tensor<D>) -> Vec<f64> {
    bridge::values(tensor)
}

/// The largest difference of two tensors.
pub(crate) fn apart<const D: usize>(a: &Tensor<D>, b: &Tensor<D>) -> f64 {
    assert_eq!(a.dims(), b.dims());
    let pairs = entries(a).into_iter().zip(entries(b));
    pairs.fold(0.0, |worst, (a, b)| worst.max((a - b).abs()))
}

/// The feed-forward sublayer of a block.
pub(crate) fn site(width: usize) -> SiteShape {
    SiteShape {
        path: "blocks.3.sites.mlp".to_owned(),
        kind: SiteKind::Sublayer,
        width,
    }
}

/// A fresh adapter of a configuration at [`site`].
pub(crate) fn init<S: SiteGraft>(config: &S, width: usize) -> S::Adapter {
    let (base, bank) = (FrozenBase::new(draw([2, 2], "base"), None), Bank::default());
    let site = site(width);
    let ctx = InitContext::new(7, &site.path, "default", &base, &bank);
    config.init(&site, &ctx).unwrap()
}

/// What an adapter makes of the [stream, input, output] of a sublayer in evaluation.
pub(crate) fn at_sublayer<A: SiteAdapter>(
    adapter: &A,
    [stream, input, output]: [&Tensor<2>; 3],
) -> Tensor<2> {
    let flat = [stream, input, output].map(|x| x.clone().unsqueeze::<3>());
    in_mode(adapter, flat, Mode::Eval).squeeze_dim(0)
}

/// The same for [batch, tokens, width] in any mode.
pub(crate) fn in_mode<A: SiteAdapter>(
    adapter: &A,
    [stream, input, output]: [Tensor<3>; 3],
    mode: Mode,
) -> Tensor<3> {
    let mut place = Site::default();
    let path = &site(0).path;
    place
        .attach(path, "default", AnySite::new(adapter.clone()))
        .unwrap();
    let bank = Bank::default();
    place.normed_sublayer(stream, input, output, &Ctx::new(&bank, mode))
}
