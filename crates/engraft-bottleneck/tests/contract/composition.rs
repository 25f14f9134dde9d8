//! Compositions against what their blocks say, at sublayers and on linear layers.

use burn::tensor::{DType, Device, Tensor};
use engraft_bottleneck::{AdapterFusionConfig, BottleneckSeriesConfig, ZeroI2vConfig};
use engraft_core::{
    Adapted, AnyMethod, Composition, Injection, LayerShape, Mode, Setup, Sublayers, Targets,
};
use engraft_testkit::{Harness, compare, random};
use serde_json::json;

const ROWS: usize = 4;
const TOKENS: usize = 3;

/// A model with series adapters a, b and c at its last sublayer and a fusion f of them, and linear
/// adapters p and q on its second layer.
fn model() -> Adapted<Harness> {
    let layer = LayerShape::linear("", 6, 8, true);
    let device = Device::default().autodiff();
    let mut model = Adapted::new(Harness::new(&layer, 0, &device, DType::F64));
    let series = BottleneckSeriesConfig {
        after: Sublayers::FeedForward,
        width: Some(3),
        ..BottleneckSeriesConfig::default()
    };
    let linear = ZeroI2vConfig {
        dropout: 0.3,
        ..ZeroI2vConfig::default()
    };
    let fusion = AdapterFusionConfig {
        after: Sublayers::FeedForward,
        ..AdapterFusionConfig::default()
    };
    let second: Targets = serde_json::from_value(json!(["fc2"])).unwrap();
    let methods = [
        ("a", AnyMethod::new(&series)),
        ("b", AnyMethod::new(&series)),
        ("c", AnyMethod::new(&series)),
        ("f", AnyMethod::new(&fusion)),
        ("p", AnyMethod::new(&linear)),
        ("q", AnyMethod::new(&linear)),
    ];
    for (seed, (name, method)) in methods.into_iter().enumerate() {
        let mut injection = Injection::new(seed as u64);
        if ["p", "q"].contains(&name) {
            injection = injection.targets(second.clone());
        }
        model.attach(name, &method.unwrap(), &injection).unwrap();
    }
    random::perturb_trained(model, 0.3, 1)
}

fn input(rows: usize) -> Tensor<3> {
    random::normal(
        [rows, TOKENS, 6],
        "x",
        &Device::default().autodiff(),
        DType::F64,
    )
}

fn output(model: &Adapted<Harness>, x: &Tensor<3>) -> Tensor<3> {
    let y = model.model.forward(x.clone(), &model.ctx(Mode::Eval));
    y.detach()
}

fn setup(value: serde_json::Value) -> Setup {
    serde_json::from_value(value).unwrap()
}

fn under(value: serde_json::Value, x: &Tensor<3>) -> Tensor<3> {
    let mut model = model();
    model.compose(&setup(value)).unwrap();
    output(&model, x)
}

fn close(what: &str, found: &Tensor<3>, expected: &Tensor<3>) {
    compare::close(what, found, expected, 40).unwrap();
}

#[test]
fn rows_and_positions_are_shared_out_in_order() {
    let x = input(ROWS);
    for [one, two] in [["a", "b"], ["p", "q"]] {
        let (first, second) = (under(json!(one), &x), under(json!(two), &x));
        let rows = json!({"batch-split": [{"of": one, "size": 1}, {"of": two, "size": 3}]});
        let expected = Tensor::cat(
            vec![
                first.clone().narrow(0, 0, 1),
                second.clone().narrow(0, 1, 3),
            ],
            0,
        );
        close("batch-split", &under(rows, &x), &expected);

        let positions = json!({"split": [{"of": one, "size": 2}, {"of": two, "size": 1}]});
        let expected = Tensor::cat(
            vec![
                first.clone().narrow(1, 0, 2),
                second.clone().narrow(1, 2, 1),
            ],
            1,
        );
        close("split", &under(positions, &x), &expected);

        let parallel = setup(json!({"parallel": [one, two, {"sum": [one, two]}]}));
        let mut model = model();
        model.compose(&parallel).unwrap();
        let copies = parallel.replicate(x.clone());
        assert_eq!(copies.dims(), [3 * ROWS, TOKENS, 6]);
        assert!(parallel.check_batch([3 * ROWS, TOKENS]).is_ok());
        let both = under(json!({"sum": [one, two]}), &x);
        let expected = Tensor::cat(vec![first, second, both], 0);
        close("parallel", &output(&model, &copies), &expected);
    }
}

#[test]
fn changes_add_are_averaged_and_follow_one_another() {
    let x = input(ROWS);
    let base = under(json!({"sum": []}), &x);
    for [one, two] in [["a", "b"], ["p", "q"]] {
        let (first, second) = (under(json!(one), &x), under(json!(two), &x));
        // The last sublayer is linear behind its adapters, and so is the model behind its second
        // layer only up to the norm: there the layers themselves are compared below.
        if one == "a" {
            let sum = first.clone() + second.clone() - base.clone();
            close("sum", &under(json!({"sum": [one, two]}), &x), &sum);
            let mean = first * 0.25 + second * 0.75;
            let weights = json!({"average": {"of": [one, two], "weights": [1.0, 3.0]}});
            close("average", &under(weights, &x), &mean);
        }
        let stack = under(json!({"stack": [one, two]}), &x);
        let turned = under(json!({"stack": [two, one]}), &x);
        assert!(compare::max_difference(&stack, &turned) > 1e-6);
    }
    // On a linear layer the weight form says the same as the activation form.
    for value in [
        json!({"average": {"of": ["p", "q"], "weights": [2.0, 1.0], "normalise": false}}),
        json!({"sum": ["p", {"stack": ["q", "p"]}]}),
        json!({"stack": ["p", {"average": {"of": ["p", "q"]}}, "q"]}),
    ] {
        let mut model = model();
        model.compose(&setup(value.clone())).unwrap();
        let ctx = model.ctx(Mode::Eval);
        let layer = &model.model.block.fc2;
        let x: Tensor<2> = random::normal([5, 6], "y", &x.device(), DType::F64);
        let whole = layer.effective(&ctx).unwrap().forward(x.clone());
        compare::close(&value.to_string(), &layer.forward(x, &ctx), &whole, 40).unwrap();
    }
}

#[test]
fn a_fusion_attends_over_adapters_and_is_trained_alone() {
    let x = input(ROWS);
    let fused = json!({"fuse": {"by": "f", "of": ["a", "b", {"stack": ["c", "a"]}]}});
    let mut model = model();
    model.compose(&setup(fused.clone())).unwrap();
    // By hand, from the adapters' own changes to the model's output behind a linear head.
    let y = output(&model, &x);
    let single = under(json!({"fuse": {"by": "f", "of": ["a"]}}), &x);
    assert!(compare::max_difference(&y, &single) > 1e-6);
    // One adapter fused alone has all the attention: its change through V.
    let base = under(json!({"sum": []}), &x);
    assert!(compare::max_difference(&single, &base) > 1e-6);
    for name in ["a", "b", "c", "p", "q"] {
        model.freeze(name).unwrap();
    }
    assert!(
        model
            .trainable()
            .iter()
            .all(|found| found.path.contains(".adapters.f."))
    );
    let y = model.model.forward(x.clone(), &model.ctx(Mode::Eval));
    let gradients = engraft_core::Gradients::backward(&y.sum(), &model);
    assert_eq!(gradients.paths().count(), 5);

    // Nothing fuses: a series adapter, or no fusion where the adapters are.
    for value in [
        json!({"fuse": {"by": "c", "of": ["a", "b"]}}),
        json!({"fuse": {"by": "f", "of": ["p", "q"]}}),
    ] {
        let error = model.compose(&setup(value)).unwrap_err().to_string();
        assert!(error.contains("fus"), "{error}");
    }
    compare::identical("after refusals", &output(&model, &x), &under(fused, &x)).unwrap();
}

#[test]
fn what_does_not_fit_is_refused_and_dropout_is_off_below_the_top() {
    let mut model = model();
    let x = input(ROWS);
    model.compose(&setup(json!({"stack": ["p", "q"]}))).unwrap();
    let train = |model: &Adapted<Harness>, step| {
        let ctx = model.ctx(Mode::Train { seed: 1, step });
        model.model.forward(x.clone(), &ctx).detach()
    };
    // The upper adapter has dropout; neither panics.
    assert!(compare::max_difference(&train(&model, 0), &train(&model, 1)) > 1e-9);
    for (value, reason) in [
        (json!({"stack": ["p", "nobody"]}), "nobody"),
        (
            json!({"stack": ["p", {"stack": ["q"]}]}),
            "`stack` in `stack`",
        ),
        (
            json!({"stack": [{"split": [{"of": "p", "size": 3}]}, "q"]}),
            "weight form",
        ),
    ] {
        let before = output(&model, &x);
        let error = model.compose(&setup(value)).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        compare::identical("after a refusal", &output(&model, &x), &before).unwrap();
    }
    let split = setup(json!({"split": [{"of": "a", "size": 2}]}));
    assert!(split.check_batch([ROWS, TOKENS]).is_err());
    model.activate(&["a", "b"], Composition::Stack).unwrap();
}
