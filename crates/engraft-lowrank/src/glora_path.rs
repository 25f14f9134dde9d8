//! The support tensors of GLoRA.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use engraft_core::InitContext;
use engraft_tensor::Init;

/// One of A to E: a product of `xd` and `xu`, or `x`, or nothing.
///
/// A and B are xu xd with xu [d_in, r] and xd [r, d_out]; C is xd xu with xd [d_in, r] and xu
/// [r, 1]. `xu` is random at first, the others zero.
#[derive(Module, Debug)]
pub struct GloraPath {
    /// A vector, or a constant as a vector of one.
    pub x: Option<Param<Tensor<1>>>,
    /// The factor on the side of the outputs (of C: of the inputs).
    pub xd: Option<Param<Tensor<2>>>,
    /// The other factor.
    pub xu: Option<Param<Tensor<2>>>,
}

impl GloraPath {
    /// xu and xd, if it is a product.
    pub(crate) fn factors(&self) -> Option<(Tensor<2>, Tensor<2>)> {
        Some((self.xu.as_ref()?.val(), self.xd.as_ref()?.val()))
    }

    /// x, if it is a vector or a constant.
    pub(crate) fn vector(&self) -> Option<Tensor<1>> {
        self.x.as_ref().map(|x| x.val())
    }

    /// A or B, to be broadcast to [d_in, d_out].
    pub(crate) fn matrix(&self) -> Option<Tensor<2>> {
        let product = self.factors().map(|(xu, xd)| xu.matmul(xd));
        product.or_else(|| self.vector().map(Tensor::unsqueeze))
    }
}

/// The sizes of a path on a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sizes {
    /// A product of xd and xu.
    Product {
        xd: [usize; 2],
        xu: [usize; 2],
        /// Inputs of xu as PyTorch sees it.
        fan_in: usize,
    },
    /// A vector of this length.
    Vector(usize),
    /// Nothing.
    None,
}

impl Sizes {
    /// Number of values.
    pub(crate) fn numel(self) -> usize {
        match self {
            Self::Product { xd, xu, .. } => xd[0] * xd[1] + xu[0] * xu[1],
            Self::Vector(len) => len,
            Self::None => 0,
        }
    }

    /// The path `name`, whose product, vector or constant is zero.
    pub(crate) fn init(self, name: &str, ctx: &InitContext) -> GloraPath {
        let mut path = GloraPath {
            x: None,
            xd: None,
            xu: None,
        };
        match self {
            Self::Product { xd, xu, fan_in } => {
                let random = Init::KaimingUniform { fan_in };
                let draw = |init: Init, shape, role: &str| {
                    Some(Param::from_tensor(ctx.tensor(
                        init,
                        shape,
                        &format!("{name}.{role}"),
                    )))
                };
                path.xd = draw(Init::ZEROS, xd, "xd");
                path.xu = draw(random, xu, "xu");
            }
            Self::Vector(len) => {
                path.x = Some(Param::from_tensor(ctx.tensor(Init::ZEROS, [len], name)));
            }
            Self::None => {}
        }
        path
    }
}
