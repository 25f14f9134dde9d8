//! The site: a named place where hidden states can be changed.

use std::any::Any;
use std::fmt;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::adapter::InitContext;
use crate::bank::BankSpec;
use crate::counts::Counts;
use crate::ctx::Ctx;
use crate::erased::Erased;
use crate::error::Result;
use crate::method::AnyMethod;
use crate::set::AdapterSet;
use crate::setup::Setup;
use crate::shape::{SiteKind, SiteShape};
use crate::wrapped::Sublayer;

/// An adapter on hidden states. Which function is called depends on the kind of site; the others
/// stay at their default, which changes nothing.
pub trait SiteAdapter: Module + ModuleDisplay + Sync + 'static {
    /// At a [`SiteKind::Sublayer`]: what the sublayer is taken to have returned, from its `input`
    /// and `output`. At a [`SiteKind::Hidden`] both are the hidden state. Both are [tokens, width];
    /// [`Ctx::sequences`] says which tokens are one sequence.
    fn wrap(&self, input: Tensor<2>, output: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let _ = (input, ctx);
        output
    }

    /// The adapter whose exact derivative this one's gradient is, where the gradient is declared a
    /// surrogate; see [`Adapter::surrogate`](crate::Adapter::surrogate).
    fn surrogate(&self) -> Self {
        self.clone()
    }

    /// At a [`SiteKind::Hidden`]: g and o, `[width]` each, of an adapter that is h -> g . h + o and
    /// nothing else; see [`Adapted::fold`](crate::Adapted::fold).
    fn diagonal(&self) -> Option<[Tensor<1>; 2]> {
        None
    }

    /// In a [`Setup::Fuse`] at a sublayer or hidden state: what is added to `output`, from the
    /// `changes` that the fused adapters make to it, [tokens, width] each. Methods that fuse
    /// override it and leave [`wrap`](Self::wrap) alone.
    fn fuse(&self, output: Tensor<2>, changes: Vec<Tensor<2>>, ctx: &Ctx) -> Tensor<2> {
        let _ = ctx;
        let sum = changes.into_iter().reduce(|sum, one| sum + one);
        sum.unwrap_or_else(|| output.zeros_like())
    }

    /// Whether [`fuse`](Self::fuse) is what it is for.
    const FUSES: bool = false;

    /// At a [`SiteKind::KeyValue`]: keys and values [batch, heads, tokens, head width] with
    /// trained ones prepended.
    fn extend_key_value(
        &self,
        keys: Tensor<4>,
        values: Tensor<4>,
        ctx: &Ctx,
    ) -> (Tensor<4>, Tensor<4>) {
        let _ = ctx;
        (keys, values)
    }

    /// At a [`SiteKind::Sequence`] or [`SiteKind::Prompt`]: the sequence [batch, tokens, width] with
    /// trained tokens prepended. The model drops as many leading tokens at the end as were added.
    fn extend_sequence(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let _ = ctx;
        tokens
    }

    /// At a [`SiteKind::KeyValue`]: by how many positions the keys in front move the model's own
    /// tokens back; 0 where they have no position.
    fn positions(&self) -> usize {
        0
    }

    /// At a [`SiteKind::Attention`]: what the heads are taken to have returned, [batch, tokens,
    /// heads, head width], from what they returned.
    fn attend(&self, heads: Tensor<4>, view: &AttentionView<'_>, ctx: &Ctx) -> Tensor<4> {
        let _ = (view, ctx);
        heads
    }
}

/// Projects hidden states [batch, tokens, width] to keys and values, [batch, tokens, key heads,
/// head width] each.
pub type ProjectKeysAndValues<'a> = &'a dyn Fn(Tensor<3>) -> (Tensor<4>, Tensor<4>);

/// What an adapter at a [`SiteKind::Attention`] sees of the layer.
#[derive(Clone, Copy)]
pub struct AttentionView<'a> {
    /// The queries as they met the keys (rotated, where positions rotate them), [batch, tokens,
    /// heads, head width].
    pub queries: &'a Tensor<4>,
    /// The layer's own projections, without positions.
    pub project: ProjectKeysAndValues<'a>,
}

impl fmt::Debug for AttentionView<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttentionView")
            .field("queries", &self.queries.dims())
            .finish_non_exhaustive()
    }
}

/// The configuration side of a site adapter.
pub trait SiteGraft: Clone + fmt::Debug + Send + Sync + 'static {
    /// The adapter it makes.
    type Adapter: SiteAdapter;

    /// Kinds of site it acts at.
    const SITES: &'static [SiteKind];

    /// Whether the configuration takes this site by default, where no target says otherwise.
    fn takes(&self, site: &SiteShape) -> bool {
        let _ = site;
        true
    }

    /// Whether the configuration fits the site: the reason if not.
    fn admits(&self, site: &SiteShape) -> Result<(), String>;

    /// Parameters at one site, from its shape.
    fn count(&self, site: &SiteShape) -> Counts;

    /// A method of the same parameters whose gradients this one's initialiser wants to know: it
    /// finds them in [`Statistics::own`](crate::Statistics::own).
    fn probe(&self) -> Option<AnyMethod> {
        None
    }

    /// Shared state for all targeted sites.
    fn banks(&self, sites: &[SiteShape]) -> Vec<BankSpec> {
        let _ = sites;
        Vec::new()
    }

    /// The adapter for a site.
    ///
    /// # Errors
    /// When an initialiser fails.
    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<Self::Adapter>;
}

/// Table of the operations of a site adapter whose type has been forgotten.
#[derive(Debug)]
pub struct SiteOps {
    wrap: fn(&dyn Any, Tensor<2>, Tensor<2>, &Ctx) -> Tensor<2>,
    diagonal: fn(&dyn Any) -> Option<[Tensor<1>; 2]>,
    extend_key_value: fn(&dyn Any, Tensor<4>, Tensor<4>, &Ctx) -> (Tensor<4>, Tensor<4>),
    extend_sequence: fn(&dyn Any, Tensor<3>, &Ctx) -> Tensor<3>,
    positions: fn(&dyn Any) -> usize,
    attend: fn(&dyn Any, Tensor<4>, &AttentionView<'_>, &Ctx) -> Tensor<4>,
    surrogate: fn(&dyn Any) -> AnySite,
    fuse: fn(&dyn Any, Tensor<2>, Vec<Tensor<2>>, &Ctx) -> Tensor<2>,
    fuses: bool,
}

/// A site adapter of any method.
pub type AnySite = Erased<SiteOps>;

fn typed<A: SiteAdapter>(module: &dyn Any) -> &A {
    module
        .downcast_ref()
        .expect("the table was made for this type")
}

impl AnySite {
    /// Forgets the adapter's type.
    pub fn new<A: SiteAdapter>(adapter: A) -> Self {
        Self::from_parts(
            adapter,
            const {
                &SiteOps {
                    wrap: |module, input, output, ctx| typed::<A>(module).wrap(input, output, ctx),
                    diagonal: |module| typed::<A>(module).diagonal(),
                    extend_key_value: |module, keys, values, ctx| {
                        typed::<A>(module).extend_key_value(keys, values, ctx)
                    },
                    extend_sequence: |module, tokens, ctx| {
                        typed::<A>(module).extend_sequence(tokens, ctx)
                    },
                    positions: |module| typed::<A>(module).positions(),
                    attend: |module, heads, view, ctx| typed::<A>(module).attend(heads, view, ctx),
                    surrogate: |module| AnySite::new(typed::<A>(module).surrogate()),
                    fuse: |module, output, changes, ctx| {
                        typed::<A>(module).fuse(output, changes, ctx)
                    },
                    fuses: A::FUSES,
                }
            },
        )
    }

    /// See [`SiteAdapter::wrap`].
    pub(crate) fn wrap(&self, input: Tensor<2>, output: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        (self.ops().wrap)(self.any(), input, output, ctx)
    }

    /// See [`SiteAdapter::fuse`].
    pub(crate) fn fuse(&self, output: Tensor<2>, changes: Vec<Tensor<2>>, ctx: &Ctx) -> Tensor<2> {
        (self.ops().fuse)(self.any(), output, changes, ctx)
    }

    /// See [`SiteAdapter::FUSES`].
    pub(crate) fn fuses(&self) -> bool {
        self.ops().fuses
    }

    /// The adapter as what it is, if it is an `A`.
    pub fn downcast<A: SiteAdapter>(&self) -> Option<&A> {
        self.any().downcast_ref()
    }
}

/// Batch rows as an index tensor.
fn places(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let places: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
    Tensor::from_data(TensorData::new(places, [rows.len()]), device)
}

/// A named site of a model. It has no parameters of its own and adds no record keys.
#[derive(Module, Debug, Default)]
pub struct Site {
    /// The adapters.
    pub adapters: AdapterSet<AnySite>,
    #[module(skip)]
    path: String,
}

impl Site {
    /// Adds an adapter and makes it active.
    ///
    /// # Errors
    /// If the name is taken.
    pub fn attach(&mut self, path: &str, name: &str, adapter: AnySite) -> Result<()> {
        self.adapters.add(path, name, adapter)?;
        self.path = path.to_owned();
        Ok(())
    }

    /// The hidden state after the adapters of a [`SiteKind::Hidden`] site.
    pub fn hidden<const D: usize>(&self, hidden: Tensor<D>, ctx: &Ctx) -> Tensor<D> {
        if self.adapters.is_empty() {
            return hidden;
        }
        self.sublayer(hidden.clone(), hidden, ctx)
    }

    /// Replaces every adapter by the one whose exact derivative its gradient is.
    pub(crate) fn hold(&mut self) {
        self.adapters
            .change(|_, site| (site.ops().surrogate)(site.any()));
    }

    /// What a sublayer returned, after the adapters of a [`SiteKind::Sublayer`] site. Its input is
    /// the residual stream that the result is added to; where a norm lies between, see
    /// [`normed_sublayer`](Self::normed_sublayer).
    pub fn sublayer<const D: usize>(
        &self,
        input: Tensor<D>,
        output: Tensor<D>,
        ctx: &Ctx,
    ) -> Tensor<D> {
        self.normed_sublayer(input.clone(), input, output, ctx)
    }

    /// What a sublayer returned from its normed `input`, after the adapters of a
    /// [`SiteKind::Sublayer`] site. The result is added to `stream`.
    pub fn normed_sublayer<const D: usize>(
        &self,
        stream: Tensor<D>,
        input: Tensor<D>,
        output: Tensor<D>,
        ctx: &Ctx,
    ) -> Tensor<D> {
        if self.adapters.is_empty() {
            return output;
        }
        let dims = output.dims();
        let width = dims[D - 1];
        let flat = |x: Tensor<D>| x.reshape([-1, width as i64]);
        let at = Sublayer {
            stream: flat(stream),
            input: flat(input),
            output: flat(output),
        };
        let batch = if D == 1 { 1 } else { dims[0] };
        let tokens = at.output.dims()[0] / batch.max(1);
        let ctx = ctx.at(&self.path).of_sequences([batch, tokens]);
        let y = match ctx.rows() {
            Some(rows) => rows.dispatch(at.tokens(), &at.output.device(), |name, rows, members| {
                let at = at.select(&members);
                let Some(name) = name else { return at.output };
                let text = ctx
                    .text()
                    .map(|text| text.rows(places(rows, &at.output.device())));
                let own = ctx.without_rows().of_sequences([rows.len(), tokens]);
                let own = match &text {
                    Some(text) => own.with_text(text),
                    None => own,
                };
                self.wrapped(&Setup::from(name), at, &own)
            }),
            None => self.wrapped(self.adapters.setup(), at, &ctx),
        };
        y.reshape(dims)
    }

    /// g and o, `[width]` each, of the active adapters together, where each of them is a map
    /// h -> g . h + o; otherwise the name of one that is not.
    pub(crate) fn diagonal(&self) -> Result<Option<[Tensor<1>; 2]>, &str> {
        let mut together: Option<[Tensor<1>; 2]> = None;
        let active = self.adapters.active();
        let in_order = match self.adapters.setup() {
            Setup::Stack(_) | Setup::Adapter(_) => true,
            _ => active.len() < 2,
        };
        for (name, site) in active {
            let own = (site.ops().diagonal)(site.any());
            let [g, o] = own.filter(|_| in_order).ok_or(name)?;
            together = Some(match together {
                None => [g, o],
                Some([g_before, o_before]) => [g_before * g.clone(), o_before * g + o],
            });
        }
        Ok(together)
    }

    /// Keys and values after the adapters of a [`SiteKind::KeyValue`] site.
    pub fn key_value(
        &self,
        keys: Tensor<4>,
        values: Tensor<4>,
        ctx: &Ctx,
    ) -> (Tensor<4>, Tensor<4>) {
        let ctx = ctx.at(&self.path);
        self.adapters
            .active()
            .into_iter()
            .fold((keys, values), |(keys, values), (_, site)| {
                (site.ops().extend_key_value)(site.any(), keys, values, &ctx)
            })
    }

    /// By how many positions the keys of a [`SiteKind::KeyValue`] site's adapters move the model's own
    /// tokens back.
    pub fn positions(&self) -> usize {
        let active = self.adapters.active().into_iter();
        active
            .map(|(_, site)| (site.ops().positions)(site.any()))
            .sum()
    }

    /// What the heads of an attention layer return, after the adapters of a [`SiteKind::Attention`]
    /// site.
    pub fn attend(&self, heads: Tensor<4>, view: &AttentionView<'_>, ctx: &Ctx) -> Tensor<4> {
        let ctx = ctx.at(&self.path);
        self.adapters
            .active()
            .into_iter()
            .fold(heads, |heads, (_, site)| {
                (site.ops().attend)(site.any(), heads, view, &ctx)
            })
    }

    /// The sequence after the adapters of a [`SiteKind::Sequence`] or [`SiteKind::Prompt`] site.
    pub fn sequence(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let ctx = ctx.at(&self.path);
        self.adapters
            .active()
            .into_iter()
            .fold(tokens, |tokens, (_, site)| {
                (site.ops().extend_sequence)(site.any(), tokens, &ctx)
            })
    }
}
