//! The golden vectors of PEFT and its files, on every method that Engraft has.

mod conversion;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData, Tolerance};
use engraft_core::{
    Adaptable, Adapted, Injection, Linear, Mode, ModelShapes, Part, Slots, file, params,
};
use engraft_peft::vectors::{self, CaseReport, Outcome};
use engraft_peft::{PeftAdapter, export, load, save};
use engraft_tensor::Key;
use serde_json::Value;
use tempfile::TempDir;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

/// Methods of the vectors that are not here yet. No case of any other is skipped.
const LATER: [&str; 3] = ["arrow", "poly", "xlora"];

#[test]
fn every_case_passes_and_none_is_skipped_without_need() {
    let reports = vectors::run(&directory(), None, &Device::default(), &engraft::method).unwrap();
    reports.iter().for_each(|report| println!("{report}"));
    let failed: Vec<&CaseReport> = reports
        .iter()
        .filter(|report| matches!(report.outcome, Outcome::Failed(_)))
        .collect();
    assert!(
        failed.is_empty(),
        "{} of {} cases failed: {failed:#?}",
        failed.len(),
        reports.len()
    );

    let skipped: Vec<_> = reports
        .iter()
        .filter(|report| match &report.outcome {
            Outcome::Skipped(_) => !LATER.contains(&report.method.as_str()),
            _ => false,
        })
        .collect();
    assert!(skipped.is_empty(), "skipped without need: {skipped:#?}");
    let passed = reports
        .iter()
        .filter(|report| report.outcome == Outcome::Passed);
    assert!(passed.count() > 0, "nothing passed");
}

#[test]
fn a_filter_keeps_the_cases_of_one_method_by_either_name() {
    let run = |name| {
        vectors::run(
            &directory(),
            Some(name),
            &Device::default(),
            &engraft::method,
        )
        .unwrap()
    };
    assert!(
        run("pissa")
            .iter()
            .all(|report| report.engraft.as_deref() == Some("lora"))
    );
    assert!(
        run("dora")
            .iter()
            .any(|report| report.outcome == Outcome::Passed)
    );
}

/// A model of one layer, `fc1`.
#[derive(Module, Debug)]
struct Model {
    fc1: Linear,
}

impl Adaptable for Model {
    fn shapes(&self) -> ModelShapes {
        let mut shapes = ModelShapes::default();
        let [d_in, d_out] = self.fc1.weight.dims();
        shapes.push_linear("fc1", d_in, d_out, self.fc1.bias.is_some(), Part::Body);
        shapes
    }
    fn slots(&mut self, slots: &mut Slots<'_>) {
        slots.linear("fc1", &mut self.fc1);
    }
}

/// A layer on which adapters of 24 inputs and 16 outputs fit.
fn model() -> Adapted<Model> {
    Adapted::new(Model {
        fc1: Linear::new(
            24,
            16,
            true,
            &Key::new(1),
            &Device::default().autodiff(),
            DType::F32,
        ),
    })
}

fn output(adapted: &Adapted<Model>) -> TensorData {
    let x = Tensor::<2>::ones([3, 24], (&Device::default().autodiff(), DType::F32));
    adapted
        .model
        .fc1
        .forward(x, &adapted.ctx(Mode::Eval))
        .to_data()
}

/// An adapter of PEFT in a directory of its own, from a case.
fn peft_directory(
    case: &str,
    change: impl FnOnce(&mut Value, &mut BTreeMap<String, TensorData>),
) -> TempDir {
    let stem = directory().join("cases").join(case);
    let text = std::fs::read_to_string(stem.with_extension("json")).unwrap();
    let mut config = serde_json::from_str::<Value>(&text).unwrap()["adapter_config"].take();
    let (tensors, _) = file::read_tensors(&stem.with_extension("safetensors")).unwrap();
    let mut own = tensors
        .into_iter()
        .filter_map(|(key, data)| Some((key.strip_prefix("adapter.")?.to_owned(), data)))
        .collect();
    change(&mut config, &mut own);
    let at = tempfile::tempdir().unwrap();
    PeftAdapter::from_parts(config.try_into().unwrap(), own)
        .write(at.path())
        .unwrap();
    at
}

fn keys(directory: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(directory.join(engraft_peft::CONFIG_FILE)).unwrap();
    serde_json::from_str::<BTreeMap<String, Value>>(&text)
        .unwrap()
        .into_keys()
        .collect()
}

#[test]
fn a_saved_adapter_loads_again_with_the_same_output() {
    for case in [
        "lora__r4_24x16_b",
        "dora__r4_24x16_b",
        "eva__rho1_whiten_24x16",
        "monteclora__eval_24x16",
        "velora__batch_average_g4_24x16",
        "vera__not_saved_projection",
        "oft__adjusted_b5_in24",
        "boft__m1_b4_24x16",
        "lokr__r2_24x16",
        "shira__r2_24x16",
        "ia3__out_24x16",
        "vblora__topk2_24x16",
        "vblora__only_topk_saved",
        "randlora__r4_24x16",
        "pvera__r8_24x16",
        "unilora__24x16",
        "tinylora__r2_u8_24x16",
        "lily__r4_b3_24x16",
        "c3a__b8_24x16",
        "fourierft__n50_24x16",
        "waveft__db1_24x16",
    ] {
        let from = peft_directory(case, |_, _| {});
        let (mut first, mut second, mut third) = (model(), model(), model());
        load(&mut first, "mine", from.path(), engraft::method).unwrap();
        let to = tempfile::tempdir().unwrap();
        save(&first, "mine", to.path()).unwrap();
        assert_eq!(
            keys(to.path()),
            keys(from.path()),
            "{case}: PEFT's configuration has exactly these keys"
        );
        assert_eq!(
            load(&mut second, "other", to.path(), engraft::method).unwrap(),
            Vec::<String>::new(),
            "{case}"
        );
        assert_eq!(output(&first), output(&second), "{case}");
        // Engraft's own file keeps what PEFT's gave, projections included.
        let own = to.path().join("own.safetensors");
        first.save_adapter("mine", &own).unwrap();
        third.load_adapter(&own, engraft::method).unwrap();
        assert_eq!(output(&first), output(&third), "{case}");
    }
}

#[test]
fn what_cannot_be_read_is_named_and_leaves_the_model_alone() {
    type Change = fn(&mut Value, &mut BTreeMap<String, TensorData>);
    let changes: [(Change, &str); 7] = [
        (
            |config, _| config["peft_type"] = "LORAX".into(),
            "`LORAX` is not supported yet; supported: ",
        ),
        (
            |config, _| config["r"] = 3.into(),
            "lora_A.weight has shape [4, 24], expected [3, 24]",
        ),
        (
            |config, _| config["target_modules"] = vec!["fc9"].into(),
            "`fc9` matches no layer; nearest: fc1",
        ),
        (
            |config, _| config["new_option"] = 1.into(),
            "unknown key `new_option` = 1",
        ),
        (
            |config, _| config["init_lora_weights"] = "corda".into(),
            "the original base does not determine it: it depends on the calibration data",
        ),
        (
            |_, tensors| drop(tensors.remove("base_model.model.fc1.lora_B.weight")),
            "base_model.model.fc1.lora_B.weight is missing",
        ),
        (
            |_, tensors| {
                drop(tensors.insert(
                    "base_model.model.fc1.odd".to_owned(),
                    TensorData::zeros::<f32, _>([1]),
                ))
            },
            "base_model.model.fc1.odd is unexpected",
        ),
    ];
    for (change, expected) in changes {
        let from = peft_directory("lora__r4_24x16_b", change);
        let mut adapted = model();
        let before = output(&adapted);
        let message = load(&mut adapted, "mine", from.path(), engraft::method)
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{message}");
        assert_eq!(adapted.attachments().count(), 0);
        assert_eq!(output(&adapted), before);
    }
}

#[test]
fn inits_that_the_original_base_determines_are_made_again_on_it() {
    let cases = [
        "pissa__full_r4_32x24_b",
        "olora__r4_32x24",
        "kasa__r4_32x24",
        "mica__r4_32x24",
        "loftq__nf4_iter3_64x32",
    ];
    for case in cases {
        let stem = directory().join("cases").join(case);
        let (tensors, _) = file::read_tensors(&stem.with_extension("safetensors")).unwrap();
        let at = (&Device::default(), DType::F32);
        let weight = Tensor::<2>::from_data(tensors["base.fc1.weight"].clone(), at);
        let bias = Tensor::<1>::from_data(tensors["base.fc1.bias"].clone(), at);
        let fresh = || {
            let fc1 = Linear::from_tensors(weight.clone().transpose(), Some(bias.clone()));
            Adapted::new(Model { fc1 })
        };
        let x = Tensor::<3>::from_data(tensors["in.x"].clone(), at);
        let expected = Tensor::<3>::from_data(tensors["out.y"].clone(), at);
        let distance = |adapted: &Adapted<Model>| {
            let y = adapted
                .model
                .fc1
                .forward(x.clone(), &adapted.ctx(Mode::Eval));
            (y - expected.clone()).abs().max().into_scalar::<f32>()
        };
        let from = peft_directory(case, |_, _| {});
        let (mut first, mut second) = (fresh(), fresh());
        load(&mut first, "mine", from.path(), engraft::method).unwrap();
        assert!(distance(&first) < 2e-5, "{case}: {}", distance(&first));
        let to = tempfile::tempdir().unwrap();
        save(&first, "mine", to.path()).unwrap();
        assert_eq!(keys(to.path()), keys(from.path()), "{case}");
        load(&mut second, "other", to.path(), engraft::method).unwrap();
        assert!(distance(&second) < 2e-5, "{case}: {}", distance(&second));
    }
}

#[test]
fn a_method_made_here_is_written_and_read_again() {
    for (id, config) in [
        ("lora-plus", serde_json::json!({"rank": 4, "bias": true})),
        (
            "lora-fa",
            serde_json::json!({"rank": 4, "init": "orthogonal"}),
        ),
        ("pissa", serde_json::json!({"rank": 4})),
        (
            "olora",
            serde_json::json!({"rank": 4, "scaling": "rank-stabilised"}),
        ),
        (
            "bd-lora",
            serde_json::json!({"rank": 4, "blocks": 2, "block-diagonal": "a"}),
        ),
    ] {
        let (mut first, mut second) = (model(), model());
        let method = engraft::method(id, &config).unwrap();
        first
            .attach("mine", &method, &Injection::default())
            .unwrap();
        first.model = params::write(
            first.model.clone(),
            params::read(&first.model, |path| path.ends_with(".b"))
                .into_iter()
                .map(|(path, b)| {
                    let moved = b
                        .iter::<f32>()
                        .enumerate()
                        .map(|(i, b)| b + 0.01 * i as f32);
                    (path, TensorData::new(moved.collect(), b.shape().to_vec()))
                })
                .collect(),
        );
        let to = tempfile::tempdir().unwrap();
        save(&first, "mine", to.path()).unwrap();
        load(&mut second, "mine", to.path(), engraft::method).unwrap();
        assert_ne!(output(&first), output(&model()), "{id}");
        output(&first).assert_approx_eq::<f32>(&output(&second), Tolerance::absolute(2e-6));
    }
    let refused = engraft::method("pissa", &serde_json::json!({"rank": 4, "niter": 2})).unwrap();
    let mut adapted = model();
    adapted
        .attach("mine", &refused, &Injection::default())
        .unwrap();
    let message = export(&adapted, "mine", false).unwrap_err().to_string();
    assert!(message.contains("randomised SVD"), "{message}");
}
