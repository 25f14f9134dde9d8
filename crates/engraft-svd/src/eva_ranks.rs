//! EVA's redistribution of ranks.

/// A layer that contends for ranks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layer {
    /// Its rank before, which goes into the budget.
    pub(crate) rank: usize,
    /// The most it can get.
    pub(crate) most: usize,
    /// Index of the first layer with the same inputs.
    pub(crate) group: usize,
    /// Share of the variance that each component explains, largest first.
    pub(crate) explained: Vec<f64>,
}

/// The new ranks: of the components of all layers, as many as the ranks' sum are taken in the order
/// of what they explain; ties go to the lower component, then to the earlier layer.
pub(crate) fn redistribute(layers: &[Layer]) -> Vec<usize> {
    let budget: usize = layers.iter().map(|layer| layer.rank).sum();
    let limit = |layer: &Layer| {
        let same = layers.iter().filter(|other| other.group == layer.group);
        same.map(|other| other.most).max().unwrap_or(layer.most)
    };
    let mut components: Vec<(f64, usize, usize)> = Vec::new();
    for (index, layer) in layers.iter().enumerate() {
        let shares = layer.explained.iter().take(limit(layer)).enumerate();
        components.extend(shares.map(|(place, share)| (*share, place, index)));
    }
    components.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2).cmp(&(b.1, b.2))));
    let mut ranks = vec![0; layers.len()];
    for (_, _, index) in components.into_iter().take(budget) {
        ranks[index] += 1;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(rank: usize, most: usize, group: usize, explained: &[f64]) -> Layer {
        Layer {
            rank,
            most,
            group,
            explained: explained.to_vec(),
        }
    }

    #[test]
    fn the_budget_is_kept_and_no_layer_gets_more_than_its_limit() {
        let layers = [
            layer(2, 3, 0, &[0.5, 0.4, 0.05, 0.05]),
            layer(2, 3, 1, &[0.25; 4]),
            layer(2, 3, 2, &[0.01; 4]),
        ];
        assert_eq!(redistribute(&layers), [3, 3, 0]);
        // Equal inputs share a limit and split the ties.
        let twins = [
            layer(2, 2, 0, &[0.4, 0.3, 0.2, 0.1]),
            layer(2, 4, 0, &[0.4, 0.3, 0.2, 0.1]),
        ];
        assert_eq!(redistribute(&twins), [2, 2]);
        let odd = [
            layer(1, 4, 0, &[0.4, 0.3, 0.2, 0.1]),
            layer(2, 4, 0, &[0.4, 0.3, 0.2, 0.1]),
        ];
        assert_eq!(redistribute(&odd), [2, 1]);
    }
}
