//! How long adapters take to start on one square layer, as a user gets them: from the model's
//! tensors to the attached adapter with its residual weight, calibration included.

use burn::tensor::{DType, Device, Tensor};
use engraft::{Adapted, Injection, Key, Mode};
use engraft_core::AnyMethod;
use engraft_linalg::sum_svd;
use engraft_models::{Mlp, MlpConfig};
use engraft_tensor::{Init, bridge};
use serde_json::{Value, json};

/// An initialisation by the name it has in the tables.
#[derive(Debug, Clone)]
pub struct InitCase {
    /// Name.
    pub name: &'static str,
    /// Id of the method.
    method: &'static str,
    /// Its configuration.
    config: Value,
}

/// All of them, at rank 16 where there is a rank.
pub fn cases() -> Vec<InitCase> {
    let case = |name, method, config| InitCase {
        name,
        method,
        config,
    };
    vec![
        case("pissa", "pissa", json!({"rank": 16})),
        case("pissa_niter_4", "pissa", json!({"rank": 16, "niter": 4})),
        case("pissa_niter_16", "pissa", json!({"rank": 16, "niter": 16})),
        case("olora", "olora", json!({"rank": 16})),
        case("corda", "corda", json!({"rank": 16})),
        case("soka", "soka", json!({"rank": 16})),
        case(
            "soka_fixed",
            "soka",
            json!({"rank": 16, "selection": "fixed"}),
        ),
        case("tt_svd", "mpo", json!({})),
        case("tt_svd_exact", "mpo", json!({"bond": 1 << 20})),
    ]
}

/// A frozen layer with the weight of PyTorch's `Linear`, to start adapters on.
#[derive(Debug)]
pub struct InitLayer {
    model: Mlp,
    /// Calibration rows, twice as many as the layer has inputs.
    rows: Tensor<2>,
}

impl InitLayer {
    /// A layer of `side` inputs and outputs, in f32.
    ///
    /// # Panics
    /// If `side` is 0.
    pub fn new(side: usize) -> Self {
        let (device, key) = (Device::default().autodiff(), Key::new(0));
        let config = MlpConfig::new(&[side, side]);
        let rows = Init::Normal { std: 1.0 };
        Self {
            model: Mlp::new(&config, &key, &device, DType::F32).expect("a positive width"),
            rows: rows.tensor([2 * side, side], &key.child("rows"), &device, DType::F32),
        }
    }

    /// From the model to the adapted model.
    ///
    /// # Panics
    /// If the adapter cannot be made.
    pub fn start(&self, case: &InitCase) {
        let entry = engraft::METHODS
            .iter()
            .find(|entry| entry.meta.id == case.method);
        let method: AnyMethod = entry
            .and_then(|entry| entry.parse(&case.config).ok())
            .expect("a method of the registry");
        let mut adapted = Adapted::new(self.model.clone());
        let injection = Injection::new(0);
        let calibration = adapted.calibrate(&method, &injection, [()], |model, ()| {
            let y = model
                .model
                .forward(self.rows.clone(), &model.ctx(Mode::Eval));
            y.sum()
        });
        calibration
            .and_then(|seen| adapted.attach_calibrated("bench", &method, &injection, &seen))
            .expect("the layer is admissible");
        std::hint::black_box(adapted);
    }
}

/// The best factors of rank 16 of 0.5 A_1 B_1 + 0.3 A_2 B_2 + 0.2 A_3 B_3, LoRA factors of the ranks 8,
/// 16 and 8 on a square layer in f32.
#[derive(Debug)]
pub struct FactorMerge {
    /// A_i and B_i.
    factors: [(Tensor<2>, Tensor<2>); 3],
}

impl FactorMerge {
    /// Random factors of a layer of `side` inputs and outputs, at least 16.
    pub fn new(side: usize) -> Self {
        let draw = |shape, role: String| {
            let key = Key::new(0).child(&role);
            Init::Normal { std: 0.02 }.tensor(shape, &key, &Device::default(), DType::F32)
        };
        Self {
            factors: [(1, 8), (2, 16), (3, 8)].map(|(i, rank)| {
                let (a, b) = (
                    draw([side, rank], format!("a{i}")),
                    draw([rank, side], format!("b{i}")),
                );
                (a, b)
            }),
        }
    }

    /// From the tensors of the factors to those of the merged ones.
    ///
    /// # Panics
    /// If the factors have fewer than 16 inputs or outputs.
    pub fn run(&self) -> (Tensor<2>, Tensor<2>) {
        let host = self.factors.each_ref();
        let host = host.map(|(a, b)| (bridge::to_matrix(a), bridge::to_matrix(b)));
        let [one, two, three] = &host;
        let terms = [
            (0.5, &one.0, &one.1),
            (0.3, &two.0, &two.1),
            (0.2, &three.0, &three.1),
        ];
        let merged = sum_svd(&terms).and_then(|all| all.truncated(16));
        let merged = merged.expect("finite factors of at least that rank");
        let left = merged.u.scale_columns(&merged.s);
        let tensor = |factor| bridge::from_matrix(factor, &Device::default(), DType::F32);
        let left = left.expect("a value for each column");
        (tensor(&left), tensor(&merged.vt))
    }
}
