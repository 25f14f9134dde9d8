//! AdaMSS: an update of its own for each cluster of outputs, inside the leading singular subspace.

use burn::module::{Module, Param};
use burn::tensor::{IndexingUpdateOp, Int, Tensor};
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result,
};
use engraft_linalg::{Matrix, svd};
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

use crate::indices;
use crate::k_means::clusters;

/// Where the clusters of outputs come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subspaces {
    /// k-means on the rows of U, each cluster at least as large as its rank.
    KMeans {
        /// Number K of clusters, less where a layer has too few outputs.
        count: usize,
        /// Rank of each cluster's update.
        rank: usize,
    },
    /// Known sizes and ranks; which outputs belong where comes with the adapter's values.
    Given {
        /// Outputs in each cluster.
        sizes: Vec<usize>,
        /// Rank of each cluster's update.
        ranks: Vec<usize>,
    },
}

/// Configuration of [`Adamss`]. Defaults of PEFT: rank 100, 5 clusters of rank 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct AdamssConfig {
    /// Dimension r of the singular subspace, at most all that a layer has.
    pub rank: usize,
    /// The clusters.
    pub subspaces: Subspaces,
}

impl Default for AdamssConfig {
    fn default() -> Self {
        Self {
            rank: 100,
            subspaces: Subspaces::KMeans { count: 5, rank: 1 },
        }
    }
}

impl AdamssConfig {
    /// r on this layer, a bias being one more input.
    fn rank_on(&self, d_in: usize, d_out: usize, bias: bool) -> usize {
        self.rank.min(d_in + usize::from(bias)).min(d_out)
    }

    /// Number and rank of the clusters that k-means makes on a layer.
    fn clusters_on(count: usize, rank: usize, r: usize, d_out: usize) -> (usize, usize) {
        let rank = rank.min(r);
        (count.min(d_out / rank).max(1), rank)
    }
}

/// y = x W + b + scatter_i([x, 1] V A_i B_i): the outputs fall into K clusters, and cluster i has a
/// low-rank update of its own in the coordinates [x, 1] V of the leading singular subspace.
///
/// | symbol | shape | |
/// |---|---|---|
/// | V | [d_in + 1, r] | frozen, stored: left singular vectors of [W; b]; d_in rows without a bias |
/// | A_i | [r, r_i] | trained, orthonormal at first: leading right singular vectors of U_i |
/// | B_i | [r_i, n_i] | trained, zero at first |
/// | rows | `[d_out]` | output that each column of (B_1, ..., B_K) belongs to, stored |
///
/// U_i are the rows of U, [d_out, r], [W; b]^T = U S V^T, that k-means put into cluster i.
///
/// AdaMSS: Adaptive Multi-Subspace Approach for Parameter-Efficient Fine-Tuning (NeurIPS 2025); PEFT,
/// after the authors' package, is followed. There a cluster may be smaller than the rank asked for,
/// and ranks may be cut by singular values, so that counts depend on the weights; here k-means keeps
/// clusters at least that large, and other sizes and ranks are [`Subspaces::Given`]. The pruning of
/// subspaces while training (adaptive subspace allocation) changes no value of the adapter, only
/// which are trained. The activation form costs O(tokens (r (d_in + sum r_i) + sum r_i n_i)).
#[derive(Module, Debug)]
pub struct Adamss {
    /// V, [d_in (+ 1), r].
    pub v: Param<Tensor<2>>,
    /// A_i, [r, r_i].
    pub a: Vec<Param<Tensor<2>>>,
    /// B_i, [r_i, n_i].
    pub b: Vec<Param<Tensor<2>>>,
    /// Output of each column, `[d_out]`.
    pub rows: Param<Tensor<1, Int>>,
}

impl Adamss {
    /// What is added to the outputs, [n, d_out], for inputs in the coordinates of the subspace.
    fn change(&self, inner: Tensor<2>) -> Tensor<2> {
        let pieces: Vec<_> = self
            .a
            .iter()
            .zip(&self.b)
            .map(|(a, b)| inner.clone().matmul(a.val()).matmul(b.val()))
            .collect();
        let columns = Tensor::cat(pieces, 1);
        let zeros = columns.zeros_like();
        zeros.select_assign(1, self.rows.val(), columns, IndexingUpdateOp::Add)
    }
}

impl Adapter for Adamss {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let change = self.change(self.v.val());
        let weight = base.weight() + change.clone().narrow(0, 0, base.d_in());
        let bias = base
            .bias
            .clone()
            .map(|bias| bias + change.narrow(0, base.d_in(), 1).squeeze_dim(0));
        Ok(FrozenBase::new(weight, bias))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let v = self.v.val();
        let inner = x.clone().matmul(v.clone().narrow(0, 0, base.d_in()));
        let inner = match base.bias {
            Some(_) => inner + v.narrow(0, base.d_in(), 1),
            None => inner,
        };
        base.forward(x) + self.change(inner)
    }
}

impl Graft for AdamssConfig {
    type Adapter = Adamss;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        let Subspaces::Given { sizes, ranks } = &self.subspaces else {
            return Ok(());
        };
        let outputs: usize = sizes.iter().sum();
        if sizes.len() != ranks.len() || outputs != layer.d_out {
            return Err(format!(
                "clusters of sizes {sizes:?} and ranks {ranks:?}: expected as many ranks as sizes, and {} outputs together",
                layer.d_out
            ));
        }
        match sizes.contains(&0) || ranks.contains(&0) {
            true => Err("an empty cluster or one of rank 0: expected at least 1 each".to_owned()),
            false => Ok(()),
        }
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let r = self.rank_on(layer.d_in, layer.d_out, layer.bias);
        let trained = match &self.subspaces {
            Subspaces::KMeans { count, rank } => {
                let (count, rank) = Self::clusters_on(*count, *rank, r, layer.d_out);
                rank * (count * r + layer.d_out)
            }
            Subspaces::Given { sizes, ranks } => sizes
                .iter()
                .zip(ranks)
                .map(|(size, rank)| rank * (r + size))
                .sum(),
        };
        let frozen = (layer.d_in + usize::from(layer.bias)) * r + layer.d_out;
        Counts::with_frozen(trained, frozen)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Adamss> {
        let numeric = |error| ctx.numeric(error);
        let r = self.rank_on(base.d_in(), base.d_out(), base.bias.is_some());
        let leading = svd(&with_bias(base)).map_err(numeric)?;
        let leading = leading.truncated(r).map_err(numeric)?;
        let u = leading.vt.transpose();
        let (members, ranks) = match &self.subspaces {
            Subspaces::KMeans { count, rank } => {
                let (count, rank) = Self::clusters_on(*count, *rank, r, base.d_out());
                let mut rng = ctx.key.child("k-means").rng();
                (clusters(&u, count, rank, &mut rng), vec![rank; count])
            }
            Subspaces::Given { sizes, ranks } => {
                let mut outputs = 0..base.d_out();
                let members = sizes
                    .iter()
                    .map(|size| outputs.by_ref().take(*size).collect());
                (members.collect(), ranks.clone())
            }
        };
        let tensor = |matrix: &Matrix| bridge::from_matrix(matrix, &ctx.device, ctx.dtype);
        let mut adapter = Adamss {
            v: Param::from_tensor(tensor(&leading.u)).set_require_grad(false),
            a: Vec::new(),
            b: Vec::new(),
            rows: indices::frozen(
                members.iter().flatten().map(|row| *row as i64).collect(),
                [base.d_out()],
                &ctx.device,
            ),
        };
        for (rows, rank) in members.iter().zip(ranks) {
            let own = Matrix::from_fn(rows.len(), r, |i, j| u.get(rows[i], j));
            let directions = svd(&own).map_err(numeric)?.vt;
            // A cluster that is given with a higher rank than it has rows starts with zeros.
            let first = Matrix::from_fn(r, rank, |j, k| match k < directions.rows() {
                true => directions.get(k, j),
                false => 0.0,
            });
            adapter.a.push(Param::from_tensor(tensor(&first)));
            adapter.b.push(Param::from_tensor(ctx.tensor(
                Init::ZEROS,
                [rank, rows.len()],
                "b",
            )));
        }
        Ok(adapter)
    }
}

/// [W; b], [d_in + 1, d_out], or W without a bias.
fn with_bias(base: &FrozenBase) -> Matrix {
    let weight = match &base.bias {
        Some(bias) => Tensor::cat(vec![base.weight(), bias.clone().unsqueeze()], 0),
        None => base.weight(),
    };
    bridge::to_matrix(&weight)
}

impl Method for AdamssConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("ADAMSS"),
        changes_bias: true,
        ..MethodMeta::graft(
            "adamss",
            "AdaMSS",
            Family::Lowrank,
            "",
            "y = x W + b + scatter_i([x, 1] V A_i B_i), V from the SVD of [W; b], outputs clustered",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        engraft_core::positive_rank(self.rank)?;
        match self.subspaces {
            Subspaces::KMeans { count, rank } if count == 0 || rank == 0 => Err(format!(
                "{count} clusters of rank {rank}: expected at least 1 of rank at least 1"
            )),
            _ => Ok(()),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let half = layer.d_out / 2;
        let (sizes, ranks) = match half {
            0 => (vec![layer.d_out], vec![1]),
            half => (vec![half, layer.d_out - half], vec![1, 2]),
        };
        vec![
            Self {
                rank: 4,
                subspaces: Subspaces::KMeans { count: 3, rank: 2 },
            },
            Self {
                rank: 100,
                subspaces: Subspaces::KMeans { count: 4, rank: 1 },
            },
            Self {
                rank: 3,
                subspaces: Subspaces::Given { sizes, ranks },
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::Mode;

    use super::*;
    use crate::testing;

    #[test]
    fn forms_agree_and_each_cluster_has_its_rank() {
        let config = AdamssConfig {
            rank: 6,
            subspaces: Subspaces::KMeans { count: 3, rank: 2 },
        };
        testing::forms_agree(&config, 7, 11).unwrap();
        let adapted = testing::moved(&config, 9, 11);
        let layer = &adapted.model.block.fc1;
        let adapter = layer.adapters.get(testing::NAME).unwrap();
        let adapter: &Adamss = adapter.downcast_ref().unwrap();
        let changed = layer.effective(&adapted.ctx(Mode::Eval)).unwrap().weight();
        let update = bridge::to_matrix(&(changed - layer.weight.val()));
        let rows: Vec<i64> = adapter
            .rows
            .val()
            .to_data()
            .convert::<i64>()
            .try_to_vec()
            .unwrap();
        let mut sorted = rows.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..11).collect::<Vec<_>>());
        let mut start = 0;
        for b in &adapter.b {
            let size = b.val().dims()[1];
            let own = Matrix::from_fn(9, size, |i, j| update.get(i, rows[start + j] as usize));
            let singular = svd(&own).unwrap().s;
            assert!(singular.get(2).is_none_or(|s| *s < 1e-12 * singular[0]));
            start += size;
        }
    }

    #[test]
    fn a_cluster_starts_with_orthonormal_directions() {
        let config = AdamssConfig::examples(&LayerShape::linear("fc", 12, 18, true)).remove(0);
        let adapted = testing::moved(&config, 12, 18);
        let adapter = adapted.model.block.fc1.adapters.get(testing::NAME).unwrap();
        let v = bridge::to_matrix(&adapter.downcast_ref::<Adamss>().unwrap().v.val());
        let gram = v.transpose_matmul(&v).unwrap();
        assert!(gram.max_abs_diff(&Matrix::identity(4)).unwrap() < 1e-12);
    }
}
