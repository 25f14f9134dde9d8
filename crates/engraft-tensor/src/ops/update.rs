//! A frozen layer with an update of its weight: what low-rank, Kronecker, circulant, spectral, sparse
//! and other updates share.

use std::cmp::Ordering;
use std::fmt::Debug;

use burn::tensor::{Int, Tensor};
use engraft_kernels::{Mat, Real, column_sums, multiplied};

use super::fused::{Input, Kernel, Operand, Returned, fused};
use super::linear::{biased, frozen, with_bias};

/// What a pass through an update sees: x [tokens, d_in] and the parameters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen<'a, T> {
    pub x: Input<'a, T>,
    pub params: &'a [Input<'a, T>],
    /// What [`Update::add`] returned; empty in the forward pass.
    pub saved: &'a [Vec<T>],
}

/// An update U(p_1, ..., p_n) [d_in, d_out] of a frozen weight W, linear in each of its parameters.
///
/// g [tokens, d_out] is the gradient of the outputs; gradients of the parameters come in their order.
pub(super) trait Update: Clone + Debug + Send + Sync + 'static {
    /// n.
    fn params(&self) -> usize {
        1
    }

    /// d_out for parameters of these shapes.
    fn width(&self, params: &[&[usize]]) -> usize;

    /// Whether x and the parameters may come transposed beside W; they do not where W + U is made.
    fn takes_transposed(&self) -> bool {
        false
    }

    /// Whether W may come transposed.
    fn takes_transposed_weight(&self) -> bool {
        true
    }

    /// Whether the gradients of the parameters read x.
    fn keeps_x(&self) -> bool {
        true
    }

    /// y += x U; returns what the gradients need beside x and the parameters.
    fn add<T: Real>(&self, seen: Seen<'_, T>, y: &mut [T]) -> Vec<Vec<T>>;

    /// gx += g U^T, and the gradients of the parameters; each where it is wanted.
    fn add_backward<T: Real>(
        &self,
        seen: Seen<'_, T>,
        g: &[T],
        gx: Option<&mut [T]>,
        trained: bool,
    ) -> Vec<Vec<T>>;

    /// W + U.
    fn matrix<T: Real>(&self, w: Input<'_, T>, params: &[Input<'_, T>]) -> Vec<T>;

    /// The gradients of the parameters for the gradient of W + U.
    fn matrix_backward<T: Real>(&self, params: &[Input<'_, T>], g: Mat<'_, T>) -> Vec<Vec<T>>;

    /// y += x (W + U), or y = x (W + U) where y holds no bias yet.
    fn layer<T: Real>(
        &self,
        seen: Seen<'_, T>,
        w: Input<'_, T>,
        bias: Option<&[T]>,
        y: &mut [T],
    ) -> Vec<Vec<T>> {
        frozen(seen.x.mat(), w.mat(), bias, y);
        self.add(seen, y)
    }

    /// g (W + U)^T where it is wanted, and the gradients of the parameters.
    fn layer_backward<T: Real>(
        &self,
        seen: Seen<'_, T>,
        w: Input<'_, T>,
        g: Mat<'_, T>,
        wanted: bool,
        trained: bool,
    ) -> (Option<Vec<T>>, Vec<Vec<T>>) {
        let mut gx = wanted.then(|| multiplied(g, w.mat().t(), T::ONE));
        let gradients = self.add_backward(seen, g.data, gx.as_deref_mut(), trained);
        (gx, gradients)
    }
}

/// x U, x (W + U) or x (W + U) + b; inputs x, the parameters and, perhaps, W and b.
#[derive(Debug, Clone)]
struct Updated<U>(U);

impl<U: Update> Updated<U> {
    /// The parameters, W and b among the inputs.
    fn split<'a, I: Copy>(&self, inputs: &'a [I]) -> (&'a [I], Option<I>, Option<I>) {
        let (params, base) = inputs[1..].split_at(self.0.params());
        (params, base.first().copied(), base.get(1).copied())
    }
}

impl<U: Update> Kernel for Updated<U> {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        vec![shapes[0][0], self.0.width(self.split(shapes).0)]
    }

    fn takes_transposed(&self, input: usize) -> bool {
        match input.cmp(&(1 + self.0.params())) {
            Ordering::Less => self.0.takes_transposed(),
            Ordering::Equal => self.0.takes_transposed_weight(),
            Ordering::Greater => false,
        }
    }

    fn keeps(&self, input: usize, wanted: &[bool]) -> bool {
        let (params, weight, _) = self.split(wanted);
        let trained = params.contains(&true);
        match input {
            0 => (trained && self.0.keeps_x()) || weight == Some(true),
            // The gradient of the only parameter does not read it.
            at if at <= params.len() => wanted[0] || (trained && params.len() > 1),
            at => wanted[0] && at == 1 + params.len(),
        }
    }

    fn start<T: Real>(&self, x: &[Input<'_, T>], len: usize) -> Vec<T> {
        biased(self.split(x).2.map(|bias| bias.data), len)
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        let (params, weight, bias) = self.split(x);
        let seen = Seen {
            x: x[0],
            params,
            saved: &[],
        };
        match weight {
            Some(weight) => self.0.layer(seen, weight, bias.map(|bias| bias.data), y),
            None => self.0.add(seen, y),
        }
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        saved: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let (params, weight, bias) = self.split(x);
        let (chosen, want_weight, want_bias) = self.split(wanted);
        let trained = chosen.contains(&true);
        let seen = Seen {
            x: x[0],
            params,
            saved,
        };
        let [tokens, d_in] = x[0].dims();
        let width = gy.len() / tokens.max(1);
        let g = Mat::new(gy, tokens, width);
        let (gx, gradients) = match weight {
            _ if !(wanted[0] || trained) => (None, Vec::new()),
            Some(weight) => self.0.layer_backward(seen, weight, g, wanted[0], trained),
            None => {
                let mut gx = wanted[0].then(|| vec![T::ZERO; tokens * d_in]);
                let gradients = self.0.add_backward(seen, gy, gx.as_deref_mut(), trained);
                (gx, gradients)
            }
        };
        let mut all = vec![gx];
        all.extend(only(chosen, gradients));
        if weight.is_some() {
            let gw = || multiplied(x[0].mat().t(), g, T::ONE);
            all.push((want_weight == Some(true)).then(gw));
        }
        if bias.is_some() {
            all.push((want_bias == Some(true)).then(|| column_sums(gy, width)));
        }
        all
    }
}

/// The gradients that are wanted; there may be none at all.
fn only<T>(wanted: &[bool], gradients: Vec<Vec<T>>) -> impl Iterator<Item = Option<Vec<T>>> {
    let mut gradients = gradients.into_iter();
    wanted
        .iter()
        .map(move |wanted| gradients.next().filter(|_| *wanted))
}

/// W + U; inputs W and the parameters.
#[derive(Debug, Clone)]
struct Weight<U>(U);

impl<U: Update> Kernel for Weight<U> {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        shapes[0].to_vec()
    }

    fn keeps(&self, input: usize, wanted: &[bool]) -> bool {
        input > 0 && self.0.params() > 1 && wanted[1..].contains(&true)
    }

    fn start<T: Real>(&self, x: &[Input<'_, T>], _: usize) -> Vec<T> {
        self.0.matrix(x[0], &x[1..])
    }

    /// [`start`](Kernel::start) did it.
    fn forward<T: Real>(&self, _: &[Input<'_, T>], _: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        Vec::new()
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        _: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let [rows, columns] = x[0].dims();
        let g = Mat::new(gy, rows, columns);
        let gradients = if wanted[1..].contains(&true) {
            self.0.matrix_backward(&x[1..], g)
        } else {
            Vec::new()
        };
        let mut all = vec![wanted[0].then(|| gy.to_vec())];
        all.extend(only(&wanted[1..], gradients));
        all
    }
}

/// Zeros of the parameter's shape.
pub(super) fn zeros_like<T: Real>(param: &Input<'_, T>) -> Vec<T> {
    vec![T::ZERO; param.shape.iter().product()]
}

/// The frozen layer that an update is added to: W [d_in, d_out] and perhaps b `[d_out]`.
pub(super) type Base = (Tensor<2>, Option<Tensor<1>>);

/// x (W + U) + b, or x U without a base; `composed` is the same in Burn's operations, from x, the
/// parameters and the base.
pub(super) fn updated(
    update: impl Update,
    x: Tensor<2>,
    params: Vec<Operand>,
    base: Option<Base>,
    composed: impl FnOnce(Tensor<2>, &mut Returned, Option<Base>) -> Tensor<2>,
) -> Tensor<2> {
    let count = 1 + params.len();
    let mut inputs = vec![Operand::from(x)];
    inputs.extend(params);
    if let Some((weight, bias)) = base {
        inputs.push(weight.into());
        inputs.extend(bias.map(Operand::from));
    }
    fused(Updated(update), inputs).unwrap_or_else(|mut inputs| {
        let mut base = Returned::new(inputs.split_off(count));
        let mut inputs = Returned::new(inputs);
        let base = base.optional().map(|weight| (weight, base.optional()));
        composed(inputs.next(), &mut inputs, base)
    })
}

/// x (W + U) + b from x U.
pub(super) fn beside(x: Tensor<2>, update: Tensor<2>, base: Option<Base>) -> Tensor<2> {
    match base {
        Some((weight, bias)) => with_bias(x.matmul(weight), bias) + update,
        None => update,
    }
}

/// x (W + U) + b from U.
pub(super) fn dense(x: Tensor<2>, update: Tensor<2>, base: Option<Base>) -> Tensor<2> {
    match base {
        Some((weight, bias)) => with_bias(x.matmul(weight + update), bias),
        None => x.matmul(update),
    }
}

/// W + U; `matrix` is U in Burn's operations.
pub(super) fn changed(
    update: impl Update,
    weight: Tensor<2>,
    params: Vec<Operand>,
    matrix: impl FnOnce(&mut Returned) -> Tensor<2>,
) -> Tensor<2> {
    let mut inputs = vec![Operand::from(weight)];
    inputs.extend(params);
    fused(Weight(update), inputs).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        inputs.next::<2>() + matrix(&mut inputs)
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
