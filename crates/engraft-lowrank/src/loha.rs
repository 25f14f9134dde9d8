//! LoHa: low-rank Hadamard product.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, positive_rank,
};
use engraft_tensor::Init;
use engraft_tensor::ops::{matmul, row_products};
use serde::{Deserialize, Serialize};

/// Largest r for which adding a product of rank r^2 to W in one pass takes less time than forming
/// two products of rank r and combining them in three passes.
const FACTORED: usize = 32;

/// Configuration of [`Loha`]. Defaults of PEFT: rank 8, alpha 8.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LohaConfig {
    /// Rank r of each of the two products; the update has rank up to r^2.
    pub rank: usize,
    /// alpha; s = alpha / r.
    pub alpha: f64,
    /// Number n of kernel positions (height times width) that the inputs of a convolution are
    /// made of, for the Tucker form; 1 is the plain form.
    pub kernel: usize,
}

impl Default for LohaConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            kernel: 1,
        }
    }
}

/// One product of rank r: A B, [d_in, d_out].
///
/// In the Tucker form of a convolution, A is made of U [channels, r] and a core T [r, r, n] that
/// mixes the ranks differently at each of the n kernel positions: A(c n + k, i) = sum_j U(c, j)
/// T(i, j, k), where d_in = channels n.
#[derive(Module, Debug)]
pub struct HadamardFactor {
    /// A, [d_in, r], or U, [channels, r].
    pub a: Param<Tensor<2>>,
    /// T, [r, r, n].
    pub core: Option<Param<Tensor<3>>>,
    /// B, [r, d_out].
    pub b: Param<Tensor<2>>,
}

impl HadamardFactor {
    /// A, [d_in, r].
    fn inputs(&self) -> Tensor<2> {
        let a = self.a.val();
        let Some(core) = &self.core else {
            return a;
        };
        let [channels, _] = a.dims();
        let [rank, _, positions] = core.dims();
        // T as [j, (i, k)], so that U T is [c, (i, k)], then in the order (c, k), i.
        let core = core.val().swap_dims(0, 1).reshape([rank, rank * positions]);
        a.matmul(core)
            .reshape([channels, rank, positions])
            .swap_dims(1, 2)
            .reshape([channels * positions, rank])
    }
}

/// W' = W + s (A1 B1) . (A2 B2), the product of two low-rank matrices entry by entry.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A1, A2 | [d_in, r] | trained; A1 random at first, A2 zero |
/// | B1, B2 | [r, d_out] | trained, random at first |
/// | T1, T2 | [r, r, n] | trained, random at first; convolutions in the Tucker form only |
/// | s | | alpha / r |
///
/// Hyeon-Woo et al., FedPara, arXiv 2108.06098, propositions 1 and 3 (the Tucker form); as LoHa
/// in Yeh et al., Navigating Text-to-Image Customization, arXiv 2309.14859, section 3. LyCORIS
/// draws from normal distributions; as in PEFT, all are He-uniform here.
///
/// # Cost
/// (A1 B1) . (A2 B2) is a product of rank r^2: of the row-wise products of A1 and A2, [d_in, r^2],
/// and the column-wise products of B1 and B2, [r^2, d_out]. With these, T tokens cost (T + 1) r^2
/// (d_in + d_out); forming the update costs 2 r d_in d_out, and then T d_in d_out. `forward`
/// takes the cheaper: the first where r^2 is small against d_in d_out / (d_in + d_out).
#[derive(Module, Debug)]
pub struct Loha {
    /// A1 B1.
    pub w1: HadamardFactor,
    /// A2 B2.
    pub w2: HadamardFactor,
    /// s.
    pub scaling: f64,
}

impl Loha {
    /// Whether the factored form is cheaper than forming the update, for this many tokens.
    fn is_factored_cheaper(tokens: usize, d_in: usize, d_out: usize, rank: usize) -> bool {
        let [tokens, d_in, d_out, rank] = [tokens, d_in, d_out, rank].map(|n| n as f64);
        (tokens + 1.0) * rank * rank * (d_in + d_out) < (2.0 * rank + tokens) * d_in * d_out
    }

    /// W + s (A1 B1) . (A2 B2), [d_in, d_out].
    fn weight(&self, base: &FrozenBase) -> Tensor<2> {
        if self.w1.b.dims()[0] <= FACTORED {
            return base.with_low_rank(self.factors(), self.scaling).weight();
        }
        let product = |factor: &HadamardFactor| matmul(factor.inputs(), factor.b.val());
        base.weight() + product(&self.w1) * product(&self.w2) * self.scaling
    }

    /// The factors of the update without s, of rank r^2: [d_in, r^2] and [r^2, d_out].
    fn factors(&self) -> (Tensor<2>, Tensor<2>) {
        let turned = |factor: &HadamardFactor| factor.inputs().transpose();
        let a = row_products(turned(&self.w1), turned(&self.w2), None);
        let b = row_products(self.w1.b.val(), self.w2.b.val(), None);
        (a.transpose(), b)
    }
}

impl Adapter for Loha {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        Ok(base.with_weight(self.weight(base)))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let [tokens, d_in] = x.dims();
        let [rank, d_out] = self.w1.b.dims();
        if Self::is_factored_cheaper(tokens, d_in, d_out, rank) {
            base.low_rank(x, self.factors(), self.scaling, 0.0, ctx)
        } else {
            base.with_weight(self.weight(base)).forward(x)
        }
    }
}

impl LohaConfig {
    /// The shape of A or U, and of T.
    fn shapes(&self, d_in: usize) -> ([usize; 2], Option<[usize; 3]>) {
        let (rank, positions) = (self.rank, self.kernel);
        (
            [d_in / positions, rank],
            (positions > 1).then_some([rank, rank, positions]),
        )
    }
}

impl Graft for LohaConfig {
    type Adapter = Loha;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        if layer.d_in.is_multiple_of(self.kernel) {
            Ok(())
        } else {
            Err(format!(
                "kernel = {} positions do not divide d_in = {}",
                self.kernel, layer.d_in
            ))
        }
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let (a, core) = self.shapes(layer.d_in);
        let core = core.map_or(0, |shape| shape.iter().product());
        Counts::trained(2 * (a[0] * a[1] + core + self.rank * layer.d_out))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Loha> {
        let (a, core) = self.shapes(base.d_in());
        let (rank, d_out) = (self.rank, base.d_out());
        // Fan-ins are what PyTorch sees: of (r, in), (out, r) and (r, r, kh, kw).
        let factor = |name: &str, zero: bool| {
            let input = if zero {
                Init::ZEROS
            } else {
                Init::KaimingUniform { fan_in: a[0] }
            };
            HadamardFactor {
                a: Param::from_tensor(ctx.tensor(input, a, &format!("{name}.a"))),
                core: core.map(|shape| {
                    let init = Init::KaimingUniform {
                        fan_in: rank * shape[2],
                    };
                    Param::from_tensor(ctx.tensor(init, shape, &format!("{name}.core")))
                }),
                b: Param::from_tensor(ctx.tensor(
                    Init::KaimingUniform { fan_in: rank },
                    [rank, d_out],
                    &format!("{name}.b"),
                )),
            }
        };
        Ok(Loha {
            w1: factor("w1", false),
            w2: factor("w2", true),
            scaling: self.alpha / rank as f64,
        })
    }
}

impl Method for LohaConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LOHA"),
        admits: "any linear layer; in the Tucker form, a width that the kernel divides",
        ..MethodMeta::graft(
            "loha",
            "LoHa",
            Family::Lowrank,
            "2108.06098",
            "y = x W + b + s x ((A1 B1) . (A2 B2)), s = alpha / r",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        if self.kernel == 0 {
            return Err("kernel 0: expected at least 1 position".to_owned());
        }
        Ok(())
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let example = |rank, kernel| Self {
            rank,
            alpha: 3.0,
            kernel,
        };
        let mut examples = vec![example(1, 1), example(2, 1), example(5, 1)];
        if layer.d_in.is_multiple_of(4) {
            examples.push(example(2, 4));
        }
        examples
    }
}

#[cfg(test)]
mod tests {
    use engraft_linalg::svd;
    use engraft_testkit::compare;

    use super::*;
    use crate::testing::{counts, llama_3b_qv};
    use crate::trial;

    fn config(rank: usize, kernel: usize) -> LohaConfig {
        LohaConfig {
            rank,
            alpha: 3.0,
            kernel,
        }
    }

    #[test]
    fn the_update_has_rank_r_squared() {
        let base = trial::base(12, 14, true);
        let update = trial::update(&trial::moved(&config(3, 1), &base), &base);
        let values = svd(&update).unwrap().s;
        assert!(values[8] > 1e-6 * values[0] && values[9] < 1e-13 * values[0]);
    }

    #[test]
    fn the_factored_form_is_the_update() {
        for kernel in [1, 5] {
            let base = trial::base(15, 7, false);
            let loha = trial::moved(&config(2, kernel), &base);
            let x = base.weight().transpose();
            let (a, b) = loha.factors();
            let product = |factor: &HadamardFactor| factor.inputs().matmul(factor.b.val());
            let update = product(&loha.w1) * product(&loha.w2);
            compare::close("", &x.clone().matmul(a).matmul(b), &x.matmul(update), 64).unwrap();
        }
        assert!(Loha::is_factored_cheaper(1, 4096, 4096, 8));
        assert!(!Loha::is_factored_cheaper(64, 24, 16, 4));
    }

    #[test]
    fn a_core_mixes_ranks_at_each_kernel_position() {
        let base = trial::base(6, 4, false);
        let loha = trial::moved(&config(2, 3), &base);
        let update = trial::update(&loha, &base);
        let entry = |factor: &HadamardFactor, row: usize, col: usize| -> f64 {
            let (u, b) = (trial::matrix(&factor.a), trial::matrix(&factor.b));
            let core = factor.core.as_ref().unwrap().val();
            let t = engraft_tensor::bridge::values(&core);
            let (channel, position) = (row / 3, row % 3);
            (0..2)
                .flat_map(|i| (0..2).map(move |j| (i, j)))
                .map(|(i, j)| t[(i * 2 + j) * 3 + position] * u.get(channel, j) * b.get(i, col))
                .sum()
        };
        for row in 0..6 {
            for col in 0..4 {
                let expected = 1.5 * entry(&loha.w1, row, col) * entry(&loha.w2, row, col);
                assert!((update.get(row, col) - expected).abs() < 1e-13);
            }
        }
    }

    #[test]
    fn counts_are_the_published_ones() {
        // PEFT's MetaMathQA benchmark: rank 32 on q and v of Llama-3.2-3B.
        assert_eq!(
            counts(&config(32, 1), &llama_3b_qv()).all_trained(),
            18_350_080
        );
    }
}
