//! Structured updates that are added beside a frozen layer.

use std::fmt::Debug;

use burn::tensor::Tensor;
use engraft_kernels::{Mat, Real, column_sums, multiplied};

use super::fused::{Input, Kernel, Operand, Returned, fused};
use super::linear::{biased, frozen};

/// A linear map x -> x D(p_1, ..., p_n) that is added to what is there already.
pub(crate) trait Update: Clone + Debug + Send + Sync + 'static {
    /// n.
    fn params(&self) -> usize;

    /// Outputs of the map for these parameters.
    fn width(&self, params: &[&[usize]]) -> usize;

    /// Whether the backward pass reads x.
    fn keeps_x(&self) -> bool {
        true
    }

    /// y += x D; returns what `backward` needs beside x and the parameters.
    fn add<T: Real>(&self, x: Input<'_, T>, params: &[Input<'_, T>], y: &mut [T]) -> Vec<Vec<T>>;

    /// gx += gy D^T where it is wanted; the gradients of the parameters.
    fn backward<T: Real>(
        &self,
        x: Input<'_, T>,
        params: &[Input<'_, T>],
        saved: &[Vec<T>],
        gy: &[T],
        gx: Option<&mut [T]>,
    ) -> Vec<Vec<T>>;
}

/// The frozen layer that an update is added to: W and perhaps b.
pub(crate) type Base = (Tensor<2>, Option<Tensor<1>>);

/// x W + b + x D; inputs x, the parameters of D and, perhaps, W and b.
#[derive(Debug, Clone)]
struct Beside<U>(U);

impl<U: Update> Beside<U> {
    /// The parameters, W and b among the inputs.
    fn split<'a, I: Copy>(&self, inputs: &'a [I]) -> (&'a [I], Option<I>, Option<I>) {
        let (params, base) = inputs[1..].split_at(self.0.params());
        (params, base.first().copied(), base.get(1).copied())
    }
}

impl<U: Update> Kernel for Beside<U> {
    fn shape(&self, shapes: &[&[usize]]) -> Vec<usize> {
        vec![shapes[0][0], self.0.width(self.split(shapes).0)]
    }

    fn takes_transposed(&self, input: usize) -> bool {
        input == 1 + self.0.params()
    }

    fn keeps(&self, input: usize, wanted: &[bool]) -> bool {
        let (params, weight, _) = self.split(wanted);
        let trained = params.contains(&true);
        match input {
            0 => ((trained || wanted[0]) && self.0.keeps_x()) || weight == Some(true),
            input if input <= params.len() => trained || wanted[0],
            _ => wanted[0] && input == 1 + params.len(),
        }
    }

    fn start<T: Real>(&self, x: &[Input<'_, T>], len: usize) -> Vec<T> {
        biased(self.split(x).2.map(|bias| bias.data), len)
    }

    fn forward<T: Real>(&self, x: &[Input<'_, T>], y: &mut [T], _: &[bool]) -> Vec<Vec<T>> {
        let (params, weight, bias) = self.split(x);
        if let Some(weight) = weight {
            frozen(x[0].mat(), weight.mat(), bias.map(|bias| bias.data), y);
        }
        self.0.add(x[0], params, y)
    }

    fn backward<T: Real>(
        &self,
        x: &[Input<'_, T>],
        saved: &[Vec<T>],
        gy: &[T],
        wanted: &[bool],
    ) -> Vec<Option<Vec<T>>> {
        let (params, weight, bias) = self.split(x);
        let (trained, want_weight, want_bias) = self.split(wanted);
        let [tokens, d_in] = x[0].dims();
        let width = gy.len() / tokens.max(1);
        let g = Mat::new(gy, tokens, width);
        let mut gx = wanted[0].then(|| match weight {
            Some(weight) => multiplied(g, weight.mat().t(), T::ONE),
            None => vec![T::ZERO; tokens * d_in],
        });
        let gradients = if wanted[0] || trained.contains(&true) {
            self.0.backward(x[0], params, saved, gy, gx.as_deref_mut())
        } else {
            Vec::new()
        };
        let mut all = vec![gx];
        let mut gradients = gradients.into_iter();
        all.extend(
            trained
                .iter()
                .map(|wanted| gradients.next().filter(|_| *wanted)),
        );
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

/// x W + b + x D(p), or x D(p) without a base; `composed` is x D(p) in Burn's operations, from x and
/// the parameters.
pub(crate) fn beside<U: Update>(
    update: U,
    x: Tensor<2>,
    params: Vec<Operand>,
    base: Option<Base>,
    composed: impl FnOnce(Tensor<2>, &mut Returned) -> Tensor<2>,
) -> Tensor<2> {
    let mut inputs = vec![Operand::from(x)];
    inputs.extend(params);
    if let Some((weight, bias)) = base {
        inputs.push(weight.into());
        inputs.extend(bias.map(Operand::from));
    }
    fused(Beside(update), inputs).unwrap_or_else(|inputs| {
        let mut inputs = Returned::new(inputs);
        let x = inputs.next::<2>();
        let y = composed(x.clone(), &mut inputs);
        match (inputs.optional::<2>(), inputs.optional::<1>()) {
            (Some(weight), Some(bias)) => x.matmul(weight) + bias.unsqueeze() + y,
            (Some(weight), None) => x.matmul(weight) + y,
            _ => y,
        }
    })
}
