//! A model with a sum of adapters in its weights.

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use engraft_core::params;
use engraft_merge::arithmetic::Operand;
use engraft_models::Vit;

use super::train::floats;
use crate::error::{Error, Result};

/// W + dW and b + db of every module that changes. The model has weights `[in, out]`, updates have
/// `[out, in]`.
pub(super) fn applied(base: &Vit, sum: &Operand) -> Result<Vit> {
    let fields = |module: &str| [format!("{module}.weight"), format!("{module}.bias")];
    let wanted: Vec<String> = sum
        .modules
        .keys()
        .flat_map(|module| fields(module))
        .collect();
    let old = params::read(base, |path| wanted.iter().any(|name| name == path));
    let mut new = BTreeMap::new();
    for (module, update) in &sum.modules {
        let [weight, bias] = fields(module);
        let stored = &old[&weight];
        let [inputs, outputs] = [stored.shape()[0], stored.shape()[1]];
        let w = floats(stored);
        let transposed: Vec<f32> = (0..w.len())
            .map(|at| w[at % inputs * outputs + at / inputs])
            .collect();
        let change = update.to_dense(Some(&transposed)).map_err(failed)?;
        let sums = (0..w.len()).map(|at| w[at] + change.data[at % outputs * inputs + at / outputs]);
        let sums: Vec<f32> = sums.collect();
        new.insert(weight, TensorData::new(sums, [inputs, outputs]));
        let b = old.get(&bias).map(floats);
        if let (Some(b), Some(change)) = (&b, update.bias_change(b.as_deref())) {
            let sums: Vec<f32> = b.iter().zip(change).map(|(b, d)| b + d as f32).collect();
            new.insert(bias, TensorData::new(sums, [b.len()]));
        }
    }
    Ok(params::write(base.clone(), new))
}

fn failed(error: impl ToString) -> Error {
    Error::Run(error.to_string())
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Tensor};
    use engraft_core::{Ctx, Mode};
    use engraft_merge::arithmetic::Form;
    use serde_json::json;

    use super::*;
    use crate::composition::data::Source;
    use crate::composition::schema::{Method, Protocol};
    use crate::composition::train::Configured;

    fn logits(model: &Vit, images: &Tensor<2>) -> Vec<f32> {
        floats(&model.forward(images.clone(), &Ctx::default()).to_data())
    }

    /// A sum of one adapter computes what the adapter computes, whichever form; with its negation the
    /// model is the base.
    #[test]
    fn one_adapter_is_itself_and_with_its_negation_nothing() {
        let device = Device::default();
        let base = engraft_models::digits_vit(&device).unwrap();
        let source = Source::new(&base, &device).unwrap();
        let data = toml::from_str("name = \"a\"\nimages = \"mirrored\"").unwrap();
        let examples = source.training(&[&data], 5, 0).unwrap();
        let protocol: Protocol = toml::from_str(
            "seeds = [0]\nsteps = 5\nbatch_size = 20\nimages_per_class = 5\nlambdas = [0.5]",
        )
        .unwrap();
        let ia3 = json!({"include": "blocks\\..*", "config-pattern": {"fc2": {"scales": "input"}}});
        for (id, config, targets, rate) in [
            (
                "lora",
                json!({"rank": 2, "alpha": 6}),
                json!("blocks\\..*"),
                0.01,
            ),
            ("ia3", json!({}), ia3, 0.1),
        ] {
            let method = Method {
                id: id.to_owned(),
                label: id.to_owned(),
                config: config.as_object().unwrap().clone(),
                targets,
                learning_rate: rate,
            };
            let method = Configured::new(&method).unwrap();
            let autodiff = device.clone().autodiff();
            let start = engraft_models::digits_vit(&autodiff).unwrap();
            let (adapted, operand) = method
                .train(&start, ("a", &examples), &protocol, (5, 0), &autodiff)
                .unwrap();
            let images = engraft_train::Labelled::new(&examples, &device).images;
            let expected = adapted
                .model
                .forward(images.clone(), &adapted.ctx(Mode::Eval));
            let expected = floats(&expected.to_data());
            let plain = logits(&base, &images);
            let apart = |a: &[f32], b: &[f32]| {
                a.iter()
                    .zip(b)
                    .map(|(a, b)| (a - b).abs())
                    .fold(0.0, f32::max)
            };
            assert!(apart(&expected, &plain) > 0.1, "{id} learned nothing");
            for form in [Form::Exact, Form::FactorWise] {
                let one = Operand::combination(form, &[(1.0, &operand)]).unwrap();
                let found = logits(&applied(&base, &one).unwrap(), &images);
                assert!(
                    apart(&found, &expected) < 1e-3,
                    "{id} {form}: {}",
                    apart(&found, &expected)
                );
                let none = operand.minus(form, &operand).unwrap();
                let found = logits(&applied(&base, &none).unwrap(), &images);
                assert!(apart(&found, &plain) < 1e-5, "{id} {form}");
            }
        }
    }
}
