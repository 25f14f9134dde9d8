//! Counted from shapes = counted in the model = counted in the file.

use engraft_core::{Adaptable, Counts, Part, Plan};

use super::case::{Case, NAME};
use super::{Outcome, ensure};

pub(super) fn check(case: &Case) -> Outcome {
    let shapes = case.base().shapes();
    let counts = case.fresh.counts(NAME)?;
    let planned = Plan::new(&case.method, &shapes, &case.injection(1))?.counts();
    ensure(planned == counts, || {
        format!("planned {planned:?}, attached {counts:?}")
    })?;

    let mut real = Counts {
        stored: case
            .fresh
            .adapter_tensors(NAME)?
            .values()
            .map(|data| data.num_elements())
            .sum(),
        ..Counts::default()
    };
    for found in case.fresh.trainable() {
        let numel: usize = found.shape.iter().product();
        let part = shapes
            .params
            .iter()
            .find(|param| found.path == format!("model.{}", param.path))
            .map(|param| param.part);
        match part {
            _ if found.path.starts_with("bank.") => real.shared += numel,
            Some(Part::Norm) => real.norms += numel,
            Some(Part::Head) => real.head += numel,
            _ => real.trainable += numel,
        }
    }
    ensure(real == counts, || {
        format!("counted {counts:?}, really {real:?}")
    })
}
