//! FRoD: full-rank updates in a basis shared by all layers of one part.

use burn::module::{Module, Param};
use burn::tensor::{IndexingUpdateOp, Int, Tensor};
use engraft_core::{
    Adapter, AnyAdapter, Counts, Ctx, Family, FrozenBase, InitContext, Kind, LayerShape, Method,
    MethodMeta, ModelGraft, Parts, Result, check_dropout, dropout,
    grouping::{members, numbered, part},
    refuse_dropout,
};
use engraft_linalg::{LinalgError, Matrix, qr, solve, svd};
use engraft_tensor::{Init, bridge};
use rand::seq::index::sample;
use serde::{Deserialize, Serialize};

use crate::indices;

/// Rows of G shorter than this have no direction.
const NEGLIGIBLE: f64 = 1e-12;

/// Configuration of [`Frod`]. Defaults of the authors' code in PEFT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct FrodConfig {
    /// Share of the d_in^2 entries of S that are trained, at least one entry where above zero.
    pub sparsity: f64,
    /// Ridge that keeps the joint decomposition stable where layers are alike.
    pub ridge: f64,
    /// Probability of zeroing an input in training.
    pub dropout: f64,
}

impl Default for FrodConfig {
    fn default() -> Self {
        Self {
            sparsity: 0.01,
            ridge: 1e-3,
            dropout: 0.0,
        }
    }
}

impl FrodConfig {
    /// Number of trained entries off the diagonal of a d_in x d_in matrix.
    fn entries(&self, d_in: usize) -> usize {
        let off_diagonal = d_in * (d_in - 1);
        match (d_in * d_in) as f64 * self.sparsity {
            asked if asked > 0.0 => (asked as usize).max(1).min(off_diagonal),
            _ => 0,
        }
    }
}

/// y = x V (S + diag(lambda)) diag(1 / lambda_0) G + b with G = V^-1 W and lambda_0 the lengths of
/// its rows, so that the rows of diag(1 / lambda_0) G = U have length 1.
///
/// | symbol | shape | |
/// |---|---|---|
/// | V | [d_in, d_in] | frozen, stored; the same for all layers of one part |
/// | G | [d_in, d_out] | frozen, computed from V and W, in whose place it stands |
/// | lambda | `[d_in]` | trained, lambda_0 at first |
/// | S | [d_in, d_in] | zero but for fixed places off the diagonal, whose values are trained |
///
/// V comes from a joint decomposition (hierarchical-order generalised SVD) of the weights W_i of one
/// part: with the stack of W_i^T = Q R and Q_i the rows of Q that belong to layer i, V = R^T E for
/// the eigenvectors E of mean_i (Q_i^T Q_i + ridge 1)^-1; where the stack has fewer rows than
/// columns, V holds its right singular vectors. For a single layer every E will do, and 1 is taken.
///
/// FRoD, AAAI 2026, doi 10.1609/aaai.v40i31.39813; the authors' code in PEFT is followed, which
/// groups layers by the last two names of their paths. A row shorter than 1e-12 has no direction and
/// is zero in U, as there; in f32 such rows are rounding noise above that bound, whose direction
/// then counts.
///
/// The activation form costs O(tokens d_in (2 d_in + d_out)).
#[derive(Module, Debug)]
pub struct Frod {
    /// V, [d_in, d_in].
    pub v: Param<Tensor<2>>,
    /// lambda, `[d_in]`.
    pub lambda: Param<Tensor<1>>,
    /// Values of S; none where it has no places.
    pub values: Option<Param<Tensor<1>>>,
    /// Their places i d_in + j.
    pub positions: Option<Param<Tensor<1, Int>>>,
    /// Dropout probability on the inputs.
    pub dropout: f64,
}

impl Frod {
    /// S + diag(lambda), [d_in, d_in].
    fn core(&self) -> Tensor<2> {
        let lambda = self.lambda.val();
        let d_in = lambda.dims()[0];
        let diagonal: Vec<i64> = (0..d_in).map(|i| (i * d_in + i) as i64).collect();
        let diagonal = indices::tensor(diagonal, [d_in], &lambda.device());
        let zeros = Tensor::<1>::zeros([d_in * d_in], (&lambda.device(), lambda.dtype()));
        let core = zeros.select_assign(0, diagonal, lambda, IndexingUpdateOp::Add);
        let core = match (&self.values, &self.positions) {
            (Some(values), Some(positions)) => {
                core.select_assign(0, positions.val(), values.val(), IndexingUpdateOp::Add)
            }
            _ => core,
        };
        core.reshape([d_in, d_in])
    }
}

impl Adapter for Frod {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("frod", self.dropout, ctx)?;
        let inner = self.v.val().matmul(self.core()) * inverse_lengths(base);
        Ok(base.with_weight(inner.matmul(base.weight())))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let dropped = dropout(x.clone(), self.dropout, ctx).matmul(self.v.val());
        let changed = dropped.clone().matmul(self.core()) * inverse_lengths(base);
        if ctx.is_training() && self.dropout > 0.0 {
            // Dropout acts on the change of W alone, and x W = x V G.
            return base.forward(x.matmul(self.v.val()) + changed - dropped);
        }
        base.forward(changed)
    }

    /// G in the place of W.
    fn rebase(&self, base: &FrozenBase) -> Option<FrozenBase> {
        let weight = bridge::to_matrix(&base.weight());
        let rows = coordinates(&bridge::to_matrix(&self.v.val()), &weight).ok()?;
        Some(base.with_weight(bridge::from_matrix(&rows, &base.device(), base.dtype())))
    }
}

/// 1 / lambda_0, [1, d_in], from G; zero for a row without direction.
fn inverse_lengths(base: &FrozenBase) -> Tensor<2> {
    let lengths = base.weight().powi_scalar(2).sum_dim(1).sqrt();
    let negligible = lengths.clone().lower_equal_elem(NEGLIGIBLE);
    lengths.recip().mask_fill(negligible, 0.0).transpose()
}

/// G = V^-1 W, or V^+ W.
fn coordinates(v: &Matrix, weight: &Matrix) -> engraft_linalg::Result<Matrix> {
    match solve(v, weight) {
        Err(LinalgError::Singular { .. }) => pseudo_inverse(v)?.matmul(weight),
        other => other,
    }
}

fn pseudo_inverse(a: &Matrix) -> engraft_linalg::Result<Matrix> {
    let parts = svd(a)?;
    let cut = 1e-6 * parts.s.first().copied().unwrap_or(0.0);
    let inverse: Vec<f64> = parts
        .s
        .iter()
        .map(|s| if *s > cut { s.recip() } else { 0.0 })
        .collect();
    parts
        .vt
        .transpose()
        .scale_columns(&inverse)?
        .matmul(&parts.u.transpose())
}

/// V for the weights W_i, [d_in, d_out_i] each.
fn joint_basis(weights: &[Matrix], ridge: f64) -> engraft_linalg::Result<Matrix> {
    let d_in = weights[0].rows();
    let outputs: Vec<usize> = weights.iter().map(Matrix::cols).collect();
    let total: usize = outputs.iter().sum();
    // Zero rows complete the singular vectors to a basis.
    let mut stack = Matrix::zeros(total.max(d_in), d_in);
    let mut row = 0;
    for weight in weights {
        for output in 0..weight.cols() {
            for input in 0..d_in {
                stack.set(row, input, weight.get(input, output));
            }
            row += 1;
        }
    }
    if total < d_in {
        return Ok(svd(&stack)?.vt.transpose());
    }
    let parts = qr(&stack)?;
    if weights.len() == 1 {
        return Ok(parts.r.transpose());
    }
    let mut mean = Matrix::zeros(d_in, d_in);
    let mut start = 0;
    for outputs in outputs {
        let slice = Matrix::from_fn(outputs, d_in, |i, j| parts.q.get(start + i, j));
        let term = slice
            .transpose_matmul(&slice)?
            .add(&Matrix::identity(d_in).scale(ridge))?;
        mean = mean.add(&solve(&term, &Matrix::identity(d_in))?)?;
        start += outputs;
    }
    // The matrix is symmetric and positive: its singular vectors are its eigenvectors.
    let eigenvectors = svd(&mean)?.u;
    parts.r.transpose_matmul(&eigenvectors)
}

impl ModelGraft for FrodConfig {
    fn admits(&self, _: &[LayerShape]) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layers: &[LayerShape]) -> Counts {
        layers
            .iter()
            .map(|layer| {
                let (d_in, entries) = (layer.d_in, self.entries(layer.d_in));
                Counts::with_frozen(d_in + entries, d_in * d_in + entries)
            })
            .sum()
    }

    fn graft(
        &self,
        layers: &[(LayerShape, FrozenBase)],
        ctx: &InitContext,
    ) -> Result<Vec<AnyAdapter>> {
        let parts: Vec<(String, usize)> = layers
            .iter()
            .map(|(layer, _)| (part(&layer.path), layer.d_in))
            .collect();
        let mut made: Vec<Option<AnyAdapter>> = vec![None; layers.len()];
        for members in members(&numbered(parts.iter())) {
            let weights: Vec<Matrix> = members
                .iter()
                .map(|layer| bridge::to_matrix(&layers[*layer].1.weight()))
                .collect();
            let numeric = |error| ctx.numeric(format!("{}: {error}", layers[members[0]].0.path));
            let v = joint_basis(&weights, self.ridge).map_err(numeric)?;
            let v_tensor = bridge::from_matrix(&v, &ctx.device, ctx.dtype);
            // What the adapter computes with is rounded.
            let v = bridge::to_matrix(&v_tensor);
            let places = self.places(&parts[members[0]], ctx);
            for (member, weight) in members.iter().zip(&weights) {
                let rows = coordinates(&v, weight).map_err(numeric)?;
                let squares = |i| rows.row(i).iter().map(|x| x * x).sum::<f64>();
                let lengths = (0..v.rows()).map(|i| squares(i).sqrt()).collect();
                let some = (!places.is_empty()).then_some(places.len());
                made[*member] = Some(AnyAdapter::new(Frod {
                    v: Param::from_tensor(v_tensor.clone()).set_require_grad(false),
                    lambda: Param::from_tensor(bridge::tensor(
                        lengths,
                        [v.rows()],
                        &ctx.device,
                        ctx.dtype,
                    )),
                    values: some
                        .map(|count| Param::from_tensor(ctx.tensor(Init::ZEROS, [count], "s"))),
                    positions: some
                        .map(|count| indices::frozen(places.clone(), [count], &ctx.device)),
                    dropout: self.dropout,
                }));
            }
        }
        Ok(made.into_iter().flatten().collect())
    }
}

impl FrodConfig {
    /// Places off the diagonal, drawn for a part.
    fn places(&self, (part, d_in): &(String, usize), ctx: &InitContext) -> Vec<i64> {
        let entries = self.entries(*d_in);
        let mut rng = ctx.key.child("places").child(part).rng();
        sample(&mut rng, d_in * (d_in - 1), entries)
            .into_iter()
            .map(|place| {
                // Row i has d_in - 1 places, those from its diagonal on shifted by one.
                let (i, j) = (place / (d_in - 1), place % (d_in - 1));
                (i * d_in + j + usize::from(j >= i)) as i64
            })
            .collect()
    }
}

impl Method for FrodConfig {
    const META: MethodMeta = MethodMeta {
        kinds: &[Kind::ModelGraft],
        peft: Some("FROD"),
        ..MethodMeta::graft(
            "frod",
            "FRoD",
            Family::Lowrank,
            "",
            "y = x V (S + diag(lambda)) U + b, V shared, V diag(lambda_0) U = W, S sparse",
        )
    };

    fn parts(&self) -> Parts {
        Parts::model(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        check_dropout(self.dropout)?;
        if !(0.0..=1.0).contains(&self.sparsity) {
            return Err(format!(
                "sparsity {}: expected 0 <= sparsity <= 1",
                self.sparsity
            ));
        }
        match self.ridge > 0.0 {
            true => Ok(()),
            false => Err(format!("ridge {}: expected above 0", self.ridge)),
        }
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        vec![
            Self {
                sparsity: 0.05,
                ..Self::default()
            },
            Self {
                sparsity: 0.0,
                dropout: 0.1,
                ..Self::default()
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::Bank;
    use engraft_testkit::random;

    use super::*;
    use crate::testing;

    #[test]
    fn counts_are_the_published_ones() {
        let count = |sparsity| {
            let config = FrodConfig {
                sparsity,
                ..FrodConfig::default()
            };
            testing::counts(&config, &testing::llama_3b_qv()).all_trained()
        };
        assert_eq!((count(0.01), count(0.02)), (5_456_808, 10_741_640));
    }

    #[test]
    fn layers_of_one_part_share_a_basis_that_gives_back_each_weight() {
        let device = Device::default();
        let layers: Vec<(LayerShape, FrozenBase)> = testing::blocks(3, &[("q", 6, 7), ("v", 6, 2)])
            .into_iter()
            .map(|layer| {
                let shape = [layer.d_in, layer.d_out];
                let weight = random::normal(shape, &layer.path, &device, DType::F64);
                (layer, FrozenBase::new(weight, None))
            })
            .collect();
        let bank = Bank::default();
        let ctx = InitContext::new(1, "", "x", &layers[0].1, &bank);
        let made = FrodConfig::default().graft(&layers, &ctx).unwrap();
        let basis = |layer: usize| made[layer].downcast_ref::<Frod>().unwrap().v.val();
        assert_eq!(basis(0).to_data(), basis(4).to_data());
        assert_ne!(basis(0).to_data(), basis(1).to_data());
        for ((_, base), adapter) in layers.iter().zip(&made) {
            let own = adapter.rebase(base).unwrap();
            let again = adapter.effective(&own, &Ctx::default()).unwrap();
            let error = bridge::to_matrix(&again.weight())
                .max_abs_diff(&bridge::to_matrix(&base.weight()))
                .unwrap();
            assert!(error < 1e-12, "{error:e}");
        }
    }

    #[test]
    fn forms_agree() {
        let config = FrodConfig {
            sparsity: 0.2,
            ..FrodConfig::default()
        };
        testing::forms_agree(&config, 7, 5).unwrap();
        testing::forms_agree(&config, 5, 7).unwrap();
    }
}
