//! Structured updates of a frozen layer: what circulant, spectral and sparse ones share.

use burn::tensor::{Int, Tensor};
use engraft_kernels::{Mat, Onto, Real, column_sums, matmul, multiplied};

use super::fused::{Input, Kernel, Operand, Returned, fused};
use super::linear::biased;

/// An update U(v) [d_in, d_out] of a frozen weight, linear in its trained values v.
///
/// All functions see rows: x [tokens, d_in], w [d_in, d_out] or nothing where there is no frozen
/// weight, g [tokens, d_out].
pub(super) trait Update: Clone + std::fmt::Debug + Send + Sync + 'static {
    /// d_out.
    fn width_out(&self) -> usize;

    /// y += x U.
    fn add<T: Real>(&self, x: &[T], v: &[T], y: &mut [T]);

    /// gx += g U^T, and the gradient of v; each where it is wanted. Only the latter may read x.
    fn add_backward<T: Real>(
        &self,
        x: &[T],
        v: &[T],
        g: &[T],
        gx: Option<&mut [T]>,
        gv: Option<&mut [T]>,
    );

    /// w += U.
    fn add_matrix<T: Real>(&self, v: &[T], w: &mut [T]);

    /// The gradient of v for the gradient of w + U.
    fn add_matrix_backward<T: Real>(&self, gw: &[T], gv: &mut [T]);

    /// y += x (W + U).
    fn layer<T: Real>(&self, x: Mat<'_, T>, w: Mat<'_, T>, v: &[T], y: &mut [T]) {
        matmul((y, w.columns), Onto::Present, x, w, T::ONE);
        self.add(x.data, v, y);
    }

    /// g (W + U)^T, and the gradient of v; each where it is wanted.
    fn layer_backward<T: Real>(
        &self,
        [x, w]: [Mat<'_, T>; 2],
        v: &[T],
        g: Mat<'_, T>,
        wanted: bool,
        gv: Option<&mut [T]>,
    ) -> Option<Vec<T>> {
        let mut gx = wanted.then(|| multiplied(g, w.t(), T::ONE));
        self.add_backward(x.data, v, g.data, gx.as_deref_mut(), gv);
        gx
    }
}

/// x U, x (W + U) or x (W + U) + b; inputs x, v and, perhaps, W and b.
#[derive(Debug, Clone)]
struct Updated<U>(U);

/// The matrix of an input, without its numbers where they are not kept.
fn mat<'a, T: Real>(input: &Input<'a, T>) -> Mat<'a, T> {
    let [rows, columns] = input.dims();
    Mat {
        data: input.data,
        rows,
        columns,
        row: columns,
        column: 1,
    }
}

impl<U: Update> Kernel for Updated<U> {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        vec![shapes[0][0], self.0.width_out()]
    }

    fn keeps(&self, input: usize, wanted: &[bool]) -> bool {
        match input {
            0 => wanted[1] || wanted.get(2) == Some(&true),
            1 | 2 => wanted[0],
            _ => false,
        }
    }

    fn start<T: Real>(&self, x: &[Input<'_, T>], len: usize) -> Vec<T> {
        biased(x.get(3).map(|bias| bias.data), len)
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        match x.get(2) {
            Some(w) => self.0.layer(mat(&x[0]), mat(w), x[1].data, y),
            None => self.0.add(x[0].data, x[1].data, y),
        }
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let ([tokens, d_in], d_out) = (x[0].dims(), self.0.width_out());
        let mut gv = wanted[1].then(|| vec![T::ZERO; x[1].shape.iter().product()]);
        let g = Mat::new(gy, tokens, d_out);
        let gx = match x.get(2) {
            Some(w) => {
                let operands = [mat(&x[0]), mat(w)];
                let gv = gv.as_deref_mut();
                self.0.layer_backward(operands, x[1].data, g, wanted[0], gv)
            }
            None => {
                let mut gx = wanted[0].then(|| vec![T::ZERO; tokens * d_in]);
                let gv = gv.as_deref_mut();
                self.0
                    .add_backward(x[0].data, x[1].data, gy, gx.as_deref_mut(), gv);
                gx
            }
        };
        let mut gradients = vec![gx, gv];
        if let Some(wanted) = wanted.get(2) {
            gradients.push(wanted.then(|| multiplied(mat(&x[0]).t(), g, T::ONE)));
        }
        if let Some(wanted) = wanted.get(3) {
            gradients.push(wanted.then(|| column_sums(gy, d_out)));
        }
        gradients
    }
}

/// W + U; inputs W, v.
#[derive(Debug, Clone)]
struct Weight<U>(U);

impl<U: Update> Kernel for Weight<U> {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn keeps(&self, _: usize, _: &[bool]) -> bool {
        false
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        y.copy_from_slice(x[0].data);
        self.0.add_matrix(x[1].data, y);
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let gv = wanted[1].then(|| {
            let mut gv = vec![T::ZERO; x[1].shape.iter().product()];
            self.0.add_matrix_backward(gy, &mut gv);
            gv
        });
        vec![wanted[0].then(|| gy.to_vec()), gv]
    }
}

/// The frozen part of a layer: W [d_in, d_out] and b `[d_out]`.
pub(super) type Frozen = (Tensor<2>, Option<Tensor<1>>);

/// x U(v), or x (W + U(v)) + b; where the kernel cannot run, from the matrix that `matrix` makes of
/// v.
pub(super) fn updated<const D: usize>(
    update: impl Update,
    x: Tensor<2>,
    v: Tensor<D>,
    frozen: Option<Frozen>,
    matrix: impl FnOnce(Tensor<D>) -> Tensor<2>,
) -> Tensor<2> {
    let mut inputs: Vec<Operand> = vec![x.into(), v.into()];
    if let Some((weight, bias)) = frozen {
        inputs.push(weight.into());
        inputs.extend(bias.map(Operand::from));
    }
    fused(Updated(update), inputs).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        let (x, matrix) = (inputs.next(), matrix(inputs.next()));
        composed(x, matrix, inputs.optional(), inputs.optional())
    })
}

/// x (W + U) + b.
pub(super) fn composed(
    x: Tensor<2>,
    update: Tensor<2>,
    weight: Option<Tensor<2>>,
    bias: Option<Tensor<1>>,
) -> Tensor<2> {
    let y = x.matmul(match weight {
        Some(weight) => weight + update,
        None => update,
    });
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// W + U(v); where the kernel cannot run, with the matrix that `matrix` makes of v.
pub(super) fn changed<const D: usize>(
    update: impl Update,
    weight: Tensor<2>,
    v: Tensor<D>,
    matrix: impl FnOnce(Tensor<D>) -> Tensor<2>,
) -> Tensor<2> {
    fused(Weight(update), vec![weight.into(), v.into()]).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        inputs.next::<2>() + matrix(inputs.next())
    })
}

/// Indices that a kernel reads, where tensors are on the host.
pub(super) fn host_indices(indices: &Tensor<1, Int>) -> Option<std::sync::Arc<[i64]>> {
    super::fused::on_host(indices).then(|| {
        let values: Vec<i64> = indices
            .to_data()
            .convert::<i64>()
            .try_to_vec()
            .expect("converted to i64");
        values.into()
    })
}
