//! A module is the same module after its type was forgotten.

use burn::module::{Flag, Module, ModuleVisitor, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use engraft_core::{Adapter, AnyAdapter, Ctx, FrozenBase, Result, params};

/// Parameters of every rank and kind.
#[derive(Module, Debug)]
struct Zoo {
    rank1: Param<Tensor<1>>,
    rank2: Param<Tensor<2>>,
    rank3: Param<Tensor<3>>,
    rank4: Param<Tensor<4>>,
    rank5: Param<Tensor<5>>,
    rank6: Param<Tensor<6>>,
    rank7: Param<Tensor<7>>,
    rank8: Param<Tensor<8>>,
    frozen: Param<Tensor<2>>,
    int: Param<Tensor<2, Int>>,
    bool: Param<Tensor<1, Bool>>,
    flag: Param<Flag>,
    plain: Tensor<1>,
    nested: Vec<Param<Tensor<1>>>,
}

impl Adapter for Zoo {
    fn effective(&self, base: &FrozenBase, _: &Ctx) -> Result<FrozenBase> {
        Ok(base.with_weight(base.weight() * self.sum()))
    }
}

impl Zoo {
    fn new(value: f64) -> Self {
        let device = Device::default().autodiff();
        fn float<const D: usize>(value: f64, device: &Device) -> Param<Tensor<D>> {
            Param::from_tensor(Tensor::full([2; D], value, (device, DType::F64)))
        }
        let int = TensorData::new(vec![value as i64, 2, 3, 4], [2, 2]);
        let bool = TensorData::new(vec![value > 0.0, false], [2]);
        Self {
            rank1: float(value, &device),
            rank2: float(value, &device),
            rank3: float(value, &device),
            rank4: float(value, &device),
            rank5: float(value, &device),
            rank6: float(value, &device),
            rank7: float(value, &device),
            rank8: float(value, &device),
            frozen: float(value, &device).set_require_grad(false),
            int: Param::initialized(
                burn::module::ParamId::new(),
                Tensor::from_data(int, &device),
            ),
            bool: Param::initialized(
                burn::module::ParamId::new(),
                Tensor::from_data(bool, &device),
            ),
            flag: Param::from_bool(true),
            plain: Tensor::full([2], value, (&device, DType::F64)),
            nested: vec![float(value, &device), float(value, &device)],
        }
    }

    /// The mean of every rank times the plain tensor's, [1, 1].
    fn sum(&self) -> Tensor<2> {
        fn mean<const D: usize>(param: &Param<Tensor<D>>) -> Tensor<1> {
            param.val().mean()
        }
        let ranks = mean(&self.rank1)
            + mean(&self.rank2)
            + mean(&self.rank3)
            + mean(&self.rank4)
            + mean(&self.rank5)
            + mean(&self.rank6)
            + mean(&self.rank7)
            + mean(&self.rank8);
        (ranks
            + mean(&self.nested[0]) * mean(&self.nested[1])
            + mean(&self.frozen)
            + self.plain.clone().mean())
        .unsqueeze()
    }
}

/// Paths and kinds in visiting order.
fn visited<M: Module>(module: &M) -> Vec<String> {
    #[derive(Default)]
    struct Visit(Vec<String>, Vec<String>);
    impl Visit {
        fn see(&mut self, kind: String) {
            self.1.push(format!("{}: {kind}", self.0.join(".")));
        }
    }
    impl ModuleVisitor for Visit {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.push(format!("{name}({container})"));
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.see(format!("float {D} {}", param.val().is_require_grad()));
        }
        fn visit_int<const D: usize>(&mut self, param: &Param<Tensor<D, Int>>) {
            self.see(format!("int {D} {}", param.val()));
        }
        fn visit_bool<const D: usize>(&mut self, param: &Param<Tensor<D, Bool>>) {
            self.see(format!("bool {D} {}", param.val()));
        }
        fn visit_flag(&mut self, flag: &Param<Flag>) {
            self.see(format!("flag {}", flag.is_enabled()));
        }
    }
    let mut visit = Visit::default();
    module.visit(&mut visit);
    visit.1
}

fn weight(adapter: &AnyAdapter) -> Tensor<2> {
    let device = adapter.downcast_ref::<Zoo>().unwrap().rank1.val().device();
    let base = FrozenBase::new(Tensor::ones([2, 3], (&device, DType::F64)), None);
    adapter.effective(&base, &Ctx::default()).unwrap().weight()
}

#[test]
fn every_visit_and_state_change_is_that_of_the_typed_module() {
    let zoo = Zoo::new(0.5);
    let erased = AnyAdapter::new(zoo.clone());
    assert_eq!(visited(&erased), visited(&zoo));
    assert_eq!(visited(&erased).len(), 14);
    assert_eq!(visited(&erased.valid()), visited(&zoo.valid()));
    assert_eq!(
        visited(&erased.valid().train()),
        visited(&zoo.valid().train())
    );
    assert_eq!(
        visited(&erased.clone().freeze()),
        visited(&zoo.clone().freeze())
    );
    assert_eq!(
        visited(&erased.clone().no_grad()),
        visited(&zoo.clone().no_grad())
    );
    assert_eq!(
        visited(&erased.clone().unfreeze()),
        visited(&zoo.clone().unfreeze())
    );
    assert_eq!(
        visited(&erased.clone().materialize()),
        visited(&zoo.clone().materialize())
    );
    let device = Device::default().autodiff();
    assert_eq!(
        visited(&erased.clone().fork(&device)),
        visited(&zoo.clone().fork(&device))
    );
    assert_eq!(
        erased.clone().to_device(&device).devices(),
        zoo.clone().to_device(&device).devices()
    );
    assert_eq!(erased.num_params(), zoo.num_params());
}

#[test]
fn a_record_goes_through_either_form() {
    let zoo = Zoo::new(0.5);
    let record = AnyAdapter::new(zoo.clone()).into_record();
    let loaded = AnyAdapter::new(Zoo::new(-1.0)).load_record(record);
    assert_eq!(
        params::read(&loaded, |_| true),
        params::read(&zoo, |_| true)
    );
    let typed = Zoo::new(-1.0).load_record(AnyAdapter::new(zoo.clone()).into_record());
    assert_eq!(visited(&typed)[9..11], visited(&zoo)[9..11]);
    let back = AnyAdapter::new(Zoo::new(-1.0)).load_record(zoo.clone().into_record());
    assert_eq!(visited(&back), visited(&zoo));
}

#[test]
fn the_optimizer_takes_the_same_steps() {
    let (mut erased, mut typed) = (
        AnyAdapter::new(Zoo::new(0.5)),
        AnyAdapter::new(Zoo::new(0.5))
            .downcast_ref::<Zoo>()
            .unwrap()
            .clone(),
    );
    let (mut left, mut right) = (AdamWConfig::new().init(), AdamWConfig::new().init());
    for _ in 0..3 {
        let gradients = GradientsParams::from_grads(weight(&erased).sum().backward(), &erased);
        assert_eq!(gradients.len(), 10);
        erased = left.step(1e-2, erased, gradients);
        let gradients = GradientsParams::from_grads(
            weight(&AnyAdapter::new(typed.clone())).sum().backward(),
            &typed,
        );
        typed = right.step(1e-2, typed, gradients);
    }
    let moved = params::read(&erased, |_| true);
    assert_eq!(moved, params::read(&typed, |_| true));
    let start = params::read(&Zoo::new(0.5), |_| true);
    assert_ne!(moved["rank8"], start["rank8"]);
    assert_eq!(moved["frozen"], start["frozen"]);
}

#[test]
fn the_plain_tensor_moves_with_the_module_and_the_type_can_be_had_back() {
    let erased = AnyAdapter::new(Zoo::new(0.5));
    let valid = erased.valid();
    assert!(!valid.downcast_ref::<Zoo>().unwrap().plain.is_autodiff());
    assert!(
        valid
            .train()
            .downcast_ref::<Zoo>()
            .unwrap()
            .plain
            .is_autodiff()
    );
    assert!(erased.downcast_ref::<Param<Tensor<1>>>().is_none());
    assert!(format!("{erased:?}").contains("rank8"));
}
