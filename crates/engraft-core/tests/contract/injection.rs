//! Attaching, refusing, removing.

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{
    Adaptable, Adapted, AnyMethod, Composition, Error, Injection, LayerShape, Mode, Targets,
};
use engraft_testkit::{Harness, compare, random};

use crate::toys::{BiasesConfig, OffsetConfig, ScaleConfig, ShiftConfig};

fn model() -> Adapted<Harness> {
    let layer = LayerShape::linear("", 6, 5, true);
    Adapted::new(Harness::new(
        &layer,
        0,
        &Device::default().autodiff(),
        DType::F64,
    ))
}

fn scale() -> AnyMethod {
    AnyMethod::new(&ScaleConfig::of_rank(1)).unwrap()
}

fn output(model: &Adapted<Harness>) -> Tensor<3> {
    let x = random::normal([2, 2, 6], "x", &Device::default().autodiff(), DType::F64);
    model.model.forward(x, &model.ctx(Mode::Eval)).detach()
}

fn trained(model: &Adapted<Harness>) -> Vec<String> {
    model
        .trainable()
        .into_iter()
        .map(|found| found.path)
        .collect()
}

#[test]
fn a_second_injection_under_one_name_is_refused() {
    let mut model = model();
    model.attach("a", &scale(), &Injection::new(0)).unwrap();
    let error = model.attach("a", &scale(), &Injection::new(0)).unwrap_err();
    assert!(matches!(error, Error::AlreadyAdapted { .. }), "{error}");
    assert_eq!(model.attachments().count(), 1);
}

#[test]
fn a_refused_injection_leaves_the_active_adapter_active() {
    let mut model = model();
    model.attach("a", &scale(), &Injection::new(0)).unwrap();
    model = random::perturb_trained(model, 0.3, 0);
    let before = output(&model);
    let unfit = AnyMethod::new(&ScaleConfig::of_rank(50)).unwrap();
    assert!(matches!(
        model.attach("b", &unfit, &Injection::new(0)),
        Err(Error::Inadmissible { .. })
    ));
    assert!(matches!(
        model.attach(
            "b",
            &scale(),
            &Injection::new(0).targets(Targets::names(&["fc3"]))
        ),
        Err(Error::NoTarget { .. })
    ));
    assert!(matches!(
        model.attach("b.c", &scale(), &Injection::new(0)),
        Err(Error::BadConfig { .. })
    ));
    compare::identical("output", &output(&model), &before).unwrap();
}

#[test]
fn an_unknown_adapter_names_the_nearest() {
    let mut model = model();
    model
        .attach("french", &scale(), &Injection::new(0))
        .unwrap();
    let message = model
        .activate(&["frensh"], Composition::Sum)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("`frensh`") && message.contains("nearest: french"),
        "{message}"
    );
    assert!(model.remove("english").is_err());
    assert!(model.counts("french").is_ok());
}

#[test]
fn removing_freezes_again_what_was_selected_unless_another_adapter_trains_it() {
    let mut model = model();
    let biases = AnyMethod::new(&BiasesConfig {}).unwrap();
    let base = output(&model);
    model
        .attach("one", &biases, &Injection::new(0).with_head())
        .unwrap();
    model
        .attach("two", &scale(), &Injection::new(0).with_head())
        .unwrap();
    assert!(trained(&model).contains(&"model.block.norm.beta".to_owned()));
    model.remove("one").unwrap();
    assert!(!trained(&model).contains(&"model.block.norm.beta".to_owned()));
    assert!(trained(&model).contains(&"model.head.weight".to_owned()));
    model.remove("two").unwrap();
    assert_eq!(trained(&model), Vec::<String>::new());
    compare::identical("output", &output(&model), &base).unwrap();
}

#[test]
fn adapters_that_train_the_same_head_keep_their_own_values_of_it() {
    let mut model = model();
    let base = output(&model);
    for (seed, name) in ["a", "b"].into_iter().enumerate() {
        let injection = Injection::new(seed as u64).with_head();
        model.attach(name, &scale(), &injection).unwrap();
        model = random::perturb_trained(model, 0.3, seed as u64);
    }
    let alone = |model: &mut Adapted<Harness>, name: &str| {
        model.activate(&[name], Composition::Sum).unwrap();
        output(model)
    };
    let (a, b) = (alone(&mut model, "a"), alone(&mut model, "b"));
    assert!(compare::max_difference(&a, &b) > 0.0);

    model.activate(&["a", "b"], Composition::Sum).unwrap();
    let both = output(&model);
    model.disable(true);
    compare::identical("disabled", &output(&model), &base).unwrap();
    model.disable(false);
    compare::identical("both, on again", &output(&model), &both).unwrap();
    compare::identical("a", &alone(&mut model, "a"), &a).unwrap();
    compare::identical("b", &alone(&mut model, "b"), &b).unwrap();

    model.activate(&["b", "a"], Composition::Sum).unwrap();
    model.remove("a").unwrap();
    compare::identical("b, a removed", &output(&model), &b).unwrap();
}

#[test]
fn a_merged_model_refuses_to_change_until_it_is_unmerged() {
    let mut model = model();
    model.attach("a", &scale(), &Injection::new(0)).unwrap();
    model = random::perturb_trained(model, 0.3, 0);
    model.merge().unwrap();
    let merged = output(&model);
    assert!(model.merge().is_err());
    assert!(model.attach("b", &scale(), &Injection::new(0)).is_err());
    assert!(model.activate(&["a"], Composition::Sum).is_err());
    compare::identical("output", &output(&model), &merged).unwrap();
    model.unmerge();
    model.attach("b", &scale(), &Injection::new(0)).unwrap();
}

#[test]
fn merging_is_all_or_nothing() {
    let mut model = model();
    model.attach("a", &scale(), &Injection::new(0)).unwrap();
    model
        .attach(
            "b",
            &AnyMethod::new(&ShiftConfig {}).unwrap(),
            &Injection::new(0),
        )
        .unwrap();
    model.activate(&["a", "b"], Composition::Sum).unwrap();
    let message = model.merge().unwrap_err().to_string();
    assert!(message.contains("`shift` at embedding"), "{message}");
    model.each_slot(|path, slot| {
        if let engraft_core::Slot::Linear(linear) = slot {
            assert!(!linear.is_merged(), "{path}");
        }
    });
}

#[test]
fn several_active_adapters_add_or_stack() {
    let mut model = model();
    for (name, seed) in [("a", 1), ("b", 2)] {
        model.attach(name, &scale(), &Injection::new(0)).unwrap();
        model = random::perturb_trained(model, 0.3, seed);
    }
    model
        .attach(
            "c",
            &AnyMethod::new(&OffsetConfig {}).unwrap(),
            &Injection::new(0),
        )
        .unwrap();
    model = random::perturb_trained(model, 0.3, 3);
    for composition in [Composition::Sum, Composition::Stack] {
        model.activate(&["a", "b", "c"], composition).unwrap();
        let active = output(&model);
        let (fc1, ctx) = (model.model.block.fc1.clone(), model.ctx(Mode::Eval));
        let base = fc1.base().weight();
        let gain = |name: &str| {
            fc1.adapters
                .get(name)
                .unwrap()
                .downcast_ref::<crate::toys::Scale>()
                .unwrap()
                .g
                .val()
                .unsqueeze::<2>()
        };
        let expected = match composition {
            Composition::Sum => base * (gain("a") + gain("b") + 1.0),
            Composition::Stack => base * (gain("a") + 1.0) * (gain("b") + 1.0),
        };
        compare::close(
            "weight",
            &fc1.effective(&ctx).unwrap().weight(),
            &expected,
            6,
        )
        .unwrap();
        let mut merged = model.clone();
        merged.merge().unwrap();
        compare::close("merged", &output(&merged), &active, 11).unwrap();
    }
}

#[test]
fn patterns_configure_layers_apart_and_excluded_ones_stay_as_they_are() {
    let mut model = model();
    let targets: Targets =
        serde_json::from_value(serde_json::json!({"rank-pattern": {"fc2": 50}})).unwrap();
    let message = model
        .attach("a", &scale(), &Injection::new(0).targets(targets))
        .unwrap_err()
        .to_string();
    assert!(message.contains("block.fc2"), "{message}");
    let targets: Targets = serde_json::from_value(serde_json::json!({"exclude": ["fc2"]})).unwrap();
    model
        .attach("a", &scale(), &Injection::new(0).targets(targets))
        .unwrap();
    assert_eq!(model.attachments().next().unwrap().layers, ["block.fc1"]);
    assert!(model.model.block.fc2.adapters.is_empty());
    assert_eq!(model.model.shapes().layers.len(), 3);
}
