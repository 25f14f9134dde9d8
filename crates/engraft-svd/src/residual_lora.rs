//! LoRA beside the residual that its own start leaves of the weight.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, FrozenBase, InitContext, LayerShape, Result, Scaling, Weight,
    check_dropout, dropout, positive_rank, refuse_dropout,
};
use engraft_kernels::Quantisation;
use engraft_linalg::{Matrix, Svd};
use engraft_tensor::Init;
use engraft_tensor::host::plus_product;
use engraft_tensor::ops::QuantisedWeight;

use crate::spectrum::{frozen, tensor};

/// y = x (W - s A0 B0) + b + s x A B.
///
/// | symbol | shape | |
/// |---|---|---|
/// | A, B | [d_in, r], [r, d_out] | trained, A0 and B0 at first |
/// | A0, B0 | [d_in, r], [r, d_out] | frozen, in the adapter file |
/// | s | | alpha / r, or alpha / sqrt(r) |
///
/// The adapter of every method that only chooses how A and B start: PiSSA, MiLoRA, OLoRA, CorDA,
/// LoRA-GA, LoKU, EVA, LoftQ. The residual W - s A0 B0 is this adapter's own base (see [`Adapter::rebase`]); A0 and B0
/// are stored so that it does not hang on reproducing a decomposition. The activation form costs
/// O(tokens (d_in d_out + r (d_in + d_out))), as LoRA's.
#[derive(Module, Debug)]
pub struct ResidualLora {
    /// A, [d_in, r].
    pub a: Param<Tensor<2>>,
    /// B, [r, d_out].
    pub b: Param<Tensor<2>>,
    /// A0, [d_in, r]; none where B starts at zero, so that nothing is taken from the weight.
    pub a0: Option<Param<Tensor<2>>>,
    /// B0, [r, d_out].
    pub b0: Option<Param<Tensor<2>>>,
    /// s.
    pub scaling: f64,
    /// Dropout probability on the inputs of A.
    pub dropout: f64,
    /// Id of the method that chose A0 and B0.
    method: String,
    /// How the residual is quantised; LoftQ's.
    #[module(skip)]
    quantisation: Option<Quantisation>,
}

impl ResidualLora {
    /// The adapter of `method` that starts from A0 and B0.
    pub(crate) fn new(
        method: &str,
        a0: &Matrix,
        b0: &Matrix,
        scaling: f64,
        dropout: f64,
        ctx: &InitContext,
    ) -> Self {
        let (a0, b0) = (tensor(a0, ctx), tensor(b0, ctx));
        Self {
            a: Param::from_tensor(a0.clone()),
            b: Param::from_tensor(b0.clone()),
            a0: Some(frozen(a0)),
            b0: Some(frozen(b0)),
            scaling,
            dropout,
            method: method.to_owned(),
            quantisation: None,
        }
    }

    /// The adapter of `method` that starts from A0 and zero, beside the whole weight.
    pub(crate) fn from_zero(
        method: &str,
        a0: &Matrix,
        scaling: f64,
        dropout: f64,
        d_out: usize,
        ctx: &InitContext,
    ) -> Self {
        Self {
            a: Param::from_tensor(tensor(a0, ctx)),
            b: Param::from_tensor(ctx.tensor(Init::ZEROS, [a0.cols(), d_out], "b")),
            a0: None,
            b0: None,
            scaling,
            dropout,
            method: method.to_owned(),
            quantisation: None,
        }
    }

    /// The adapter that starts from singular triples, s A0 B0 = U S V^T with A0 = U (S / s)^1/2
    /// and B0 = (S / s)^1/2 V^T.
    ///
    /// # Errors
    /// Triples whose shapes do not fit each other.
    pub(crate) fn from_triples(
        method: &str,
        triples: &Svd,
        scaling: f64,
        dropout: f64,
        ctx: &InitContext,
    ) -> Result<Self> {
        let (a0, b0) = halves(triples, scaling, ctx)?;
        Ok(Self::new(method, &a0, &b0, scaling, dropout, ctx))
    }

    /// The adapter beside a quantised residual, q(W - s A0 B0) with A0 and B0 from the triples
    /// `before`, if there are any; A and B start from the triples `start`.
    ///
    /// # Errors
    /// Triples whose shapes do not fit each other.
    pub(crate) fn on_quantised(
        method: &str,
        how: Quantisation,
        before: Option<&Svd>,
        start: &Svd,
        (scaling, dropout): (f64, f64),
        ctx: &InitContext,
    ) -> Result<Self> {
        let (a, b) = halves(start, scaling, ctx)?;
        let taken = before.map(|before| halves(before, scaling, ctx));
        let (a0, b0) = taken.transpose()?.unzip();
        let kept = |factor: Option<Matrix>| factor.map(|factor| frozen(tensor(&factor, ctx)));
        Ok(Self {
            a: Param::from_tensor(tensor(&a, ctx)),
            b: Param::from_tensor(tensor(&b, ctx)),
            a0: kept(a0),
            b0: kept(b0),
            scaling,
            dropout,
            method: method.to_owned(),
            quantisation: Some(how),
        })
    }

    /// The same adapter as a LoRA on the original weight: A' = [A, A0], [d_in, 2r], and
    /// B' = [B; -B0], [2r, d_out], with W + s A' B' = (W - s A0 B0) + s A B. The scaling stays s: a
    /// file that states rank 2r has alpha 2 alpha (sqrt(2) alpha when rank-stabilised).
    /// `None` where the residual is quantised, which no factors of this rank are.
    pub fn to_lora(&self) -> Option<(Tensor<2>, Tensor<2>)> {
        let (a, b) = (self.a.val(), self.b.val());
        match (&self.a0, &self.b0) {
            _ if self.quantisation.is_some() => None,
            (Some(a0), Some(b0)) => Some((
                Tensor::cat(vec![a, a0.val()], 1),
                Tensor::cat(vec![b, -b0.val()], 0),
            )),
            _ => Some((a, b)),
        }
    }
}

impl Adapter for ResidualLora {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout(&self.method, self.dropout, ctx)?;
        Ok(base.with_weight(base.weight() + self.a.val().matmul(self.b.val()) * self.scaling))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let narrow = dropout(x.clone(), self.dropout, ctx).matmul(self.a.val()) * self.scaling;
        base.forward(x) + narrow.matmul(self.b.val())
    }

    fn rebase(&self, base: &FrozenBase) -> Option<FrozenBase> {
        let rest = match (&self.a0, &self.b0) {
            (Some(a0), Some(b0)) => Some(plus_product(
                &base.weight(),
                -self.scaling,
                &a0.val(),
                &b0.val(),
            )),
            _ => None,
        };
        let Some(how) = self.quantisation else {
            return rest.map(|rest| base.with_weight(rest));
        };
        let rest = rest.unwrap_or_else(|| base.weight());
        Some(match QuantisedWeight::new(&rest, how) {
            Ok(weight) => base.with_weight(Weight::quantised(weight, &base.device(), base.dtype())),
            // Factors of a file that are not finite: what they make of the weight is not either.
            Err(_) => base.with_weight(rest),
        })
    }
}

/// A = U (S / s)^1/2 and B = (S / s)^1/2 V^T.
///
/// # Errors
/// Triples whose shapes do not fit each other.
pub(crate) fn halves(triples: &Svd, scaling: f64, ctx: &InitContext) -> Result<(Matrix, Matrix)> {
    let roots = triples.s.iter().map(|value| (value / scaling).sqrt());
    let roots: Vec<f64> = roots.collect();
    let a = triples.u.scale_columns(&roots);
    let b = triples.vt.scale_rows(&roots);
    Ok((
        a.map_err(|error| ctx.numeric(error))?,
        b.map_err(|error| ctx.numeric(error))?,
    ))
}

/// r (d_in + d_out) trained, and as many frozen beside them.
pub(crate) fn count(rank: usize, layer: &LayerShape) -> Counts {
    let factors = rank * (layer.d_in + layer.d_out);
    Counts::with_frozen(factors, factors)
}

/// s of a rank; alpha is the rank if left out.
pub(crate) fn scaling(scaling: Scaling, alpha: Option<f64>, rank: usize) -> f64 {
    scaling.factor(alpha.unwrap_or(rank as f64), rank)
}

/// Whether rank, alpha and dropout make sense whatever the shape: the reason if not.
pub(crate) fn validate(rank: usize, alpha: Option<f64>, dropout: f64) -> Result<(), String> {
    positive_rank(rank)?;
    check_dropout(dropout)?;
    match alpha {
        Some(alpha) if !(alpha.is_finite() && alpha > 0.0) => Err(format!(
            "alpha {alpha}: expected a positive number, because the start is divided by it"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use engraft_core::{Ctx, Graft};

    use super::*;
    use crate::PissaConfig;
    use crate::testing::{attach, base, largest};

    #[test]
    fn as_a_lora_on_the_original_weight_it_is_the_same_map() {
        let base = base([12, 7]);
        let config = PissaConfig {
            rank: 2,
            alpha: Some(4.0),
            niter: 3,
            ..PissaConfig::default()
        };
        let mut adapter = attach(&config, &base);
        adapter.a = adapter.a.map(|a| a * 1.5 + 0.1);
        let own = adapter
            .effective(&adapter.rebase(&base).unwrap(), &Ctx::default())
            .unwrap()
            .weight();
        let (a, b) = adapter.to_lora().unwrap();
        assert_eq!((a.dims(), b.dims()), ([12, 4], [4, 7]));
        let lora = base.weight() + a.matmul(b) * adapter.scaling;
        assert!(largest(own - lora) < 1e-12);
        assert_eq!(
            config
                .count(&LayerShape::linear("fc", 12, 7, false))
                .trainable,
            38
        );
    }
}
