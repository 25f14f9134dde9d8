//! The site: a named place where hidden states can be changed.

use std::fmt;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::Tensor;

use crate::adapter::InitContext;
use crate::any_site::AnySite;
use crate::bank::BankSpec;
use crate::counts::Counts;
use crate::ctx::Ctx;
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

    /// At a [`SiteKind::Sequence`] or [`SiteKind::Prompt`], where a decoder reads on from its cache:
    /// the tokens [batch, tokens, width] that follow those of earlier passes.
    /// [`Ctx::text`] is the whole text so far, [`Ctx::relay`] the one of all passes.
    fn continue_sequence(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        let _ = ctx;
        tokens
    }

    /// At a [`SiteKind::KeyValue`]: by how many positions the keys in front move the model's own
    /// tokens back; 0 where they have no position.
    fn positions(&self) -> usize {
        0
    }

    /// At a [`SiteKind::Attention`]: what the layer is taken to have returned, [batch, tokens,
    /// width], from what it returned.
    fn attend(&self, output: Tensor<3>, view: &AttentionView<'_>, ctx: &Ctx) -> Tensor<3> {
        let _ = (view, ctx);
        output
    }
}

/// Projects hidden states [batch, tokens, width], the same in every row, to keys and values, [batch,
/// tokens, key heads, head width] each.
pub type ProjectKeysAndValues<'a> = &'a dyn Fn(Tensor<3>) -> (Tensor<4>, Tensor<4>);

/// Projects what heads return, [batch, tokens, heads, head width], to hidden states [batch, tokens,
/// width].
pub type ProjectHeads<'a> = &'a dyn Fn(Tensor<4>) -> Tensor<3>;

/// What an adapter at a [`SiteKind::Attention`] sees of the layer.
#[derive(Clone, Copy)]
pub struct AttentionView<'a> {
    /// The queries as they met the keys (rotated, where positions rotate them), [batch, tokens,
    /// heads, head width].
    pub queries: &'a Tensor<4>,
    /// The layer's own projections, without positions.
    pub project: ProjectKeysAndValues<'a>,
    /// The layer's own output projection.
    pub output: ProjectHeads<'a>,
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

    /// Which of the sites that it [takes](Self::takes), in forward order, it acts at by default:
    /// all of them, unless their number matters (the last layers).
    fn default_sites<'a>(&self, sites: Vec<&'a SiteShape>) -> Vec<&'a SiteShape> {
        sites
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

/// A named site of a model. It has no parameters of its own and adds no record keys.
#[derive(Module, Debug, Default)]
pub struct Site {
    /// The adapters.
    pub adapters: AdapterSet<AnySite>,
    #[module(skip)]
    pub(crate) path: String,
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
            Some(rows) => rows.dispatch(at.tokens(), &at.output.device(), |group, members| {
                let at = at.select(&members);
                let Some(name) = group.name.as_deref() else {
                    return at.output;
                };
                let own = ctx.without_rows().of_members(&group.rows);
                let own = own.of_sequences([group.rows.len(), tokens]);
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
}
