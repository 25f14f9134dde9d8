//! Sums of the parameters themselves, as 2306.14870 has them.

use engraft_linalg::Matrix;

use super::Operand;
use crate::error::{Error, Result};
use crate::update::{Factors, Update, shown};

/// What works where sums of parameters do not.
const EXACT_WORKS: &str = "the exact form works";

/// One module of a sum.
///
/// For LoRA L = sum_i c_i L_i and R = sum_i |c_i| R_i: a negative coefficient flips the sign of B
/// alone, so that dW changes its sign. Scalings and biases have one factor, and add up as in the
/// exact form.
pub(super) fn combination(module: &str, terms: &[(f64, &Operand)]) -> Result<Update> {
    let mut updates = Vec::with_capacity(terms.len());
    for (c, adapter) in terms {
        let found = adapter.modules.get(module);
        let update = found.ok_or_else(|| missing(module, adapter, terms))?;
        check(module, adapter, update, updates.first().copied())?;
        updates.push((*c, *adapter, update));
    }
    let refused = |adapter: &Operand, error| Error::module(&adapter.name, module, error);
    let mut sum: Option<Update> = None;
    for (c, adapter, update) in &updates {
        // Everything but the factors.
        let linear = Update {
            low_rank: None,
            ..update.scaled(*c)
        };
        sum = Some(match sum {
            None => linear,
            Some(sum) => sum.plus(&linear).map_err(|error| refused(adapter, error))?,
        });
    }
    let mut sum = sum.expect("at least one adapter");
    let factors = updates
        .iter()
        .filter_map(|(c, _, update)| Some((*c, update.low_rank.as_ref()?)));
    let mut factors = factors.peekable();
    if factors.peek().is_some() {
        let (mut left, mut right): (Option<Matrix>, Option<Matrix>) = (None, None);
        for (c, part) in factors {
            add(&mut left, part.left.scale(c))?;
            add(&mut right, part.right.scale(c.abs()))?;
        }
        let both = left.zip(right).expect("at least one");
        sum.low_rank = Some(Factors::new(both.0, both.1)?);
    }
    Ok(sum)
}

fn add(sum: &mut Option<Matrix>, term: Matrix) -> Result<()> {
    *sum = Some(match sum.take() {
        None => term,
        Some(sum) => sum.add(&term)?,
    });
    Ok(())
}

/// Refuses an update without parameters that add up, or unlike that of the first adapter.
fn check(
    module: &str,
    adapter: &Operand,
    update: &Update,
    first: Option<(f64, &Operand, &Update)>,
) -> Result<()> {
    let error = |reason: String| {
        let reason = format!("{reason}; {EXACT_WORKS}");
        Err(Error::module(&adapter.name, module, reason))
    };
    let (kind, _) = kind(update);
    if kind == Kind::Other {
        return error(
            "its update is neither of low rank nor a scaling alone: factor-wise sums are those of LoRA and (IA)^3"
                .to_owned(),
        );
    }
    let Some((_, other, before)) = first else {
        return Ok(());
    };
    let name = &other.name;
    if before.common_shape(update).is_err() {
        let [own, their] = [update.shape, before.shape].map(shown);
        let reason = format!("a weight of {own}, that of `{name}` is {their}: no form adds these");
        return Err(Error::module(&adapter.name, module, reason));
    }
    let (their_kind, their_rank) = self::kind(before);
    let (_, rank) = self::kind(update);
    match (kind == their_kind, rank == their_rank) {
        (false, _) => error(format!("{kind}, and `{name}` has {their_kind}")),
        (true, false) => error(format!("rank {rank}, and `{name}` has rank {their_rank}")),
        (true, true) => Ok(()),
    }
}

fn missing(module: &str, without: &Operand, terms: &[(f64, &Operand)]) -> Error {
    let has = terms
        .iter()
        .find(|(_, adapter)| adapter.modules.contains_key(module));
    let has = has.map_or("", |(_, adapter)| &adapter.name);
    Error::module(
        &without.name,
        module,
        format!("not changed, but by `{has}`; {EXACT_WORKS}: it counts as zero there"),
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    LowRank,
    Scaling,
    Other,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::LowRank => "factors of low rank",
            Self::Scaling => "a scaling",
            Self::Other => "neither factors nor a scaling",
        })
    }
}

/// What the parameters are, and their rank.
fn kind(update: &Update) -> (Kind, usize) {
    let other = update.sparse.is_some() || update.dense.is_some();
    let scaling = update.needs_base() || update.bias_scale.is_some();
    match &update.low_rank {
        _ if other => (Kind::Other, 0),
        Some(factors) if !scaling => (Kind::LowRank, factors.rank()),
        Some(_) => (Kind::Other, 0),
        None => (Kind::Scaling, 0),
    }
}
