//! Grafts on a module that knows nothing of slots.

use burn::module::Module;
use burn::nn;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{DType, Device, Tensor};
use engraft_core::{AnyMethod, Error, Method, Targets, params, reparameterize};
use engraft_testkit::{compare, random};

use crate::toys::{OffsetConfig, ScaleConfig, SharedConfig, ShiftConfig};

#[derive(Module, Debug)]
struct Plain {
    first: nn::Linear,
    second: nn::Linear,
}

impl Plain {
    fn new() -> Self {
        let device = Device::default().autodiff();
        let plain = Self {
            first: nn::LinearConfig::new(4, 6).init(&device),
            second: nn::LinearConfig::new(6, 3).init(&device),
        };
        random::perturb_trained(plain, 0.1, 0)
    }

    fn forward(&self) -> Tensor<2> {
        let x = random::normal([5, 4], "x", &self.first.weight.val().device(), DType::F32);
        self.second.forward(self.first.forward(x).tanh())
    }
}

fn method(config: &impl Method) -> AnyMethod {
    AnyMethod::new(config).unwrap()
}

fn adapted(plain: Plain) -> Plain {
    reparameterize(
        plain,
        &method(&ScaleConfig::of_rank(1)),
        &Targets::names(&["first"]),
        0,
    )
    .unwrap()
}

#[test]
fn it_starts_at_the_identity_trains_the_adapter_alone_and_merges() {
    let plain = Plain::new();
    let base = plain.forward();
    let mut model = adapted(plain.clone());
    compare::close("at init", &model.forward(), &base, 6).unwrap();
    let trained: Vec<String> = params::list(&model)
        .into_iter()
        .filter(|found| found.trained)
        .map(|found| found.path)
        .collect();
    assert_eq!(trained, ["first.weight.engraft.adapter.g"]);

    let mut optimizer = AdamWConfig::new().with_weight_decay(0.1).init();
    for _ in 0..5 {
        let gradients =
            GradientsParams::from_grads(model.forward().powi_scalar(2).sum().backward(), &model);
        model = optimizer.step(1e-2, model, gradients);
    }
    let (before, after) = (
        params::read(&plain, |_| true),
        params::read(&model, |_| true),
    );
    for (path, data) in &before {
        assert_eq!(data, &after[path], "{path}");
    }
    assert!(compare::max_difference(&model.forward(), &base) > 1e-3);

    let merged = model.valid().materialize();
    assert_eq!(params::list(&merged).len(), params::list(&plain).len());
    compare::close("merged", &merged.forward(), &model.valid().forward(), 6).unwrap();
}

#[test]
fn a_second_application_is_refused() {
    let error = reparameterize(
        adapted(Plain::new()),
        &method(&ScaleConfig::of_rank(1)),
        &Targets::default(),
        0,
    )
    .unwrap_err();
    assert!(matches!(error, Error::AlreadyAdapted { .. }), "{error}");
}

#[test]
fn what_the_hook_cannot_do_is_refused_with_the_reason() {
    for (method, reason) in [
        (method(&OffsetConfig {}), "changes the bias"),
        (
            method(&ScaleConfig {
                offset: true,
                ..ScaleConfig::of_rank(1)
            }),
            "adds a bias",
        ),
        (method(&SharedConfig {}), "shares state"),
        (method(&ShiftConfig {}), "not a graft on layers alone"),
    ] {
        let message = reparameterize(Plain::new(), &method, &Targets::default(), 0)
            .unwrap_err()
            .to_string();
        assert!(message.contains(reason), "{message}");
    }
    let unfit = reparameterize(
        Plain::new(),
        &method(&ScaleConfig::of_rank(5)),
        &Targets::names(&["second"]),
        0,
    );
    assert!(matches!(unfit, Err(Error::Inadmissible { .. })));
    let missing = reparameterize(
        Plain::new(),
        &method(&ScaleConfig::of_rank(1)),
        &Targets::names(&["frist"]),
        0,
    )
    .unwrap_err()
    .to_string();
    assert!(missing.contains("nearest: first"), "{missing}");
}
