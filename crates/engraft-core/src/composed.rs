//! Compositions on a linear layer.

use burn::tensor::Tensor;

use crate::base::FrozenBase;
use crate::ctx::Ctx;
use crate::error::{Error, Result};
use crate::input::Input;
use crate::linear::Linear;
use crate::setup::Setup;
use crate::share::{gathered, shares};

impl Linear {
    /// The layer under a composition, activation form.
    pub(crate) fn composed(
        &self,
        setup: &Setup,
        input: &Input,
        base: &FrozenBase,
        ctx: &Ctx,
    ) -> Tensor<2> {
        if !self.adapters.acts(setup) {
            return input.through(base);
        }
        if let Some(shares) = shares(setup, input.tokens(), ctx) {
            let device = input.device();
            let results = shares.iter().map(|share| {
                let own = input.select(share.on(&device));
                self.composed(share.of, &own, base, &ctx.of_share(share.sequences))
            });
            return gathered(&shares, results.collect());
        }
        match setup {
            Setup::Adapter(name) => match self.adapters.acting(name) {
                Some((name, one)) => input.adapted(one, self.base_of(name, base), ctx),
                None => input.through(base),
            },
            Setup::Sum(of) => {
                let acting: Vec<&Setup> = self.acting_of(of);
                if let [one] = acting[..] {
                    return self.composed(one, input, base, ctx);
                }
                let y = input.through(base);
                acting.into_iter().fold(y.clone(), |sum, one| {
                    sum + self.composed(one, input, base, ctx) - y.clone()
                })
            }
            Setup::Stack(of) => {
                let acting = self.acting_of(of);
                let Some((last, below)) = acting.split_last() else {
                    return input.through(base);
                };
                if below.is_empty() {
                    return self.composed(last, input, base, ctx);
                }
                let layer = self
                    .stacked(below, base, ctx)
                    .unwrap_or_else(|error| panic!("a stack is checked when it is made: {error}"));
                self.composed(last, input, &layer, ctx)
            }
            Setup::Average(average) => {
                let terms = average.of.iter().zip(average.weights());
                terms
                    .map(|(child, weight)| self.composed(child, input, base, ctx) * weight)
                    .reduce(|sum, one| sum + one)
                    .unwrap_or_else(|| input.through(base))
            }
            Setup::Fuse(_) | Setup::Parallel(_) | Setup::Split(_) | Setup::BatchSplit(_) => {
                unreachable!("fusions are refused at layers, what shares out was shared out")
            }
        }
    }

    fn acting_of<'a>(&self, of: &'a [Setup]) -> Vec<&'a Setup> {
        let acting = of.iter().filter(|child| self.adapters.acts(child));
        acting.collect()
    }

    /// Each child on the layer that the one before it made, without dropout.
    fn stacked(&self, of: &[&Setup], base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        of.iter().try_fold(base.clone(), |layer, child| {
            self.layer_of(child, &layer, &ctx.evaluated())
        })
    }

    /// The layer under a composition, weight form.
    ///
    /// # Errors
    /// An adapter without a weight form, or a block that treats tokens differently.
    pub(crate) fn layer_of(
        &self,
        setup: &Setup,
        base: &FrozenBase,
        ctx: &Ctx,
    ) -> Result<FrozenBase> {
        if !self.adapters.acts(setup) {
            return Ok(base.clone());
        }
        match setup {
            Setup::Adapter(name) => match self.adapters.acting(name) {
                Some((name, one)) => one.effective(self.base_of(name, base), ctx),
                None => Ok(base.clone()),
            },
            Setup::Sum(of) => match self.acting_of(of)[..] {
                // One adapter alone is exact: nothing is added and subtracted again.
                [one] => self.layer_of(one, base, ctx),
                ref many => many.iter().try_fold(base.clone(), |sum, one| {
                    Ok(add_change(sum, self.layer_of(one, base, ctx)?, base, 1.0))
                }),
            },
            Setup::Stack(of) => {
                let acting = self.acting_of(of);
                acting.into_iter().try_fold(base.clone(), |layer, child| {
                    self.layer_of(child, &layer, ctx)
                })
            }
            Setup::Average(average) => {
                // sum_i w_i W_i = (sum_i w_i) W + sum_i w_i (W_i - W).
                let weights = average.weights();
                let total: f64 = weights.iter().sum();
                let bias = base.bias.clone().map(|bias| bias * total);
                let whole = FrozenBase::new(base.weight() * total, bias);
                let mut terms = average.of.iter().zip(weights);
                terms.try_fold(whole, |sum, (child, weight)| {
                    let one = self.layer_of(child, base, ctx)?;
                    Ok(add_change(sum, one, base, weight))
                })
            }
            Setup::Fuse(_) | Setup::Parallel(_) | Setup::Split(_) | Setup::BatchSplit(_) => {
                Err(Error::NoWeightForm {
                    method: "composition".to_owned(),
                    path: ctx.path().to_owned(),
                    reason: "it treats the tokens of a batch differently; deploy it as adapters"
                        .to_owned(),
                })
            }
        }
    }

    /// Whether the adapters here can follow a composition.
    pub(crate) fn check_setup(&self, path: &str, setup: &Setup, ctx: &Ctx) -> Result<()> {
        let held = |child: &&Setup| self.adapters.holds(child);
        let children: Vec<&Setup> = setup.children().into_iter().filter(held).collect();
        match setup {
            Setup::Fuse(_) if !children.is_empty() => {
                return Err(Error::Unsupported(format!(
                    "{path}: a linear layer has no fusion; it acts at sublayers and hidden states"
                )));
            }
            Setup::Stack(_) => {
                if let Some((_, below)) = children.split_last() {
                    // Adapters of a disabled model are looked at too.
                    let mut enabled = self.clone();
                    enabled.adapters.disable(false);
                    enabled
                        .stacked(below, &self.base(), &ctx.at(path))
                        .map_err(|error| {
                            Error::Unsupported(format!(
                                "{path}: in a stack all but the last adapter need a weight form: {error}"
                            ))
                        })?;
                }
            }
            _ => {}
        }
        let mut children = children.into_iter();
        children.try_for_each(|child| self.check_setup(path, child, ctx))
    }
}

/// sum + w (one - base), weight and bias.
fn add_change(sum: FrozenBase, one: FrozenBase, base: &FrozenBase, weight: f64) -> FrozenBase {
    let changed = sum.weight() + (one.weight() - base.weight()) * weight;
    let bias = match (sum.bias, one.bias, &base.bias) {
        (Some(sum), Some(one), Some(base)) => Some(sum + (one - base.clone()) * weight),
        (Some(sum), Some(one), None) => Some(sum + one * weight),
        (None, Some(one), _) => Some(one * weight),
        (sum, None, _) => sum,
    };
    FrozenBase::new(changed, bias)
}
