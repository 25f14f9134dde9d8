//! LoRA: low-rank adaptation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Lookup, Method,
    MethodMeta, Parts, Result, Scaling, check_dropout, dropout, positive_rank, refuse_dropout,
};
use engraft_tensor::Init;
use engraft_tensor::ops::{Factors, low_rank, low_rank_update};
use serde::{Deserialize, Serialize};

/// How A starts. B starts at zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoraInit {
    /// U(-1/sqrt(d_in), 1/sqrt(d_in)): the authors' code (`kaiming_uniform_(a = sqrt(5))`).
    #[default]
    KaimingUniform,
    /// N(0, 1/r^2): the paper's "random Gaussian", with PEFT's standard deviation.
    Gaussian,
}

/// Configuration of [`Lora`]. Paper defaults: rank 8, alpha 16, no dropout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LoraConfig {
    /// Rank r.
    pub rank: usize,
    /// alpha; see [`Scaling`].
    pub alpha: f64,
    /// `classic`, or `rank-stabilised` for rsLoRA.
    pub scaling: Scaling,
    /// Probability of zeroing an input of A in training.
    pub dropout: f64,
    /// Whether an offset c is trained behind B.
    pub bias: bool,
    /// How A starts.
    pub init: LoraInit,
    /// On an embedding: whether an output layer that shares its weight has the update too.
    pub tied: bool,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 16.0,
            scaling: Scaling::Classic,
            dropout: 0.0,
            bias: false,
            init: LoraInit::KaimingUniform,
            tied: false,
        }
    }
}

/// y = x W + b + s (x A B + c).
///
/// | symbol | shape | |
/// |---|---|---|
/// | A | [d_in, r] | trained, random at first |
/// | B | [r, d_out] | trained, zero at first |
/// | c | `[d_out]` | trained, zero at first; only with `bias` |
/// | s | | alpha / r, or alpha / sqrt(r) |
///
/// Hu et al., LoRA: Low-Rank Adaptation of Large Language Models, arXiv 2106.09685, section 4.1.
/// The paper draws A from a Gaussian, the authors' code from a uniform distribution; the code is
/// followed. Rank-stabilised scaling: Kalajdzievski, arXiv 2312.03732.
#[derive(Module, Debug)]
pub struct Lora {
    /// A, [d_in, r].
    pub a: Param<Tensor<2>>,
    /// B, [r, d_out].
    pub b: Param<Tensor<2>>,
    /// c, `[d_out]`.
    pub c: Option<Param<Tensor<1>>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of A.
    pub dropout: f64,
    /// Whether an output layer that shares an embedding's weight has the update too.
    pub tied: bool,
}

impl Lora {
    /// Whether inputs of A are dropped.
    fn drops(&self, ctx: &Ctx) -> bool {
        ctx.is_training() && self.dropout > 0.0
    }

    /// What is added to the frozen output for tokens whose inputs are not dropped.
    fn addition(&self) -> Factors {
        Factors {
            a: self.a.val(),
            b: self.b.val(),
            offset: self.c.as_ref().map(|c| c.val()),
            scaling: self.scaling,
        }
    }

    /// The layer W + s A B, b + s c with this A.
    pub(crate) fn layer(&self, a: Tensor<2>, base: &FrozenBase) -> FrozenBase {
        let weight = low_rank_update(base.weight(), a, self.b.val(), self.scaling);
        FrozenBase::new(weight, self.offset(base))
    }

    /// b + s c.
    fn offset(&self, base: &FrozenBase) -> Option<Tensor<1>> {
        let Some(c) = &self.c else {
            return base.bias.clone();
        };
        let c = c.val() * self.scaling;
        Some(base.bias.clone().map_or(c.clone(), |bias| bias + c))
    }

    /// y for tokens x and x A, [tokens, r].
    pub(crate) fn widen(&self, x: Tensor<2>, narrow: Tensor<2>, base: &FrozenBase) -> Tensor<2> {
        let y = base.forward(x) + (narrow * self.scaling).matmul(self.b.val());
        match &self.c {
            Some(c) => y + (c.val() * self.scaling).unsqueeze(),
            None => y,
        }
    }
}

impl Adapter for Lora {
    const ADDITIVE: bool = true;

    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("lora", self.dropout, ctx)?;
        Ok(self.layer(self.a.val(), base))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        if !self.drops(ctx) {
            let (weight, bias) = (base.weight(), self.offset(base));
            return low_rank(x, weight, bias, self.a.val(), self.b.val(), self.scaling);
        }
        let narrow = dropout(x.clone(), self.dropout, ctx).matmul(self.a.val());
        self.widen(x, narrow, base)
    }

    fn update(&self, x: Tensor<2>, _: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        self.addition().update(dropout(x, self.dropout, ctx))
    }

    fn factors(&self, ctx: &Ctx) -> Option<Factors> {
        (!self.drops(ctx)).then(|| self.addition())
    }

    /// Gathers rows of A: nothing of the vocabulary's size is formed. There is no dropout on
    /// indices.
    fn lookup(&self, rows: &Lookup, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let narrow = rows.of(self.a.val()) * self.scaling;
        let y = base.lookup(rows) + narrow.matmul(self.b.val());
        match &self.c {
            Some(c) => y + (c.val() * self.scaling).unsqueeze(),
            None => y,
        }
    }

    fn ties(&self) -> bool {
        self.tied
    }

    /// x (W + s A B)^T with `tied`: x meets B^T first, and there dropout. c belongs to looked up rows.
    fn tied(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        if !self.tied {
            return base.tied(x);
        }
        let narrow = dropout(x.clone(), self.dropout, ctx).matmul(self.b.val().transpose());
        base.tied(x) + (narrow * self.scaling).matmul(self.a.val().transpose())
    }
}

impl Graft for LoraConfig {
    type Adapter = Lora;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(
            self.rank * (layer.d_in + layer.d_out) + if self.bias { layer.d_out } else { 0 },
        )
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Lora> {
        let (d_in, d_out, rank) = (base.d_in(), base.d_out(), self.rank);
        let a = match self.init {
            LoraInit::KaimingUniform => Init::KaimingUniform { fan_in: d_in },
            LoraInit::Gaussian => Init::Normal {
                std: 1.0 / rank as f64,
            },
        };
        Ok(Lora {
            a: Param::from_tensor(ctx.tensor(a, [d_in, rank], "a")),
            b: Param::from_tensor(ctx.tensor(Init::ZEROS, [rank, d_out], "b")),
            c: self
                .bias
                .then(|| Param::from_tensor(ctx.tensor(Init::ZEROS, [d_out], "c"))),
            scaling: self.scaling.factor(self.alpha, rank),
            dropout: self.dropout,
            tied: self.tied,
        })
    }
}

impl Method for LoraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        ..MethodMeta::graft(
            "lora",
            "LoRA",
            Family::Lowrank,
            "2106.09685",
            "y = x W + b + s (x A B + c), s = alpha / r or alpha / sqrt(r)",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        positive_rank(self.rank)?;
        check_dropout(self.dropout)
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
                bias: true,
                init: LoraInit::Gaussian,
                ..small.clone()
            },
            Self {
                rank: 5,
                dropout: 0.1,
                ..small
            },
        ]
    }
}
