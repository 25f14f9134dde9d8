//! The mechanism of operations that bring their own kernel and backward pass.
//!
//! An operation is a [`Kernel`]: a function of host slices, with one backward pass that returns all
//! gradients together, so that what they share is computed once. [`fused`] runs it where tensors
//! are slices (the flex backend, in f32 and f64) and hands the tensors back elsewhere; the operation
//! then composes Burn's own operations, which are also what its tests compare with.

#[cfg(feature = "flex")]
mod flex;

use std::fmt::Debug;

use burn::tensor::{Int, Tensor};
use engraft_kernels::{Mat, Real};

/// A tensor as a kernel sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a, T> {
    /// The numbers in row-major order, or the columns one after the other if `transposed`. Empty in
    /// a backward pass that does not keep them.
    pub data: &'a [T],
    /// The shape.
    pub shape: &'a [usize],
    /// Whether the columns of this matrix, not its rows, are contiguous.
    pub transposed: bool,
}

impl<'a, T: Real> Input<'a, T> {
    /// Rows and columns of a matrix.
    pub fn dims(&self) -> [usize; 2] {
        [self.shape[0], self.shape[1]]
    }

    /// The matrix, in the order it is stored in.
    pub fn mat(&self) -> Mat<'a, T> {
        let [rows, columns] = self.dims();
        if self.transposed {
            Mat::new(self.data, columns, rows).t()
        } else {
            Mat::new(self.data, rows, columns)
        }
    }
}

/// An operation y = f(x_1, ..., x_n) on host slices.
pub(crate) trait Kernel: Clone + Debug + Send + Sync + 'static {
    /// The shape of y.
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize>;

    /// Whether `x_i` may come as a transposed matrix; otherwise its rows are contiguous.
    fn takes_transposed(&self, input: usize) -> bool {
        let _ = input;
        false
    }

    /// Whether `backward` reads `x_i` when the gradients in `wanted` are asked for.
    fn keeps(&self, input: usize, wanted: &[bool]) -> bool {
        let _ = (input, wanted);
        true
    }

    /// What y holds when `forward` gets it: `len` zeros, or what saves a pass over memory.
    fn start<T: Real>(&self, x: &[Input<'_, T>], len: usize) -> Vec<T> {
        let _ = x;
        vec![T::ZERO; len]
    }

    /// Fills y, which [`start`](Self::start) made, and returns what `backward` needs beside the inputs. Nothing is
    /// `wanted` outside training.
    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], wanted: &[bool]) -> Vec<Vec<T>>;

    /// The gradients of the wanted inputs for the gradient `gy` of y, each row-major in the shape of
    /// its input.
    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        saved: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>>;
}

/// Runs a kernel, or gives the inputs back where it cannot run: on another backend than flex, in
/// half precision, in mixed precisions.
pub(crate) fn fused<const D: usize>(
    kernel: impl Kernel,
    inputs: Vec<Operand>,
) -> Result<Tensor<D>, Vec<Operand>> {
    #[cfg(feature = "flex")]
    return flex::run(kernel, inputs).map(Tensor::from_dispatch);
    #[cfg(not(feature = "flex"))]
    {
        let _ = kernel;
        Err(inputs)
    }
}

/// Whether a tensor's numbers are slices on the host.
pub(crate) fn on_host<const D: usize>(tensor: &Tensor<D, Int>) -> bool {
    #[cfg(feature = "flex")]
    return flex::on_flex(&tensor.clone().into_dispatch().kind);
    #[cfg(not(feature = "flex"))]
    {
        let _ = tensor;
        false
    }
}

/// A tensor of any rank on its way into a kernel.
#[derive(Debug)]
pub(crate) struct Operand(burn::backend::DispatchTensor);

impl<const D: usize> From<Tensor<D>> for Operand {
    fn from(tensor: Tensor<D>) -> Self {
        Self(tensor.into_dispatch())
    }
}

impl Operand {
    /// The tensor again.
    pub fn tensor<const D: usize>(self) -> Tensor<D> {
        Tensor::from_dispatch(self.0)
    }
}

/// Takes tensors out of what [`fused`] gave back, in order.
pub(crate) struct Returned(std::vec::IntoIter<Operand>);

impl Returned {
    pub fn new(operands: Vec<Operand>) -> Self {
        Self(operands.into_iter())
    }

    /// The next tensor.
    pub fn next<const D: usize>(&mut self) -> Tensor<D> {
        self.0.next().expect("as many as went in").tensor()
    }

    /// The next tensor, if there is one more.
    pub fn optional<const D: usize>(&mut self) -> Option<Tensor<D>> {
        self.0.next().map(Operand::tensor)
    }
}
