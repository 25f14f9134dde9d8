//! The suite finds what a method declares wrongly.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, AtInit, Counts, Ctx, FrozenBase, Graft, InitContext, LayerShape, Method, MethodEntry,
    MethodMeta, Parts, Result,
};
use engraft_tensor::Init;
use engraft_testkit::contract;
use serde::{Deserialize, Serialize};

use crate::toys::{meta, method};

/// W' = W (1 + g), with whatever is wrong.
#[derive(Module, Debug)]
pub struct Gain {
    g: Param<Tensor<1>>,
    #[module(skip)]
    detached: bool,
    #[module(skip)]
    forms_differ: bool,
}

impl Adapter for Gain {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        Ok(base.with_weight(base.weight() * (self.g.val().unsqueeze() + 1.0)))
    }
    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let g: Tensor<2> = self.g.val().unsqueeze();
        // The value of g twice, its derivative once.
        let g = if self.detached {
            g.clone() + g.detach()
        } else {
            g
        };
        let gain = g * if self.detached { 0.5 } else { 1.0 } + 1.0;
        let gain = if self.forms_differ {
            gain.clone() * gain
        } else {
            gain
        };
        base.add_bias(x.matmul(base.weight()) * gain)
    }
}

macro_rules! liar {
    ($config:ident, $meta:expr, start: $start:expr, count: $count:expr, detached: $detached:expr, forms_differ: $differ:expr) => {
        method!($config, $meta, Parts::graft);
        impl Graft for $config {
            type Adapter = Gain;
            fn admits(&self, _: &LayerShape) -> Result<(), String> {
                Ok(())
            }
            fn count(&self, layer: &LayerShape) -> Counts {
                Counts::trained(layer.d_out + $count)
            }
            fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Gain> {
                let g = Param::from_tensor(ctx.tensor($start, [base.d_out()], "g"));
                Ok(Gain {
                    g,
                    detached: $detached,
                    forms_differ: $differ,
                })
            }
        }
    };
}

const ZERO: Init = Init::ZEROS;
const AWAY: Init = Init::Constant(0.5);
liar!(Honest, meta("honest"), start: ZERO, count: 0, detached: false, forms_differ: false);
liar!(NotIdentity, meta("not-identity"), start: AWAY, count: 0, detached: false, forms_differ: false);
liar!(Bounded, MethodMeta { at_init: AtInit::Bounded(0.4), ..meta("bounded") }, start: AWAY, count: 0, detached: false, forms_differ: false);
liar!(Identity, MethodMeta { at_init: AtInit::NotIdentity, ..meta("identity") }, start: ZERO, count: 0, detached: false, forms_differ: false);
liar!(Miscounted, meta("miscounted"), start: ZERO, count: 1, detached: false, forms_differ: false);
liar!(HalfGradient, meta("half-gradient"), start: ZERO, count: 0, detached: true, forms_differ: false);
liar!(TwoForms, meta("two-forms"), start: ZERO, count: 0, detached: false, forms_differ: true);
liar!(Unmergeable, MethodMeta { mergeable: false, ..meta("unmergeable") }, start: ZERO, count: 0, detached: false, forms_differ: false);

fn checks(entry: MethodEntry) -> Vec<&'static str> {
    let mut checks: Vec<_> = contract::violations(&entry)
        .into_iter()
        .map(|violation| violation.check)
        .collect();
    checks.dedup();
    checks.sort();
    checks.dedup();
    checks
}

#[test]
fn each_false_declaration_is_found_by_its_check() {
    assert_eq!(checks(MethodEntry::of::<Honest>()), Vec::<&str>::new());
    assert_eq!(checks(MethodEntry::of::<NotIdentity>()), ["at init"]);
    assert_eq!(checks(MethodEntry::of::<Bounded>()), ["at init"]);
    assert_eq!(checks(MethodEntry::of::<Identity>()), ["at init"]);
    assert_eq!(checks(MethodEntry::of::<Miscounted>()), ["counted"]);
    assert_eq!(checks(MethodEntry::of::<HalfGradient>()), ["gradients"]);
    assert_eq!(
        checks(MethodEntry::of::<TwoForms>()),
        ["forms", "merging", "quantised"]
    );
    assert_eq!(checks(MethodEntry::of::<Unmergeable>()), ["merging"]);
}
