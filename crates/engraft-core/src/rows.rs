//! Batches whose rows use different adapters.

use std::collections::BTreeMap;

use burn::tensor::{Device, Int, Tensor};
use engraft_tensor::ops::{RowTokens, grouped, grouped_low_rank};

use crate::base::FrozenBase;
use crate::ctx::Ctx;
use crate::input::Input;
use crate::linear::Linear;
use crate::setup::Setup;

/// Which adapter each row of a batch uses; `None` is the base model. Rows are grouped by adapter
/// once, when this is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowChoice {
    rows: usize,
    groups: Vec<RowGroup>,
}

/// The rows of a batch that use one adapter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowGroup {
    /// Its name; `None` is the base model.
    pub name: Option<String>,
    /// Their positions in the batch, in order.
    pub rows: Vec<usize>,
}

impl RowGroup {
    /// For each row of the batch its position among these rows, or that of any for the others.
    pub(crate) fn spread(&self, rows: usize, device: &Device) -> Tensor<1, Int> {
        let mut places = vec![0; rows];
        let own = self.rows.iter().enumerate();
        own.for_each(|(place, &row)| places[row] = place);
        RowTokens(1).positions(&places, device)
    }
}

impl RowChoice {
    /// One name, or the base, per batch row.
    pub fn new(rows: Vec<Option<String>>) -> Self {
        let count = rows.len();
        let mut groups: BTreeMap<Option<String>, Vec<usize>> = BTreeMap::new();
        for (row, name) in rows.into_iter().enumerate() {
            groups.entry(name).or_default().push(row);
        }
        let groups = groups.into_iter();
        Self {
            rows: count,
            groups: groups.map(|(name, rows)| RowGroup { name, rows }).collect(),
        }
    }

    /// Number of batch rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The distinct names in use, without the base.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().filter_map(|group| group.name.as_deref())
    }

    /// The distinct choices.
    pub(crate) fn groups(&self) -> &[RowGroup] {
        &self.groups
    }

    /// How the tokens are shared among the rows.
    ///
    /// # Panics
    /// If the number of tokens is not a multiple of the number of batch rows.
    fn share(&self, tokens: usize) -> RowTokens {
        assert!(
            tokens.is_multiple_of(self.rows),
            "{tokens} tokens cannot be shared among {} batch rows",
            self.rows
        );
        RowTokens(tokens / self.rows)
    }

    /// Applies `apply` once per distinct choice to the rows and the positions of the tokens that made
    /// it, and puts the results back in their places.
    ///
    /// # Panics
    /// If the number of tokens is not a multiple of the number of batch rows.
    pub(crate) fn dispatch(
        &self,
        tokens: usize,
        device: &Device,
        mut apply: impl FnMut(&RowGroup, Tensor<1, Int>) -> Tensor<2>,
    ) -> Tensor<2> {
        let share = self.share(tokens);
        let outputs = self
            .groups
            .iter()
            .map(|group| apply(group, share.positions(&group.rows, device)));
        let outputs = Tensor::cat(outputs.collect(), 0);
        outputs.select(0, share.positions(&self.places(), device))
    }

    /// Applies `apply` once per distinct choice to the positions in the batch of the rows that made
    /// it, and puts the results back in their places.
    ///
    /// # Panics
    /// If the results differ in more than the number of rows.
    pub(crate) fn each<const D: usize>(
        &self,
        device: &Device,
        mut apply: impl FnMut(&RowGroup, Tensor<1, Int>) -> Tensor<D>,
    ) -> Tensor<D> {
        let whole = RowTokens(1);
        let outputs: Vec<Tensor<D>> = self
            .groups
            .iter()
            .map(|group| apply(group, whole.positions(&group.rows, device)))
            .collect();
        let row = |output: &Tensor<D>| output.dims()[1..].to_vec();
        assert!(
            outputs
                .windows(2)
                .all(|pair| row(&pair[0]) == row(&pair[1])),
            "adapters that make sequences longer cannot share a batch: `Adapted::rows` refuses them"
        );
        Tensor::cat(outputs, 0).select(0, whole.positions(&self.places(), device))
    }

    /// Where each row is when the groups are behind one another.
    fn places(&self) -> Vec<usize> {
        let order = self.groups.iter().flat_map(|group| &group.rows);
        let mut places = vec![0; self.rows];
        order.enumerate().for_each(|(at, &row)| places[row] = at);
        places
    }
}

impl Linear {
    /// Each row of the batch through its own adapter; one that this layer lacks is the base.
    pub(crate) fn mixed(
        &self,
        rows: &RowChoice,
        input: &Input,
        base: &FrozenBase,
        ctx: &Ctx,
    ) -> Tensor<2> {
        let through = |name: Option<&str>, input: &Input, ctx: &Ctx| match name {
            Some(name) => self.composed(&Setup::from(name), input, base, ctx),
            None => input.through(base),
        };
        if let [all] = &rows.groups[..] {
            return through(all.name.as_deref(), input, ctx);
        }
        let added = match input {
            Input::Tokens(x) => self.added(rows, x, base, ctx),
            Input::Rows(_) | Input::Tied(_) => None,
        };
        added.unwrap_or_else(|| {
            rows.dispatch(input.tokens(), &input.device(), |group, members| {
                let ctx = ctx.of_members(&group.rows);
                through(group.name.as_deref(), &input.select(members), &ctx)
            })
        })
    }

    /// The frozen product of all rows together, and what the adapters add to it; `None` where one
    /// of them does more than add, or has a base of its own.
    fn added(
        &self,
        rows: &RowChoice,
        x: &Tensor<2>,
        base: &FrozenBase,
        ctx: &Ctx,
    ) -> Option<Tensor<2>> {
        let share = rows.share(x.dims()[0]);
        let (mut adapters, mut members) = (Vec::new(), Vec::new());
        for group in &rows.groups {
            let name = group.name.as_deref();
            if let Some((name, adapter)) = name.and_then(|name| self.adapters.acting(name)) {
                if !adapter.is_additive() || self.has_own_base(name) {
                    return None;
                }
                adapters.push(adapter);
                members.push(group.rows.as_slice());
            }
        }
        let y = base.forward(x.clone());
        let factors = adapters.iter().map(|adapter| adapter.factors(ctx));
        let together: Option<Vec<_>> = factors
            .zip(&members)
            .map(|(factors, rows)| Some((factors?, *rows)))
            .collect();
        Some(match together {
            Some(groups) => grouped_low_rank(y, x.clone(), share, &groups),
            None => grouped(y, x.clone(), share, &members, |group, x| {
                adapters[group].update(x, base, &ctx.of_members(members[group]))
            }),
        })
    }
}
