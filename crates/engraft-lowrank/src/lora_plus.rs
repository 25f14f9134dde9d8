//! LoRA+: LoRA whose B learns faster than A.

use engraft_core::{
    Counts, Family, FrozenBase, Graft, InitContext, LayerShape, Method, MethodMeta, Parts, Rate,
    Result, Scaling,
};
use serde::{Deserialize, Serialize};

use crate::lora::{Lora, LoraConfig, LoraInit};

/// LoRA+: y = x W + b + s (x A B + c) as [`Lora`], with learning rate eta for A and ratio * eta for
/// B.
///
/// Hayou et al., LoRA+: Efficient Low Rank Adaptation of Large Models, arXiv 2402.12354, section 4:
/// features are learned efficiently when the ratio is of the order of the width, and a fixed ratio
/// of 2^4 works across tasks (section 5). The offset c takes B's rate, as vectors do in the
/// authors' code and in PEFT's `create_loraplus_optimizer`; the run's learning rate is A's. The
/// rates are declared in [`Method::rates`], which a training loop applies. Its file is a plain LoRA
/// of PEFT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LoraPlusConfig {
    /// Rank r.
    pub rank: usize,
    /// alpha; see [`Scaling`].
    pub alpha: f64,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Whether an offset c is trained behind B.
    pub bias: bool,
    /// How A starts.
    pub init: LoraInit,
    /// B's learning rate over A's.
    pub ratio: f64,
}

impl Default for LoraPlusConfig {
    fn default() -> Self {
        let LoraConfig {
            rank,
            alpha,
            scaling,
            dropout,
            bias,
            init,
            ..
        } = LoraConfig::default();
        Self {
            rank,
            alpha,
            scaling,
            dropout,
            bias,
            init,
            ratio: 16.0,
        }
    }
}

impl LoraPlusConfig {
    fn lora(&self) -> LoraConfig {
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha,
            scaling: self.scaling,
            dropout: self.dropout,
            bias: self.bias,
            init: self.init,
            ..LoraConfig::default()
        }
    }
}

impl Graft for LoraPlusConfig {
    type Adapter = Lora;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        self.lora().admits(layer)
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        self.lora().count(layer)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Lora> {
        self.lora().init(base, ctx)
    }
}

impl Method for LoraPlusConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        ..MethodMeta::graft(
            "lora-plus",
            "LoRA+",
            Family::Lowrank,
            "2402.12354",
            "y = x W + b + s (x A B + c), learning rate of B = ratio times that of A",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn rates(&self) -> Vec<Rate> {
        ["b", "c"]
            .map(|field| Rate {
                field,
                factor: self.ratio,
            })
            .to_vec()
    }

    fn validate(&self) -> Result<(), String> {
        if !(self.ratio.is_finite() && self.ratio > 0.0) {
            return Err(format!("ratio {}: expected a positive number", self.ratio));
        }
        self.lora().validate()
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            rank: 2,
            alpha: 3.0,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                scaling: Scaling::RankStabilised,
                dropout: 0.1,
                bias: true,
                init: LoraInit::Gaussian,
                ratio: 2.0,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b_and_its_offset_take_the_ratio() {
        let method = engraft_core::AnyMethod::new(&LoraPlusConfig::default()).unwrap();
        let fields: Vec<&str> = method.rates().iter().map(|rate| rate.field).collect();
        assert_eq!(fields, ["b", "c"]);
        assert!(method.rates().iter().all(|rate| rate.factor == 16.0));
        let senseless = LoraPlusConfig {
            ratio: 0.0,
            ..LoraPlusConfig::default()
        };
        assert!(senseless.validate().unwrap_err().contains("ratio 0"));
    }
}
