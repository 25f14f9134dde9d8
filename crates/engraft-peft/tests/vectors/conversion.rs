//! Any weight method as plain LoRA.

use burn::tensor::{DType, Device, TensorData};
use engraft_core::{Adaptable, Injection, Mode};
use engraft_peft::{Budget, Converted, load, save, to_lora};
use engraft_testkit::random;

use super::{model, output, peft_directory};

/// The largest difference, relative to the largest entry.
fn largest_difference(found: &TensorData, expected: &TensorData) -> f64 {
    let values = |data: &TensorData| data.clone().convert::<f64>().try_to_vec::<f64>().unwrap();
    let (found, expected) = (values(found), values(expected));
    let scale = expected
        .iter()
        .fold(0.0, |most: f64, value| most.max(value.abs()));
    let pairs = found.iter().zip(&expected);
    pairs.fold(0.0, |most: f64, (a, b)| most.max((a - b).abs())) / scale
}

#[test]
fn every_weight_method_converts_to_lora() {
    let layer = model().model.shapes().layers[0].clone();
    let mut converted = 0;
    for method in engraft::METHODS
        .iter()
        .flat_map(|entry| entry.examples(&layer))
    {
        let mut adapted = model();
        let calibration = adapted.calibrate(&method, &Injection::new(1), [0], |model, _| {
            let x = random::normal([4, 24], "x", &Device::default().autodiff(), DType::F32);
            let y = model.model.fc1.forward(x, &model.ctx(Mode::Eval));
            y.powi_scalar(2).sum()
        });
        let attached = calibration.and_then(|calibration| {
            adapted.attach_calibrated("mine", &method, &Injection::new(1), &calibration)
        });
        if attached.is_err() {
            // What adapts no linear layer, or several together.
            continue;
        }
        let mut adapted = random::perturb_trained(adapted, 0.1, 2);
        let expected = output(&adapted);
        match to_lora(
            &mut adapted,
            "mine",
            "lora",
            Budget::Rank(16),
            engraft::method,
        ) {
            Ok(report) => {
                converted += 1;
                let Converted { rank, error } = report["fc1"];
                assert!(rank == 16 && error < 1e-6, "{method:?}: {report:?}");
                let found = largest_difference(&output(&adapted), &expected);
                assert!(found < 1e-4, "{}: {found}", method.config());
                // Half of the rank loses exactly what it says.
                let half = to_lora(
                    &mut adapted,
                    "lora",
                    "half",
                    Budget::Rank(8),
                    engraft::method,
                );
                let kept = half.unwrap()["fc1"];
                assert!((0.0..1.0).contains(&kept.error) && kept.rank == 8);
            }
            Err(error) => {
                let updates_weights = method.meta().mergeable && method.parts().graft.is_some();
                assert!(!updates_weights, "{}: {error}", method.config());
            }
        }
    }
    assert!(converted > 100, "{converted}");
}

#[test]
fn a_conversion_keeps_the_energy_it_is_asked_for() {
    let from = peft_directory("lokr__r2_24x16", |_, _| {});
    let mut adapted = model();
    load(&mut adapted, "mine", from.path(), engraft::method).unwrap();
    let report = to_lora(
        &mut adapted,
        "mine",
        "lora",
        Budget::Energy(0.9),
        engraft::method,
    );
    let kept = report.unwrap()["fc1"];
    assert!(kept.error <= 0.1f64.sqrt() && kept.rank < 16, "{kept:?}");
    for budget in [
        Budget::Rank(0),
        Budget::Energy(0.0),
        Budget::Energy(f64::NAN),
    ] {
        assert!(to_lora(&mut adapted, "mine", "bad", budget, engraft::method).is_err());
    }
    let taken = to_lora(
        &mut adapted,
        "mine",
        "lora",
        Budget::Rank(1),
        engraft::method,
    );
    assert!(taken.is_err());
    // Written as PEFT's own type.
    let to = tempfile::tempdir().unwrap();
    save(&adapted, "lora", to.path()).unwrap();
}
