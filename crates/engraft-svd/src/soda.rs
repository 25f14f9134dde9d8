//! SODA: spectral orthogonal decomposition adaptation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result,
};
use engraft_tensor::cayley::{Cayley, skew_from_upper};
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

use crate::spectrum::{frozen, leading, tensor};

/// What the weight is decomposed into: a spectrum and an orthonormal basis of the inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SodaBasis {
    /// W = P S Z, the singular value decomposition.
    #[default]
    Svd,
    /// W = P T with T upper triangular, whose diagonal is the spectrum.
    Qr,
}

/// The widths of the Kronecker factors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SodaFactors {
    /// This many, as equal as the divisors of d_in allow.
    Number(usize),
    /// These widths, with d_in as their product.
    Widths(Vec<usize>),
}

impl SodaFactors {
    /// The widths above 1 on a layer of this many inputs.
    ///
    /// # Errors
    /// Widths whose product is not d_in, as a reason.
    pub fn resolve(&self, d_in: usize) -> Result<Vec<usize>, String> {
        let widths = match self {
            Self::Number(number) => balanced(d_in, *number),
            Self::Widths(widths) => widths.clone(),
        };
        let product = widths
            .iter()
            .try_fold(1usize, |product, width| product.checked_mul(*width));
        if product != Some(d_in) {
            return Err(format!(
                "widths {widths:?} of the Kronecker factors: expected a product of d_in = {d_in}, such as {:?}",
                balanced(d_in, widths.len().max(1))
            ));
        }
        Ok(widths.into_iter().filter(|width| *width > 1).collect())
    }
}

/// `number` divisors of a width whose product it is, nearly equal: the largest prime factors are
/// dealt out first, each to the smallest product so far.
fn balanced(width: usize, number: usize) -> Vec<usize> {
    let (mut rest, mut primes) = (width, Vec::new());
    let mut divisor = 2;
    while rest > 1 {
        if divisor * divisor > rest {
            divisor = rest;
        }
        while rest.is_multiple_of(divisor) {
            primes.push(divisor);
            rest /= divisor;
        }
        divisor += 1;
    }
    let mut widths = vec![1; number.max(1)];
    for prime in primes.into_iter().rev() {
        if let Some(smallest) = widths.iter_mut().min() {
            *smallest *= prime;
        }
    }
    widths.sort_unstable_by(|a, b| b.cmp(a));
    widths
}

/// Configuration of [`Soda`]. Two factors: the paper's number was not found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct SodaConfig {
    /// What the weight is decomposed into.
    pub basis: SodaBasis,
    /// The Kronecker factors of the rotation: `{ number = m }` or `{ widths = [..] }`.
    pub factors: SodaFactors,
}

impl Default for SodaConfig {
    fn default() -> Self {
        Self {
            basis: SodaBasis::Svd,
            factors: SodaFactors::Number(2),
        }
    }
}

/// y = (x R) P (S + diag(d)) Z + b, with W = P S Z and R = R_1 (x) ... (x) R_m.
///
/// | symbol | shape | |
/// |---|---|---|
/// | P | [d_in, n] | frozen orthonormal basis of the inputs, n = min(d_in, d_out), in the file |
/// | Z | [n, d_out] | frozen right singular vectors, in the file; the unit matrix for `qr` |
/// | S | [n, n] | frozen spectrum, diagonal, or upper triangular [n, d_out] in place of S Z for `qr` |
/// | d | `[n]` | trained change of the spectrum, zero at first |
/// | Q_k | [1, n_k (n_k - 1) / 2] | trained, zero at first; R_k = (I - Q_k)(I + Q_k)^-1 |
///
/// Zhang et al., Spectrum-Aware Parameter Efficient Fine-Tuning for Diffusion Models (SODA), arXiv
/// 2405.21050, section 4: the weight is split into a spectral part and an orthonormal basis, the
/// spectrum is shifted and the basis rotated by a Kronecker product of small orthogonal matrices,
/// in the variants SODA-SVD and SODA-QR. The paper writes the weight outputs times inputs with the
/// basis on the right, which is the input side here. It optimises R_k on the Stiefel manifold; the
/// Cayley transform covers the same rotations around the identity with any optimizer. No code of
/// the authors was found: widths and number of factors are options.
///
/// The base does its own part on the rotated input; a token costs O(d_in sum_k n_k) for the rotation
/// and O(n (d_in + d_out)), for `qr` O(n d_in), for the spectrum.
#[derive(Module, Debug)]
pub struct Soda {
    /// P, [d_in, n].
    pub p: Param<Tensor<2>>,
    /// Z, [n, d_out].
    pub z: Option<Param<Tensor<2>>>,
    /// d, `[n]`.
    pub d: Param<Tensor<1>>,
    /// Q_k's upper triangles row by row, [1, n_k (n_k - 1) / 2] each.
    pub q: Vec<Param<Tensor<2>>>,
    /// n_k.
    widths: Vec<usize>,
}

impl Soda {
    /// R_k, [n_k, n_k] each.
    pub fn rotations(&self) -> Vec<Tensor<2>> {
        let rotation = |(q, width): (&Param<Tensor<2>>, &usize)| {
            Cayley::Exact
                .rotations(skew_from_upper(q.val(), *width))
                .squeeze_dim::<2>(0)
        };
        self.q.iter().zip(&self.widths).map(rotation).collect()
    }

    /// c Z for rows c [rows, n].
    fn outputs(&self, c: Tensor<2>, d_out: usize) -> Tensor<2> {
        let [rows, n] = c.dims();
        match &self.z {
            Some(z) => c.matmul(z.val()),
            None if n < d_out => {
                let zeros = Tensor::zeros([rows, d_out - n], (&c.device(), c.dtype()));
                Tensor::cat(vec![c, zeros], 1)
            }
            None => c,
        }
    }
}

/// x (R_1 (x) ... (x) R_m) for rows x [tokens, d], d the product of the widths.
fn rotate(x: Tensor<2>, factors: &[Tensor<2>]) -> Tensor<2> {
    let [tokens, d] = x.dims();
    let mut after = d;
    factors.iter().fold(x, |x, factor| {
        let width = factor.dims()[0];
        after /= width;
        let batch = tokens * d / (width * after);
        x.reshape([batch, width, after])
            .swap_dims(1, 2)
            .reshape([batch * after, width])
            .matmul(factor.clone())
            .reshape([batch, after, width])
            .swap_dims(1, 2)
            .reshape([tokens, d])
    })
}

impl Adapter for Soda {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let shift = self.p.val() * self.d.val().unsqueeze();
        let weight = base.weight() + self.outputs(shift, base.d_out());
        // R W = (W^T R^T)^T: rows of W^T as tokens.
        let inverse: Vec<Tensor<2>> = self
            .rotations()
            .into_iter()
            .map(Tensor::transpose)
            .collect();
        Ok(base.with_weight(rotate(weight.transpose(), &inverse).transpose()))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let rotated = rotate(x, &self.rotations());
        let shift = rotated.clone().matmul(self.p.val()) * self.d.val().unsqueeze();
        base.forward(rotated) + self.outputs(shift, base.d_out())
    }
}

impl Graft for SodaConfig {
    type Adapter = Soda;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        self.factors.resolve(layer.d_in).map(drop)
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let n = layer.max_rank();
        let widths = self.factors.resolve(layer.d_in).unwrap_or_default();
        let rotations: usize = widths.iter().map(|width| width * (width - 1) / 2).sum();
        let outputs = match self.basis {
            SodaBasis::Svd => layer.d_out,
            SodaBasis::Qr => 0,
        };
        Counts::with_frozen(n + rotations, n * (layer.d_in + outputs))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Soda> {
        let widths = self
            .factors
            .resolve(base.d_in())
            .map_err(|reason| ctx.numeric(reason))?;
        let n = base.d_in().min(base.d_out());
        let (p, z) = match self.basis {
            SodaBasis::Svd => {
                let found = leading(base, n, 0, ctx)?;
                (found.u, Some(found.vt))
            }
            SodaBasis::Qr => {
                let found = engraft_linalg::qr(&bridge::to_matrix(&base.weight()))
                    .map_err(|error| ctx.numeric(error))?;
                (found.q, None)
            }
        };
        let packed = |width: &usize| {
            Param::from_tensor(ctx.tensor(Init::ZEROS, [1, width * (width - 1) / 2], "q"))
        };
        Ok(Soda {
            p: frozen(tensor(&p, ctx)),
            z: z.map(|z| frozen(tensor(&z, ctx))),
            d: Param::from_tensor(ctx.tensor(Init::ZEROS, [n], "d")),
            q: widths.iter().map(packed).collect(),
            widths,
        })
    }
}

impl Method for SodaConfig {
    const META: MethodMeta = MethodMeta {
        admits: "a linear layer; given widths must have d_in as their product",
        ..MethodMeta::graft(
            "soda",
            "SODA",
            Family::Svd,
            "2405.21050",
            "y = (x R) P (S + diag(d)) Z + b, W = P S Z, R = R_1 (x) ... (x) R_m orthogonal",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        match &self.factors {
            SodaFactors::Number(0) => Err("0 Kronecker factors: expected at least 1".to_owned()),
            SodaFactors::Widths(widths) if widths.contains(&0) => {
                Err(format!("widths {widths:?}: expected positive ones"))
            }
            _ => Ok(()),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        vec![
            Self::default(),
            Self {
                basis: SodaBasis::Qr,
                factors: SodaFactors::Number(3),
            },
            Self {
                basis: SodaBasis::Svd,
                factors: SodaFactors::Widths(vec![layer.d_in]),
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_linalg::{Matrix, svd};

    use super::*;
    use crate::testing::{attach, base, draw, forms_differ};

    fn moved(config: &SodaConfig, base: &FrozenBase) -> Soda {
        let mut adapter = attach(config, base);
        for (place, q) in adapter.q.iter_mut().enumerate() {
            *q = Param::from_tensor(draw(q.dims(), &place.to_string()));
        }
        adapter
    }

    #[test]
    fn the_rotation_is_the_kronecker_product_and_keeps_the_spectrum() {
        let base = base([12, 7]);
        let mut adapter = moved(&SodaConfig::default(), &base);
        let dense = adapter
            .rotations()
            .iter()
            .map(bridge::to_matrix)
            .reduce(|a, b| a.kron(&b))
            .unwrap();
        let identity = crate::spectrum::identity(12, &base.device(), base.dtype());
        let rotated = bridge::to_matrix(&rotate(identity, &adapter.rotations()));
        assert!(rotated.max_abs_diff(&dense).unwrap() < 1e-13);
        let gram = dense.transpose_matmul(&dense).unwrap();
        assert!(gram.max_abs_diff(&Matrix::identity(12)).unwrap() < 1e-13);

        let spectrum = |adapter: &Soda| {
            let weight = adapter.effective(&base, &Ctx::default()).unwrap().weight();
            svd(&bridge::to_matrix(&weight)).unwrap().s
        };
        let before = svd(&bridge::to_matrix(&base.weight())).unwrap().s;
        for (before, after) in before.iter().zip(spectrum(&adapter)) {
            assert!((before - after).abs() < 1e-12);
        }
        // A shift of all singular values shows as itself.
        adapter.d = Param::from_tensor(adapter.d.val() + 0.5);
        for (before, after) in before.iter().zip(spectrum(&adapter)) {
            assert!((before + 0.5 - after).abs() < 1e-12);
        }
    }

    #[test]
    fn both_forms_agree_for_both_decompositions_and_odd_shapes() {
        for shape in [[12, 7], [7, 12], [9, 9]] {
            for basis in [SodaBasis::Svd, SodaBasis::Qr] {
                let config = SodaConfig {
                    basis,
                    ..SodaConfig::default()
                };
                let base = base(shape);
                let mut adapter = moved(&config, &base);
                adapter.d = Param::from_tensor(draw(adapter.d.dims(), "d"));
                assert!(forms_differ(&adapter, &base) < 1e-12);
            }
        }
    }

    #[test]
    fn widths_are_balanced_and_wrong_ones_refused() {
        assert_eq!(balanced(768, 2), [32, 24]);
        assert_eq!(balanced(768, 3), [12, 8, 8]);
        assert_eq!(balanced(7, 2), [7, 1]);
        assert_eq!(SodaFactors::Number(2).resolve(7), Ok(vec![7]));
        let message = SodaFactors::Widths(vec![5, 5]).resolve(24).unwrap_err();
        assert!(
            message.contains("d_in = 24") && message.contains("[6, 4]"),
            "{message}"
        );
    }
}
