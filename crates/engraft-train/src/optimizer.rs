//! AdamW and SGD, as PyTorch defines them.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{IndexingUpdateOp, Int, Tensor, TensorData};
use engraft_core::{Gradients, Reset};
use serde::{Deserialize, Serialize};

use crate::adamw::AdamW;
use crate::error::{Error, Result};
use crate::learning_rates::LearningRates;
use crate::sgd::Sgd;
use crate::taking::{Putting, Taking};

/// Which optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum OptimizerConfig {
    /// `kind = "adamw"`.
    #[serde(rename = "adamw")]
    AdamW(AdamW),
    /// `kind = "sgd"`.
    Sgd(Sgd),
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self::AdamW(AdamW::default())
    }
}

impl OptimizerConfig {
    fn validate(&self) -> Result<()> {
        let check = |what: &str, value: f64, below: f64| match (0.0..below).contains(&value) {
            true => Ok(()),
            false => Err(Error::BadConfig {
                what: "optimizer",
                reason: format!("found {what} {value}, expected at least 0 and below {below}"),
            }),
        };
        match *self {
            Self::AdamW(AdamW {
                beta1,
                beta2,
                epsilon,
                weight_decay,
            }) => {
                check("beta1", beta1, 1.0)?;
                check("beta2", beta2, 1.0)?;
                check("epsilon", epsilon, f64::INFINITY)?;
                check("weight-decay", weight_decay, f64::INFINITY)
            }
            Self::Sgd(Sgd {
                momentum,
                nesterov,
                weight_decay,
            }) => {
                check("momentum", momentum, 1.0)?;
                if nesterov && momentum == 0.0 {
                    return Err(Error::BadConfig {
                        what: "optimizer",
                        reason: "found nesterov without momentum, expected momentum above 0"
                            .to_owned(),
                    });
                }
                check("weight-decay", weight_decay, f64::INFINITY)
            }
        }
    }
}

/// What an optimiser remembers of one parameter.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// Steps taken.
    pub step: u64,
    /// Running means, flattened: m and v, or the velocity, or none.
    pub moments: Vec<Tensor<1>>,
}

/// A parameter about to take a step, flattened.
pub(crate) struct Step {
    pub values: Tensor<1>,
    pub gradient: Tensor<1>,
    pub lr: f64,
    /// Of which `step` counts this one already.
    pub state: State,
}

/// An optimiser with its state by parameter path.
#[derive(Debug, Clone)]
pub struct Optimizer {
    config: OptimizerConfig,
    rates: LearningRates,
    pub(crate) states: BTreeMap<String, State>,
}

impl Optimizer {
    /// An optimiser that has not seen any parameter.
    ///
    /// # Errors
    /// A setting out of its range.
    pub fn new(config: OptimizerConfig, rates: LearningRates) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            config,
            rates,
            states: BTreeMap::new(),
        })
    }

    /// The module after one step. Parameters without gradient are untouched: no decay, no state.
    ///
    /// All others are taken out of the module, stepped together and put back, so that each is the
    /// only owner of its memory while it changes.
    pub fn step<M: Module>(&mut self, module: M, gradients: &Gradients, lr: f64) -> M {
        let mut taking = Taking::new(gradients);
        let module = module.map(&mut taking);
        let (mut steps, mut kept) = (Vec::new(), Vec::new());
        for taken in taking.taken {
            let mut state = self.states.remove(&taken.path).unwrap_or_default();
            state.step += 1;
            steps.push(Step {
                values: taken.values,
                gradient: taken.gradient,
                lr: lr * self.rates.factor(&taken.path),
                state,
            });
            kept.push((taken.path, taken.place));
        }
        let stepped = match &self.config {
            OptimizerConfig::AdamW(config) => config.update(steps),
            OptimizerConfig::Sgd(config) => {
                steps.into_iter().map(|step| config.update(step)).collect()
            }
        };
        let mut values = Vec::new();
        for ((path, place), (value, state)) in kept.into_iter().zip(stepped) {
            self.states.insert(path, state);
            values.push((place, value));
        }
        module.map(&mut Putting::new(values))
    }

    /// Sets the moments of entries that mean something else from now on to zero.
    pub fn forget(&mut self, resets: &[Reset]) {
        for reset in resets {
            let Some(state) = self.states.get_mut(&reset.path) else {
                continue;
            };
            match &reset.entries {
                None => {
                    self.states.remove(&reset.path);
                }
                Some(entries) => {
                    for moment in &mut state.moments {
                        *moment = zeroed(moment.clone(), entries);
                    }
                }
            }
        }
    }
}

/// The tensor with zeros at these positions.
fn zeroed(tensor: Tensor<1>, entries: &[usize]) -> Tensor<1> {
    let (device, count) = (tensor.device(), entries.len());
    if count == 0 {
        return tensor;
    }
    let positions: Vec<i64> = entries.iter().map(|entry| *entry as i64).collect();
    let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [count]), &device);
    let held = tensor.clone().select(0, positions.clone());
    tensor.select_assign(0, positions, -held, IndexingUpdateOp::Add)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_tensor::bridge::{tensor, values};

    use burn::module::Param;

    use super::*;
    use crate::learning_rates::RatePattern;

    #[derive(Module, Debug)]
    struct Two {
        used: Param<Tensor<2>>,
        idle: Param<Tensor<1>>,
    }

    fn two(dtype: DType) -> Two {
        let device = Device::default();
        let used = Param::from_tensor(tensor(vec![1.0, -2.0, 0.5, 3.0], [2, 2], &device, dtype));
        Two {
            used,
            idle: Param::from_tensor(tensor(vec![1.0], [1], &device, dtype)),
        }
        .train()
    }

    /// The gradient at step t, the same in the module and in the reference.
    fn gradient(t: u64) -> [f64; 4] {
        let t = t as f64;
        [0.3 * t, -0.1, 1e-3 * (t - 3.0), 2.0 / t]
    }

    /// Five steps on the module, and the same five by `reference`, number by number in f64.
    fn agrees(config: OptimizerConfig, reference: impl Fn(&mut [f64; 3], f64, u64, f64)) {
        for (dtype, tolerance) in [(DType::F64, 1e-14), (DType::F32, 1e-6)] {
            let mut module = two(dtype);
            let mut optimizer = Optimizer::new(config, LearningRates::default()).unwrap();
            let mut expected = values(&module.used.val())
                .into_iter()
                .map(|p| [p, 0.0, 0.0])
                .collect::<Vec<_>>();
            for t in 1..=5 {
                let lr = 0.1 / t as f64;
                let mut gradients = Gradients::default();
                gradients.insert(
                    "used",
                    tensor(gradient(t).to_vec(), [4], &Device::default(), dtype),
                );
                module = optimizer.step(module, &gradients, lr);
                expected
                    .iter_mut()
                    .zip(gradient(t))
                    .for_each(|(state, g)| reference(state, g, t, lr));
                for (found, [p, ..]) in values(&module.used.val()).iter().zip(&expected) {
                    assert!(
                        (found - p).abs() <= tolerance * p.abs().max(1.0),
                        "{config:?}, step {t}: {found} against {p}"
                    );
                }
            }
            assert_eq!(values(&module.idle.val()), [1.0]);
            assert!(module.used.is_require_grad() && module.used.val().is_autodiff());
        }
    }

    #[test]
    fn adamw_takes_pytorchs_steps() {
        for weight_decay in [0.0, 0.01, 0.5] {
            let config = AdamW {
                weight_decay,
                ..AdamW::default()
            };
            agrees(OptimizerConfig::AdamW(config), |[p, m, v], g, t, lr| {
                *p *= 1.0 - lr * weight_decay;
                *m = 0.9 * *m + (1.0 - 0.9) * g;
                *v = 0.999 * *v + (1.0 - 0.999) * g * g;
                let (c1, c2) = (1.0 - 0.9f64.powi(t as i32), 1.0 - 0.999f64.powi(t as i32));
                *p -= lr / c1 * *m / (v.sqrt() / c2.sqrt() + 1e-8);
            });
        }
    }

    #[test]
    fn sgd_takes_pytorchs_steps() {
        for (momentum, nesterov, weight_decay) in [
            (0.0, false, 0.0),
            (0.0, false, 0.1),
            (0.9, false, 0.0),
            (0.9, true, 0.1),
        ] {
            agrees(
                OptimizerConfig::Sgd(Sgd {
                    momentum,
                    nesterov,
                    weight_decay,
                }),
                |[p, v, _], g, t, lr| {
                    let g = g + weight_decay * *p;
                    *v = if t == 1 { g } else { momentum * *v + g };
                    *p -= lr * if nesterov { g + momentum * *v } else { *v };
                },
            );
        }
    }

    #[test]
    fn rates_follow_the_path() {
        let rates = LearningRates::new(&[RatePattern {
            pattern: "used".to_owned(),
            factor: 0.0,
        }])
        .unwrap();
        let mut optimizer = Optimizer::new(OptimizerConfig::default(), rates).unwrap();
        let before = two(DType::F64);
        let mut gradients = Gradients::default();
        gradients.insert(
            "used",
            tensor(gradient(1).to_vec(), [4], &Device::default(), DType::F64),
        );
        let after = optimizer.step(before.clone(), &gradients, 1.0);
        assert_eq!(values(&after.used.val()), values(&before.used.val()));
    }

    #[test]
    fn settings_are_checked_and_read_strictly() {
        let bad = OptimizerConfig::Sgd(Sgd {
            nesterov: true,
            ..Sgd::default()
        });
        assert!(
            Optimizer::new(bad, LearningRates::default())
                .unwrap_err()
                .to_string()
                .contains("momentum")
        );
        let read = |text| serde_json::from_str::<OptimizerConfig>(text);
        assert_eq!(
            read(r#"{"kind": "adamw"}"#).unwrap(),
            OptimizerConfig::default()
        );
        assert!(
            read(r#"{"kind": "adamw", "betas": 1}"#)
                .unwrap_err()
                .to_string()
                .contains("betas")
        );
    }
}
