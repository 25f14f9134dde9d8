//! Kernels on flex tensors, recorded for autodiff.

use std::fmt::Debug;
use std::mem;
use std::sync::Arc;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    BackendTensor, DispatchAutodiffContext, DispatchTensor, DispatchTensorKind, Flex,
    TensorMetadata,
};
use burn::tensor::{DType, Element, Shape, TensorData};

use engraft_kernels::Real;

use super::{Input, Kernel, Operand};

type Tracked = FloatTensor<Autodiff<Flex>>;

/// Most inputs of a kernel.
const MOST: usize = 8;

pub(super) fn run(
    kernel: impl Kernel,
    inputs: Vec<Operand>,
) -> Result<DispatchTensor, Vec<Operand>> {
    let dtype = inputs[0].0.dtype();
    let precise = matches!(dtype, DType::F32 | DType::F64);
    let runs = |input: &Operand| on_flex(&input.0.kind) && input.0.dtype() == dtype;
    if !precise || inputs.len() > MOST || !inputs.iter().all(runs) {
        return Err(inputs);
    }
    let context = inputs
        .iter()
        .fold(DispatchAutodiffContext::Disabled, |context, input| {
            context.merge(input.0.autodiff)
        });
    let kind = match context {
        DispatchAutodiffContext::Disabled => {
            let held = hold(&kernel, inputs.into_iter().map(plain));
            let none = vec![false; held.len()];
            DispatchTensorKind::Flex(BackendTensor::Float(forward(&kernel, &held, &none).0))
        }
        DispatchAutodiffContext::Enabled(_) => {
            let inputs = inputs.into_iter().map(tracked).collect();
            let y = record(Arc::new(kernel), inputs);
            DispatchTensorKind::Autodiff(Box::new(DispatchTensorKind::Flex(
                BackendTensor::Autodiff(y),
            )))
        }
    };
    Ok(DispatchTensor {
        kind,
        autodiff: context,
    })
}

pub(super) fn on_flex(kind: &DispatchTensorKind) -> bool {
    match kind {
        DispatchTensorKind::Flex(_) => true,
        DispatchTensorKind::Autodiff(inner) => on_flex(inner),
        #[allow(
            unreachable_patterns,
            reason = "flex may be the only backend of a build"
        )]
        _ => false,
    }
}

fn plain(input: Operand) -> FlexTensor {
    match input.0.kind {
        DispatchTensorKind::Flex(tensor) => tensor.float(),
        _ => unreachable!("checked to be on flex, without autodiff"),
    }
}

/// The tensor in autodiff; one from outside is a constant there.
fn tracked(input: Operand) -> Tracked {
    match input.0.kind {
        DispatchTensorKind::Autodiff(inner) => match *inner {
            DispatchTensorKind::Flex(BackendTensor::Autodiff(tensor)) => tensor,
            _ => unreachable!("checked to be on flex"),
        },
        DispatchTensorKind::Flex(tensor) => Tracked::new(tensor.float()),
        #[allow(
            unreachable_patterns,
            reason = "flex may be the only backend of a build"
        )]
        _ => unreachable!("checked to be on flex"),
    }
}

/// A tensor in an order of its numbers that a kernel reads.
#[derive(Debug, Clone)]
struct Held {
    /// None where a backward pass does not read it.
    tensor: Option<FlexTensor>,
    /// The shape that the kernel sees.
    shape: Shape,
    transposed: bool,
}

impl Held {
    fn new(tensor: FlexTensor, takes_transposed: bool) -> Self {
        let shape = tensor.layout().shape().clone();
        let turned = || tensor.clone().transpose(0, 1);
        let transposed = takes_transposed
            && shape.num_dims() == 2
            && !tensor.is_contiguous()
            && turned().is_contiguous();
        let tensor = match (transposed, tensor.is_contiguous()) {
            (true, _) => turned(),
            (false, true) => tensor,
            (false, false) => tensor.to_contiguous(),
        };
        Self {
            tensor: Some(tensor),
            shape,
            transposed,
        }
    }

    fn input<T: Real + Element + bytemuck::Pod>(&self) -> Input<'_, T> {
        let data = self.tensor.as_ref().map(|tensor| {
            tensor
                .as_slice()
                .expect("made contiguous, of this precision")
        });
        Input {
            data: data.unwrap_or_default(),
            shape: self.shape.as_slice(),
            transposed: self.transposed,
        }
    }
}

fn hold(kernel: &impl Kernel, tensors: impl Iterator<Item = FlexTensor>) -> Vec<Held> {
    tensors
        .enumerate()
        .map(|(at, tensor)| Held::new(tensor, kernel.takes_transposed(at)))
        .collect()
}

/// What a kernel keeps for its backward pass, in its precision.
#[derive(Debug, Clone)]
enum Saved {
    F32(Vec<Vec<f32>>),
    F64(Vec<Vec<f64>>),
}

fn forward(kernel: &impl Kernel, held: &[Held], wanted: &[bool]) -> (FlexTensor, Saved) {
    match held[0].tensor.as_ref().map(FlexTensor::dtype) {
        Some(DType::F64) => {
            let (y, saved) = forward_in::<f64>(kernel, held, wanted);
            (y, Saved::F64(saved))
        }
        _ => {
            let (y, saved) = forward_in::<f32>(kernel, held, wanted);
            (y, Saved::F32(saved))
        }
    }
}

fn forward_in<T: Real + Element + bytemuck::Pod>(
    kernel: &impl Kernel,
    held: &[Held],
    wanted: &[bool],
) -> (FlexTensor, Vec<Vec<T>>) {
    let x: Vec<Input<'_, T>> = held.iter().map(Held::input).collect();
    let shapes: Vec<&[usize]> = held.iter().map(|held| held.shape.as_slice()).collect();
    let shape = kernel.shape(&shapes);
    let mut y = kernel.start(&x, shape.iter().product());
    let saved = kernel.forward(&x, &mut y, wanted);
    (FlexTensor::from_data(TensorData::new(y, shape)), saved)
}

fn backward_in<T: Real + Element + bytemuck::Pod>(
    kernel: &impl Kernel,
    held: &[Held],
    saved: &[Vec<T>],
    gy: FlexTensor,
    wanted: &[bool],
) -> Vec<Option<FlexTensor>> {
    let x: Vec<Input<'_, T>> = held.iter().map(Held::input).collect();
    let gy = Held::new(gy, false);
    let gradients = kernel.backward(&x, saved, gy.input().data, wanted);
    gradients
        .into_iter()
        .zip(held)
        .map(|(gradient, held)| {
            gradient
                .map(|values| FlexTensor::from_data(TensorData::new(values, held.shape.clone())))
        })
        .collect()
}

/// A kernel without its type, so that the autodiff step is compiled once.
trait Erased: Debug + Send + Sync {
    fn backward(&self, state: &State, gy: FlexTensor, wanted: &[bool]) -> Vec<Option<FlexTensor>>;
}

impl<K: Kernel> Erased for K {
    fn backward(&self, state: &State, gy: FlexTensor, wanted: &[bool]) -> Vec<Option<FlexTensor>> {
        match &state.saved {
            Saved::F32(saved) => backward_in(self, &state.held, saved, gy, wanted),
            Saved::F64(saved) => backward_in(self, &state.held, saved, gy, wanted),
        }
    }
}

#[derive(Debug)]
struct State {
    held: Vec<Held>,
    saved: Saved,
}

/// The recorded operation.
#[derive(Debug)]
struct Fused(Arc<dyn Erased>);

impl<const N: usize> Backward<Flex, N> for Fused {
    type State = Arc<State>;

    fn backward(self, ops: Ops<Self::State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gy = grads.consume::<Flex>(&ops.node);
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let gradients = self.0.backward(&ops.state, gy, &wanted);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<Flex>(parent.id, gradient);
            }
        }
    }
}

/// Whether a gradient flows to this node.
fn is_wanted(guard: NodeGuard) -> bool {
    #[derive(Debug)]
    struct Probe;
    impl Backward<Flex, 1> for Probe {
        type State = ();
        fn backward(self, _: Ops<(), 1>, _: &mut Gradients, _: &mut Checkpointer) {}
    }
    let prepared = Probe.prepare::<NoCheckpointing>([guard]).compute_bound();
    matches!(prepared.stateful(), OpsKind::Tracked(_))
}

fn record<K: Kernel>(kernel: Arc<K>, inputs: Vec<Tracked>) -> Tracked {
    let wanted: Vec<bool> = inputs.iter().map(|x| is_wanted(x.node())).collect();
    let (tensors, guards): (Vec<_>, Vec<_>) = inputs
        .into_iter()
        .map(FloatTensor::<Autodiff<Flex>>::into_parts)
        .unzip();
    let mut held = hold(&*kernel, tensors.into_iter());
    let (y, saved) = forward(&*kernel, &held, &wanted);
    for (at, held) in held.iter_mut().enumerate() {
        if !kernel.keeps(at, &wanted) {
            held.tensor = None;
        }
    }
    let state = Arc::new(State { held, saved });
    let step = Fused(kernel);
    macro_rules! by_arity {
        ($($n:literal)*) => {
            match guards.len() {
                $($n => finish::<$n>(step, guards, state, y),)*
                more => unreachable!("a kernel of {more} inputs"),
            }
        };
    }
    by_arity!(1 2 3 4 5 6 7 8)
}

fn finish<const N: usize>(
    step: Fused,
    mut guards: Vec<NodeGuard>,
    state: Arc<State>,
    y: FlexTensor,
) -> Tracked {
    let guards: [NodeGuard; N] = mem::take(&mut guards)
        .try_into()
        .expect("as many as the arity");
    let prepared = Backward::<Flex, N>::prepare::<NoCheckpointing>(step, guards).compute_bound();
    match prepared.stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(state, y),
        OpsKind::UnTracked(prepared) => prepared.finish(y),
    }
}
