//! Sizes and starting values of the factors of a Kronecker product.

use engraft_core::InitContext;
use engraft_tensor::Init;

use crate::factor::Factor;

/// Sizes of a factor on one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Rows that are channels, all of them but for w2 on a convolution.
    pub(crate) channels: usize,
    /// Rows per channel.
    pub(crate) kernel: [usize; 2],
    /// Columns.
    pub(crate) cols: usize,
    /// How it is held.
    pub(crate) form: Form,
}

/// How a factor is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// One matrix.
    Dense,
    /// A product of this rank.
    Product(usize),
    /// A product of this rank with a core.
    Core(usize),
}

impl Shape {
    fn pixels(self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    fn rows(self) -> usize {
        self.channels * self.pixels()
    }

    /// Number of values.
    pub(crate) fn numel(self) -> usize {
        match self.form {
            Form::Dense => self.rows() * self.cols,
            Form::Product(rank) => rank * (self.rows() + self.cols),
            Form::Core(rank) => rank * (self.channels + self.cols) + rank * rank * self.pixels(),
        }
    }

    /// A factor of this shape, drawn as PyTorch draws its layers; `zero` says whether its input
    /// side and its output side start at zero instead, either of them a dense one.
    pub(crate) fn init(self, name: &str, zero: [bool; 2], ctx: &InitContext) -> Factor {
        let draw = |sizes: [usize; 2], fan_in: usize, zero: bool, part: &str| {
            // Fan-in is what PyTorch sees in (out, in) layout: our rows.
            let init = if zero {
                Init::ZEROS
            } else {
                Init::KaimingUniform { fan_in }
            };
            ctx.tensor(init, sizes, &format!("{name}{part}"))
        };
        let (rows, cols) = (self.rows(), self.cols);
        match self.form {
            Form::Dense => Factor::new(draw([rows, cols], rows, zero[0] || zero[1], ""), None),
            Form::Product(rank) => Factor::new(
                draw([rows, rank], rows, zero[0], ".a"),
                Some(draw([rank, cols], rank, zero[1], ".b")),
            ),
            Form::Core(rank) => {
                // In PEFT's Tucker form both sides are (r, width), so that the widths are fan-ins.
                let (channels, [kh, kw]) = (self.channels, self.kernel);
                let fan_in = rank * kh * kw;
                let core = Init::KaimingUniform { fan_in };
                Factor::new(
                    draw([channels, rank], channels, zero[0], ".a"),
                    Some(draw([rank, cols], cols, zero[1], ".b")),
                )
                .with_core(ctx.tensor(
                    core,
                    [rank, rank, kh, kw],
                    &format!("{name}.t"),
                ))
            }
        }
    }
}
