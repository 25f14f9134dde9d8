//! `add_weighted_adapter` of LoRA.

use engraft_linalg::{Matrix, Svd, svd};
use serde_json::json;

use super::combination::{Combination, Options};
use super::platform::{Draw, Drawn, Platform};
use super::rules::{combine as combined, density};
use super::{Sink, modules, union};
use crate::adapter::{Adapter, Config, LoraFactors, MODEL};
use crate::base::Layout;
use crate::error::{Error, Result};
use crate::file::HostTensor;
use crate::update::{columns_beside, rows_below};

/// What one adapter has on one module.
struct Term<'a> {
    adapter: &'a Adapter,
    weight: f64,
    factors: LoraFactors,
}

/// The combination, its other options, and the fraction that is kept.
type Asked<'a> = (Combination, &'a Options, f64);

pub(super) fn combine(
    adapters: &[(&Adapter, f64)],
    options: &Options,
    platform: &mut dyn Platform,
    sink: Sink<'_>,
) -> Result<Config> {
    let (first, _) = adapters[0];
    for (adapter, _) in adapters {
        if adapter.config().is_set("use_dora") {
            let reason = "PEFT's combination drops the magnitudes of DoRA: leave out `compatible`, and give `base`";
            return Err(Error::adapter(adapter.name(), reason));
        }
    }
    // PEFT combines a single adapter linearly, whatever was asked.
    let combination = match adapters.len() {
        1 => Combination::Linear,
        _ => options.combination_type,
    };
    let ranks = adapters.iter().map(|(adapter, _)| largest_rank(adapter));
    let ranks: Vec<usize> = ranks.collect::<Result<_>>()?;
    let largest = ranks.iter().copied().max().unwrap_or(0);
    let rank = match combination {
        Combination::Cat => ranks.iter().sum(),
        combination if combination.truncates() => options.svd_rank.unwrap_or(largest),
        _ => match ranks.iter().position(|rank| *rank != ranks[0]) {
            None => ranks[0],
            Some(at) => {
                let reason = format!(
                    "has rank {} and `{}` has {}: factors of different ranks do not combine; `cat`, `svd` and merging without `compatible` do",
                    ranks[at],
                    first.name(),
                    ranks[0]
                );
                return Err(Error::adapter(adapters[at].0.name(), reason));
            }
        },
    };
    if rank == 0 {
        return Err(Error::input("`svd_rank` is 0, expected at least 1"));
    }
    let density = density(options.density, combination.rule())?;
    let config = first.config().with([
        ("r", json!(rank)),
        ("lora_alpha", json!(rank)),
        ("target_modules", union(adapters, "target_modules")?),
        ("alpha_pattern", json!({})),
        ("rank_pattern", json!({})),
    ]);
    for module in modules(adapters) {
        let terms = terms(adapters, &module)?;
        let layout = terms[0].adapter.modules()[&module].layout.clone();
        let (a, b) = match combination {
            Combination::Cat => beside(&terms, rank)?,
            combination if combination.truncates() => {
                let delta = delta(&terms, &module, (combination, options, density), platform)?;
                truncated(&module, &delta, rank, options.svd_clamp, platform)?
            }
            _ => by_factor(&terms, &module, (combination, options, density), platform)?,
        };
        write(&module, &layout, &terms[0], (a, b), sink)?;
        if config.is_set("lora_bias") {
            let outputs = terms[0].factors.b.shape[0];
            let zeros = HostTensor::new(vec![outputs], vec![0.0; outputs]);
            sink(&format!("{MODEL}{module}.lora_B.bias"), zeros)?;
        }
    }
    Ok(config)
}

/// The most of `r` and the values of `rank_pattern`.
fn largest_rank(adapter: &Adapter) -> Result<usize> {
    let config = adapter.config();
    let rank = config.number("r");
    let rank = rank.map_err(|error| Error::adapter(adapter.name(), error))?;
    let pattern = config
        .keys()
        .get("rank_pattern")
        .and_then(|pattern| pattern.as_object());
    let ranks = pattern.into_iter().flat_map(|pattern| pattern.values());
    let most = ranks
        .filter_map(serde_json::Value::as_f64)
        .fold(rank, f64::max);
    Ok(most as usize)
}

fn terms<'a>(adapters: &[(&'a Adapter, f64)], module: &str) -> Result<Vec<Term<'a>>> {
    let present = adapters
        .iter()
        .filter(|(adapter, _)| adapter.modules().contains_key(module));
    present
        .map(|(adapter, weight)| {
            Ok(Term {
                adapter,
                weight: *weight,
                factors: adapter.lora_factors(module)?,
            })
        })
        .collect()
}

/// A scaled by weight and alpha / r, B as it is; zeros up to the sum of all adapters' ranks.
fn beside(terms: &[Term<'_>], rank: usize) -> Result<(Matrix, Matrix)> {
    let a = terms.iter().map(|term| {
        let a = term.factors.a.matrix()?;
        Ok(a.scale(term.weight * term.factors.scaling))
    });
    let a = a.collect::<Result<Vec<_>>>()?;
    let b = terms.iter().map(|term| term.factors.b.matrix());
    let b = b.collect::<Result<Vec<_>>>()?;
    let (a, b) = (
        rows_below(&a.iter().collect::<Vec<_>>())?,
        columns_beside(&b.iter().collect::<Vec<_>>())?,
    );
    let missing = rank - a.rows();
    Ok((
        rows_below(&[&a, &Matrix::zeros(missing, a.cols())])?,
        columns_beside(&[&b, &Matrix::zeros(b.rows(), missing)])?,
    ))
}

/// The rule on the As and on the Bs, with the roots of the weights; the sign is A's.
fn by_factor(
    terms: &[Term<'_>],
    module: &str,
    (combination, options, density): Asked<'_>,
    platform: &mut dyn Platform,
) -> Result<(Matrix, Matrix)> {
    let strengths = terms.iter().map(|term| term.weight * term.factors.scaling);
    let roots: Vec<f64> = strengths.clone().map(|x| x.abs().sqrt()).collect();
    let signed = strengths
        .zip(&roots)
        .map(|(x, root)| if x >= 0.0 { *root } else { -root });
    let signed: Vec<f64> = signed.collect();
    let mut factor = |of: Drawn, weights: &[f64]| -> Result<Matrix> {
        let stored = terms.iter().map(|term| match of {
            Drawn::A => &term.factors.a,
            _ => &term.factors.b,
        });
        let shape = &stored.clone().next().expect("one at least").shape;
        if let Some(at) = stored.clone().position(|tensor| tensor.shape != *shape) {
            let other = &stored.clone().nth(at).expect("found").shape;
            let reason = format!(
                "its {of:?} is {other:?} and another's {shape:?}: factors of different shapes do not combine; `cat`, `svd` and merging without `compatible` do"
            );
            return Err(Error::module(terms[at].adapter.name(), module, reason));
        }
        let numbers = stored
            .clone()
            .map(|tensor| tensor.data.iter().map(|x| f64::from(*x)).collect());
        let data = combined(
            numbers.collect(),
            weights,
            (combination.rule(), options.majority_sign_method),
            density,
            |at, count| {
                let draw = Draw {
                    module,
                    of,
                    adapter: terms[at].adapter.name(),
                };
                platform.kept(draw, count, density).map_err(Error::input)
            },
        )?;
        let columns = shape[1..].iter().product();
        Ok(Matrix::from_vec(shape[0], columns, data)?)
    };
    Ok((factor(Drawn::A, &signed)?, factor(Drawn::B, &roots)?))
}

/// The rule on the updates.
fn delta(
    terms: &[Term<'_>],
    module: &str,
    (combination, options, density): Asked<'_>,
    platform: &mut dyn Platform,
) -> Result<Matrix> {
    let mut shape = (0, 0);
    let mut updates = Vec::with_capacity(terms.len());
    for term in terms {
        let product = term.factors.b.matrix()?.matmul(&term.factors.a.matrix()?)?;
        let product = product.scale(term.factors.scaling);
        if !updates.is_empty() && product.shape() != shape {
            let found = product.shape();
            let reason = format!("its update is {found:?} and another's {shape:?}");
            return Err(Error::module(term.adapter.name(), module, reason));
        }
        shape = product.shape();
        updates.push(product.into_vec());
    }
    let weights: Vec<f64> = terms.iter().map(|term| term.weight).collect();
    let transposed_draws = terms[0].adapter.modules()[module].layout.is_transposed();
    let data = combined(
        updates,
        &weights,
        (combination.rule(), options.majority_sign_method),
        density,
        |at, count| {
            let draw = Draw {
                module,
                of: Drawn::Delta,
                adapter: terms[at].adapter.name(),
            };
            let kept = platform.kept(draw, count, density).map_err(Error::input)?;
            // Draws are in the order of the weight in its file.
            Ok(match transposed_draws {
                true => (0..count)
                    .map(|at| kept[at % shape.1 * shape.0 + at / shape.1])
                    .collect(),
                false => kept,
            })
        },
    )?;
    Ok(Matrix::from_vec(shape.0, shape.1, data)?)
}

/// (V^T, U S) of the leading triples, clamped between plus and minus a quantile of all their numbers.
fn truncated(
    module: &str,
    delta: &Matrix,
    rank: usize,
    clamp: Option<f64>,
    platform: &mut dyn Platform,
) -> Result<(Matrix, Matrix)> {
    let all = svd(delta)?;
    let rank = rank.min(all.s.len());
    let Svd { u, s, vt } = platform.signed(module, all.truncated(rank)?);
    let us = u.scale_columns(&s)?;
    let Some(quantile) = clamp else {
        return Ok((vt, us));
    };
    if !(0.0..=1.0).contains(&quantile) {
        return Err(Error::input(format!(
            "`svd_clamp` is {quantile}, expected a quantile from 0 to 1"
        )));
    }
    let mut numbers: Vec<f64> = us.as_slice().iter().chain(vt.as_slice()).copied().collect();
    numbers.sort_by(f64::total_cmp);
    let place = quantile * (numbers.len() - 1) as f64;
    let below = numbers[place as usize];
    let above = numbers[(place as usize + 1).min(numbers.len() - 1)];
    let bound = below + (above - below) * place.fract();
    // As PyTorch clamps: where the bounds cross, the upper one holds.
    let clamp = |matrix: &Matrix| {
        let numbers = matrix.as_slice().iter();
        let clamped = numbers.map(|x| x.max(-bound).min(bound)).collect();
        Matrix::from_vec(matrix.rows(), matrix.cols(), clamped)
    };
    Ok((clamp(&vt)?, clamp(&us)?))
}

/// Hands over A and B in the shapes that the module's layer has.
fn write(
    module: &str,
    layout: &Layout,
    like: &Term<'_>,
    (a, b): (Matrix, Matrix),
    sink: Sink<'_>,
) -> Result<()> {
    let shaped = |matrix: &Matrix, like: &[usize], side: usize| {
        let mut shape = like.to_vec();
        shape[side] = [matrix.rows(), matrix.cols()][side];
        HostTensor::new(shape, matrix.to_f32())
    };
    let [field_a, field_b] = LoraFactors::fields(layout);
    let (a, b) = (
        shaped(&a, &like.factors.a.shape, 0),
        shaped(&b, &like.factors.b.shape, 1),
    );
    sink(&format!("{MODEL}{module}.{field_a}"), a)?;
    sink(&format!("{MODEL}{module}.{field_b}"), b)
}
