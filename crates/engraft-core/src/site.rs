//! The site: a named place where hidden states can be changed.

use std::any::Any;
use std::fmt;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::Tensor;

use crate::adapter::InitContext;
use crate::bank::BankSpec;
use crate::counts::Counts;
use crate::ctx::Ctx;
use crate::erased::Erased;
use crate::error::Result;
use crate::set::AdapterSet;
use crate::shape::{SiteKind, SiteShape};

/// An adapter on hidden states. Which function is called depends on the kind of site; the others
/// stay at their default, which changes nothing.
pub trait SiteAdapter: Module + ModuleDisplay + Sync + 'static {
    /// At a [`SiteKind::Sublayer`]: what the sublayer is taken to have returned, from its `input`
    /// and `output`. At a [`SiteKind::Hidden`] both are the hidden state. Both are [tokens, width].
    fn wrap(&self, input: Tensor<2>, output: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let _ = (input, ctx);
        output
    }

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

    /// At a [`SiteKind::Attention`]: what the layer is taken to have returned, [batch, tokens,
    /// width], from what it returned.
    fn attend(&self, output: Tensor<3>, view: &AttentionView<'_>, ctx: &Ctx) -> Tensor<3> {
        let _ = (view, ctx);
        output
    }

    /// The adapter whose exact derivative this one's gradient is, where the gradient is declared a
    /// surrogate.
    fn surrogate(&self) -> Self {
        self.clone()
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
    extend_key_value: fn(&dyn Any, Tensor<4>, Tensor<4>, &Ctx) -> (Tensor<4>, Tensor<4>),
    extend_sequence: fn(&dyn Any, Tensor<3>, &Ctx) -> Tensor<3>,
    positions: fn(&dyn Any) -> usize,
    attend: fn(&dyn Any, Tensor<3>, &AttentionView<'_>, &Ctx) -> Tensor<3>,
    surrogate: fn(&dyn Any) -> AnySite,
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
                    extend_key_value: |module, keys, values, ctx| {
                        typed::<A>(module).extend_key_value(keys, values, ctx)
                    },
                    extend_sequence: |module, tokens, ctx| {
                        typed::<A>(module).extend_sequence(tokens, ctx)
                    },
                    positions: |module| typed::<A>(module).positions(),
                    attend: |module, output, view, ctx| {
                        typed::<A>(module).attend(output, view, ctx)
                    },
                    surrogate: |module| AnySite::new(typed::<A>(module).surrogate()),
                }
            },
        )
    }
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

    /// What a sublayer returned, after the adapters of a [`SiteKind::Sublayer`] site.
    pub fn sublayer<const D: usize>(
        &self,
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
        let (input, output) = (flat(input), flat(output));
        let ctx = ctx.at(&self.path);
        let through = |sites: Vec<(&str, &AnySite)>, x: [Tensor<2>; 2], ctx: &Ctx| {
            let [input, output] = x;
            sites.into_iter().fold(output, |output, (_, site)| {
                (site.ops().wrap)(site.any(), input.clone(), output, &ctx.without_rows())
            })
        };
        let y = match ctx.rows() {
            Some(rows) => rows.dispatch(input.dims()[0], &input.device(), |group, members| {
                let pick = |x: &Tensor<2>| x.clone().select(0, members.clone());
                let ctx = ctx.of_members(&group.rows);
                let chosen = self.chosen(group.name.as_deref());
                through(chosen, [pick(&input), pick(&output)], &ctx)
            }),
            None => through(self.adapters.active(), [input, output], &ctx),
        };
        y.reshape(dims)
    }

    /// Keys and values after the adapters of a [`SiteKind::KeyValue`] site.
    pub fn key_value(
        &self,
        keys: Tensor<4>,
        values: Tensor<4>,
        ctx: &Ctx,
    ) -> (Tensor<4>, Tensor<4>) {
        if self.adapters.is_empty() {
            return (keys, values);
        }
        let ctx = ctx.at(&self.path);
        type Both = (Tensor<4>, Tensor<4>);
        let through = |sites: Vec<(&str, &AnySite)>, both: Both, ctx: &Ctx| {
            let extend = |(keys, values): Both, (_, site): (&str, &AnySite)| {
                (site.ops().extend_key_value)(site.any(), keys, values, ctx)
            };
            sites.into_iter().fold(both, extend)
        };
        let Some(rows) = ctx.rows() else {
            return through(self.adapters.active(), (keys, values), &ctx);
        };
        let heads = keys.dims()[1];
        let device = keys.device();
        let both = rows.each(&device, |group, members| {
            let pick = |x: &Tensor<4>| x.clone().select(0, members.clone());
            let chosen = self.chosen(group.name.as_deref());
            let ctx = ctx.of_members(&group.rows);
            let (keys, values) = through(chosen, (pick(&keys), pick(&values)), &ctx);
            Tensor::cat(vec![keys, values], 1)
        });
        (
            both.clone().narrow(1, 0, heads),
            both.narrow(1, heads, heads),
        )
    }

    /// By how many positions the keys of a [`SiteKind::KeyValue`] site's adapters move the model's own
    /// tokens back.
    pub fn positions(&self) -> usize {
        let active = self.adapters.active().into_iter();
        active
            .map(|(_, site)| (site.ops().positions)(site.any()))
            .sum()
    }

    /// What an attention layer returns, [batch, tokens, width], after the adapters of a
    /// [`SiteKind::Attention`] site.
    pub fn attend(&self, output: Tensor<3>, view: &AttentionView<'_>, ctx: &Ctx) -> Tensor<3> {
        if self.adapters.is_empty() {
            return output;
        }
        let ctx = ctx.at(&self.path);
        let through =
            |sites: Vec<(&str, &AnySite)>, output, view: &AttentionView<'_>, ctx: &Ctx| {
                sites.into_iter().fold(output, |output, (_, site)| {
                    (site.ops().attend)(site.any(), output, view, ctx)
                })
            };
        let Some(rows) = ctx.rows() else {
            return through(self.adapters.active(), output, view, &ctx);
        };
        let returned = output;
        rows.each(&returned.device(), |group, members| {
            let queries = view.queries.clone().select(0, members.clone());
            // The layer's own projections take whole batches, whose rows have their own adapters.
            let first = members.clone().narrow(0, 0, 1);
            let project = |hidden: Tensor<3>| {
                let [_, tokens, width] = hidden.dims();
                let whole = hidden.narrow(0, 0, 1).expand([rows.rows(), tokens, width]);
                let (keys, values) = (view.project)(whole);
                (
                    keys.select(0, first.clone()),
                    values.select(0, first.clone()),
                )
            };
            let spread = group.spread(rows.rows(), &queries.device());
            let output = |heads: Tensor<4>| {
                (view.output)(heads.select(0, spread.clone())).select(0, members.clone())
            };
            let view = AttentionView {
                queries: &queries,
                project: &project,
                output: &output,
            };
            let chosen = self.chosen(group.name.as_deref());
            let ctx = ctx.of_members(&group.rows);
            through(
                chosen,
                returned.clone().select(0, members.clone()),
                &view,
                &ctx,
            )
        })
    }

    /// The sequence after the adapters of a [`SiteKind::Sequence`] or [`SiteKind::Prompt`] site.
    pub fn sequence(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        if self.adapters.is_empty() {
            return tokens;
        }
        let ctx = ctx.at(&self.path);
        let through = |sites: Vec<(&str, &AnySite)>, tokens, ctx: &Ctx| {
            sites.into_iter().fold(tokens, |tokens, (_, site)| {
                (site.ops().extend_sequence)(site.any(), tokens, ctx)
            })
        };
        let Some(rows) = ctx.rows() else {
            return through(self.adapters.active(), tokens, &ctx);
        };
        rows.each(&tokens.device(), |group, members| {
            let chosen = self.chosen(group.name.as_deref());
            let ctx = ctx.of_members(&group.rows);
            through(chosen, tokens.clone().select(0, members), &ctx)
        })
    }

    /// Replaces every adapter by the one whose exact derivative its gradient is.
    pub(crate) fn hold(&mut self) {
        self.adapters
            .change(|_, site| (site.ops().surrogate)(site.any()));
    }

    /// The adapter of a batch row.
    fn chosen(&self, name: Option<&str>) -> Vec<(&str, &AnySite)> {
        let acting = name.and_then(|name| self.adapters.acting(name));
        acting.into_iter().collect()
    }
}
