//! Edits of hidden states at chosen positions, shared by the methods of representation finetuning.

use burn::module::{Module, Param};
use burn::tensor::{IndexingUpdateOp, Tensor};
use engraft_core::{
    Activation, Counts, Ctx, InitContext, Result, SiteAdapter, SiteGraft, SiteKind, SiteShape,
    check_dropout, dropout, positive_rank,
};
use engraft_tensor::Init;
use engraft_tensor::ops::{linear, matmul};
use serde::{Deserialize, Serialize};

use crate::positions::{Chosen, Positions};
use crate::projection::Projection;

/// What an edit computes before training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    /// W and b as PyTorch's `Linear` draws them: the edit is not zero.
    #[default]
    Random,
    /// b = 0, and W = R where R h is subtracted, W = 0 where it is not: the edit is zero.
    Identity,
}

/// What an edit looks like; the methods' configurations write these keys out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct EditShape {
    pub rank: usize,
    pub positions: Positions,
    pub tied: bool,
    pub dropout: f64,
    pub activation: Activation,
    pub start: Start,
    /// Whether the rows of R are orthonormal.
    pub orthonormal: bool,
    /// Whether R h is subtracted.
    pub difference: bool,
    /// Whether R h has an offset.
    pub projection_bias: bool,
}

impl EditShape {
    /// One edit for both ends of the prompt, or one each.
    fn edits(&self) -> usize {
        if !self.tied && self.positions.has_both() {
            2
        } else {
            1
        }
    }

    pub fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        let passes_zero = match self.difference {
            true => self.activation == Activation::Identity,
            false => self.activation != Activation::Sigmoid,
        };
        match self.start {
            Start::Identity if !passes_zero => Err(format!(
                "start `identity` with activation {:?}: the edit would not be zero; use start `random`",
                self.activation
            )),
            _ => Ok(()),
        }
    }

    fn edit(&self, d: usize, ctx: &InitContext) -> Edit {
        let r = self.rank;
        let projection = Projection::random(d, r, self.orthonormal, ctx);
        let uniform = Init::KaimingUniform { fan_in: d };
        let (w, b) = match (self.start, self.difference) {
            (Start::Random, _) => (
                ctx.tensor(uniform, [d, r], "w"),
                ctx.tensor(uniform, [r], "b"),
            ),
            (Start::Identity, true) => (
                projection.transposed().detach(),
                ctx.tensor(Init::ZEROS, [r], "b"),
            ),
            (Start::Identity, false) => (
                ctx.tensor(Init::ZEROS, [d, r], "w"),
                ctx.tensor(Init::ZEROS, [r], "b"),
            ),
        };
        let offset = match self.start {
            Start::Random => uniform,
            Start::Identity => Init::ZEROS,
        };
        Edit {
            projection,
            projection_bias: self
                .projection_bias
                .then(|| Param::from_tensor(ctx.tensor(offset, [r], "projection_bias"))),
            w: Param::from_tensor(w),
            b: Param::from_tensor(b),
            activation: self.activation,
            difference: self.difference,
        }
    }
}

impl SiteGraft for EditShape {
    type Adapter = Reft;

    const SITES: &'static [SiteKind] = &[SiteKind::Hidden];

    fn takes(&self, site: &SiteShape) -> bool {
        site.leaves_block()
    }

    fn admits(&self, site: &SiteShape) -> Result<(), String> {
        if self.orthonormal && self.rank > site.width {
            return Err(format!(
                "rank {}: there are at most {} orthonormal rows",
                self.rank, site.width
            ));
        }
        Ok(())
    }

    /// 2 d r + r for each edit, and r more where R h has an offset.
    fn count(&self, site: &SiteShape) -> Counts {
        let offsets = if self.projection_bias { 2 } else { 1 };
        Counts::trained(self.edits() * (2 * site.width * self.rank + offsets * self.rank))
    }

    fn init(&self, site: &SiteShape, ctx: &InitContext) -> Result<Reft> {
        let edit = |name: &str| {
            let mut ctx = ctx.clone();
            ctx.key = ctx.key.child(name);
            self.edit(site.width, &ctx)
        };
        Ok(Reft {
            edit: edit("edit"),
            suffix: (self.edits() == 2).then(|| edit("suffix")),
            positions: self.positions,
            dropout: self.dropout,
        })
    }
}

/// One edit: f(W h + b) R, or (f(W h + b) - R h) R, of hidden states h as rows.
#[derive(Module, Debug)]
pub struct Edit {
    /// R.
    pub projection: Projection,
    /// The offset of R h, `[r]`.
    pub projection_bias: Option<Param<Tensor<1>>>,
    /// W, [d, r].
    pub w: Param<Tensor<2>>,
    /// b, `[r]`.
    pub b: Param<Tensor<1>>,
    /// f.
    #[module(skip)]
    pub activation: Activation,
    /// Whether R h is subtracted.
    pub difference: bool,
}

impl Edit {
    /// What is added to hidden states [tokens, d].
    pub fn change(&self, h: Tensor<2>) -> Tensor<2> {
        let r = self.projection.transposed();
        let source = linear(h.clone(), self.w.val(), Some(self.b.val()));
        let source = self.activation.apply(source);
        let inside = match self.difference {
            true => source - self.projected(h, r.clone()),
            false => source,
        };
        matmul(inside, r.transpose())
    }

    fn projected(&self, h: Tensor<2>, r: Tensor<2>) -> Tensor<2> {
        linear(h, r, self.projection_bias.as_ref().map(|bias| bias.val()))
    }
}

/// Hidden states edited at chosen positions: h + change(h) there, h elsewhere.
///
/// With dropout, entries of the edited states (not of the edit) are dropped, as the authors' code
/// does. Of n chosen tokens it costs O(n d r) and one pass over the hidden states.
#[derive(Module, Debug)]
pub struct Reft {
    /// The edit of the first positions, and of the last where the two are tied or there is no other.
    pub edit: Edit,
    /// The edit of the last positions, where it is not tied.
    pub suffix: Option<Edit>,
    /// Which tokens are edited.
    #[module(skip)]
    pub positions: Positions,
    /// Probability that an entry of an edited state is dropped.
    pub dropout: f64,
}

impl SiteAdapter for Reft {
    fn wrap(&self, _: Tensor<2>, hidden: Tensor<2>, ctx: &Ctx) -> Tensor<2> {
        let [first, last] = self.positions.choose(&hidden, ctx);
        let suffix = self.suffix.as_ref().unwrap_or(&self.edit);
        let ends = [(first, &self.edit), (last, suffix)];
        let (mut tokens, mut states, mut changes) = (Vec::new(), Vec::new(), Vec::new());
        for (chosen, edit) in ends {
            let Some(Chosen { tokens: at, there }) = chosen else {
                continue;
            };
            let state = hidden.clone().select(0, at.clone());
            let change = edit.change(state.clone());
            tokens.push((at, there));
            states.push(state);
            changes.push(change);
        }
        if tokens.is_empty() {
            return hidden;
        }
        let mut change = Tensor::cat(changes, 0);
        if ctx.is_training() && self.dropout > 0.0 {
            let state = Tensor::cat(states, 0);
            change = dropout(state.clone() + change, self.dropout, ctx) - state;
        }
        let (at, there): (Vec<_>, Vec<_>) = tokens.into_iter().unzip();
        // Either both ends come from a mask, or neither.
        if let Some(there) = there.into_iter().collect::<Option<Vec<_>>>() {
            change = change * Tensor::cat(there, 0);
        }
        hidden.select_assign(0, Tensor::cat(at, 0), change, IndexingUpdateOp::Add)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int, TensorData};
    use engraft_core::{AnySite, Bank, RowChoice, Site, Text};
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::{any_layer, draw};

    fn ints(rows: &[&[i64]]) -> Tensor<2, Int> {
        let shape = [rows.len(), rows[0].len()];
        Tensor::from_data(TensorData::new(rows.concat(), shape), &Device::default())
    }

    /// Which tokens of [batch, tokens] an adapter at a site changes.
    fn edited(site: &Site, hidden: &Tensor<3>, ctx: &Ctx) -> Vec<Vec<bool>> {
        let change = site.hidden(hidden.clone(), ctx) - hidden.clone();
        let [batch, tokens, _] = change.dims();
        let sizes = bridge::values(&change.abs().max_dim(2));
        (0..batch)
            .map(|row| {
                (0..tokens)
                    .map(|at| sizes[row * tokens + at] > 1e-6)
                    .collect()
            })
            .collect()
    }

    fn at_site(shape: &EditShape) -> Site {
        let (base, bank) = (any_layer(), Bank::default());
        let ctx = InitContext::new(3, "s", "default", &base, &bank);
        let site_shape = SiteShape {
            path: "s".to_owned(),
            kind: SiteKind::Hidden,
            width: 4,
        };
        let mut site = Site::default();
        site.attach(
            "s",
            "default",
            AnySite::new(shape.init(&site_shape, &ctx).unwrap()),
        )
        .unwrap();
        site
    }

    fn marks(rows: &[&str]) -> Vec<Vec<bool>> {
        rows.iter()
            .map(|row| row.chars().map(|mark| mark == 'x').collect())
            .collect()
    }

    #[test]
    fn padding_on_either_side_and_completions_are_left_alone() {
        let site = at_site(&EditShape {
            rank: 2,
            positions: Positions { first: 2, last: 1 },
            tied: true,
            dropout: 0.0,
            activation: Activation::Identity,
            start: Start::Random,
            orthonormal: true,
            difference: true,
            projection_bias: false,
        });
        let hidden = draw([3, 6, 4], 4, "h");
        let ids = Tensor::<2, Int>::zeros([3, 6], &Device::default());
        let text = Text::new(ids);
        let run = |text: &Text, hidden: &Tensor<3>| {
            edited(&site, hidden, &Ctx::default().with_text(text))
        };

        assert_eq!(run(&text, &hidden), marks(&["xx...x", "xx...x", "xx...x"]));
        // Right padding, left padding, a prompt of 3: each end has at most half, rounded down.
        let mask = ints(&[
            &[1, 1, 1, 1, 1, 0],
            &[0, 0, 1, 1, 1, 1],
            &[0, 1, 1, 1, 0, 0],
        ]);
        let expected = marks(&["xx..x.", "..xx.x", ".x.x.."]);
        let padded = text.clone().with_mask(mask);
        assert_eq!(run(&padded, &hidden), expected);
        // A single token has no two halves; nothing at all is nothing.
        let short = ints(&[
            &[1, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 1, 1],
        ]);
        let short = text.clone().with_mask(short);
        assert_eq!(run(&short, &hidden), marks(&["......", "......", "....xx"]));
        // The completion behind the prompt, and what continues a text.
        let prompt = ints(&[
            &[1, 1, 1, 0, 0, 0],
            &[0, 0, 1, 1, 0, 0],
            &[0, 0, 0, 0, 0, 0],
        ]);
        let prompted = padded.clone().with_prompt(prompt);
        assert_eq!(
            run(&prompted, &hidden),
            marks(&["x.x...", "..xx..", "......"])
        );
        let next = hidden.clone().narrow(1, 0, 1);
        assert_eq!(run(&padded, &next), marks(&[".", ".", "."]));
        // Virtual tokens in front move everything back.
        let longer = draw([3, 8, 4], 5, "h");
        let moved = marks(&["..xx..x.", "....xx.x", "...x.x.."]);
        assert_eq!(run(&padded, &longer), moved);
        // Rows of a mixed batch keep their own padding.
        let names = |row: usize| (row != 1).then(|| "default".to_owned());
        let rows = RowChoice::new((0..3).map(names).collect());
        let mixed = edited(
            &site,
            &hidden,
            &Ctx::default().with_text(&padded).with_rows(&rows),
        );
        assert_eq!(mixed, marks(&["xx..x.", "......", ".x.x.."]));
    }
}
