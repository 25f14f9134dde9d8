use engraft_core::{Adaptable, Slot, Slots};
use engraft_kernels::{NumberFormat, Quantisation};
use engraft_tensor::ops::QuantisedWeight;

use super::*;

/// Each layer's weight as numbers, and whether it is quantised.
fn weights(model: &Pretrained) -> BTreeMap<String, (burn::tensor::Tensor<2>, bool)> {
    let mut found = BTreeMap::new();
    model.clone().slots(&mut Slots::new(&mut |path, slot| {
        if let Slot::Linear(linear) = slot {
            let quantised = linear.weight.as_quantised().is_some();
            found.insert(path.to_owned(), (linear.weight.val(), quantised));
        }
    }));
    found
}

#[test]
fn linear_layers_inside_blocks_are_quantised_in_the_order_of_pytorch() {
    for name in ["bert_cls", "gpt2", "llama", "vit"] {
        for format in [NumberFormat::Nf4, NumberFormat::Int8] {
            let how = Quantisation {
                double: true,
                ..Quantisation::new(format)
            };
            let full = load(&vectors(name), &options()).unwrap();
            let options = options().with_quantisation(Some(how));
            let model = load(&vectors(name), &options).unwrap();
            let (full, found) = (weights(&full), weights(&model));
            let mut report = model.report().quantised.iter();
            for (path, (weight, quantised)) in &found {
                let inside = engraft_core::layer_index(path).is_some();
                assert_eq!(*quantised, inside, "{name} {path}");
                let expected = match inside {
                    false => full[path].0.clone(),
                    true => {
                        let weight = QuantisedWeight::new(&full[path].0, how).unwrap();
                        weight.dense(&Device::default(), DType::F32)
                    }
                };
                assert_eq!(weight.to_data(), expected.to_data(), "{name} {path}");
            }
            let count = found.values().filter(|(_, quantised)| *quantised).count();
            assert!(count > 0 && report.len() == count);
            let most = if format == NumberFormat::Nf4 {
                0.2
            } else {
                0.02
            };
            assert!(report.all(|layer| layer.error() > 0.0 && layer.error() < most));
            assert!(
                model
                    .report()
                    .quantised
                    .iter()
                    .all(|layer| layer.bytes * 3 < layer.dense_bytes)
            );

            // Saved, it is the numbers that the weights stand for.
            let copy = tempfile::tempdir().unwrap();
            model.save(copy.path()).unwrap();
            let again = weights(&load(copy.path(), &super::options()).unwrap());
            for (path, (weight, _)) in &again {
                assert_eq!(weight.to_data(), found[path].0.to_data(), "{name} {path}");
            }
        }
    }
}

#[test]
fn what_a_quantised_model_computes_is_near() {
    let path = vectors("llama");
    let ids = TensorData::new((1..9).collect::<Vec<i64>>(), [2, 4]);
    let text = engraft_core::Text::new(burn::tensor::Tensor::from_data(ids, &Device::default()));
    let run = |how: Option<Quantisation>| {
        let model = load(&path, &options().with_quantisation(how)).unwrap();
        let output = model.forward(&text, &Ctx::default()).unwrap();
        engraft_tensor::bridge::values(&output.hidden)
    };
    let expected = run(None);
    let distance = |format| {
        let found = run(Some(Quantisation::new(format)));
        let pairs = found.iter().zip(&expected);
        let lost: f64 = pairs.map(|(a, b)| (a - b).powi(2)).sum();
        (lost / expected.iter().map(|b| b * b).sum::<f64>()).sqrt()
    };
    let (four, eight) = (distance(NumberFormat::Nf4), distance(NumberFormat::Int8));
    assert!(
        eight > 0.0 && eight < 0.05 && eight < four && four < 0.5,
        "{eight} {four}"
    );
    let none = Quantisation {
        block: 0,
        ..Quantisation::default()
    };
    let error = load(&path, &options().with_quantisation(Some(none))).unwrap_err();
    assert!(error.to_string().contains("block 0"), "{error}");
}
