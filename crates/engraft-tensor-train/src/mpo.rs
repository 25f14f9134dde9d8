//! MPO: matrix product operators whose auxiliary tensors are trained.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::{
    Adapter, BankSpec, Counts, Ctx, Family, FrozenBase, Graft, InitContext, LayerShape, Method,
    MethodMeta, Parts, Result, check_dropout, dropout, refuse_dropout,
};
use engraft_tensor::{Init, bridge};
use serde::{Deserialize, Serialize};

use crate::operator::{self, CENTRE, LENGTH, five};

/// Where the central tensor comes from and what happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Central {
    /// From the layer's own weight, frozen.
    #[default]
    Frozen,
    /// Random, trained, and one for all layers whose central tensors have one shape.
    Shared,
}

/// Configuration of [`Mpo`]. Default: the weight's own central tensor, bonds of at most 32. The
/// paper's light fine-tuning truncates nothing, which a bond beyond the widths does here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MpoConfig {
    /// `frozen` or `shared`.
    pub central: Central,
    /// The largest bond D_k.
    pub bond: usize,
    /// Probability of zeroing an input of the operator in training.
    pub dropout: f64,
}

impl Default for MpoConfig {
    fn default() -> Self {
        Self {
            central: Central::Frozen,
            bond: 32,
            dropout: 0.0,
        }
    }
}

/// y = x (W - M0) + b + x M, with the matrix product operator M = T_1 T_2 C T_4 T_5.
///
/// | symbol | shape | |
/// |---|---|---|
/// | T_1, T_2, T_4, T_5 (`auxiliary`) | [D_{k-1}, i_k, j_k, D_k] | trained |
/// | C | [D_2, i_3, j_3, D_3] | `frozen`: in the adapter file; `shared`: trained, bank |
/// | M0 | | `frozen`: M at first; `shared`: zero |
///
/// d_in = i_1 ... i_5 and d_out = j_1 ... j_5, both indices in row-major order; a bond D_k is at
/// most `bond` and what an exact decomposition needs.
///
/// `frozen`: Liu et al., Enabling Lightweight Fine-tuning for Pre-trained Language Model Compression
/// based on Matrix Product Operators, arXiv 2106.02205: W is decomposed, the central tensor, which
/// holds most of it, stays, and the auxiliary ones are trained. What a truncation to `bond` leaves
/// out is dropped there, to compress; here it stays in the frozen base (see [`Adapter::rebase`]),
/// so that training starts at the pretrained model. The first auxiliary tensors are stored,
/// because signs and degenerate directions of an SVD are not reproducible.
///
/// `shared`: one central tensor for many layers with auxiliary tensors of their own, as among the
/// experts of MPOE (arXiv 2203.01104) and the layers of MPOBERT (arXiv 2303.16753), here for the
/// update of a frozen weight. Tensors start as N(0, 1 / (D_{k-1} i_k)), the last as zero.
///
/// Five tensors, and the factors of 768, 1024, 3072 and 4096, are those of the authors' code (MPOE,
/// compress_tools); its decomposition is a closed binary, so the canonical form around the
/// centre is this file's choice. A token costs sum_k D_{k-1} D_k (j_1 ... j_k) (i_k ... i_5)
/// multiplications beside the frozen layer; where bonds are so wide that d_in d_out are fewer, M is
/// put together once a pass.
#[derive(Module, Debug)]
pub struct Mpo {
    /// T_1, T_2, T_4, T_5.
    pub auxiliary: Vec<Param<Tensor<4>>>,
    /// C, unless it is shared.
    pub central: Option<Param<Tensor<4>>>,
    /// The first T_1, T_2, T_4, T_5, unless C is shared.
    pub start: Vec<Param<Tensor<4>>>,
    /// Dropout probability on the inputs of M.
    pub dropout: f64,
    #[module(skip)]
    shared: Option<(String, [usize; 4])>,
}

impl Mpo {
    /// T_1, T_2, C, T_4, T_5.
    fn tensors(&self, ctx: &Ctx) -> Vec<Tensor<4>> {
        let central = match (&self.central, &self.shared) {
            (Some(central), _) => central.val(),
            (None, Some((name, shape))) => ctx.shared(name).reshape(*shape),
            (None, None) => unreachable!("the central tensor is the layer's own or shared"),
        };
        chain(&self.auxiliary, central)
    }
}

fn chain(auxiliary: &[Param<Tensor<4>>], central: Tensor<4>) -> Vec<Tensor<4>> {
    let mut tensors: Vec<_> = auxiliary.iter().map(Param::val).collect();
    tensors.insert(CENTRE, central);
    tensors
}

impl Adapter for Mpo {
    fn effective(&self, base: &FrozenBase, ctx: &Ctx) -> Result<FrozenBase> {
        refuse_dropout("mpo", self.dropout, ctx)?;
        let operator = operator::matrix(&self.tensors(ctx));
        Ok(base.with_weight(base.weight() + operator))
    }

    fn forward(&self, x: Tensor<2>, base: &FrozenBase, ctx: &Ctx) -> Tensor<2> {
        let dropped = dropout(x.clone(), self.dropout, ctx);
        base.forward(x) + operator::apply(dropped, &self.tensors(ctx))
    }

    fn rebase(&self, base: &FrozenBase) -> Option<FrozenBase> {
        let central = self.central.as_ref()?.val();
        let first = operator::matrix(&chain(&self.start, central));
        Some(base.with_weight((base.weight() - first).detach()))
    }
}

impl MpoConfig {
    fn shapes(&self, d_in: usize, d_out: usize) -> [[usize; 4]; LENGTH] {
        operator::shapes(five(d_in), five(d_out), self.bond)
    }
}

/// The bank entry for central tensors of this shape.
fn entry(shape: [usize; 4]) -> String {
    format!("central:{}", shape.map(|side| side.to_string()).join("x"))
}

/// N(0, 1 / (D_{k-1} i_k)): the size of what passes through is kept.
fn scaled([left, input, ..]: [usize; 4]) -> Init {
    Init::Normal {
        std: ((left * input) as f64).sqrt().recip(),
    }
}

impl Graft for MpoConfig {
    type Adapter = Mpo;

    fn admits(&self, _: &LayerShape) -> Result<(), String> {
        Ok(())
    }

    fn count(&self, layer: &LayerShape) -> Counts {
        let shapes = self.shapes(layer.d_in, layer.d_out);
        let numel = |shape: &[usize; 4]| shape.iter().product::<usize>();
        let central = numel(&shapes[CENTRE]);
        let auxiliary = shapes.iter().map(numel).sum::<usize>() - central;
        match self.central {
            Central::Frozen => Counts::with_frozen(auxiliary, auxiliary + central),
            Central::Shared => Counts::trained(auxiliary),
        }
    }

    fn banks(&self, layers: &[LayerShape]) -> Vec<BankSpec> {
        let mut banks: Vec<BankSpec> = Vec::new();
        if self.central == Central::Shared {
            for layer in layers {
                let shape = self.shapes(layer.d_in, layer.d_out)[CENTRE];
                let [left, input, output, right] = shape;
                let matrix = [left * input, output * right];
                let spec = BankSpec::trained(entry(shape), matrix, scaled(shape));
                if !banks.contains(&spec) {
                    banks.push(spec);
                }
            }
        }
        banks
    }

    fn init(&self, base: &FrozenBase, ctx: &InitContext) -> Result<Mpo> {
        let shapes = self.shapes(base.d_in(), base.d_out());
        if self.central == Central::Shared {
            let draw = |k: usize| {
                let init = if k == LENGTH - 1 {
                    Init::ZEROS
                } else {
                    scaled(shapes[k])
                };
                Param::from_tensor(ctx.tensor(init, shapes[k], &format!("auxiliary.{k}")))
            };
            return Ok(Mpo {
                auxiliary: (0..LENGTH).filter(|&k| k != CENTRE).map(draw).collect(),
                central: None,
                start: Vec::new(),
                dropout: self.dropout,
                shared: Some((ctx.shared_name(&entry(shapes[CENTRE])), shapes[CENTRE])),
            });
        }
        let values = operator::decompose(&bridge::to_matrix(&base.weight()), &shapes)
            .map_err(|error| ctx.numeric(error))?;
        let mut tensors: Vec<Tensor<4>> = values
            .into_iter()
            .zip(shapes)
            .map(|(values, shape)| bridge::tensor(values, shape, &ctx.device, ctx.dtype))
            .collect();
        let frozen = |tensor: Tensor<4>| Param::from_tensor(tensor).set_require_grad(false);
        let central = frozen(tensors.remove(CENTRE));
        Ok(Mpo {
            auxiliary: tensors.iter().cloned().map(Param::from_tensor).collect(),
            central: Some(central),
            start: tensors.into_iter().map(frozen).collect(),
            dropout: self.dropout,
            shared: None,
        })
    }
}

impl Method for MpoConfig {
    const META: MethodMeta = MethodMeta::graft(
        "mpo",
        "MPO",
        Family::TensorTrain,
        "2106.02205",
        "y = x (W - M0) + b + x M, M = T_1 T_2 C T_4 T_5, C frozen or shared",
    );

    fn parts(&self) -> Parts {
        Parts::graft(self.clone())
    }

    fn validate(&self) -> Result<(), String> {
        if self.bond == 0 {
            return Err("bond 0: expected at least 1".to_owned());
        }
        check_dropout(self.dropout)
    }

    fn examples(_: &LayerShape) -> Vec<Self> {
        let small = Self {
            bond: 3,
            ..Self::default()
        };
        vec![
            small.clone(),
            Self {
                bond: 64,
                dropout: 0.1,
                ..small.clone()
            },
            Self {
                central: Central::Shared,
                bond: 4,
                ..small
            },
        ]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_core::Bank;
    use engraft_tensor::Key;

    use super::*;

    fn draw(shape: [usize; 2], role: &str) -> Tensor<2> {
        let key = Key::new(1).child(role);
        Init::Normal { std: 1.0 }.tensor(shape, &key, &Device::default(), DType::F64)
    }

    #[test]
    fn a_truncated_operator_and_its_residual_are_the_weight() {
        let base = FrozenBase::new(draw([12, 20], "w"), None);
        let bank = Bank::default();
        let config = MpoConfig {
            bond: 3,
            ..MpoConfig::default()
        };
        let adapter = config
            .init(&base, &InitContext::new(1, "fc", "default", &base, &bank))
            .unwrap();
        let rebased = adapter.rebase(&base).unwrap();
        let distance = |found: Tensor<2>| bridge::to_matrix(&(found - base.weight())).max_abs();
        let effective = adapter.effective(&rebased, &Ctx::default()).unwrap();
        assert!(distance(effective.weight()) < 1e-13);
        assert!(distance(rebased.weight()) > 0.1);
        assert!(!adapter.central.unwrap().is_require_grad());
    }

    #[test]
    fn layers_of_one_shape_have_one_central_tensor() {
        let config = MpoConfig {
            central: Central::Shared,
            ..MpoConfig::default()
        };
        let layer = |d_in, d_out| LayerShape::linear("fc", d_in, d_out, true);
        let layers = [layer(768, 768), layer(768, 768), layer(768, 3072)];
        let shared: Vec<usize> = config
            .banks(&layers)
            .iter()
            .map(|bank| bank.count().shared)
            .collect();
        assert_eq!(shared, [32 * 4 * 4 * 32, 32 * 4 * 8 * 32]);
    }

    #[test]
    fn without_truncation_the_centre_is_as_large_as_the_weight_and_the_rest_is_small() {
        // 768 x 768 with factors [3, 4, 4, 4, 4]: 15% of the weight is trained; "91% fewer on
        // average" in the paper is for ALBERT's layers and embeddings.
        let config = MpoConfig {
            bond: usize::MAX,
            ..MpoConfig::default()
        };
        let count = config.count(&LayerShape::linear("fc", 768, 768, true));
        let auxiliary = 9 * 9 + 9 * 16 * 144 + 256 * 16 * 16 + 16 * 16;
        assert_eq!(count.trainable, auxiliary);
        assert_eq!(count.stored, 2 * auxiliary + 768 * 768);
    }
}
