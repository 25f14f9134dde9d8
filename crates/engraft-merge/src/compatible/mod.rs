//! Hugging Face PEFT's own combinations, number for number: `add_weighted_adapter` and
//! `convert_to_lora` of PEFT 0.21.2.
//!
//! Combining factors one by one is not combining updates: (sum_i a_i A_i)(sum_i b_i B_i) has a cross-term
//! for every pair of adapters. This module is for results that must equal PEFT's; the pipeline merges
//! updates.

mod combination;
mod convert;
mod factors;
mod platform;
mod rules;
mod vectors;

use std::collections::BTreeSet;

use serde_json::{Value, json};

pub use combination::{Combination, MajoritySign, Options};
pub use convert::{Kept, convert_to_lora, lora_config, subtract_init};
pub use platform::{Draw, Drawn, Platform, Seeded};

use crate::adapter::{Adapter, Config};
use crate::error::{Error, Result};
use crate::file::HostTensor;

/// Takes the tensors of a result under PEFT's names, one at a time.
pub type Sink<'a> = &'a mut dyn FnMut(&str, HostTensor) -> Result<()>;

/// The adapter that PEFT's `add_weighted_adapter` makes of some LoRA or IA3 adapters: its configuration,
/// and its tensors into `sink`.
///
/// # Errors
/// What PEFT refuses (ranks that differ where factors are combined, different types, stacked parameters),
/// and what it would silently drop (magnitudes of DoRA, modules saved whole): the message says what
/// would work.
pub fn add_weighted_adapter(
    adapters: &[(&Adapter, f64)],
    options: &Options,
    platform: &mut dyn Platform,
    sink: Sink<'_>,
) -> Result<Config> {
    let Some((first, _)) = adapters.first() else {
        return Err(Error::input("no adapters to combine"));
    };
    for (adapter, weight) in adapters {
        if !weight.is_finite() {
            let reason = format!("its weight is {weight}, expected a finite number");
            return Err(Error::adapter(adapter.name(), reason));
        }
        if adapter.type_name() != first.type_name() {
            let reason = format!(
                "is {} and `{}` is {}: PEFT combines adapters of one type, LoRA or IA3; without `compatible` they merge as updates",
                adapter.type_name(),
                first.name(),
                first.type_name()
            );
            return Err(Error::adapter(adapter.name(), reason));
        }
        let targets: BTreeSet<&String> = adapter.modules().keys().collect();
        let own = |path: &str| {
            let module = path.rsplit_once('.').map_or(path, |(module, _)| module);
            targets.contains(&module.to_owned())
        };
        if let Some(path) = adapter.saved().find(|path| !own(path)) {
            let reason = format!(
                "has {path} whole, which PEFT's combination would drop: leave out `compatible`"
            );
            return Err(Error::adapter(adapter.name(), reason));
        }
    }
    match first.type_name() {
        "LORA" => factors::combine(adapters, options, platform, sink),
        "IA3" => vectors::combine(adapters, sink),
        other => Err(Error::adapter(
            first.name(),
            format!(
                "is {other}: PEFT combines LoRA and IA3 only; without `compatible` it merges as an update"
            ),
        )),
    }
}

/// The modules of any of the adapters.
fn modules(adapters: &[(&Adapter, f64)]) -> BTreeSet<String> {
    let all = adapters
        .iter()
        .flat_map(|(adapter, _)| adapter.modules().keys());
    all.cloned().collect()
}

/// All adapters' values of a key that selects modules: the union of lists, or the alternatives of regular
/// expressions.
fn union(adapters: &[(&Adapter, f64)], key: &str) -> Result<Value> {
    let values = adapters
        .iter()
        .map(|(adapter, _)| adapter.config().keys().get(key).unwrap_or(&Value::Null));
    let values: Vec<&Value> = values.collect();
    if values.iter().all(|value| value.is_string()) {
        let each = values
            .iter()
            .map(|value| format!("({})", value.as_str().unwrap_or_default()));
        return Ok(json!(each.collect::<Vec<_>>().join("|")));
    }
    let lists: Option<Vec<&Vec<Value>>> = values.iter().map(|value| value.as_array()).collect();
    let Some(lists) = lists else {
        let reason = format!("`{key}` is a list in some adapters and a pattern in others");
        return Err(Error::input(reason));
    };
    let names: BTreeSet<&str> = lists
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    Ok(json!(names))
}
