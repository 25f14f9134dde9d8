//! The arithmetic of PEFT's `merge_utils` on lists of numbers.

use super::combination::{MajoritySign, Prune, Rule};
use crate::error::{Error, Result};

/// The fraction that is kept, checked.
pub(super) fn density(density: Option<f64>, rule: Rule) -> Result<f64> {
    match (density, rule.prune) {
        (_, None) => Ok(1.0),
        (Some(density), _) if density >= 0.0 => Ok(density),
        (found, _) => Err(Error::input(format!(
            "`density` is {}, expected the fraction of numbers that is kept, from 0 to 1",
            found.map_or("missing".to_owned(), |density| density.to_string())
        ))),
    }
}

/// Combines the tensors of the adapters, one of the same length each, with weights.
pub(super) fn combine(
    tensors: Vec<Vec<f64>>,
    weights: &[f64],
    (rule, sign): (Rule, MajoritySign),
    density: f64,
    mut kept: impl FnMut(usize, usize) -> Result<Vec<bool>>,
) -> Result<Vec<f64>> {
    let mut tensors = tensors;
    for (at, tensor) in tensors.iter_mut().enumerate() {
        match rule.prune {
            Some(_) if density >= 1.0 => {}
            Some(Prune::Magnitude) => keep_largest(tensor, density),
            Some(Prune::Random) => {
                let kept = kept(at, tensor.len())?;
                let pairs = tensor.iter_mut().zip(kept);
                pairs.for_each(|(x, kept)| *x = if kept { *x / density } else { 0.0 });
            }
            None => {}
        }
    }
    let count = tensors[0].len();
    Ok((0..count)
        .map(|at| {
            let values = tensors.iter().map(|tensor| tensor[at]);
            let weighted = values
                .clone()
                .zip(weights)
                .map(|(x, weight)| (x, x * weight));
            match rule.elect {
                true => {
                    let elected = elect(values, sign);
                    let agreeing = weighted.filter(|(x, _)| x.signum() == elected && *x != 0.0);
                    let (sum, n) = agreeing.fold((0.0, 0), |(sum, n), (_, x)| (sum + x, n + 1));
                    sum / f64::from(n.max(1))
                }
                false => weighted.map(|(_, x)| x).sum(),
            }
        })
        .collect())
}

/// 1 or -1.
fn elect(values: impl Iterator<Item = f64>, by: MajoritySign) -> f64 {
    let votes = values.map(|x| match by {
        MajoritySign::Total => x,
        MajoritySign::Frequency if x == 0.0 => 0.0,
        MajoritySign::Frequency => x.signum(),
    });
    if votes.sum::<f64>() >= 0.0 { 1.0 } else { -1.0 }
}

/// Zeroes all but the floor(density n) largest magnitudes.
fn keep_largest(values: &mut [f64], density: f64) {
    let count = (density * values.len() as f64) as usize;
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].abs().total_cmp(&values[*a].abs()));
    order[count..].iter().for_each(|at| values[*at] = 0.0);
}
