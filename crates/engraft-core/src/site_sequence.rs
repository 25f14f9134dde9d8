//! Sites of sequences and of attention: adapters act on whole rows of a batch, one after the other.

use burn::tensor::Tensor;

use crate::any_site::AnySite;
use crate::ctx::Ctx;
use crate::rows::RowGroup;
use crate::setup::Setup;
use crate::site::{AttentionView, Site};

/// Adapters with their names.
type Acting<'a> = Vec<(&'a str, &'a AnySite)>;

impl Site {
    /// Whether an adapter acts here, on any row of the batch.
    pub fn acts(&self, ctx: &Ctx) -> bool {
        match ctx.rows() {
            None => !self.adapters.active().is_empty(),
            Some(rows) => rows
                .names()
                .any(|name| self.adapters.acting(name).is_some()),
        }
    }

    /// Keys and values after the adapters of a [`SiteKind::KeyValue`](crate::SiteKind::KeyValue) site.
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
        let through = |sites: Acting<'_>, both: Both, ctx: &Ctx| {
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
            let ctx = ctx.of_members(&group.rows);
            let (keys, values) = through(self.chosen(group), (pick(&keys), pick(&values)), &ctx);
            Tensor::cat(vec![keys, values], 1)
        });
        (
            both.clone().narrow(1, 0, heads),
            both.narrow(1, heads, heads),
        )
    }

    /// By how many positions the keys of a [`SiteKind::KeyValue`](crate::SiteKind::KeyValue) site's
    /// adapters move the model's own tokens back.
    pub fn positions(&self, ctx: &Ctx) -> usize {
        let own = |sites: Acting<'_>| -> usize {
            let each = sites.into_iter();
            each.map(|(_, site)| (site.ops().positions)(site.any()))
                .sum()
        };
        match ctx.rows() {
            None => own(self.adapters.active()),
            // Rows that differ in it are refused.
            Some(rows) => {
                let each = rows.groups().iter().map(|group| own(self.chosen(group)));
                each.max().unwrap_or_default()
            }
        }
    }

    /// What an attention layer returns, [batch, tokens, width], after the adapters of a
    /// [`SiteKind::Attention`](crate::SiteKind::Attention) site.
    pub fn attend(&self, output: Tensor<3>, view: &AttentionView<'_>, ctx: &Ctx) -> Tensor<3> {
        if self.adapters.is_empty() {
            return output;
        }
        let ctx = ctx.at(&self.path);
        let through =
            |sites: Acting<'_>, output: Tensor<3>, view: &AttentionView<'_>, ctx: &Ctx| {
                self.together(sites, output, |site, output| {
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
            let ctx = ctx.of_members(&group.rows);
            let returned = returned.clone().select(0, members.clone());
            through(self.chosen(group), returned, &view, &ctx)
        })
    }

    /// The sequence after the adapters of a [`SiteKind::Sequence`](crate::SiteKind::Sequence) or
    /// [`SiteKind::Prompt`](crate::SiteKind::Prompt) site.
    pub fn sequence(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        self.tokens(tokens, ctx, |site, tokens, ctx| {
            (site.ops().extend_sequence)(site.any(), tokens, ctx)
        })
    }

    /// The tokens that follow those of earlier passes, after the adapters of such a site.
    pub fn continued(&self, tokens: Tensor<3>, ctx: &Ctx) -> Tensor<3> {
        self.tokens(tokens, ctx, |site, tokens, ctx| {
            (site.ops().continue_sequence)(site.any(), tokens, ctx)
        })
    }

    fn tokens(
        &self,
        tokens: Tensor<3>,
        ctx: &Ctx,
        apply: impl Fn(&AnySite, Tensor<3>, &Ctx) -> Tensor<3>,
    ) -> Tensor<3> {
        if self.adapters.is_empty() {
            return tokens;
        }
        let ctx = ctx.at(&self.path);
        let Some(rows) = ctx.rows() else {
            let acting = self.adapters.active();
            return self.together(acting, tokens, |site, x| apply(site, x, &ctx));
        };
        rows.each(&tokens.device(), |group, members| {
            let ctx = ctx.of_members(&group.rows);
            let own = tokens.clone().select(0, members);
            self.together(self.chosen(group), own, |site, x| apply(site, x, &ctx))
        })
    }

    /// x through adapters: one after the other or, in a sum, x and the changes that they make to it.
    /// What each puts in front of a sequence is put there in both.
    fn together(
        &self,
        sites: Acting<'_>,
        x: Tensor<3>,
        apply: impl Fn(&AnySite, Tensor<3>) -> Tensor<3>,
    ) -> Tensor<3> {
        let sums = sites.len() > 1 && self.sums();
        sites.into_iter().fold(x.clone(), |y, (_, site)| {
            if !sums || y.dims() != x.dims() {
                return apply(site, y);
            }
            let one = apply(site, x.clone());
            match one.dims() == x.dims() {
                true => y + one - x.clone(),
                false => one,
            }
        })
    }

    /// Whether the block of the composition that has more than one adapter of this site is a sum.
    fn sums(&self) -> bool {
        let mut setup = self.adapters.setup();
        loop {
            let children = setup.children().into_iter();
            let held: Vec<_> = children.filter(|one| self.adapters.holds(one)).collect();
            match held[..] {
                [one] => setup = one,
                _ => return matches!(setup, Setup::Sum(_)),
            }
        }
    }

    /// The adapter of these batch rows.
    fn chosen(&self, group: &RowGroup) -> Acting<'_> {
        let name = group.name.as_deref();
        let acting = name.and_then(|name| self.adapters.acting(name));
        acting.into_iter().collect()
    }

    /// The one adapter of a block that is here: the reason if there are several, or if the block does
    /// more than to name it.
    fn sole<'a>(&self, setup: &'a Setup) -> Result<&'a str, String> {
        match setup {
            Setup::Adapter(name) => Ok(name),
            Setup::Sum(of) | Setup::Stack(of) => {
                let mut held = of.iter().filter(|one| self.adapters.holds(one));
                match (held.next(), held.next()) {
                    (Some(one), None) => self.sole(one),
                    _ => Err(format!("found `{}` of several among others", setup.kind())),
                }
            }
            other => Err(format!("found `{}`", other.kind())),
        }
    }

    /// Whether the adapters of such a site can follow a composition, of which those that
    /// `lengthens` knows make sequences longer: the reason if not.
    pub(crate) fn check_in_order(
        &self,
        setup: &Setup,
        lengthens: impl Fn(&str) -> bool,
    ) -> Result<(), String> {
        if !self.adapters.holds(setup) {
            return Ok(());
        }
        match setup {
            Setup::Adapter(_) => Ok(()),
            Setup::Sum(of) | Setup::Stack(of) => {
                let held: Vec<&Setup> = of.iter().filter(|one| self.adapters.holds(one)).collect();
                if let [one] = held[..] {
                    return self.check_in_order(one, lengthens);
                }
                let mut longer = Vec::new();
                for one in held {
                    longer.push(lengthens(self.sole(one)?));
                }
                let alike = longer.windows(2).all(|pair| pair[0] == pair[1]);
                match alike || matches!(setup, Setup::Stack(_)) {
                    true => Ok(()),
                    false => Err(
                        "found a sum of adapters of which some make the sequence longer and some \
                         do not: stack them"
                            .to_owned(),
                    ),
                }
            }
            other => Err(format!("found `{}`", other.kind())),
        }
    }
}
