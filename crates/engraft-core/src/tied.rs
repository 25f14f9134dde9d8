//! The output layer that shares an embedding's weight, as a slot of its own.

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param, ParamId,
};
use burn::tensor::{Device, Tensor};

use crate::base::FrozenBase;
use crate::ctx::Ctx;
use crate::embedding::Embedding;
use crate::linear::Linear;

/// y = x E^T + b with E: [vocabulary, width] the weight of an embedding.
///
/// The weight is the embedding's: it is lent, as a view of the same values, whenever the slot is
/// shown ([`lend`](Self::lend)), and is neither a parameter nor a copy. Records have the adapters of
/// this slot only. What adapters of the embedding do to it ([`Adapter::tied`](crate::Adapter::tied))
/// comes on top of what those of this slot do. An adapter that is merged here holds a weight of its
/// own as long as it is.
#[derive(Debug, Clone)]
pub struct TiedLinear {
    linear: Linear,
}

impl TiedLinear {
    /// The output layer of an embedding.
    pub fn new(table: &Embedding) -> Self {
        Self {
            linear: Linear::from_params(nothing(&table.linear), None),
        }
    }

    /// Hidden states [batch, tokens, width] times E^T, [batch, tokens, vocabulary], through the
    /// adapters of this slot.
    pub fn forward(
        &self,
        hidden: Tensor<3>,
        table: &Embedding,
        bias: Option<Tensor<1>>,
        ctx: &Ctx,
    ) -> Tensor<3> {
        let own = self.linear.is_merged() || !self.linear.adapters.active().is_empty();
        let own = own || ctx.rows().is_some() && !self.linear.adapters.is_empty();
        if !own {
            let y = table.tied(hidden, ctx);
            return match bias {
                Some(bias) => y + bias.unsqueeze(),
                None => y,
            };
        }
        let base = base(table, bias);
        let [batch, tokens, width] = hidden.dims();
        let ctx = ctx.of_sequences([batch, tokens]);
        let x = hidden.clone().reshape([batch * tokens, width]);
        let y = self.linear.forward_on(x.clone(), &base, &ctx);
        let y = y.reshape([batch as i64, tokens as i64, -1]);
        if table.linear.adapters.is_empty() {
            return y;
        }
        let plain = FrozenBase::new(base.weight(), None)
            .forward(x)
            .reshape(y.dims());
        y + table.tied(hidden, &ctx) - plain
    }

    /// Shows the slot with the embedding's weight in it.
    pub fn lend(
        &mut self,
        table: &Embedding,
        bias: Option<Tensor<1>>,
        show: impl FnOnce(&mut Linear),
    ) {
        if !self.linear.is_merged() {
            let base = base(table, bias);
            self.linear.weight = frozen(base.weight()).into();
            self.linear.bias = base.bias.map(frozen);
        }
        show(&mut self.linear);
        if !self.linear.is_merged() {
            self.linear.weight = nothing(&table.linear).into();
            self.linear.bias = None;
        }
    }

    /// Weight [width, vocabulary] and bias of the layer as merged adapters, here and in the
    /// embedding, left it; `None` where it is the embedding's weight as it is.
    pub fn diverged(&self, table: &Embedding, bias: Option<Tensor<1>>) -> Option<FrozenBase> {
        let shared = base(table, bias);
        let own = match self.linear.is_merged() {
            true => self.linear.base(),
            false => shared.clone(),
        };
        if !table.linear.is_merged() {
            return self.linear.is_merged().then_some(own);
        }
        let follows = || {
            let mut active = table.linear.adapters.active().into_iter();
            active.all(|(_, one)| one.ties())
        };
        if !self.linear.is_merged() && follows() {
            return None;
        }
        // What the embedding's adapters make of it: the images of the identity's rows.
        let width = shared.d_in();
        let identity = Tensor::<2>::eye(width, &shared.device()).cast(shared.dtype());
        let followed = table.linear.tied(identity, &Ctx::default());
        Some(own.with_weight(own.weight() + followed - shared.weight()))
    }

    /// A plain layer with this weight and bias in the place of this one, adapters included.
    pub fn untied(self, layer: FrozenBase) -> Linear {
        let mut linear = self.linear;
        linear.weight = frozen(layer.weight()).into();
        linear.bias = layer.bias.map(frozen);
        linear
    }
}

/// The layer without the adapters of its slot, and without those of the embedding.
fn base(table: &Embedding, bias: Option<Tensor<1>>) -> FrozenBase {
    FrozenBase::new(table.linear.unmerged_base().weight().transpose(), bias)
}

/// A parameter that is neither trained nor counted.
fn frozen<const D: usize>(value: Tensor<D>) -> Param<Tensor<D>> {
    Param::initialized(ParamId::new(), value.detach())
}

/// The weight of a slot that has none.
fn nothing(like: &Linear) -> Param<Tensor<2>> {
    let like = like.weight.val();
    frozen(Tensor::zeros([0, 0], (&like.device(), like.dtype())))
}

impl Module for TiedLinear {
    fn collect_devices(&self, devices: Devices) -> Devices {
        self.linear.collect_devices(devices)
    }
    fn fork(self, device: &Device) -> Self {
        Self {
            linear: self.linear.fork(device),
        }
    }
    fn to_device(self, device: &Device) -> Self {
        Self {
            linear: self.linear.to_device(device),
        }
    }
    fn train(self) -> Self {
        Self {
            linear: self.linear.train(),
        }
    }
    fn valid(&self) -> Self {
        Self {
            linear: self.linear.valid(),
        }
    }
    fn materialize(self) -> Self {
        Self {
            linear: self.linear.materialize(),
        }
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module("adapters", "Struct:Linear");
        self.linear.adapters.visit(visitor);
        visitor.exit_module("adapters", "Struct:Linear");
    }
    fn map<M: ModuleMapper>(mut self, mapper: &mut M) -> Self {
        mapper.enter_module("adapters", "Struct:Linear");
        self.linear.adapters = std::mem::take(&mut self.linear.adapters).map(mapper);
        mapper.exit_module("adapters", "Struct:Linear");
        self
    }
}

impl ModuleDisplayDefault for TiedLinear {
    fn content(&self, content: Content) -> Option<Content> {
        content
            .set_top_level_type("TiedLinear")
            .add("adapters", &self.linear.adapters)
            .optional()
    }
}

impl ModuleDisplay for TiedLinear {}
