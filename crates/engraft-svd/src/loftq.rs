//! LoftQ: a quantised weight and the factors that make up for what it lost.

use engraft_core::{
    AtInit, Counts, Error, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta,
    Parts, Result, Scaling, admit_rank,
};
use engraft_kernels::{NumberFormat, Quantisation};
use engraft_linalg::Svd;
use engraft_tensor::host::plus_product;
use engraft_tensor::ops::QuantisedWeight;
use serde::{Deserialize, Serialize};

use crate::residual_lora::{self, ResidualLora};
use crate::spectrum::{leading_of, tensor};

/// LoftQ: the weight is quantised and A B starts as what is nearest to what that lost, y = x Q + b +
/// s x A B with W ~ Q + s A B. In turns, T times, Q = q(W - s A B) from A B = 0 and s A B = the r
/// leading singular triples of W - Q, A = U_r (S_r / s)^1/2, B = (S_r / s)^1/2 V_r^T.
///
/// Li et al., LoftQ: LoRA-Fine-Tuning-Aware Quantization for Large Language Models, arXiv 2310.08659,
/// section 3, algorithm 1. q rounds to 4 bits (NF4), 2 bits (NF2) or 8 bits (whole steps of a row's
/// largest entry), as PEFT's `loftq_init` does for 4 and 8; the paper's experiments have T = 5 and
/// rank 16 or 32. PEFT does not divide A B by s, so that only alpha = rank starts near W there.
///
/// The adapter is a [`ResidualLora`] whose base stays in few bits; where T > 1 it stores the factors
/// that Q was quantised without, T = 1 stores none. Both start and base come from the full weight, so
/// that a base which is quantised already is refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LoftqConfig {
    /// Rank r, at most min(d_in, d_out).
    pub rank: usize,
    /// alpha; the rank if left out.
    pub alpha: Option<f64>,
    /// `classic`, or `rank-stabilised` as in rsLoRA.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Bits of an entry of Q: 2, 4 or 8.
    pub bits: usize,
    /// T.
    pub iterations: usize,
    /// Entries with one scale; if left out 64, and all inputs of an output for 8 bits.
    pub block: Option<usize>,
}

impl Default for LoftqConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: None,
            scaling: Scaling::Classic,
            dropout: 0.0,
            bits: 4,
            iterations: 1,
            block: None,
        }
    }
}

impl LoftqConfig {
    /// q for a layer of `d_in` inputs.
    pub fn quantisation(&self, d_in: usize) -> Quantisation {
        let (format, block) = match self.bits {
            2 => (NumberFormat::Nf2, 64),
            4 => (NumberFormat::Nf4, 64),
            _ => (NumberFormat::Int8, d_in),
        };
        Quantisation {
            block: self.block.unwrap_or(block),
            ..Quantisation::new(format)
        }
    }
}

impl Graft for LoftqConfig {
    type Adapter = ResidualLora;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        admit_rank(self.rank, layer.max_rank())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let factors = self.rank * (layer.d_in + layer.d_out);
        match self.iterations {
            1 => Counts::trained(factors),
            _ => Counts::with_frozen(factors, factors),
        }
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<ResidualLora> {
        if base.quantised().is_some() {
            return Err(Error::Unsupported(format!(
                "{}: LoftQ starts from the weight before it was quantised: load the model in full \
                 precision, LoftQ quantises it",
                ctx.path
            )));
        }
        let how = self.quantisation(base.d_in());
        let scaling = residual_lora::scaling(self.scaling, self.alpha, self.rank);
        let weight = base.weight().detach();
        let mut before: Option<Svd> = None;
        for round in 1.. {
            let rest = match &before {
                None => weight.clone(),
                Some(triples) => {
                    let (a, b) = residual_lora::halves(triples, scaling, ctx)?;
                    plus_product(&weight, -scaling, &tensor(&a, ctx), &tensor(&b, ctx))
                }
            };
            let quantised = QuantisedWeight::new(&rest, how).map_err(|error| ctx.numeric(error))?;
            let lost = weight.clone() - quantised.dense(&base.device(), base.dtype());
            let lost = engraft_tensor::host::HostMatrix::new(&lost);
            let triples = leading_of(&lost, self.rank, 0, ctx)?;
            if round == self.iterations {
                return ResidualLora::on_quantised(
                    Self::META.id,
                    how,
                    before.as_ref(),
                    &triples,
                    (scaling, self.dropout),
                    ctx,
                );
            }
            before = Some(triples);
        }
        unreachable!("at least one round was asked for")
    }
}

impl Method for LoftqConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        admits: "a linear layer with min(d_in, d_out) of at least the rank",
        // What 2 bits lose; 4 bits lose about a tenth.
        at_init: AtInit::Bounded(0.7),
        ..MethodMeta::graft(
            "loftq",
            "LoftQ",
            Family::Svd,
            "2310.08659",
            "y = x Q + b + s x A B, Q = q(W - s A B) of 2, 4 or 8 bits, s A B ~ W - Q at first",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if ![2, 4, 8].contains(&self.bits) {
            return Err(format!("bits {}: expected 2, 4 or 8", self.bits));
        }
        if self.iterations == 0 {
            return Err("iterations 0: expected at least 1".to_owned());
        }
        if self.block == Some(0) {
            return Err("block 0: expected at least 1 entry".to_owned());
        }
        residual_lora::validate(self.rank, self.alpha, self.dropout)
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        let rank = layer.max_rank().min(3);
        let small = Self {
            rank,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                alpha: Some(5.0),
                scaling: Scaling::RankStabilised,
                iterations: 3,
                ..small.clone()
            },
            Self {
                bits: 8,
                dropout: 0.1,
                ..small.clone()
            },
            Self {
                bits: 2,
                iterations: 2,
                block: Some(7),
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::{Adapter, Ctx};
    use engraft_tensor::bridge;

    use super::*;
    use crate::testing::{attach, base, forms_differ};

    fn config(bits: usize, iterations: usize) -> LoftqConfig {
        LoftqConfig {
            rank: 4,
            alpha: Some(8.0),
            bits,
            iterations,
            ..LoftqConfig::default()
        }
    }

    /// |W - Q - s A B| / |W|, and the same without A B.
    fn errors(config: &LoftqConfig, base: &FrozenBase) -> [f64; 2] {
        let adapter = attach(config, base);
        let own = adapter.rebase(base).unwrap();
        let whole = adapter.effective(&own, &Ctx::default()).unwrap();
        let norm = |layer: &FrozenBase| {
            let values = bridge::values(&(layer.weight() - base.weight()));
            values.iter().map(|w| w * w).sum::<f64>().sqrt()
        };
        let all = bridge::values(&base.weight());
        let scale = all.iter().map(|w| w * w).sum::<f64>().sqrt();
        [norm(&whole) / scale, norm(&own) / scale]
    }

    #[test]
    fn factors_make_up_for_a_part_of_what_was_lost_and_turns_for_more() {
        let base = base([40, 28]);
        for (bits, most) in [(2, 0.6), (4, 0.15), (8, 0.02)] {
            let [whole, quantised] = errors(&config(bits, 1), &base);
            assert!(whole < 0.9 * quantised && quantised < most, "{bits}");
        }
        let error = |iterations| errors(&config(2, iterations), &base)[0];
        assert!(error(5) < error(1), "{} {}", error(5), error(1));
    }

    #[test]
    fn the_base_is_packed_and_both_forms_agree() {
        let base = base([12, 7]);
        for (bits, iterations) in [(2, 1), (4, 3), (8, 2)] {
            let adapter = attach(&config(bits, iterations), &base);
            let own = adapter.rebase(&base).unwrap();
            assert_eq!(own.quantised().unwrap().how().format.bits(), bits);
            assert_eq!(adapter.a0.is_some(), iterations > 1);
            assert!(forms_differ(&adapter, &base) < 1e-12);
        }
    }

    #[test]
    fn what_is_quantised_already_is_refused() {
        let base = base([12, 7]);
        let weight = QuantisedWeight::new(&base.weight(), Quantisation::default()).unwrap();
        let weight = engraft_core::Weight::quantised(weight, &base.device(), base.dtype());
        let base = base.with_weight(weight);
        let bank = engraft_core::Bank::default();
        let ctx = InitContext::new(1, "fc", "default", &base, &bank);
        let error = config(4, 1).init(&base, &ctx).unwrap_err().to_string();
        assert!(error.contains("full precision"), "{error}");
        assert!(config(3, 1).validate().is_err() && config(4, 0).validate().is_err());
    }
}
