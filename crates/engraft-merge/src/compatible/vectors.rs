//! `add_weighted_adapter` of IA3: weighted sums of the vectors. Weights that do not add up to 1 scale the
//! layer itself; merging without `compatible` adds the changes l - 1 instead.

use super::{Sink, modules, union};
use crate::adapter::{Adapter, Config, MODEL};
use crate::error::{Error, Result};
use crate::file::HostTensor;

const VECTOR: &str = "ia3_l";

pub(super) fn combine(adapters: &[(&Adapter, f64)], sink: Sink<'_>) -> Result<Config> {
    let (first, _) = adapters[0];
    let config = first.config().with([
        ("target_modules", union(adapters, "target_modules")?),
        (
            "feedforward_modules",
            union(adapters, "feedforward_modules")?,
        ),
    ]);
    for module in modules(adapters) {
        let mut sum: Option<HostTensor> = None;
        for (adapter, weight) in adapters {
            if !adapter.modules().contains_key(&module) {
                continue;
            }
            let mut vector = adapter.tensor(&module, VECTOR)?;
            vector
                .data
                .iter_mut()
                .for_each(|x| *x = (f64::from(*x) * weight) as f32);
            sum = Some(match sum {
                None => vector,
                Some(sum) if sum.shape == vector.shape => {
                    let data = sum.data.iter().zip(&vector.data).map(|(a, b)| a + b);
                    HostTensor::new(sum.shape, data.collect())
                }
                Some(sum) => {
                    let reason = format!(
                        "{VECTOR} has shape {:?} and another adapter's {:?}: one scales inputs, the other outputs",
                        vector.shape, sum.shape
                    );
                    return Err(Error::module(adapter.name(), &module, reason));
                }
            });
        }
        if let Some(sum) = sum {
            sink(&format!("{MODEL}{module}.{VECTOR}"), sum)?;
        }
    }
    Ok(config)
}
