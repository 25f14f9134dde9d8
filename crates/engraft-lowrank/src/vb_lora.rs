//! VB-LoRA: low-rank factors composed of vectors from one bank.

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor};
use engraft_core::{
    Adapter, AtInit, BankSpec, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape,
    Method, MethodMeta, Parts, Result, check_dropout, positive_rank, refuse_dropout,
};
use engraft_tensor::Init;
use serde::{Deserialize, Serialize};

use crate::indices;
use crate::softmax::softmax;

/// What an adapter keeps of its choice among the vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VbForm {
    /// A trained logit for every vector.
    #[default]
    Logits,
    /// The chosen vectors and their weights, frozen: what is stored after training. The bank is
    /// still trained.
    TopK,
}

/// Configuration of [`VbLora`]. Paper defaults: rank 4, the best two of 256 vectors of length 256
/// (section 4.1; 30 to 2048 vectors there, by model), bank U(-0.02, 0.02), logits N(0, 0.01).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct VbLoraConfig {
    /// Rank r.
    pub rank: usize,
    /// Number h of vectors in the bank.
    pub vectors: usize,
    /// Length b of a vector; it divides the widths of all layers.
    pub length: usize,
    /// Number k of vectors in a mixture.
    pub top_k: usize,
    /// Probability of zeroing an input in training.
    pub dropout: f64,
    /// Largest first entry of a vector.
    pub bank_bound: f64,
    /// Standard deviation of the first logits.
    pub logits_std: f64,
    /// `logits`, or `top-k` for what is left of them after training.
    pub form: VbForm,
}

impl Default for VbLoraConfig {
    fn default() -> Self {
        Self {
            rank: 4,
            vectors: 256,
            length: 256,
            top_k: 2,
            dropout: 0.0,
            bank_bound: 0.02,
            logits_std: 0.1,
            form: VbForm::Logits,
        }
    }
}

impl VbLoraConfig {
    /// Number of sub-vectors on a layer.
    fn sub_vectors(&self, layer: &LayerShape) -> usize {
        self.rank * (layer.d_in + layer.d_out) / self.length
    }

    fn mixture(&self, shape: [usize; 2], ctx: &InitContext, role: &str) -> Mixture {
        let shape = [shape[0], shape[1], self.vectors];
        let logits = ctx.tensor(
            Init::Normal {
                std: self.logits_std,
            },
            shape,
            role,
        );
        let empty = Mixture {
            logits: None,
            indices: None,
            weights: None,
            top_k: self.top_k,
        };
        match self.form {
            VbForm::Logits => Mixture {
                logits: Some(Param::from_tensor(logits)),
                ..empty
            },
            VbForm::TopK => {
                let (values, chosen) = logits.topk_with_indices(self.top_k, 2);
                let chosen: Vec<i64> = chosen
                    .to_data()
                    .convert::<i64>()
                    .try_to_vec()
                    .expect("converted to i64");
                let shape = [shape[0], shape[1], self.top_k];
                let weights = (self.top_k > 1).then(|| {
                    Param::from_tensor(softmax(values, 2).narrow(2, 0, self.top_k - 1))
                        .set_require_grad(false)
                });
                Mixture {
                    indices: Some(indices::frozen(chosen, shape, &ctx.device)),
                    weights,
                    ..empty
                }
            }
        }
    }
}

/// m x q sub-vectors, each u = sum_{s in top k} softmax(sigma_top)_s alpha_s for vectors alpha of
/// the bank, from its logits sigma or from what is left of them.
#[derive(Module, Debug)]
pub struct Mixture {
    /// sigma, [m, q, h], trained.
    pub logits: Option<Param<Tensor<3>>>,
    /// Chosen vectors by falling weight, [m, q, k].
    pub indices: Option<Param<Tensor<3, Int>>>,
    /// Their weights but for the last, which makes the sum 1: [m, q, k - 1]; none for k = 1.
    pub weights: Option<Param<Tensor<3>>>,
    top_k: usize,
}

impl Mixture {
    /// The chosen vectors and their weights, [m, q, k] each.
    fn choice(&self, bank: &Tensor<2>) -> (Tensor<3, Int>, Tensor<3>) {
        if let Some(logits) = &self.logits {
            let logits = logits.val();
            let (_, chosen) = logits.clone().detach().topk_with_indices(self.top_k, 2);
            let weights = softmax(logits.gather(2, chosen.clone()), 2);
            return (chosen, weights);
        }
        let chosen = self
            .indices
            .as_ref()
            .expect("a mixture has logits or indices")
            .val();
        let [m, q, _] = chosen.dims();
        let one = Tensor::ones([m, q, 1], (&bank.device(), bank.dtype()));
        let weights = match &self.weights {
            Some(weights) => {
                let first = weights.val();
                Tensor::cat(vec![first.clone(), one - first.sum_dim(2)], 2)
            }
            None => one,
        };
        (chosen, weights)
    }

    /// The sub-vectors, [m, q, b], from the bank [h, b].
    pub fn vectors(&self, bank: Tensor<2>) -> Tensor<3> {
        let (chosen, weights) = self.choice(&bank);
        let [m, q, k] = chosen.dims();
        let length = bank.dims()[1];
        let picked: Tensor<3> =
            bank.select(0, chosen.reshape([m * q * k]))
                .reshape([m * q, k, length]);
        let mixed: Tensor<3> = (picked * weights.reshape([m * q, k, 1])).sum_dim(1);
        mixed.reshape([m, q, length])
    }
}

/// y = x W + b + x A B, every length-b piece of a column of A and of a row of B a mixture of k
/// vectors of one bank.
///
/// | symbol | shape | |
/// |---|---|---|
/// | alpha | [h, b] | bank, trained, shared by all layers |
/// | logits of A | [r, d_in / b, h] | trained |
/// | logits of B | [d_out / b, r, h] | trained |
///
/// Li et al., VB-LoRA: Extreme Parameter Efficient Fine-Tuning with Vector Banks, arXiv 2405.15179,
/// section 3. Trained: h b + h r (d_in + d_out) / b a layer; after training an index and a weight
/// suffice for each chosen vector ([`VbForm::TopK`]), the last weight of a mixture is left out. The
/// update is small, not zero, at first. The gradient is that of the chosen vectors: the choice
/// itself is piecewise constant.
///
/// The activation form builds A and B, at O(r (d_in + d_out) (h / b + k)), and multiplies with them.
#[derive(Module, Debug)]
pub struct VbLora {
    /// Pieces of A's columns.
    pub a: Mixture,
    /// Pieces of B's rows.
    pub b: Mixture,
    /// Dropout probability on the inputs.
    pub dropout: f64,
    #[module(skip)]
    vectors: String,
}

impl VbLora {
    /// A, [d_in, r], and B, [r, d_out].
    fn factors(&self, ctx: &Ctx) -> (Tensor<2>, Tensor<2>) {
        let bank = ctx.shared(&self.vectors);
        let a = self.a.vectors(bank.clone());
        let [rank, pieces, length] = a.dims();
        let a: Tensor<2> = a.reshape([rank, pieces * length]);
        let b = self.b.vectors(bank).swap_dims(0, 1);
        let pieces = b.dims()[1];
        (a.transpose(), b.reshape([rank, pieces * length]))
    }
}

impl Adapter for VbLora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("vb-lora", self.dropout, ctx)?;
        Ok(base.with_low_rank(self.factors(ctx), 1.0))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        base.low_rank(x, self.factors(ctx), 1.0, self.dropout, ctx)
    }
}

impl Graft for VbLoraConfig {
    type Adapter = VbLora;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        for (name, width) in [("d_in", layer.d_in), ("d_out", layer.d_out)] {
            if !width.is_multiple_of(self.length) {
                let common = gcd(layer.d_in, layer.d_out);
                return Err(format!(
                    "vectors of length {} do not divide {name} = {width}: expected a divisor of {common}",
                    self.length
                ));
            }
        }
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let sub_vectors = self.sub_vectors(layer);
        match self.form {
            VbForm::Logits => Counts::trained(sub_vectors * self.vectors),
            VbForm::TopK => Counts::with_frozen(0, sub_vectors * (2 * self.top_k - 1)),
        }
    }

    fn banks(&self, _: &[LayerShape]) -> Vec<BankSpec> {
        let bound = self.bank_bound;
        vec![BankSpec::trained(
            "vectors",
            [self.vectors, self.length],
            Init::Uniform { bound },
        )]
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<VbLora> {
        Ok(VbLora {
            a: self.mixture([self.rank, base.d_in() / self.length], ctx, "a"),
            b: self.mixture([base.d_out() / self.length, self.rank], ctx, "b"),
            dropout: self.dropout,
            vectors: ctx.shared_name("vectors"),
        })
    }
}

impl Method for VbLoraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("VBLORA"),
        at_init: AtInit::Bounded(0.02),
        admits: "a linear layer whose widths the vectors' length divides",
        ..MethodMeta::graft(
            "vb-lora",
            "VB-LoRA",
            Family::Lowrank,
            "2405.15179",
            "y = x W + b + x A B, pieces of A and B mixed from the top k vectors of a bank",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)?;
        if self.length == 0 {
            return Err("length 0: expected at least 1".to_owned());
        }
        if self.top_k == 0 || self.top_k > self.vectors {
            return Err(format!(
                "top-k {}: expected 1 to the {} vectors of the bank",
                self.top_k, self.vectors
            ));
        }
        Ok(())
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let common = gcd(layer.d_in, layer.d_out);
        let length = (1..=common.min(8))
            .rev()
            .find(|length| common.is_multiple_of(*length));
        let small = Self {
            rank: 2,
            vectors: 6,
            length: length.unwrap_or(1),
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                top_k: 3,
                dropout: 0.1,
                form: VbForm::TopK,
                ..small.clone()
            },
            Self { top_k: 1, ..small },
        ]
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::Bank;
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing;

    #[test]
    fn counts_are_the_published_ones() {
        let llama = VbLoraConfig::default();
        assert_eq!(
            testing::counts(&llama, &testing::llama_3b_qv()).all_trained(),
            1_212_416
        );
        let (h, ff) = (1024, 4096);
        let linears = [
            ("q", h, h),
            ("k", h, h),
            ("v", h, h),
            ("o", h, h),
            ("up", h, ff),
            ("down", ff, h),
        ];
        let roberta = testing::blocks(24, &linears);
        let config = VbLoraConfig {
            vectors: 90,
            ..llama
        };
        let head = 1024 * 1024 + 1024 + 2 * 1024 + 2;
        assert_eq!(
            testing::counts(&config, &roberta).all_trained() + head,
            1_696_770
        );
        // Stored: the bank, and 1.5 numbers a sub-vector when an index is a byte (table 1).
        let stored = testing::counts(
            &VbLoraConfig {
                form: VbForm::TopK,
                ..config
            },
            &roberta,
        )
        .stored;
        let sub_vectors = (stored - 90 * 256) / 3;
        assert_eq!(90 * 256 + sub_vectors * 3 / 2, 33_408);
    }

    #[test]
    fn forms_agree_and_the_kept_choice_is_the_whole_one() {
        let config = VbLoraConfig {
            rank: 3,
            vectors: 9,
            length: 5,
            top_k: 3,
            ..VbLoraConfig::default()
        };
        testing::forms_agree(&config, 15, 10).unwrap();

        let (device, bank) = (Device::default(), Bank::default());
        let base = FrozenBase::new(Tensor::zeros([15, 10], (&device, DType::F64)), None);
        let ctx = InitContext::new(3, "fc", "x", &base, &bank);
        let vectors: Tensor<2> =
            Init::Normal { std: 1.0 }.tensor([9, 5], &ctx.key.child("bank"), &device, DType::F64);
        let kept = VbLoraConfig {
            form: VbForm::TopK,
            ..config.clone()
        };
        let whole = config.mixture([3, 2], &ctx, "a").vectors(vectors.clone());
        let rest = kept.mixture([3, 2], &ctx, "a").vectors(vectors);
        let difference = bridge::values(&(whole - rest))
            .into_iter()
            .fold(0.0, |largest: f64, x| largest.max(x.abs()));
        assert!(difference < 1e-14, "{difference:e}");
    }
}
