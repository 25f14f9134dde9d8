//! The slot: a linear layer that adapters can be grafted onto.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use engraft_tensor::{Init, Key};

use crate::adapter::AnyAdapter;
use crate::base::FrozenBase;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::input::Input;
use crate::lookup::Lookup;
use crate::named::Named;
use crate::set::AdapterSet;
use crate::weight::Weight;

/// y = x W + b with the record keys of Burn's `Linear`, plus a set of adapters.
///
/// # Shapes
/// - input: [..., d_in]; leading dimensions are flattened to tokens
/// - output: [..., d_out]
#[derive(Module, Debug)]
pub struct Linear {
    /// W, [d_in, d_out].
    pub weight: Weight<Param<Tensor<2>>>,
    /// b, `[d_out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// The adapters.
    pub adapters: AdapterSet<AnyAdapter>,
    /// The bases that adapters brought along, by name. Plain tensors: they move with the module
    /// but are not part of its record, because `Adapter::rebase` computes them again.
    rebased: Named<FrozenBase>,
    /// The unmerged layer, while an adapter is merged into `weight`.
    unmerged: Option<FrozenBase>,
    /// Path of this layer in its model, known once it was adapted.
    #[module(skip)]
    path: String,
}

impl Linear {
    /// A layer from its weight [d_in, d_out] and bias `[d_out]`.
    pub fn from_tensors(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Self {
        Self::from_params(Param::from_tensor(weight), bias.map(Param::from_tensor))
    }

    /// A layer from a weight of either kind and a bias `[d_out]`.
    pub fn from_weight(
        weight: impl Into<Weight<Param<Tensor<2>>>>,
        bias: Option<Tensor<1>>,
    ) -> Self {
        Self::from_params(weight, bias.map(Param::from_tensor))
    }

    pub(crate) fn from_params(
        weight: impl Into<Weight<Param<Tensor<2>>>>,
        bias: Option<Param<Tensor<1>>>,
    ) -> Self {
        Self {
            weight: weight.into(),
            bias,
            adapters: AdapterSet::default(),
            rebased: Named::default(),
            unmerged: None,
            path: String::new(),
        }
    }

    /// A fresh layer, weight and bias U(-1/sqrt(d_in), 1/sqrt(d_in)) as in PyTorch, from the streams of `key`.
    pub fn new(
        d_in: usize,
        d_out: usize,
        bias: bool,
        key: &Key,
        device: &Device,
        dtype: DType,
    ) -> Self {
        let init = Init::KaimingUniform { fan_in: d_in };
        Self::from_tensors(
            init.tensor([d_in, d_out], &key.child("weight"), device, dtype),
            bias.then(|| init.tensor([d_out], &key.child("bias"), device, dtype)),
        )
    }

    /// The layer without its adapters.
    pub fn base(&self) -> FrozenBase {
        FrozenBase::new(
            self.weight.view(),
            self.bias.as_ref().map(|bias| bias.val()),
        )
    }

    /// Applies the layer and its active adapters.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, ctx: &Ctx) -> Tensor<D> {
        let mut dims = x.dims();
        let d_in = dims[D - 1];
        let tokens: usize = dims[..D - 1].iter().product();
        let batch = if D > 2 { dims[0] } else { tokens };
        let ctx = ctx.of_sequences([batch, tokens / batch.max(1)]);
        let y = self.forward_tokens(x.reshape([tokens, d_in]), &ctx);
        dims[D - 1] = y.dims()[1];
        y.reshape(dims)
    }

    /// y [tokens, d_out] for one row index of W per token: the layer as an embedding.
    pub fn lookup(&self, rows: Lookup, ctx: &Ctx) -> Tensor<2> {
        self.apply(Input::Rows(rows), ctx)
    }

    /// y [tokens, d_out] for tokens x [tokens, d_in].
    pub(crate) fn forward_tokens(&self, x: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        ctx.observe(&self.path, &x);
        self.apply(Input::Tokens(x), ctx)
    }

    /// y [tokens, d_out] for tokens x [tokens, d_in], with this base in the place of the layer's own
    /// while nothing is merged into that.
    pub(crate) fn forward_on(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        ctx.observe(&self.path, &x);
        match self.is_merged() {
            true => self.base().forward(x),
            false => self.adapted(Input::Tokens(x), base, ctx),
        }
    }

    /// The layer without its adapters, merged ones included.
    pub(crate) fn unmerged_base(&self) -> FrozenBase {
        self.unmerged.clone().unwrap_or_else(|| self.base())
    }

    /// y [tokens, d_in] for tokens x [tokens, d_out]: the output layer that shares this embedding's
    /// weight, x W^T. Merged adapters count by what they do to it, not by the merged weight.
    pub(crate) fn tied(&self, x: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        self.adapted(Input::Tied(x), &self.unmerged_base(), ctx)
    }

    fn apply(&self, input: Input, ctx: &Ctx) -> Tensor<2> {
        let base = self.base();
        if !self.is_adapting() {
            return input.through(&base);
        }
        self.adapted(input, &base, ctx)
    }

    fn adapted(&self, input: Input, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let ctx = ctx.at(&self.path);
        match ctx.rows() {
            Some(rows) => self.mixed(rows, &input, base, &ctx.without_rows()),
            None => self.composed(self.adapters.setup(), &input, base, &ctx),
        }
    }

    /// Whether adapters act beside the weight.
    pub(crate) fn is_adapting(&self) -> bool {
        !self.adapters.is_empty() && self.unmerged.is_none()
    }

    /// The base that the adapter `name` acts on: its own, or the given one.
    pub(crate) fn base_of<'a>(&'a self, name: &str, base: &'a FrozenBase) -> &'a FrozenBase {
        self.rebased.get(name).unwrap_or(base)
    }

    /// Whether the adapter `name` brought a base along.
    pub(crate) fn has_own_base(&self, name: &str) -> bool {
        self.rebased.get(name).is_some()
    }

    /// The weight form of the active adapters together.
    ///
    /// # Errors
    /// If one of them has no weight form.
    pub fn effective(&self, ctx: &Ctx) -> Result<FrozenBase> {
        self.layer_of(self.adapters.setup(), &self.base(), &ctx.at(&self.path))
    }

    /// The weight form of the adapter called `name`, active or not.
    ///
    /// # Errors
    /// If there is none of that name, or it has no weight form.
    pub fn effective_of(&self, name: &str, ctx: &Ctx) -> Result<FrozenBase> {
        let adapter = self.adapters.get(name)?;
        adapter.effective(self.base_of(name, &self.base()), &ctx.at(&self.path))
    }

    /// Grafts an adapter made for this layer at `path` and makes it active.
    ///
    /// # Errors
    /// If the name is taken, or an adapter is merged into the weight.
    pub fn attach(&mut self, path: &str, name: &str, adapter: AnyAdapter) -> Result<()> {
        self.refuse_while_merged(path)?;
        self.adapters.add(path, name, adapter)?;
        self.path = path.to_owned();
        self.refresh(name);
        Ok(())
    }

    /// Tells the layer where it is in its model.
    pub(crate) fn locate(&mut self, path: &str) {
        self.path = path.to_owned();
    }

    /// Puts another adapter in the place of the one called `name`.
    pub(crate) fn replace(&mut self, name: &str, adapter: AnyAdapter) {
        self.adapters.replace(name, adapter);
        self.refresh(name);
    }

    /// What the active adapters add to the training loss, `[1]`.
    pub(crate) fn penalty(&self, ctx: &Ctx) -> Option<Tensor<1>> {
        let base = self.base();
        let ctx = ctx.at(&self.path);
        let active = self.adapters.active().into_iter();
        active
            .filter_map(|(name, one)| one.penalty(self.base_of(name, &base), &ctx))
            .reduce(|sum, one| sum + one)
    }

    /// Takes an adapter out.
    pub fn remove(&mut self, name: &str) {
        self.adapters.remove(name);
        self.rebased.remove(name);
    }

    /// Computes the base again that the adapter `name` brings along, after its values changed.
    pub fn refresh(&mut self, name: &str) {
        self.rebased.remove(name);
        let own = self.adapters.get(name).ok();
        if let Some(own) = own.and_then(|adapter| adapter.rebase(&self.base())) {
            self.rebased.push(name, own);
        }
    }

    /// Takes all adapters and their bases out; see [`AdapterSet::set_aside`].
    pub(crate) fn set_aside(
        &mut self,
        kept: Option<&str>,
    ) -> (Named<AnyAdapter>, Named<FrozenBase>) {
        (
            self.adapters.set_aside(kept),
            std::mem::take(&mut self.rebased),
        )
    }

    /// Puts back what was [set aside](Self::set_aside).
    pub(crate) fn put_back(&mut self, adapters: Named<AnyAdapter>, bases: Named<FrozenBase>) {
        self.adapters.put_back(adapters);
        self.rebased = bases;
    }

    /// Replaces every adapter by the one whose exact derivative its gradient is.
    pub(crate) fn hold(&mut self) {
        let base = self.base();
        let rebased = self.rebased.clone();
        self.adapters
            .change(|name, adapter| adapter.surrogate(rebased.get(name).unwrap_or(&base)));
    }

    /// Folds the active adapters into weight and bias. The present ones are kept for
    /// [`unmerge`](Self::unmerge), so that nothing is ever restored by subtraction.
    ///
    /// # Errors
    /// If an adapter has no weight form, or one is merged already.
    pub fn merge(&mut self, ctx: &Ctx) -> Result<()> {
        self.refuse_while_merged(&self.path.clone())?;
        let merged = self.effective(ctx)?;
        let base = self.base();
        let biased = merged.bias.is_some() && base.bias.is_none();
        if biased {
            self.bias = merged
                .bias
                .clone()
                .map(|bias| Param::from_tensor(bias.detach()).set_require_grad(false));
        }
        self.set_values(&merged);
        self.unmerged = Some(base);
        Ok(())
    }

    /// Restores the layer from before [`merge`](Self::merge), bit by bit.
    pub fn unmerge(&mut self) {
        if let Some(base) = self.unmerged.take() {
            self.set_values(&base);
            if base.bias.is_none() {
                self.bias = None;
            }
        }
    }

    /// Makes the merged layer the only one: without adapters, and with nothing to go back to.
    pub(crate) fn settle(&mut self) {
        self.adapters = AdapterSet::default();
        self.rebased = Named::default();
        self.unmerged = None;
    }

    /// Whether an adapter is merged.
    pub fn is_merged(&self) -> bool {
        self.unmerged.is_some()
    }

    /// Whether the weight is quantised, or was before an adapter was merged into it.
    pub fn was_quantised(&self) -> bool {
        let unmerged = self.unmerged.as_ref();
        self.weight.as_quantised().is_some()
            || unmerged.is_some_and(|base| base.quantised().is_some())
    }

    fn set_values(&mut self, layer: &FrozenBase) {
        self.weight = match (self.weight.clone(), layer.stored()) {
            (_, Weight::Quantised(stored)) => Weight::Quantised(stored.clone()),
            (Weight::Dense(param), Weight::Dense(weight)) => replace(param, weight.clone()).into(),
            (Weight::Quantised(_), Weight::Dense(weight)) => {
                let merged = Param::from_tensor(weight.clone().detach());
                merged.set_require_grad(false).into()
            }
        };
        if let (Some(param), Some(bias)) = (self.bias.take(), layer.bias.clone()) {
            self.bias = Some(replace(param, bias));
        }
    }

    fn refuse_while_merged(&self, path: &str) -> Result<()> {
        match self.unmerged {
            Some(_) => Err(Error::Unsupported(format!(
                "{path}: an adapter is merged into the weight; unmerge first"
            ))),
            None => Ok(()),
        }
    }
}

/// The parameter with another value, and its own id and trainability.
fn replace<const D: usize>(param: Param<Tensor<D>>, value: Tensor<D>) -> Param<Tensor<D>> {
    let trained = param.val().is_require_grad();
    param.map(|_| value.detach().set_require_grad(trained))
}
