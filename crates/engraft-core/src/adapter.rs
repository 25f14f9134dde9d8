//! The graft: an adapter on one frozen base layer.

use std::any::Any;
use std::fmt;
use std::sync::LazyLock;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{DType, Device, Int, Tensor};
use engraft_tensor::Key;
use engraft_tensor::ops::Factors;
use serde_json::Value;

use crate::bank::{Bank, BankSpec};
use crate::base::FrozenBase;
use crate::counts::Counts;
use crate::ctx::Ctx;
use crate::erased::Erased;
use crate::error::{Error, Result};
use crate::lookup::Lookup;
use crate::shape::{LayerKind, LayerShape, ModelShapes};
use crate::statistics::{Calibration, Needs, Statistics};
use crate::targets::Overrides;

/// An adapter on a frozen layer y = x W + b, in two forms that a property test holds equal.
pub trait Adapter: Module + ModuleDisplay + Sync + 'static {
    /// Weight form: the layer's weight [d_in, d_out] and bias after adaptation.
    ///
    /// # Errors
    /// Where the adapted map is not a linear layer, for example under dropout.
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase>;

    /// Activation form: tokens x [tokens, d_in] to y [tokens, d_out]. Structured methods override
    /// it so that no d_in x d_out matrix is formed.
    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        match self.effective(base, ctx) {
            Ok(layer) => layer.forward(x),
            Err(error) => {
                unreachable!("an adapter without a weight form overrides `forward`: {error}")
            }
        }
    }

    /// Whether the adapted layer is the frozen one plus [`update`](Self::update). The frozen
    /// products of a batch whose rows have different adapters are then one product.
    const ADDITIVE: bool = false;

    /// What an additive adapter adds to the frozen output: tokens x [tokens, d_in] to
    /// [tokens, d_out].
    fn update(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let _ = base;
        match self.factors(ctx) {
            Some(factors) => factors.update(x),
            None => unreachable!("an additive adapter without factors overrides `update`"),
        }
    }

    /// The update as s ((x A) B + c), where it is that and the factors are at hand: what
    /// different adapters add to the rows of a batch is then one pass.
    fn factors(&self, ctx: &Ctx) -> Option<Factors> {
        let _ = ctx;
        None
    }

    /// The activation form on an embedding: the row of W that each token looks up to y [tokens, d_out], the
    /// same as [`forward`](Self::forward) on one-hot rows. The default gathers from the weight
    /// form; low-rank methods override it so that only the rows that occur are computed.
    fn lookup(&self, rows: &Lookup, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        match self.effective(base, ctx) {
            Ok(layer) => layer.lookup(rows),
            Err(_) => self.forward(one_hot(rows.indices(), base), base, ctx),
        }
    }

    /// What an output layer that shares this embedding's weight computes, x W^T: tokens x [tokens,
    /// width] to [tokens, vocabulary]. An adapter on the embedding leaves it frozen unless it says
    /// otherwise.
    fn tied(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let _ = ctx;
        base.tied(x)
    }

    /// Whether [`tied`](Self::tied) is that of the adapted weight.
    fn ties(&self) -> bool {
        false
    }

    /// A replacement of the frozen base that belongs to this adapter (PiSSA's residual), computed
    /// when the adapter is attached. The original stays for other adapters and for `disable`.
    fn rebase(&self, base: &FrozenBase) -> Option<FrozenBase> {
        let _ = base;
        None
    }

    /// What the adapter adds to the training loss, `[1]` (an orthogonality penalty, a divergence from
    /// a prior). A method that has one says so in [`MethodMeta`](crate::MethodMeta::regularised).
    fn penalty(&self, base: &FrozenBase, ctx: &Ctx) -> Option<Tensor<1>> {
        let _ = (base, ctx);
        None
    }

    /// The adapter whose exact derivative this one's gradient is, where the gradient is declared a
    /// surrogate: quantities that the method detaches are held at their present value.
    fn surrogate(&self, base: &FrozenBase) -> Self {
        let _ = base;
        self.clone()
    }
}

/// The rows of the identity at these indices, [tokens, d_in].
fn one_hot(indices: Tensor<1, Int>, base: &FrozenBase) -> Tensor<2> {
    Tensor::<2>::eye(base.d_in(), &base.device())
        .cast(base.dtype())
        .select(0, indices)
}

static NOTHING: LazyLock<Calibration> = LazyLock::new(Calibration::default);

/// What an adapter is made from.
#[derive(Debug, Clone)]
pub struct InitContext<'a> {
    /// Path of the layer.
    pub path: &'a str,
    /// Name of the adapter that is being made.
    pub name: &'a str,
    /// Random streams of this layer.
    pub key: Key,
    /// What the layer is.
    pub kind: LayerKind,
    /// Shared state, already grown.
    pub bank: &'a Bank,
    /// What data says about the layers.
    pub calibration: &'a Calibration,
    /// The model's word embeddings, [vocabulary, width], where it shows them as a slot.
    pub embeddings: Option<&'a FrozenBase>,
    /// Where parameters go.
    pub device: Device,
    /// Their precision.
    pub dtype: DType,
}

impl<'a> InitContext<'a> {
    /// The context for the adapter `name` on `base` at `path` in a run of `seed`.
    pub fn new(seed: u64, path: &'a str, name: &'a str, base: &FrozenBase, bank: &'a Bank) -> Self {
        Self {
            path,
            name,
            key: Key::new(seed).child(path),
            kind: LayerKind::Linear,
            bank,
            calibration: &NOTHING,
            embeddings: None,
            device: base.device(),
            dtype: base.dtype(),
        }
    }

    /// The same context with what data says about the layers.
    pub fn with_calibration(self, calibration: &'a Calibration) -> Self {
        Self {
            calibration,
            ..self
        }
    }

    /// The same context in a model with these word embeddings.
    pub fn with_embeddings(self, embeddings: Option<&'a FrozenBase>) -> Self {
        Self { embeddings, ..self }
    }

    /// The same context for a layer of this kind.
    pub fn of_kind(self, kind: LayerKind) -> Self {
        Self { kind, ..self }
    }

    /// What data says about this layer.
    ///
    /// # Errors
    /// If the model was not calibrated.
    pub fn statistics(&self) -> Result<&'a Statistics> {
        self.statistics_of(self.path)
    }

    /// What data says about the layer at `path`.
    ///
    /// # Errors
    /// If the model was not calibrated.
    pub fn statistics_of(&self, path: &str) -> Result<&'a Statistics> {
        self.calibration.get(path).ok_or_else(|| {
            Error::Unsupported(format!(
                "{path}: this method starts from data: run `Adapted::calibrate` and attach with `attach_calibrated`"
            ))
        })
    }

    /// The name under which [`Ctx::shared`] finds the method's bank entry `entry`; adapters keep it.
    pub fn shared_name(&self, entry: &str) -> String {
        crate::bank::scoped(self.name, entry)
    }

    /// A host-side draw as a tensor on the layer's device.
    pub fn tensor<const D: usize>(
        &self,
        init: engraft_tensor::Init,
        shape: [usize; D],
        role: &str,
    ) -> Tensor<D> {
        init.tensor(shape, &self.key.child(role), &self.device, self.dtype)
    }

    /// A failure of linear algebra at this layer.
    pub fn numeric(&self, error: impl fmt::Display) -> Error {
        Error::Numeric {
            path: self.path.to_owned(),
            reason: error.to_string(),
        }
    }
}

/// The configuration side of a graft.
pub trait Graft: Clone + fmt::Debug + Send + Sync + 'static {
    /// The adapter it makes.
    type Adapter: Adapter;

    /// Whether the configuration fits a layer of this shape: the reason if not.
    fn admits(&self, layer: &LayerShape) -> Result<(), String>;

    /// Paths of the layers it takes where no target says otherwise; `None` is every linear layer
    /// outside the task head.
    fn defaults(&self, shapes: &ModelShapes) -> Option<Vec<String>> {
        let _ = shapes;
        None
    }

    /// Parameters on one layer, from its shape; `admits` holds.
    fn count(&self, layer: &LayerShape) -> Counts;

    /// Shared state for all targeted layers.
    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        let _ = layers;
        Vec::new()
    }

    /// What the initialiser wants to know from data; see [`InitContext::statistics`].
    fn needs(&self) -> Needs {
        Needs::default()
    }

    /// Configuration keys that data decides for each layer out of what all of them have together (a
    /// rank out of a common budget), in the order of `layers`, each with its own configuration; a
    /// layer without keys is left out. No answer at all leaves everything as configured. Asked
    /// before the adapters are made; the answer is part of the attachment, so that an adapter's
    /// file needs no data.
    ///
    /// # Errors
    /// A model that was not calibrated, and failures of linear algebra.
    fn allocate(
        &self,
        layers: &[(LayerShape, Value)],
        calibration: &Calibration,
    ) -> Result<Vec<Option<Overrides>>> {
        let _ = (layers, calibration);
        Ok(Vec::new())
    }

    /// The adapter for `base`; `admits` holds.
    ///
    /// # Errors
    /// When linear algebra on the base fails, for example on non-finite weights.
    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Self::Adapter>;
}

/// Table of the operations of a graft whose type has been forgotten.
#[derive(Debug)]
pub struct AdapterOps {
    effective: fn(&dyn Any, &FrozenBase, &Ctx) -> Result<FrozenBase>,
    forward: fn(&dyn Any, Tensor<2>, &FrozenBase, &Ctx) -> Tensor<2>,
    additive: bool,
    update: fn(&dyn Any, Tensor<2>, &FrozenBase, &Ctx) -> Tensor<2>,
    factors: fn(&dyn Any, &Ctx) -> Option<Factors>,
    lookup: fn(&dyn Any, &Lookup, &FrozenBase, &Ctx) -> Tensor<2>,
    tied: fn(&dyn Any, Tensor<2>, &FrozenBase, &Ctx) -> Tensor<2>,
    ties: fn(&dyn Any) -> bool,
    rebase: fn(&dyn Any, &FrozenBase) -> Option<FrozenBase>,
    penalty: fn(&dyn Any, &FrozenBase, &Ctx) -> Option<Tensor<1>>,
    surrogate: fn(&dyn Any, &FrozenBase) -> AnyAdapter,
}

/// An adapter of any method.
pub type AnyAdapter = Erased<AdapterOps>;

fn typed<A: Adapter>(module: &dyn Any) -> &A {
    module
        .downcast_ref()
        .expect("the table was made for this type")
}

impl AnyAdapter {
    /// Forgets the adapter's type.
    pub fn new<A: Adapter>(adapter: A) -> Self {
        Self::from_parts(
            adapter,
            const {
                &AdapterOps {
                    effective: |module, base, ctx| typed::<A>(module).effective(base, ctx),
                    forward: |module, x, base, ctx| typed::<A>(module).forward(x, base, ctx),
                    additive: A::ADDITIVE,
                    update: |module, x, base, ctx| typed::<A>(module).update(x, base, ctx),
                    factors: |module, ctx| typed::<A>(module).factors(ctx),
                    lookup: |module, rows, base, ctx| typed::<A>(module).lookup(rows, base, ctx),
                    tied: |module, x, base, ctx| typed::<A>(module).tied(x, base, ctx),
                    ties: |module| typed::<A>(module).ties(),
                    rebase: |module, base| typed::<A>(module).rebase(base),
                    penalty: |module, base, ctx| typed::<A>(module).penalty(base, ctx),
                    surrogate: |module, base| AnyAdapter::new(typed::<A>(module).surrogate(base)),
                }
            },
        )
    }

    /// See [`Adapter::effective`].
    ///
    /// # Errors
    /// As the adapter's own.
    pub fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        (self.ops().effective)(self.any(), base, ctx)
    }

    /// See [`Adapter::forward`].
    pub fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        (self.ops().forward)(self.any(), x, base, ctx)
    }

    /// See [`Adapter::ADDITIVE`].
    pub fn is_additive(&self) -> bool {
        self.ops().additive
    }

    /// See [`Adapter::update`].
    pub fn update(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        (self.ops().update)(self.any(), x, base, ctx)
    }

    /// See [`Adapter::factors`].
    pub fn factors(&self, ctx: &Ctx) -> Option<Factors> {
        (self.ops().factors)(self.any(), ctx)
    }

    /// See [`Adapter::lookup`].
    pub fn lookup(&self, rows: &Lookup, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        (self.ops().lookup)(self.any(), rows, base, ctx)
    }

    /// See [`Adapter::tied`].
    pub fn tied(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        (self.ops().tied)(self.any(), x, base, ctx)
    }

    /// See [`Adapter::ties`].
    pub fn ties(&self) -> bool {
        (self.ops().ties)(self.any())
    }

    /// See [`Adapter::rebase`].
    pub fn rebase(&self, base: &FrozenBase) -> Option<FrozenBase> {
        (self.ops().rebase)(self.any(), base)
    }

    /// See [`Adapter::penalty`].
    pub fn penalty(&self, base: &FrozenBase, ctx: &Ctx) -> Option<Tensor<1>> {
        (self.ops().penalty)(self.any(), base, ctx)
    }

    /// The adapter as what it is, if it is an `A`.
    pub fn downcast<A: Adapter>(&self) -> Option<&A> {
        self.any().downcast_ref()
    }

    /// See [`Adapter::surrogate`].
    pub fn surrogate(&self, base: &FrozenBase) -> Self {
        (self.ops().surrogate)(self.any(), base)
    }
}
