//! How SPT spreads a budget of trained values over layers.

use crate::spt::SptTuning;

/// The budget that [`SptConfig::allocate`](crate::SptConfig::allocate) spreads over the layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SptBudget {
    /// Trained values in all, at most.
    pub parameters: usize,
    /// Rank of the low-rank updates; the authors' 8.
    pub rank: usize,
    /// A layer gets one as soon as its sensitive entries are a share of 1 / ease of the low-rank
    /// update's values; the authors' 10.
    pub ease: f64,
}

impl SptBudget {
    /// This many trained values, rank 8 and ease 10.
    pub fn new(parameters: usize) -> Self {
        Self {
            parameters,
            rank: 8,
            ease: 10.0,
        }
    }
}

/// The tuning of each layer from the sensitivities of its weights and the values of its low-rank
/// update: the most sensitive weights of all layers are taken one by one while the budget lasts.
pub(crate) fn allocation(layers: &[(Vec<f64>, usize)], budget: SptBudget) -> Vec<SptTuning> {
    let mut ranking: Vec<(f64, usize)> = layers
        .iter()
        .enumerate()
        .flat_map(|(layer, (scores, _))| scores.iter().map(move |score| (*score, layer)))
        .collect();
    ranking.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut taken = vec![0usize; layers.len()];
    let cost = |layer: usize, count: usize| {
        let structured = layers[layer].1;
        if count > 0 && count as f64 >= structured as f64 / budget.ease {
            structured
        } else {
            count
        }
    };
    let mut spent = 0;
    for (_, layer) in ranking {
        let now = spent - cost(layer, taken[layer]) + cost(layer, taken[layer] + 1);
        if now > budget.parameters {
            break;
        }
        spent = now;
        taken[layer] += 1;
    }
    let tuning = |(layer, &count): (usize, &usize)| {
        if count > 0 && count as f64 >= layers[layer].1 as f64 / budget.ease {
            SptTuning::LowRank(budget.rank)
        } else {
            SptTuning::Entries(count)
        }
    };
    taken.iter().enumerate().map(tuning).collect()
}
