//! Gradients of an adapted model against central differences, in f64.
//!
//! The loss is L = sum(y . g) with a fixed random g. Along a direction v the derivative is
//! estimated as D(h) = (L(+h v) - L(-h v)) / 2h, and improved to (4 D(h) - D(2h)) / 3. The
//! tolerance follows from the step and the precision: the truncation error of D(h), which is
//! |D(h) - D(2h)| / 3 to leading order, plus the rounding of L, eps |L| / h. A kink (ReLU, clamp)
//! closer than the step spoils an estimate, so a smaller step is tried before a gradient is called
//! wrong; a wrong gradient agrees at no step.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{DType, Gradients, Tensor, TensorData};
use engraft_core::{Adaptable, Adapted, params};
use engraft_tensor::{Key, bridge};
use rand::RngExt;

use crate::{compare, random};

/// Steps, tried in this order.
const STEPS: [f64; 2] = [1e-3, 1e-5];
/// Single entries that are checked of each tensor, beside one direction through all entries.
const ENTRIES: usize = 3;
/// Roundings of the size of L that reach an estimate.
const ROUNDINGS: f64 = 64.0;
/// An estimate that is less certain than this, relative to the derivative, decides nothing.
const CONCLUSIVE: f64 = 1e-3;

/// Checks dL/dx and dL/dp for every trained parameter p of `adapted`, where `forward` computes y.
/// Differences are taken of [`Adapted::surrogate`], whose value must be that of the model.
///
/// # Errors
/// Every tensor whose gradient is missing, superfluous or wrong, with the numbers.
pub fn check<M: Adaptable, const D: usize, const E: usize>(
    adapted: &Adapted<M>,
    x: &Tensor<D>,
    forward: impl Fn(&Adapted<M>, Tensor<D>) -> Tensor<E>,
) -> Result<(), String> {
    if x.dtype() != DType::F64 {
        return Err(format!(
            "gradients are checked in f64, found {:?}",
            x.dtype()
        ));
    }
    let x = x.clone().detach().require_grad();
    let y = forward(adapted, x.clone());
    let g = random::normal(y.dims(), "cotangent", &y.device(), y.dtype());
    let grads = (y.clone() * g.clone()).sum().backward();
    let mut wrong = Vec::new();
    let parameters = gradients(adapted, &grads, &mut wrong);

    let held = adapted.surrogate().valid();
    let (x_inner, g) = (x.clone().inner(), bridge::values(&g));
    let scale: f64 = bridge::values(&y)
        .iter()
        .zip(&g)
        .map(|(y, g)| (y * g).abs())
        .sum();
    wrong.extend(
        compare::close(
            "value of the surrogate",
            &forward(&held, x_inner.clone()),
            &y.inner(),
            64,
        )
        .err(),
    );
    let loss = |y: Tensor<E>| {
        bridge::values(&y)
            .iter()
            .zip(&g)
            .map(|(y, g)| y * g)
            .sum::<f64>()
    };

    let gradient = x.grad(&grads).map(|gradient| bridge::values(&gradient));
    let values = bridge::values(&x_inner);
    wrong.extend(compared("x", &values, gradient, scale, |values| {
        loss(forward(
            &held,
            bridge::tensor(values, x_inner.dims(), &x_inner.device(), DType::F64),
        ))
    }));
    for (path, (shape, values, gradient)) in parameters {
        let at = |values: Vec<f64>| {
            let moved = BTreeMap::from([(
                path.clone(),
                TensorData::new::<f64, _>(values, shape.clone()),
            )]);
            loss(forward(
                &params::write(held.clone(), moved),
                x_inner.clone(),
            ))
        };
        wrong.extend(compared(&path, &values, gradient, scale, at));
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("; "))
    }
}

type Parameter = (Vec<usize>, Vec<f64>, Option<Vec<f64>>);

/// Shape, values and gradient of every trained parameter; a frozen one with a gradient is wrong.
fn gradients<M: Module>(
    module: &M,
    grads: &Gradients,
    wrong: &mut Vec<String>,
) -> BTreeMap<String, Parameter> {
    struct Collect<'a> {
        path: Vec<String>,
        grads: &'a Gradients,
        found: BTreeMap<String, Parameter>,
        wrong: &'a mut Vec<String>,
    }
    impl ModuleVisitor for Collect<'_> {
        fn enter_module(&mut self, name: &str, _: &str) {
            self.path.push(name.to_owned());
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let (path, tensor) = (self.path.join("."), param.base());
            let gradient = tensor
                .grad(self.grads)
                .map(|gradient| bridge::values(&gradient));
            match (tensor.is_require_grad(), gradient) {
                (true, gradient) => drop(self.found.insert(
                    path,
                    (tensor.dims().to_vec(), bridge::values(&tensor), gradient),
                )),
                (false, Some(_)) => self
                    .wrong
                    .push(format!("{path}: frozen, but has a gradient")),
                (false, None) => {}
            }
        }
    }
    let mut collect = Collect {
        path: Vec::new(),
        grads,
        found: BTreeMap::new(),
        wrong,
    };
    module.visit(&mut collect);
    collect.found
}

/// Compares one tensor's gradient with differences of `loss` as a function of its values.
fn compared(
    path: &str,
    values: &[f64],
    gradient: Option<Vec<f64>>,
    scale: f64,
    loss: impl Fn(Vec<f64>) -> f64,
) -> Option<String> {
    let Some(gradient) = gradient else {
        return Some(format!("{path}: trained, but has no gradient"));
    };
    directions(path, values.len()).into_iter().find_map(|(name, direction)| {
        let stated: f64 = gradient.iter().zip(&direction).map(|(gradient, v)| gradient * v).sum();
        let mut report = String::new();
        for step in STEPS {
            let at = |t: f64| loss(values.iter().zip(&direction).map(|(value, v)| value + t * v).collect());
            let difference = |h: f64| (at(h) - at(-h)) / (2.0 * h);
            let (fine, coarse) = (difference(step), difference(2.0 * step));
            let estimate = (4.0 * fine - coarse) / 3.0;
            let allowed = (fine - coarse).abs() / 3.0 + ROUNDINGS * f64::EPSILON * scale.max(1.0) / step;
            let error = (stated - estimate).abs();
            let conclusive = allowed <= CONCLUSIVE * estimate.abs().max(1.0);
            if conclusive && error <= allowed {
                return None;
            }
            report = format!("{path} along {name}: gradient {stated:.9e}, difference {estimate:.9e}, error {error:.1e}, tolerance {allowed:.1e} at step {step:.0e}");
        }
        Some(report)
    })
}

/// A direction of length 1 through all entries, and some single entries.
fn directions(path: &str, len: usize) -> Vec<(String, Vec<f64>)> {
    let mut rng = Key::new(0).child("directions").child(path).rng();
    let dense: Vec<f64> = (0..len).map(|_| 2.0 * rng.random::<f64>() - 1.0).collect();
    let norm = dense
        .iter()
        .map(|v| v * v)
        .sum::<f64>()
        .sqrt()
        .max(f64::MIN_POSITIVE);
    let mut directions = vec![(
        "a direction through all entries".to_owned(),
        dense.iter().map(|v| v / norm).collect(),
    )];
    for _ in 0..ENTRIES.min(len) {
        let entry = rng.random_range(0..len);
        directions.push((
            format!("entry {entry}"),
            (0..len)
                .map(|i| if i == entry { 1.0 } else { 0.0 })
                .collect(),
        ));
    }
    directions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// f = sum a v^2 with the gradient 2 a v.
    fn report(gradient: impl Fn(f64) -> f64) -> Option<String> {
        let values = [0.5, -1.5, 2.0];
        let stated = values.iter().map(|v| gradient(*v)).collect();
        compared("v", &values, Some(stated), 10.0, |values| {
            values.iter().map(|v| v.sin() * v).sum()
        })
    }

    #[test]
    fn a_right_gradient_passes_and_a_slightly_wrong_one_is_found() {
        assert_eq!(report(|v| v.cos() * v + v.sin()), None);
        assert!(
            report(|v| v.cos() * v + v.sin() * (1.0 + 1e-5))
                .unwrap()
                .contains("tolerance")
        );
    }

    #[test]
    fn a_kink_closer_than_the_first_step_is_stepped_around() {
        let report = compared("v", &[1e-4], Some(vec![1.0]), 1.0, |values| {
            values[0].max(0.0)
        });
        assert_eq!(report, None);
    }

    #[test]
    fn a_missing_gradient_is_named() {
        assert!(
            compared("v", &[1.0], None, 1.0, |_| 0.0)
                .unwrap()
                .contains("no gradient")
        );
    }
}
