//! Adapters in files: the host forms against golden vectors computed by PEFT, and merges of directories
//! into directories.

mod case;
mod collections;
mod combined;
mod made;
mod merges;
mod refusals;
mod search;

use engraft_merge::adapter::{Adapter, host_form};
use engraft_merge::base::{Base, transposed};
use engraft_merge::file::HostTensor;
use serde_json::Value;

use case::{Case, index};

/// W + dW and b + db of the host form against what PEFT merged.
#[test]
fn host_forms_are_what_peft_merges() {
    let mut compared = 0;
    let mut forms = std::collections::BTreeSet::new();
    for entry in index().iter().filter(|entry| entry["kind"] == "layer") {
        let case = Case::read(entry);
        if case.json["adapter_config"]["peft_type"] == Value::Null {
            continue;
        }
        let base = case.base();
        case.adapter(base.path(), "adapter.", &case.json["adapter_config"]);
        if host_form(base.path()).unwrap().is_err() {
            continue;
        }
        let adapter = Adapter::open("mine", base.path()).unwrap();
        let opened = Base::open(base.path()).unwrap();
        for module in adapter.modules().keys() {
            let name = format!("merged.{module}.weight");
            let Some(merged) = case.tensor(&name) else {
                continue;
            };
            let layout = &adapter.modules()[module].layout;
            let weight = opened.weight(module, layout).unwrap();
            let update = match adapter.update(module, Some(&opened)) {
                Err(error) if error.to_string().contains("only vectors of linear layers") => {
                    continue;
                }
                update => update.unwrap(),
            };
            let delta = update.to_dense(Some(&weight.data)).unwrap();
            let found = weight
                .data
                .iter()
                .zip(&delta.data)
                .map(|(w, d)| w + d)
                .collect();
            let found = HostTensor::new(weight.shape.clone(), found);
            let found = match layout.is_transposed() {
                true => transposed(&found),
                false => found,
            };
            case.compare(&name, &found.data, &merged);
            let bias = format!("merged.{module}.bias");
            let before = opened.bias(module).unwrap();
            if let (Some(merged), Some(before)) = (case.tensor(&bias), before) {
                let change = update
                    .bias_change(Some(&before))
                    .unwrap_or(vec![0.0; before.len()]);
                let found: Vec<f32> = match adapter.saved_tensor(&format!("{module}.bias")) {
                    Ok(saved) => saved.data,
                    Err(_) => before
                        .iter()
                        .zip(change)
                        .map(|(b, d)| b + d as f32)
                        .collect(),
                };
                case.compare(&bias, &found, &merged);
            }
            compared += 1;
            forms.insert(adapter.type_name());
        }
    }
    assert!(compared > 20, "{compared} modules were compared");
    let all = ["IA3", "LOHA", "LOKR", "LORA", "SHIRA", "VERA"];
    assert_eq!(forms.into_iter().collect::<Vec<_>>(), all);
}
