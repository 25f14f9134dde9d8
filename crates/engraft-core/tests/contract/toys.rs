//! The smallest method of each kind.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, AnyAdapter, BankSpec, BaseWeights, Counts, Ctx, Family, FrozenBase, Graft,
    InitContext, Kind, LayerShape, Method, MethodMeta, ModelGraft, ParamShape, Parts, Result,
    Selection, SiteAdapter, SiteGraft, SiteKind, SiteShape, admit_rank,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

/// Declares a configuration without keys, and its `Method`.
macro_rules! method {
    ($config:ident, $meta:expr, $parts:path) => {
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $config {}

        impl Method for $config {
            const META: MethodMeta = $meta;
            fn parts(&self) -> Parts {
                $parts(self.clone())
            }
        }
    };
}
pub(crate) use method;

pub const fn meta(id: &'static str) -> MethodMeta {
    MethodMeta::graft(id, id, Family::Baseline, "", "")
}

fn row(vector: Tensor<1>) -> Tensor<2> {
    vector.unsqueeze()
}

/// W' = W (1 + g): a graft with a rank that means nothing but must fit.
#[derive(Module, Debug)]
pub struct Scale {
    pub g: Param<Tensor<1>>,
    pub c: Option<Param<Tensor<1>>>,
}

impl Adapter for Scale {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let weight = base.weight() * (row(self.g.val()) + 1.0);
        Ok(match &self.c {
            Some(c) => FrozenBase::new(weight, Some(offset(base, c.val()))),
            None => base.with_weight(weight),
        })
    }
}

/// b + c.
fn offset(base: &FrozenBase, c: Tensor<1>) -> Tensor<1> {
    match &base.bias {
        Some(bias) => bias.clone() + c,
        None => c,
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScaleConfig {
    pub rank: usize,
    pub offset: bool,
}

impl Default for ScaleConfig {
    fn default() -> Self {
        Self::of_rank(4)
    }
}

impl ScaleConfig {
    pub fn of_rank(rank: usize) -> Self {
        Self {
            rank,
            offset: false,
        }
    }
}

impl Graft for ScaleConfig {
    type Adapter = Scale;
    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_rank(self.rank, layer.max_rank())
    }
    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(layer.d_out * if self.offset { 2 } else { 1 })
    }
    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Scale> {
        let zeros = |role: &str| Param::from_tensor(ctx.tensor(Init::ZEROS, [base.d_out()], role));
        Ok(Scale {
            g: zeros("g"),
            c: self.offset.then(|| zeros("c")),
        })
    }
}

impl Method for ScaleConfig {
    const META: MethodMeta = meta("scale");
    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }
    fn examples(_: &LayerShape) -> Vec<Self> {
        vec![
            Self::of_rank(1),
            Self {
                offset: true,
                ..Self::of_rank(1)
            },
        ]
    }
}

/// b' = b + c.
#[derive(Module, Debug)]
pub struct Offset {
    c: Param<Tensor<1>>,
}

impl Adapter for Offset {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        Ok(FrozenBase::new(
            base.weight(),
            Some(offset(base, self.c.val())),
        ))
    }
}

method!(
    OffsetConfig,
    MethodMeta {
        changes_bias: true,
        ..meta("offset")
    },
    Parts::graft
);

impl Graft for OffsetConfig {
    type Adapter = Offset;
    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }
    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(layer.d_out)
    }
    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Offset> {
        Ok(Offset {
            c: Param::from_tensor(ctx.tensor(Init::ZEROS, [base.d_out()], "c")),
        })
    }
}

/// W' = W + P D with a frozen random P and a trained D that all layers share.
#[derive(Module, Debug)]
pub struct Shared {
    #[module(skip)]
    p: String,
    #[module(skip)]
    d: String,
}

impl Adapter for Shared {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        Ok(base.with_weight(base.weight() + ctx.shared(&self.p).matmul(ctx.shared(&self.d))))
    }
}

fn shared_banks(layers: &[LayerShape]) -> Vec<BankSpec> {
    let LayerShape { d_in, d_out, .. } = layers[0];
    vec![
        BankSpec::frozen("p", [d_in, 2], Init::Normal { std: 1.0 }),
        BankSpec::trained("d", [2, d_out], Init::ZEROS),
    ]
}

method!(SharedConfig, meta("shared"), Parts::graft);

impl Graft for SharedConfig {
    type Adapter = Shared;
    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }
    fn count(&self, _: &LayerShape) -> Counts {
        Counts::default()
    }
    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        shared_banks(layers)
    }
    fn init(&self, _: &FrozenBase, ctx: &InitContext) -> Result<Shared> {
        Ok(Shared {
            p: ctx.shared_name("p"),
            d: ctx.shared_name("d"),
        })
    }
}

/// The same, coupled: all layers of one shape, or none.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CoupledConfig {}

impl ModelGraft for CoupledConfig {
    fn admits(&self, layers: &[LayerShape]) -> Result<(), String> {
        match layers
            .iter()
            .all(|layer| (layer.d_in, layer.d_out) == (layers[0].d_in, layers[0].d_out))
        {
            true => Ok(()),
            false => Err("layers of several shapes: expected one".to_owned()),
        }
    }
    fn count(&self, layers: &[LayerShape]) -> Counts {
        layers
            .iter()
            .map(|layer| Counts::trained(layer.d_out))
            .sum()
    }
    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        shared_banks(layers)
    }
    fn graft(
        &self,
        layers: &[(LayerShape, FrozenBase)],
        ctx: &InitContext,
    ) -> Result<Vec<AnyAdapter>> {
        let gain = |layer: &LayerShape| {
            Param::from_tensor(ctx.tensor(Init::ONES, [layer.d_out], &layer.path))
        };
        Ok(layers
            .iter()
            .map(|(layer, _)| {
                AnyAdapter::new(Coupled {
                    g: gain(layer),
                    shared: Shared {
                        p: ctx.shared_name("p"),
                        d: ctx.shared_name("d"),
                    },
                })
            })
            .collect())
    }
}

/// W' = W + P D diag(g).
#[derive(Module, Debug)]
pub struct Coupled {
    g: Param<Tensor<1>>,
    shared: Shared,
}

impl Adapter for Coupled {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        let update = ctx
            .shared(&self.shared.p)
            .matmul(ctx.shared(&self.shared.d))
            * row(self.g.val());
        Ok(base.with_weight(base.weight() + update))
    }
}

impl Method for CoupledConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::ModelGraft],
        ..meta("coupled")
    };
    fn parts(&self) -> Parts {
        Parts::model(self.clone())
    }
}

/// output + c . input.
#[derive(Module, Debug)]
pub struct Shift {
    c: Param<Tensor<1>>,
}

impl SiteAdapter for Shift {
    fn wrap(&self, input: Tensor<2>, output: Tensor<2>, _: &Ctx) -> Tensor<2> {
        output + input * row(self.c.val())
    }
}

method!(
    ShiftConfig,
    MethodMeta {
        kinds: &[Kind::Site],
        mergeable: false,
        ..meta("shift")
    },
    Parts::site
);

impl SiteGraft for ShiftConfig {
    type Adapter = Shift;
    const SITES: &'static [SiteKind] = &[SiteKind::Hidden, SiteKind::Sublayer];
    fn admits(&self, _: &SiteShape) -> Result<(), String> {
        Ok(())
    }
    fn count(&self, site: &SiteShape) -> Counts {
        Counts::trained(site.width)
    }
    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<Shift> {
        Ok(Shift {
            c: Param::from_tensor(ctx.tensor(Init::ZEROS, [site.width], "c")),
        })
    }
}

method!(
    BiasesConfig,
    MethodMeta {
        kinds: &[Kind::Selection],
        base: BaseWeights::Selected,
        ..meta("biases")
    },
    Parts::selection
);

impl Selection for BiasesConfig {
    fn selects(&self, param: &ParamShape) -> bool {
        param.bias
    }
}

/// A graft and a site adapter in one.
fn both(config: BothConfig) -> Parts {
    let BothConfig {} = config;
    Parts::graft(ScaleConfig::of_rank(1)).and(Parts::site(ShiftConfig {}))
}

method!(
    BothConfig,
    MethodMeta {
        kinds: &[Kind::Graft, Kind::Site],
        mergeable: false,
        ..meta("both")
    },
    both
);
