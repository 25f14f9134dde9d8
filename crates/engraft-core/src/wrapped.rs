//! Compositions at sublayers and hidden states.

use burn::tensor::{Int, Tensor};

use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::setup::Setup;
use crate::share::{gathered, shares};
use crate::site::Site;

/// What an adapter at a sublayer sees, [tokens, width] each.
#[derive(Debug, Clone)]
pub(crate) struct Sublayer {
    /// What the result is added to.
    pub stream: Tensor<2>,
    /// What the sublayer read.
    pub input: Tensor<2>,
    /// What it returned.
    pub output: Tensor<2>,
}

impl Sublayer {
    /// How many tokens there are.
    pub fn tokens(&self) -> usize {
        self.output.dims()[0]
    }

    /// The tokens at these positions.
    pub fn select(&self, members: &Tensor<1, Int>) -> Self {
        let pick = |x: &Tensor<2>| x.clone().select(0, members.clone());
        Self {
            stream: pick(&self.stream),
            input: pick(&self.input),
            output: pick(&self.output),
        }
    }

    fn returning(&self, output: Tensor<2>) -> Self {
        Self {
            output,
            ..self.clone()
        }
    }
}

impl Site {
    /// What a sublayer is taken to have returned under a composition.
    pub(crate) fn wrapped(&self, setup: &Setup, at: Sublayer, ctx: &Ctx) -> Tensor<2> {
        if !self.adapters.acts(setup) {
            return at.output;
        }
        if let Some(shares) = shares(setup, at.tokens(), ctx) {
            let device = at.output.device();
            let results = shares.iter().map(|share| {
                let own = at.select(&share.on(&device));
                self.wrapped(share.of, own, &ctx.of_share(share.sequences))
            });
            return gathered(&shares, results.collect());
        }
        let output = at.output.clone();
        let each = |of: &[Setup]| -> Vec<Tensor<2>> {
            let acting = of.iter().filter(|child| self.adapters.acts(child));
            acting
                .map(|child| self.wrapped(child, at.clone(), ctx))
                .collect()
        };
        match setup {
            Setup::Adapter(name) => match self.adapters.acting(name) {
                Some((_, site)) => {
                    let Sublayer {
                        stream,
                        input,
                        output,
                    } = at;
                    site.wrap(input, output, &ctx.with_stream(&stream))
                }
                None => output,
            },
            Setup::Stack(of) => of.iter().fold(output, |output, child| {
                self.wrapped(child, at.returning(output), ctx)
            }),
            Setup::Sum(of) => {
                let mut changed = each(of);
                if changed.len() == 1 {
                    return changed.remove(0);
                }
                changed
                    .into_iter()
                    .fold(output.clone(), |sum, one| sum + one - output.clone())
            }
            Setup::Average(average) => {
                let terms = average.of.iter().zip(average.weights());
                terms
                    .map(|(child, weight)| self.wrapped(child, at.clone(), ctx) * weight)
                    .reduce(|sum, one| sum + one)
                    .unwrap_or(output)
            }
            Setup::Fuse(fuse) => {
                let changed = each(&fuse.of).into_iter();
                let changes: Vec<_> = changed.map(|one| one - output.clone()).collect();
                match self.adapters.acting(&fuse.by) {
                    Some((_, by)) if !changes.is_empty() => {
                        output.clone() + by.fuse(output, changes, ctx)
                    }
                    _ => output,
                }
            }
            Setup::Parallel(_) | Setup::Split(_) | Setup::BatchSplit(_) => {
                unreachable!("blocks that share out were shared out")
            }
        }
    }

    /// Whether the adapters here can follow a composition.
    pub(crate) fn check_setup(&self, path: &str, setup: &Setup) -> Result<()> {
        if let Setup::Fuse(fuse) = setup
            && fuse.of.iter().any(|child| self.adapters.holds(child))
        {
            let fuses = self.adapters.get(&fuse.by).map(|by| by.fuses());
            if !fuses.unwrap_or(false) {
                return Err(Error::Unsupported(format!(
                    "{path}: `{}` does not fuse adapters here; attach an adapter fusion wherever the fused ones are",
                    fuse.by
                )));
            }
        }
        let mut children = setup.children().into_iter();
        children.try_for_each(|child| self.check_setup(path, child))
    }
}
