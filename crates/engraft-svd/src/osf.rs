//! OSF: orthogonal subspace fine-tuning.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, Counts, Ctx, Family, FrozenBase, Gradient, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result, admit_rank,
};
use engraft_linalg::svd;
use engraft_tensor::bridge;
use serde::{Deserialize, Serialize};

use crate::spectrum::{last, tensor};

/// How many of the largest singular triples are preserved.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preserved {
    /// This many.
    Rank(usize),
    /// This share of min(d_in, d_out), in (0, 1], rounded down.
    Share(f64),
}

impl Preserved {
    /// The number of preserved triples on a layer.
    pub fn rank(self, layer: &LayerShape) -> usize {
        match self {
            Self::Rank(rank) => rank,
            Self::Share(share) => (layer.max_rank() as f64 * share) as usize,
        }
    }
}

/// Configuration of [`Osf`]. Half of the triples are preserved, as in PEFT.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct OsfConfig {
    /// What is preserved: `{ rank = k }` or `{ share = p }`.
    pub preserved: Preserved,
}

impl Default for OsfConfig {
    fn default() -> Self {
        Self {
            preserved: Preserved::Share(0.5),
        }
    }
}

/// y = x (W_high + U diag(s) V) + b, with W = W_high + U0 diag(s0) V0 split after the k largest
/// singular triples.
///
/// | symbol | shape | |
/// |---|---|---|
/// | U | [d_in, m] | trained, the last m = min(d_in, d_out) - k left singular vectors at first |
/// | s | `[m]` | trained, the smallest singular values at first |
/// | V | [m, d_out] | trained, the last right singular vectors, as rows, at first |
/// | W_high | [d_in, d_out] | frozen, the k largest triples |
///
/// The gradients of U and V are projected: (I - H H^T) dL/dU and dL/dV (I - K^T K) with H [d_in, k]
/// and K [k, d_out] the preserved singular vectors, so that no step moves them within the preserved
/// subspaces. An optimizer that rescales entries (Adam) leaves that orthogonality only approximate.
///
/// Nayak et al., Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning,
/// arXiv 2504.07097, section 3; the projection by hooks on the gradients is that of PEFT's `osf`.
/// W_high is this adapter's own base and is computed again, with H and K, from the weight when an
/// adapter is loaded: subspaces do not depend on the signs of singular vectors. The activation form
/// costs O(tokens (d_in d_out + m (d_in + d_out))), the projection O(k m (d_in + d_out)) a step.
#[derive(Module, Debug)]
pub struct Osf {
    /// U, [d_in, m].
    pub u: Param<Tensor<2>>,
    /// s, `[m]`.
    pub s: Param<Tensor<1>>,
    /// V, [m, d_out].
    pub v: Param<Tensor<2>>,
    /// H, [d_in, k].
    high_in: Tensor<2>,
    /// K, [k, d_out].
    high_out: Tensor<2>,
    /// U0 diag(s0), [d_in, m], and V0, [m, d_out].
    low: (Tensor<2>, Tensor<2>),
    /// U and V at which the surrogate's projection starts.
    held: Option<(Tensor<2>, Tensor<2>)>,
}

impl Osf {
    /// U diag(s) and V, with projected gradients: of U = U' + (I - H H^T)(U - U') with U' held at
    /// U's value, the value is U and the derivative is the projection.
    fn factors(&self) -> (Tensor<2>, Tensor<2>) {
        let (u, v) = (self.u.val(), self.v.val());
        let (u0, v0) = match &self.held {
            Some((u0, v0)) => (u0.clone(), v0.clone()),
            None => (u.clone().detach(), v.clone().detach()),
        };
        let (du, dv) = (u - u0.clone(), v - v0.clone());
        let (h, k) = (self.high_in.clone(), self.high_out.clone());
        let du = du.clone() - h.clone().matmul(h.transpose().matmul(du));
        let dv = dv.clone() - dv.matmul(k.clone().transpose()).matmul(k);
        ((u0 + du) * self.s.val().unsqueeze(), v0 + dv)
    }
}

impl Adapter for Osf {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        let (us, v) = self.factors();
        Ok(base.with_weight(base.weight() + us.matmul(v)))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, _: &Ctx) -> Tensor<2> {
        let (us, v) = self.factors();
        base.forward(x.clone()) + x.matmul(us).matmul(v)
    }

    fn rebase(&self, base: &FrozenBase) -> Option<FrozenBase> {
        let (us, v) = self.low.clone();
        Some(base.with_weight((base.weight() - us.matmul(v)).detach()))
    }

    fn surrogate(&self, _: &FrozenBase) -> Self {
        Self {
            held: Some((self.u.val().detach(), self.v.val().detach())),
            ..self.clone()
        }
    }
}

impl Graft for OsfConfig {
    type Adapter = Osf;

    fn admits(&self, layer: &LayerShape) -> Result<(), String> {
        let (rank, most) = (self.preserved.rank(layer), layer.max_rank());
        admit_rank(rank, most).map_err(|reason| format!("preserved {reason}"))?;
        if rank == most {
            return Err(format!(
                "preserved rank {rank}: expected less than min(d_in, d_out) = {most}, or nothing is trained"
            ));
        }
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let trained = layer.max_rank() - self.preserved.rank(layer);
        Counts::trained(trained * (layer.d_in + layer.d_out + 1))
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Osf> {
        let numeric = |error| ctx.numeric(error);
        let rank = self.preserved.rank(&base.shape(ctx.path));
        let all = svd(&bridge::to_matrix(&base.weight())).map_err(numeric)?;
        let high = all.truncated(rank).map_err(numeric)?;
        let low = last(&all, all.s.len() - rank, ctx)?;
        let (u, v) = (tensor(&low.u, ctx), tensor(&low.vt, ctx));
        let s: Tensor<1> = bridge::tensor(low.s.clone(), [low.s.len()], &ctx.device, ctx.dtype);
        Ok(Osf {
            low: (u.clone() * s.clone().unsqueeze(), v.clone()),
            u: Param::from_tensor(u),
            s: Param::from_tensor(s),
            v: Param::from_tensor(v),
            high_in: tensor(&high.u, ctx),
            high_out: tensor(&high.vt, ctx),
            held: None,
        })
    }
}

impl Method for OsfConfig {
    const META: MethodMeta = MethodMeta {
        peft: Some("OSF"),
        gradient: Gradient::Surrogate(
            "the gradients of U and V are projected orthogonally to the preserved singular vectors",
        ),
        admits: "a linear layer with min(d_in, d_out) above the preserved rank of at least 1",
        ..MethodMeta::graft(
            "osf",
            "OSF",
            Family::Svd,
            "2504.07097",
            "y = x (W_high + U diag(s) V) + b, W = W_high + U0 diag(s0) V0",
        )
    };

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        match self.preserved {
            Preserved::Rank(0) => Err("preserved rank 0: expected at least 1".to_owned()),
            Preserved::Share(share) if !(share > 0.0 && share <= 1.0) => {
                Err(format!("preserved share {share}: expected 0 < share <= 1"))
            }
            _ => Ok(()),
        }
    }

    fn examples(layer: &LayerShape) -> Vec<Self> {
        match layer.max_rank() {
            ..=1 => Vec::new(),
            most => [
                Preserved::Share(0.5),
                Preserved::Rank(1),
                Preserved::Rank(most - 1),
            ]
            .map(|preserved| Self { preserved })
            .to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{attach, draw, forms_differ, largest};

    #[test]
    fn gradients_are_orthogonal_to_the_preserved_subspaces_and_the_split_is_the_weight() {
        let device = burn::tensor::Device::default().autodiff();
        for [d_in, d_out] in [[9, 6], [6, 9], [7, 7]] {
            let weight = bridge::tensor(
                bridge::values(&draw([d_in, d_out], "w")),
                [d_in, d_out],
                &device,
                burn::tensor::DType::F64,
            );
            let base = FrozenBase::new(weight, None);
            let config = OsfConfig {
                preserved: Preserved::Rank(3),
            };
            let adapter = attach(&config, &base);
            let high = adapter.rebase(&base).unwrap();
            let whole = adapter.effective(&high, &Ctx::default()).unwrap().weight();
            assert!(largest(whole - base.weight()) < 1e-12);

            let x = bridge::tensor(
                bridge::values(&draw([5, d_in], "x")),
                [5, d_in],
                &device,
                burn::tensor::DType::F64,
            );
            let y = adapter.forward(x, &high, &Ctx::default());
            let grads = (y.clone() * y).sum().backward();
            let du = adapter.u.val().grad(&grads).unwrap();
            let dv = adapter.v.val().grad(&grads).unwrap();
            let (h, k) = (
                adapter.high_in.clone().inner(),
                adapter.high_out.clone().inner(),
            );
            assert!(largest(du.clone()) > 1e-3 && largest(dv.clone()) > 1e-3);
            assert!(largest(h.transpose().matmul(du)) < 1e-12);
            assert!(largest(dv.matmul(k.transpose())) < 1e-12);
        }
    }

    #[test]
    fn both_forms_agree_after_the_factors_moved() {
        let base = crate::testing::base([9, 6]);
        let mut adapter = attach(&OsfConfig::default(), &base);
        adapter.u = Param::from_tensor(draw([9, 3], "u"));
        assert!(forms_differ(&adapter, &base) < 1e-12);
        let layer = LayerShape::linear("fc", 9, 6, true);
        assert_eq!(OsfConfig::default().count(&layer).trainable, 3 * 16);
    }
}
