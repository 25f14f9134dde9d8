//! DSEE: a low-rank update and a sparse one beside it.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, Scaling, check_dropout, dropout, positive_rank, refuse_dropout,
};
use engraft_linalg::{Matrix, gaussian, qr};
use engraft_tensor::{Init, Key, bridge};
use rand::seq::index;
use serde::{Deserialize, Serialize};

use crate::entries::{Entries, stored};
use crate::scores::magnitudes;
use crate::top::top;

/// How the sparse entries are placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// The largest entries of W that its low-rank part misses.
    #[default]
    Decomposition,
    /// The largest entries of W.
    Magnitude,
    /// Uniformly at random without replacement.
    Random,
}

/// Configuration of [`Dsee`]. Defaults: the authors' scripts for BERT (r = alpha = 16, N = 16).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DseeConfig {
    /// Rank r.
    pub rank: usize,
    /// alpha; see [`Scaling`].
    pub alpha: f64,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input of the low-rank part in training.
    pub dropout: f64,
    /// N, the number of sparse entries of each weight.
    pub entries: usize,
    /// `decomposition`, `magnitude` or `random`.
    pub placement: Placement,
}

impl Default for DseeConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 16.0,
            scaling: Scaling::Classic,
            dropout: 0.0,
            entries: 16,
            placement: Placement::Decomposition,
        }
    }
}

/// y = x W + b + s (x U V + x S), S zero but for N places.
///
/// | symbol | shape | |
/// |---|---|---|
/// | U, V | [d_in, r], [r, d_out] | trained, V zero at first |
/// | S (`values`) | `[N]` | trained, zero at first |
/// | `positions` | `[N]` | place i d_out + j of each, frozen, in the adapter file |
/// | s | | alpha / r, or alpha / sqrt(r) |
///
/// Chen et al., DSEE: Dually Sparsity-embedded Efficient Tuning of Pre-trained Language Models,
/// arXiv 2111.00160. The places are those where the pre-trained weight itself departs most from
/// being low-rank: W is split into U' V' and a sparse rest by alternating one bilateral step (an
/// orthonormal U' by QR, then V' = U'^T (W - S)) with keeping the N largest entries of W - U' V'.
/// The authors' code (run_glue.py, `grebsmo`) grows the rank of that split by five for a hundred
/// rounds and cuts at 0.01; here it has the rank of the update and the cut is N, which does not
/// depend on the scale of W. Their code scales S by s as well (modeling_bert.py), as here. The
/// paper's second sparsity prunes the weights or heads of the tuned model and is no part of the
/// update.
///
/// Activation form: low-rank as in LoRA, O(tokens r (d_in + d_out)), and N values added into a copy
/// of W.
#[derive(Module, Debug)]
pub struct Dsee {
    /// U, [d_in, r].
    pub u: Param<Tensor<2>>,
    /// V, [r, d_out].
    pub v: Param<Tensor<2>>,
    /// Entries of S, `[N]`.
    pub values: Param<Tensor<1>>,
    /// Their places i d_out + j, `[N]`.
    pub positions: Param<Tensor<1, Int>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of U.
    pub dropout: f64,
}

impl Dsee {
    /// s S.
    fn entries(&self) -> Entries {
        Entries {
            positions: self.positions.val(),
            values: self.values.val(),
            scaling: self.scaling,
        }
    }
}

impl Adapter for Dsee {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("dsee", self.dropout, ctx)?;
        let sparse = self.entries().added(base).weight();
        let low_rank = self.u.val().matmul(self.v.val()) * self.scaling;
        Ok(base.with_weight(sparse + low_rank))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let narrow = dropout(x.clone(), self.dropout, ctx).matmul(self.u.val()) * self.scaling;
        self.entries().forward(x, base) + narrow.matmul(self.v.val())
    }
}

/// The `count` places where W departs most from rank `rank`, after `ROUNDS` alternations.
fn decomposition(
    weight: &Matrix,
    rank: usize,
    count: usize,
    key: &Key,
) -> engraft_linalg::Result<Vec<usize>> {
    const ROUNDS: usize = 8;
    let (rows, cols) = weight.shape();
    let mut v = gaussian(rank.min(rows).min(cols), cols, &mut key.rng());
    let mut sparse = Matrix::zeros(rows, cols);
    let mut places = Vec::new();
    for _ in 0..ROUNDS {
        let rest = weight.sub(&sparse)?;
        let u = qr(&rest.matmul(&v.transpose())?)?.q;
        v = u.transpose_matmul(&rest)?;
        let missed = weight.sub(&u.matmul(&v)?)?;
        let sizes: Vec<f64> = missed.as_slice().iter().map(|w| w.abs()).collect();
        places = top(&sizes, count);
        sparse = Matrix::zeros(rows, cols);
        for &place in &places {
            sparse.set(place / cols, place % cols, missed.as_slice()[place]);
        }
    }
    Ok(places)
}

impl Graft for DseeConfig {
    type Adapter = Dsee;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        let all = layer.d_in * layer.d_out;
        if self.entries > all {
            return Err(format!(
                "entries {}: expected at most d_in d_out = {all}",
                self.entries
            ));
        }
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let trained = self.rank * (layer.d_in + layer.d_out) + self.entries;
        Counts::with_frozen(trained, self.entries)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Dsee> {
        let (d_in, d_out) = (base.d_in(), base.d_out());
        let key = ctx.key.child("positions");
        let weight = bridge::to_matrix(&base.weight());
        let mut positions = match self.placement {
            Placement::Decomposition => decomposition(&weight, self.rank, self.entries, &key)
                .map_err(|error| ctx.numeric(error))?,
            Placement::Magnitude => top(&magnitudes(&base.weight()), self.entries),
            Placement::Random => {
                index::sample(&mut key.rng(), d_in * d_out, self.entries).into_vec()
            }
        };
        positions.sort_unstable();
        Ok(Dsee {
            u: Param::from_tensor(ctx.tensor(Init::Normal { std: 0.02 }, [d_in, self.rank], "u")),
            v: Param::from_tensor(ctx.tensor(Init::ZEROS, [self.rank, d_out], "v")),
            values: Param::from_tensor(ctx.tensor(Init::ZEROS, [self.entries], "values")),
            positions: stored(&positions, &ctx.device),
            scaling: self.scaling.factor(self.alpha, self.rank),
            dropout: self.dropout,
        })
    }
}

impl Method for DseeConfig {
    const META: MethodMeta = MethodMeta {
        admits: "a linear layer with at least N entries",
        ..MethodMeta::graft(
            "dsee",
            "DSEE",
            Family::Sparse,
            "2111.00160",
            "W' = W + s (U V + S), S zero but for N places",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        match self.entries {
            0 => Err("entries 0: expected at least 1".to_owned()),
            _ => Ok(()),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 2,
            alpha: 3.0,
            entries: 1,
            ..Self::default()
        };
        let more = |placement, dropout, scaling| Self {
            entries: 7,
            placement,
            dropout,
            scaling,
            ..small.clone()
        };
        [
            more(Placement::Magnitude, 0.2, Scaling::Classic),
            more(Placement::Random, 0.0, Scaling::RankStabilised),
            small,
        ]
        .into_iter()
        .filter(|config| config.admits(layer).is_ok())
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use engraft_linalg::svd;

    use super::*;
    use crate::entries::places;
    use crate::entries::testing::{assert_forms_agree, attached, change, layer, normal};

    #[test]
    fn the_split_finds_the_entries_that_were_added_to_a_low_rank_weight() {
        let mut rng = Key::new(5).rng();
        let low = gaussian(12, 2, &mut rng)
            .matmul(&gaussian(2, 9, &mut rng))
            .unwrap();
        let mut weight = low.clone();
        let planted = [3, 40, 77, 100];
        for place in planted {
            weight.set(place / 9, place % 9, weight.get(place / 9, place % 9) + 6.0);
        }
        let mut found = decomposition(&weight, 2, 4, &Key::new(1)).unwrap();
        found.sort_unstable();
        assert_eq!(found, planted);
    }

    #[test]
    fn the_update_is_of_rank_r_outside_the_sparse_entries() {
        let base = layer(9, 7);
        let config = DseeConfig {
            rank: 2,
            entries: 5,
            ..DseeConfig::default()
        };
        let mut adapter = attached(&config, &base);
        adapter.v = Param::from_tensor(normal([2, 7], "v"));
        adapter.values = Param::from_tensor(normal([5], "values"));
        assert_forms_agree(&adapter, &base);
        let mut update = change(&adapter, &base);
        let values = bridge::values(&adapter.values.val());
        for (place, value) in places(&adapter.positions.val()).into_iter().zip(values) {
            update[place] -= value * adapter.scaling;
        }
        let spectrum = svd(&Matrix::from_vec(9, 7, update).unwrap()).unwrap().s;
        assert!(spectrum[1] > 1e-3 && spectrum[2] < 1e-12, "{spectrum:?}");
        let shape = LayerShape::linear("q", 768, 768, true);
        assert_eq!(
            DseeConfig::default().count(&shape).trainable,
            16 * 1536 + 16
        );
    }
}
