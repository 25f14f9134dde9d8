//! Batches whose rows have different adapters, and a thousand adapters on one model.

use burn::tensor::{DType, Device, Tensor};
use engraft_core::{
    Adapted, AnyMethod, Composition, Ctx, Gradients, Injection, LayerShape, Mode, RowChoice,
};
use engraft_lowrank::{DoraConfig, LoraConfig};
use engraft_testkit::{Harness, compare, random};

const TOKENS: usize = 3;

fn lora(rank: usize) -> AnyMethod {
    let config = LoraConfig {
        rank,
        bias: rank > 1,
        ..LoraConfig::default()
    };
    AnyMethod::new(&config).unwrap()
}

fn harness(dtype: DType) -> Adapted<Harness> {
    let layer = LayerShape::linear("", 12, 18, true);
    let device = Device::default().autodiff();
    Adapted::new(Harness::new(&layer, 0, &device, dtype))
}

/// A model with adapters of these methods called 0, 1, ..., moved from where they start.
fn adapted(methods: &[AnyMethod], dtype: DType) -> Adapted<Harness> {
    let mut model = harness(dtype);
    for (at, method) in methods.iter().enumerate() {
        let injection = Injection::new(at as u64);
        model.attach(&at.to_string(), method, &injection).unwrap();
    }
    random::perturb_trained(model, 0.1, 1)
}

fn input(rows: usize, dtype: DType, device: &Device) -> Tensor<3> {
    random::normal([rows, TOKENS, 12], "x", device, dtype)
}

fn names(choice: &[Option<usize>]) -> RowChoice {
    let name = |one: &Option<usize>| one.map(|at| at.to_string());
    RowChoice::new(choice.iter().map(name).collect())
}

/// One row of the batch at a time, through the adapter chosen for it.
fn separately(model: &Adapted<Harness>, x: &Tensor<3>, choice: &[Option<usize>]) -> Tensor<3> {
    let row = |(row, one): (usize, &Option<usize>)| {
        let name = one.map(|at| at.to_string());
        let names: Vec<&str> = name.as_deref().into_iter().collect();
        let mut model = model.clone();
        model.activate(&names, Composition::Sum).unwrap();
        let x = x.clone().narrow(0, row, 1);
        model.model.forward(x, &model.ctx(Mode::Eval))
    };
    Tensor::cat(choice.iter().enumerate().map(row).collect(), 0)
}

/// Additive adapters of several ranks, a batch sorted by adapter, and one that does more than add.
#[test]
fn every_row_is_what_it_is_alone() {
    let additive = [lora(1), lora(2), lora(5)];
    let with_dora = [
        lora(1),
        AnyMethod::new(&DoraConfig {
            rank: 2,
            ..DoraConfig::default()
        })
        .unwrap(),
    ];
    let cases: [(&[AnyMethod], &[Option<usize>]); 4] = [
        (&additive, &[Some(2), None, Some(0), Some(1), Some(2)]),
        (&additive, &[Some(0), Some(0), Some(1), Some(2)]),
        (&additive, &[Some(1), Some(1)]),
        (&with_dora, &[Some(1), None, Some(0), Some(1)]),
    ];
    for dtype in [DType::F32, DType::F64] {
        for (methods, choice) in cases {
            let tracked = adapted(methods, dtype);
            // The kernel runs outside autodiff, the composition inside.
            let plain = burn::module::Module::valid(&tracked);
            for (model, device) in [
                (&plain, Device::default()),
                (&tracked, Device::default().autodiff()),
            ] {
                let x = input(choice.len(), dtype, &device);
                let rows = names(choice);
                let ctx = model.ctx(Mode::Eval).with_rows(&rows);
                let mixed = model.model.forward(x.clone(), &ctx);
                compare::close("mixed", &mixed, &separately(model, &x, choice), 18).unwrap();
            }
        }
    }
}

#[test]
fn gradients_are_those_of_the_rows_alone() {
    let choice = [Some(1), None, Some(0), Some(1)];
    let model = adapted(&[lora(2), lora(3)], DType::F64);
    let x = input(choice.len(), DType::F64, &Device::default().autodiff());
    let loss = |y: Tensor<3>| y.powi_scalar(2).sum();
    let rows = names(&choice);
    let ctx = model.ctx(Mode::Eval).with_rows(&rows);
    let mixed = Gradients::backward(&loss(model.model.forward(x.clone(), &ctx)), &model);
    let alone = Gradients::backward(&loss(separately(&model, &x, &choice)), &model);
    assert_eq!(alone.paths().count(), 2 * 2 * 3);
    for path in alone.paths() {
        let (found, expected) = (mixed.get(path).unwrap(), alone.get(path).unwrap());
        compare::close(path, found, expected, 64).unwrap();
    }
}

#[test]
fn a_thousand_adapters_stay_apart() {
    const MANY: usize = 1000;
    let method = lora(2);
    let model = adapted(&vec![method.clone(); MANY], DType::F32);
    assert_eq!(model.attachments().count(), MANY);
    assert_eq!(model.trainable().len(), MANY * 2 * 3);
    let mut model = burn::module::Module::valid(&model);
    let x = input(64, DType::F32, &Device::default());
    let forward = |model: &Adapted<Harness>, ctx: &Ctx| model.model.forward(x.clone(), ctx);

    // One of a thousand computes what it computes alone.
    model.activate(&["617"], Composition::Sum).unwrap();
    let among_many = forward(&model, &model.ctx(Mode::Eval));
    let mut alone = harness(DType::F32);
    alone.attach("617", &method, &Injection::new(617)).unwrap();
    let alone = burn::module::Module::valid(&random::perturb_trained(alone, 0.1, 1));
    let expected = forward(&alone, &alone.ctx(Mode::Eval));
    compare::identical("one of many", &among_many, &expected).unwrap();
    assert_eq!(model.counts("617").unwrap(), alone.counts("617").unwrap());

    // Every row of a batch with its own.
    let choice: Vec<Option<usize>> = (0..64).map(|row| Some(row * 7 * 11 % MANY)).collect();
    let rows = names(&choice);
    let mixed = forward(&model, &model.ctx(Mode::Eval).with_rows(&rows));
    for row in [0, 13, 63] {
        let single = separately(&model, &x.clone().narrow(0, row, 1), &choice[row..row + 1]);
        compare::close("row", &mixed.clone().narrow(0, row, 1), &single, 18).unwrap();
    }

    // Taking one out leaves the others where they are, and its name is free again.
    let kept = model.adapter_tensors("999").unwrap();
    model.remove("3").unwrap();
    assert_eq!(model.adapter_tensors("999").unwrap(), kept);
    let renamed = kept
        .into_iter()
        .map(|(path, data)| (path.replace(".999.", ".3."), data))
        .collect();
    let injection = Injection::new(3);
    model.restore("3", &method, &injection, &renamed).unwrap();
    let restored = forward(&model, &model.ctx(Mode::Eval));
    model.activate(&["999"], Composition::Sum).unwrap();
    let original = forward(&model, &model.ctx(Mode::Eval));
    compare::identical("a copy of another", &restored, &original).unwrap();
    assert_eq!(model.attachments().count(), MANY);

    // What cannot be attached leaves no trace.
    let broken = model.restore("new", &method, &injection, &renamed);
    assert!(broken.is_err() && model.attachments().count() == MANY);
    let after = forward(&model, &model.ctx(Mode::Eval));
    compare::identical("after a failure", &after, &original).unwrap();
}
