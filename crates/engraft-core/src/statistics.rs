//! What data tells an initialiser about a layer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use burn::tensor::Tensor;

/// Which statistics of its layers a method starts from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Needs {
    /// [`Statistics::moment`] and [`Statistics::sum`].
    pub moment: bool,
    /// [`Statistics::scaled_moment`].
    pub scaled_moment: bool,
    /// [`Statistics::gradient`].
    pub gradient: bool,
    /// [`Statistics::squared_gradient`].
    pub squared_gradient: bool,
}

impl Needs {
    /// What both need together.
    pub fn and(self, other: Self) -> Self {
        Self {
            moment: self.moment || other.moment,
            scaled_moment: self.scaled_moment || other.scaled_moment,
            gradient: self.gradient || other.gradient,
            squared_gradient: self.squared_gradient || other.squared_gradient,
        }
    }

    /// Whether anything is needed.
    pub fn any(self) -> bool {
        self.inputs() || self.gradients()
    }

    /// Whether inputs are looked at.
    pub fn inputs(self) -> bool {
        self.moment || self.scaled_moment
    }

    /// Whether gradients of the weight are looked at.
    pub fn gradients(self) -> bool {
        self.gradient || self.squared_gradient
    }
}

/// Sums over the calibration batches of one layer y = x W + b. Statistics that nobody
/// [needs](Needs) are absent.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Batches seen.
    pub batches: usize,
    /// Tokens seen: rows of x.
    pub tokens: usize,
    /// The sum of the inputs, `[d_in]`.
    pub sum: Option<Tensor<1>>,
    /// The sum of x^T x, `[d_in, d_in]`.
    pub moment: Option<Tensor<2>>,
    /// The sum of x^T x / max(x)^2, the maximum (not of absolute values) being that of the batch,
    /// `[d_in, d_in]`: CorDA's, as its authors' code has it.
    pub scaled_moment: Option<Tensor<2>>,
    /// The sum of dL/dW over batches, `[d_in, d_out]`.
    pub gradient: Option<Tensor<2>>,
    /// The sum of (dL/dW)^2 over batches, elementwise, `[d_in, d_out]`.
    pub squared_gradient: Option<Tensor<2>>,
    /// At a site: the sum over batches of the gradients of the adapter's own parameters before
    /// training, flattened, by field; see [`SiteGraft::probe`](crate::SiteGraft::probe).
    pub own: BTreeMap<String, Tensor<1>>,
}

impl Statistics {
    fn see_input(&mut self, needs: Needs, x: &Tensor<2>) {
        self.tokens += x.dims()[0];
        if needs.moment {
            add(&mut self.sum, x.clone().sum_dim(0).squeeze_dim(0));
            add(&mut self.moment, x.clone().transpose().matmul(x.clone()));
        }
        if needs.scaled_moment {
            let scaled = x.clone() / x.clone().max().abs().unsqueeze();
            add(
                &mut self.scaled_moment,
                scaled.clone().transpose().matmul(scaled),
            );
        }
    }

    pub(crate) fn see_gradient(&mut self, needs: Needs, gradient: Tensor<2>) {
        if needs.squared_gradient {
            add(
                &mut self.squared_gradient,
                gradient.clone() * gradient.clone(),
            );
        }
        if needs.gradient {
            add(&mut self.gradient, gradient);
        }
    }

    /// What stands in where an adapter's values are about to be replaced by a file's, so that only
    /// shapes matter: uncorrelated inputs, and the weight as its own gradient.
    pub(crate) fn placeholder(needs: Needs, weight: &Tensor<2>) -> Self {
        let d_in = weight.dims()[0];
        let eye = || Tensor::<2>::eye(d_in, &weight.device()).cast(weight.dtype());
        let weight = weight.clone().detach();
        Self {
            batches: 1,
            tokens: d_in,
            sum: needs.moment.then(|| eye().sum_dim(0).squeeze_dim(0)),
            moment: needs.moment.then(eye),
            scaled_moment: needs.scaled_moment.then(eye),
            gradient: needs.gradient.then(|| weight.clone()),
            squared_gradient: needs
                .squared_gradient
                .then(|| weight.clone() * weight.clone()),
            own: BTreeMap::new(),
        }
    }
}

pub(crate) fn add<const D: usize>(sum: &mut Option<Tensor<D>>, term: Tensor<D>) {
    *sum = Some(match sum.take() {
        Some(sum) => sum + term,
        None => term,
    });
}

/// The statistics of all layers of a method, by path.
#[derive(Debug, Clone, Default)]
pub struct Calibration(BTreeMap<String, Statistics>);

impl Calibration {
    /// The statistics of the layer at `path`.
    pub fn get(&self, path: &str) -> Option<&Statistics> {
        self.0.get(path)
    }

    /// Layers with their statistics, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Statistics)> {
        self.0.iter().map(|(path, found)| (path.as_str(), found))
    }

    /// Sets the statistics of a layer.
    pub fn insert(&mut self, path: impl Into<String>, statistics: Statistics) {
        self.0.insert(path.into(), statistics);
    }

    pub(crate) fn entry(&mut self, path: &str) -> &mut Statistics {
        self.0.entry(path.to_owned()).or_default()
    }
}

/// Sees the inputs of chosen layers in a forward pass.
#[derive(Debug)]
pub(crate) struct Observer {
    needs: Needs,
    layers: BTreeSet<String>,
    seen: Mutex<Calibration>,
}

impl Observer {
    pub(crate) fn new(needs: Needs, layers: impl IntoIterator<Item = String>) -> Self {
        Self {
            needs,
            layers: layers.into_iter().collect(),
            seen: Mutex::default(),
        }
    }

    /// Tokens x [tokens, d_in] on their way into the layer at `path`.
    pub(crate) fn see(&self, path: &str, x: &Tensor<2>) {
        if self.layers.contains(path) {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.entry(path).see_input(self.needs, &x.clone().detach());
        }
    }

    pub(crate) fn take(&self) -> Calibration {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
