//! EVA: explained variance adaptation.

use engraft_core::{
    Calibration, Counts, Error, Family, FrozenBase, Graft, InitContext, LayerShape, Method,
    MethodMeta, Needs, Overrides, Parts, Result, Scaling, Statistics, admit_rank, check_dropout,
    positive_rank,
};
use engraft_linalg::{Matrix, Svd, svd};
use engraft_tensor::bridge;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::eva_ranks::{Layer, redistribute};
use crate::residual_lora::ResidualLora;

/// EVA: y = x W + b + s x A B with A the first r principal components of the layer's inputs and B
/// zero at first; ranks go where components explain most.
///
/// Paischer et al., Parameter Efficient Fine-tuning via Explained Variance Adaptation, arXiv
/// 2410.07170, section 3. The components are the right singular vectors of the centred inputs. PEFT
/// 0.21.2 finds them by an incremental SVD, batch by batch until they converge; here they come exactly
/// from the second moments of all batches, so that its threshold tau has no counterpart. Components
/// beyond the number of tokens explain nothing: they complete the basis and come last.
///
/// With rho above 1 the budget, the sum of all ranks, is spread again: of each layer at most rho r
/// components take part, those of all layers are ordered by the share of their layer's variance
/// that they explain, and the first ones win. A layer without any is left out. As in PEFT, layers
/// with the same inputs have the same limit, and ties go to the lower component and the earlier
/// layer (PEFT's order of ties is that of an unstable sort). The ranks become part of the attachment.
/// The adapter is a [`ResidualLora`] without residual. Paper defaults: rank 16, alpha 1, rho 2.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct EvaConfig {
    /// Rank r before redistribution, at most d_in.
    pub rank: usize,
    /// alpha; the rank if left out.
    pub alpha: Option<f64>,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Most components of a layer, as a multiple of r; 1 for no redistribution.
    pub rho: f64,
    /// Whether each component is divided by the root of its singular value.
    pub whiten: bool,
    /// Whether alpha grows with a layer's new rank, so that s stays alpha / r.
    pub adjust_alpha: bool,
}

impl Default for EvaConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: Some(1.0),
            scaling: Scaling::Classic,
            dropout: 0.0,
            rho: 2.0,
            whiten: false,
            adjust_alpha: true,
        }
    }
}

/// Principal components of the inputs as columns, [d_in, d_in], and the squared singular values.
fn components(statistics: &Statistics, path: &str) -> Result<Svd> {
    let failed = |reason: String| Error::Numeric {
        path: path.to_owned(),
        reason,
    };
    let (Some(moment), Some(sum)) = (&statistics.moment, &statistics.sum) else {
        return Err(failed(
            "the calibration has no second moment of the inputs".to_owned(),
        ));
    };
    let (moment, sum) = (bridge::to_matrix(moment), bridge::values(sum));
    let tokens = statistics.tokens.max(1) as f64;
    let centred = Matrix::from_fn(sum.len(), sum.len(), |i, j| {
        // Symmetric to the last bit.
        let second = 0.5 * (moment.get(i, j) + moment.get(j, i));
        second - sum[i] * sum[j] / tokens
    });
    svd(&centred).map_err(|error| failed(error.to_string()))
}

impl Graft for EvaConfig {
    type Adapter = ResidualLora;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        if self.rank > layer.d_in {
            return Err(format!(
                "rank {}: there are only d_in = {} components of the inputs",
                self.rank, layer.d_in
            ));
        }
        admit_rank(self.rank, layer.d_in)
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.rank * (layer.d_in + layer.d_out))
    }

    fn needs(&self) -> Needs {
        Needs {
            moment: true,
            ..Needs::default()
        }
    }

    fn allocate(
        &self,
        layers: &[(LayerShape, Value)],
        calibration: &Calibration,
    ) -> Result<Vec<Option<Overrides>>> {
        if self.rho == 1.0 || layers.is_empty() {
            return Ok(Vec::new());
        }
        let mut configured = Vec::with_capacity(layers.len());
        let mut seen: Vec<(&Statistics, usize)> = Vec::new();
        let mut contenders = Vec::with_capacity(layers.len());
        for (shape, config) in layers {
            let own: Self = serde_json::from_value(config.clone())
                .map_err(|error| Error::Unsupported(format!("{}: {error}", shape.path)))?;
            let Some(statistics) = calibration.get(&shape.path) else {
                // `init` says what is missing.
                return Ok(Vec::new());
            };
            let same = seen
                .iter()
                .find(|(other, _)| same_inputs(other, statistics));
            let group = match same {
                Some((_, group)) => *group,
                None => contenders.len(),
            };
            seen.push((statistics, group));
            let variances = components(statistics, &shape.path)?.s;
            let whole: f64 = variances.iter().sum();
            // round_ties_even is Python's round.
            let most = (own.rank as f64 * self.rho).round_ties_even() as usize;
            contenders.push(Layer {
                rank: own.rank,
                most: most.min(shape.d_in),
                group,
                explained: variances
                    .iter()
                    .map(|variance| if whole > 0.0 { variance / whole } else { 0.0 })
                    .collect(),
            });
            configured.push(own);
        }
        let ranks = redistribute(&contenders);
        let decided = configured.iter().zip(ranks).map(|(own, rank)| {
            let alpha = own.alpha.unwrap_or(own.rank as f64);
            let alpha = if self.adjust_alpha {
                alpha * rank as f64 / own.rank as f64
            } else {
                alpha
            };
            (rank > 0).then(|| {
                Overrides::from_iter([
                    ("rank".to_owned(), rank.into()),
                    ("alpha".to_owned(), alpha.into()),
                ])
            })
        });
        Ok(decided.collect())
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<ResidualLora> {
        let statistics = ctx.statistics()?;
        let found = components(statistics, ctx.path)?
            .truncated(self.rank)
            .map_err(|error| ctx.numeric(error))?;
        let a0 = if self.whiten {
            // The singular values of the inputs are the roots of those of their moment.
            let inverse: Vec<f64> = found
                .s
                .iter()
                .map(|variance| variance.max(f64::MIN_POSITIVE).powf(-0.25))
                .collect();
            let whitened = found.u.scale_columns(&inverse);
            whitened.map_err(|error| ctx.numeric(error))?
        } else {
            found.u
        };
        let scaling = crate::residual_lora::scaling(self.scaling, self.alpha, self.rank);
        let id = Self::META.id;
        Ok(ResidualLora::from_zero(
            id,
            &a0,
            scaling,
            self.dropout,
            base.d_out(),
            ctx,
        ))
    }
}

/// Whether two layers saw the same inputs, bit by bit.
fn same_inputs(one: &Statistics, other: &Statistics) -> bool {
    let bytes = |statistics: &Statistics| {
        let moment = statistics.moment.as_ref().map(|moment| moment.to_data());
        moment.map(|moment| moment.as_bytes().to_vec())
    };
    one.tokens == other.tokens && bytes(one) == bytes(other)
}

impl Method for EvaConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        admits: "a linear layer with d_in of at least the rank",
        ..MethodMeta::graft(
            "eva",
            "EVA",
            Family::Svd,
            "2410.07170",
            "y = x W + b + s x A B, A the principal components of the inputs, ranks by variance",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        if !(self.rho.is_finite() && self.rho >= 1.0) {
            return Err(format!("rho {}: expected at least 1", self.rho));
        }
        Ok(())
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: layer.d_in.min(3),
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                alpha: None,
                scaling: Scaling::RankStabilised,
                dropout: 0.1,
                rho: 1.0,
                ..small.clone()
            },
            Self {
                // The least of few components has a variance near zero.
                rank: small.rank.min(2),
                whiten: layer.d_in > 1,
                adjust_alpha: false,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tensor;

    use super::*;
    use crate::testing::{base, calibrated, draw, largest};

    #[test]
    fn the_components_are_orthonormal_and_explain_the_most_variance() {
        let base = base([6, 4]);
        // A large mean is not variance.
        let spread = bridge::tensor(
            vec![0.1, 3.0, 0.1, 2.0, 0.1, 0.1],
            [1, 6],
            &base.device(),
            base.dtype(),
        );
        let x: Tensor<2> = draw([400, 6], "x") * spread + 5.0;
        let config = EvaConfig {
            rank: 2,
            ..EvaConfig::default()
        };
        let adapter = calibrated(&config, &base, std::slice::from_ref(&x), None);
        let a = adapter.a.val();
        let gram = bridge::to_matrix(&a.clone().transpose().matmul(a.clone()));
        assert!(gram.max_abs_diff(&Matrix::identity(2)).unwrap() < 1e-12);
        let of = bridge::to_matrix(&a);
        assert!(of.get(1, 0).abs() > 0.99 && of.get(3, 1).abs() > 0.99);
        assert_eq!(largest(adapter.b.val()), 0.0);

        let whitened = calibrated(
            &EvaConfig {
                whiten: true,
                ..config
            },
            &base,
            std::slice::from_ref(&x),
            None,
        );
        let centred = x.clone() - x.mean_dim(0);
        let singular = svd(&bridge::to_matrix(&centred)).unwrap().s;
        let scale = largest(a.clone().narrow(1, 0, 1)) / largest(whitened.a.val().narrow(1, 0, 1));
        assert!((scale - singular[0].sqrt()).abs() < 1e-9 * scale);
    }

    #[test]
    fn ranks_go_where_few_components_explain_much() {
        let statistics = |variances: [f64; 4]| {
            let values: Vec<f64> = (0..16)
                .map(|place| {
                    if place / 4 == place % 4 {
                        variances[place % 4]
                    } else {
                        0.0
                    }
                })
                .collect();
            let device = burn::tensor::Device::default();
            let dtype = burn::tensor::DType::F64;
            Statistics {
                tokens: 100,
                sum: Some(bridge::tensor(vec![0.0; 4], [4], &device, dtype)),
                moment: Some(bridge::tensor(values, [4, 4], &device, dtype)),
                ..Statistics::default()
            }
        };
        let mut calibration = Calibration::default();
        calibration.insert("sharp", statistics([10.0, 8.0, 7.0, 0.1]));
        calibration.insert("flat", statistics([1.0, 1.1, 0.9, 1.0]));
        calibration.insert("spike", statistics([50.0, 0.1, 0.1, 0.1]));
        let config = EvaConfig {
            rank: 2,
            alpha: Some(8.0),
            rho: 1.5,
            ..EvaConfig::default()
        };
        let value = serde_json::to_value(&config).unwrap();
        let layers = ["sharp", "flat", "spike"]
            .map(|path| (LayerShape::linear(path, 4, 4, false), value.clone()));
        let decided = config.allocate(&layers, &calibration).unwrap();
        // Shares: 0.40 0.32 0.28, 0.28 0.25 0.25, 0.99 and nothing; six in all, three of each at most.
        let of = |place: usize, key: &str| {
            decided[place]
                .as_ref()
                .map(|keys| keys[key].as_f64().unwrap())
        };
        assert_eq!(
            [0, 1, 2].map(|place| of(place, "rank")),
            [Some(3.0), Some(2.0), Some(1.0)]
        );
        assert_eq!(
            [0, 1, 2].map(|place| of(place, "alpha")),
            [Some(12.0), Some(8.0), Some(4.0)]
        );
    }
}
