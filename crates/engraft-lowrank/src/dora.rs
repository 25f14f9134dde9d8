//! DoRA: weight-decomposed low-rank adaptation.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Gradient, Graft, InitContext, LayerShape, Lookup,
    Method, MethodMeta, Parts, Result, Scaling, check_dropout, dropout, positive_rank,
    refuse_dropout,
};
use engraft_tensor::Init;
use engraft_tensor::ops::{column_norms, low_rank, matmul, scaled_columns};
use serde::{Deserialize, Serialize};

/// Configuration of [`Dora`]. Paper defaults: rank 16, alpha 2 r.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct DoraConfig {
    /// Rank r.
    pub rank: usize,
    /// alpha; see [`Scaling`].
    pub alpha: f64,
    /// `classic` or `rank-stabilised`.
    pub scaling: Scaling,
    /// Probability of zeroing an input in training.
    pub dropout: f64,
}

impl Default for DoraConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            scaling: Scaling::Classic,
            dropout: 0.0,
        }
    }
}

/// W' = m V / |V|, V = W + s A B, with |V| the norm of each column (each output).
///
/// | symbol | shape | |
/// |---|---|---|
/// | A, B | [d_in, r], [r, d_out] | trained, B zero at first |
/// | m | `[d_out]` | trained, the column norms of W at first |
///
/// Liu et al., DoRA: Weight-Decomposed Low-Rank Adaptation, arXiv 2402.09353, equations 5 and 6.
/// As in section 4.3, |V| is a constant of the gradient. The norms are computed without forming
/// V, in one pass over W.
#[derive(Module, Debug)]
pub struct Dora {
    /// A, [d_in, r].
    pub a: Param<Tensor<2>>,
    /// B, [r, d_out].
    pub b: Param<Tensor<2>>,
    /// m, `[d_out]`.
    pub magnitude: Param<Tensor<1>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs.
    pub dropout: f64,
    /// |V| held constant, in the surrogate whose derivative the gradient is.
    held: Option<Tensor<1>>,
}

impl Dora {
    /// An adapter from its parameters.
    pub fn new(
        a: Tensor<2>,
        b: Tensor<2>,
        magnitude: Tensor<1>,
        scaling: f64,
        dropout: f64,
    ) -> Self {
        Self {
            a: Param::from_tensor(a),
            b: Param::from_tensor(b),
            magnitude: Param::from_tensor(magnitude),
            scaling,
            dropout,
            held: None,
        }
    }

    /// |V|, [d_out], detached.
    fn norm(&self, base: &FrozenBase) -> Tensor<1> {
        if let Some(held) = &self.held {
            return held.clone();
        }
        let (a, b) = (self.a.val(), self.b.val());
        column_norms(base.weight(), a, b, self.scaling)
    }

    fn gain(&self, base: &FrozenBase) -> Tensor<1> {
        self.magnitude.val() / self.norm(base)
    }
}

fn column_squares(w: Tensor<2>) -> Tensor<1> {
    (w.clone() * w).sum_dim(0).squeeze_dim::<1>(0)
}

impl Adapter for Dora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("dora", self.dropout, ctx)?;
        let v = base.with_low_rank((self.a.val(), self.b.val()), self.scaling);
        Ok(base.with_weight(scaled_columns(v.weight(), self.gain(base), None)))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let (weight, gain) = (base.weight(), self.gain(base));
        let changed = |x, w| low_rank(x, w, None, self.a.val(), self.b.val(), self.scaling);
        if ctx.is_training() && self.dropout > 0.0 {
            // The part of the base that DoRA changes sees the dropped input, the rest the whole one.
            let dropped = dropout(x.clone(), self.dropout, ctx);
            let taken = matmul(dropped.clone(), weight.clone());
            return base.forward(x) - taken + scaled_columns(changed(dropped, weight), gain, None);
        }
        scaled_columns(changed(x, weight), gain, base.bias.clone())
    }

    /// Only the norm is over the whole vocabulary. There is no dropout on indices.
    fn lookup(&self, rows: &Lookup, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let added = rows.of(self.a.val()).matmul(self.b.val()) * self.scaling;
        let v = rows.of(base.weight()) + added;
        base.add_bias(v * self.gain(base).unsqueeze())
    }

    fn surrogate(&self, base: &FrozenBase) -> Self {
        Self {
            held: Some(self.norm(base)),
            ..self.clone()
        }
    }
}

impl Graft for DoraConfig {
    type Adapter = Dora;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        Counts::trained(self.rank * (layer.d_in + layer.d_out) + layer.d_out)
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Dora> {
        let (d_in, d_out, rank) = (base.d_in(), base.d_out(), self.rank);
        Ok(Dora::new(
            ctx.tensor(Init::KaimingUniform { fan_in: d_in }, [d_in, rank], "a"),
            ctx.tensor(Init::ZEROS, [rank, d_out], "b"),
            column_squares(base.weight()).sqrt().detach(),
            self.scaling.factor(self.alpha, rank),
            self.dropout,
        ))
    }
}

impl Method for DoraConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("LORA"),
        gradient: Gradient::Surrogate("the column norms |V| are constants of the gradient"),
        ..MethodMeta::graft(
            "dora",
            "DoRA",
            Family::Lowrank,
            "2402.09353",
            "W' = m V / |V|_column, V = W + s A B",
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
                dropout: 0.1,
                ..small
            },
        ]
    }
}
