//! The starts of this crate against those that PEFT 0.21.2 computed, up to signs.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{DType, Device, Tensor, TensorData};
use engraft_core::{Adapter, FrozenBase, Graft, file};
use engraft_linalg::Matrix;
use engraft_tensor::bridge;

use crate::residual_lora::ResidualLora;
use crate::testing::{attach, calibrated, largest};
use crate::*;

/// A case of the golden vectors on one linear layer `fc1`.
struct Case(BTreeMap<String, TensorData>);

impl Case {
    fn read(id: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../engraft-peft/vectors/cases")
            .join(format!("{id}.safetensors"));
        Self(file::read_tensors(&path).unwrap().0)
    }

    fn get<const D: usize>(&self, key: &str) -> Option<Tensor<D>> {
        let data = self.0.get(key)?.clone().convert::<f64>();
        Some(Tensor::from_data(data, (&Device::default(), DType::F64)))
    }

    fn base(&self) -> FrozenBase {
        FrozenBase::new(
            self.get::<2>("base.fc1.weight").unwrap().transpose(),
            self.get("base.fc1.bias"),
        )
    }

    fn batches(&self) -> Vec<Tensor<2>> {
        (0..)
            .map_while(|index| self.get(&format!("in.calib.{index}")))
            .collect()
    }

    fn init(&self, key: &str) -> Tensor<2> {
        self.get::<2>(&format!("init.base_model.model.fc1.{key}.weight"))
            .unwrap()
            .transpose()
    }

    /// A and B as PEFT's init left them, up to the sign of each column of A and row of B.
    fn compare(&self, adapter: &ResidualLora, tolerance: f64) {
        let (a, b) = (self.init("lora_A"), self.init("lora_B"));
        assert_eq!((adapter.a.dims(), adapter.b.dims()), (a.dims(), b.dims()));
        for (found, expected) in [
            (adapter.a.val().transpose(), a.transpose()),
            (adapter.b.val(), b),
        ] {
            let (found, expected) = (bridge::to_matrix(&found), bridge::to_matrix(&expected));
            up_to_signs(&found, &expected, tolerance);
        }
    }

    /// What is left of the weight, which does not depend on the signs where A and B share triples.
    fn compare_residual(&self, adapter: &ResidualLora, tolerance: f64) {
        let expected = self.get::<2>("residual.fc1.weight").unwrap().transpose();
        let own = adapter.rebase(&self.base()).unwrap().weight();
        assert!(largest(own - expected) < tolerance);
    }
}

/// Row by row.
fn up_to_signs(found: &Matrix, expected: &Matrix, tolerance: f64) {
    for i in 0..found.rows() {
        let distance = |sign: f64| {
            let pairs = found.row(i).iter().zip(expected.row(i));
            pairs.map(|(a, b)| (a - sign * b).abs()).fold(0.0, f64::max)
        };
        let distance = distance(1.0).min(distance(-1.0));
        assert!(distance < tolerance, "row {i}: {distance:e}");
    }
}

/// The mean over batches of d/dW mean((x W + b)^2).
fn gradient(base: &FrozenBase, batches: &[Tensor<2>]) -> Tensor<2> {
    let one = |x: &Tensor<2>| {
        let y = base.forward(x.clone());
        let [tokens, outputs] = y.dims();
        x.clone().transpose().matmul(y) * (2.0 / (tokens * outputs) as f64)
    };
    let sum = batches.iter().map(one).reduce(|a, b| a + b).unwrap();
    sum / batches.len() as f64
}

fn check(id: &str, config: &impl Graft<Adapter = ResidualLora>, tolerance: f64) {
    let case = Case::read(id);
    let (base, batches) = (case.base(), case.batches());
    let needs = config.needs();
    let adapter = if needs.gradient {
        calibrated(config, &base, &[], Some(&gradient(&base, &batches)))
    } else if needs.any() {
        calibrated(config, &base, &batches, None)
    } else {
        attach(config, &base)
    };
    case.compare(&adapter, tolerance);
    if !needs.gradient {
        case.compare_residual(&adapter, tolerance);
    }
}

#[test]
fn decompositions_of_the_weight() {
    let olora = |rank, alpha| OloraConfig {
        rank,
        alpha: Some(alpha),
        ..OloraConfig::default()
    };
    check("olora__r4_32x24", &olora(4, 8.0), 1e-5);
    check("olora__r5_alpha5_24x40_n", &olora(5, 5.0), 1e-5);
    let pissa = PissaConfig {
        rank: 4,
        alpha: Some(8.0),
        ..PissaConfig::default()
    };
    check("pissa__full_r4_32x24_b", &pissa, 1e-5);
}

/// LoftQ with these turns, and its base and PEFT's, W^T [out, in].
fn loftq(id: &str, iterations: usize) -> (Case, ResidualLora, [Vec<f64>; 2]) {
    let case = Case::read(id);
    let config = LoftqConfig {
        rank: 4,
        alpha: Some(4.0),
        iterations,
        ..LoftqConfig::default()
    };
    let base = case.base();
    let adapter = attach(&config, &base);
    let own = adapter.rebase(&base).unwrap().weight().transpose();
    let theirs = case.get::<2>("residual.fc1.weight").unwrap();
    (case, adapter, [own, theirs].map(|w| bridge::values(&w)))
}

#[test]
fn quantised_residuals() {
    let (case, adapter, [own, theirs]) = loftq("loftq__nf4_iter3_64x32", 3);
    for (own, theirs) in own.iter().zip(&theirs) {
        assert!((own - theirs).abs() < 1e-7, "{own} {theirs}");
    }
    case.compare(&adapter, 1e-5);
    // Where rows are shorter than a block, bitsandbytes' dequantisation on a processor scales
    // every block as the first one: the codes are the same.
    let (_, _, [own, theirs]) = loftq("loftq__nf4_iter1_32x24", 1);
    let largest = |block: &[f64]| block.iter().fold(0.0f64, |most, w| most.max(w.abs()));
    let first = largest(&own[..64]);
    for (own, theirs) in own.chunks(64).zip(theirs.chunks(64)) {
        let scale = largest(own);
        for (own, theirs) in own.iter().zip(theirs) {
            assert!(
                (own / scale - theirs / first).abs() < 1e-6,
                "{own} {theirs}"
            );
        }
    }
}

#[test]
fn context_oriented_decompositions() {
    let corda = |mode| CordaConfig {
        rank: 4,
        alpha: Some(8.0),
        mode,
        ..CordaConfig::default()
    };
    let (preview, keep) = (
        CordaMode::InstructionPreviewed,
        CordaMode::KnowledgePreserved,
    );
    check("corda__ipm_32x24", &corda(preview), 1e-4);
    check("corda__kpm_24x40_n", &corda(keep), 1e-4);
}

#[test]
fn gradients() {
    let lora_ga = |direction, scale| LoraGaConfig {
        rank: 4,
        alpha: Some(8.0),
        direction,
        scale,
        ..LoraGaConfig::default()
    };
    let stable = lora_ga(LoraGaDirection::ArB2r, LoraGaScale::Stable { gamma: 16.0 });
    check("lora_ga__ArB2r_stable_32x16", &stable, 1e-4);
    let divided = lora_ga(LoraGaDirection::ArBr, LoraGaScale::GdScale);
    check("lora_ga__ArBr_gd_scale_16x24", &divided, 1e-4);
}

#[test]
fn principal_components_of_the_inputs() {
    let config = EvaConfig {
        rank: 4,
        alpha: Some(8.0),
        ..EvaConfig::default()
    };
    let case = Case::read("eva__mlp_24x40x16");
    let (base, batches) = (case.base(), case.batches());
    let adapter = calibrated(&config, &base, &batches, None);
    // PEFT stops its incremental decomposition when directions move by less than a cosine of 0.99.
    let overlap = bridge::to_matrix(&case.init("lora_A").transpose().matmul(adapter.a.val()));
    for i in 0..4 {
        assert!(overlap.get(i, i).abs() > 0.999, "{}", overlap.get(i, i));
    }
    assert_eq!(largest(adapter.b.val()), 0.0);
}
