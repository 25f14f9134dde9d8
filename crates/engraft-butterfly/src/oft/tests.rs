//! What OFT promises beyond the contract.

use burn::tensor::{DType, Device};
use engraft_core::{Bank, Mode};
use engraft_tensor::bridge;

use super::*;
use crate::testing::{draw, largest};

/// Rotated inputs of 12, or outputs, with drawn parameters.
fn random(config: &OftConfig, kind: LayerKind) -> (Oft, FrozenBase) {
    let base = FrozenBase::new(draw([12, 8], 1, "w"), Some(draw([8], 1, "b")));
    let bank = Bank::default();
    let ctx = InitContext::new(0, "", "", &base, &bank).of_kind(kind);
    let mut oft = config.init(&base, &ctx).unwrap();
    oft.q = Param::from_tensor(draw(oft.q.dims(), 1, "q"));
    let moved = |role| Some(Param::from_tensor(draw([8], 1, role)));
    oft.outputs.s = oft.outputs.s.and(moved("s"));
    oft.outputs.beta = oft.outputs.beta.and(moved("beta"));
    (oft, base)
}

#[test]
fn the_rotation_is_orthogonal_and_both_forms_agree() {
    let small = OftConfig {
        blocks: Blocks::Size(4),
        ..OftConfig::default()
    };
    let constrained = OftConfig {
        coft_eps: Some(0.3),
        parametrisation: Parametrisation::Full,
        ..small.clone()
    };
    let shared = OftConfig {
        block_share: true,
        dropout: 0.9,
        ..small.clone()
    };
    let series = OftConfig {
        cayley: Cayley::Neumann { terms: 5 },
        outputs: Outputs::ScaleAndBias,
        dropout: 0.5,
        ..small.clone()
    };
    let bank = Bank::default();
    for (config, kind) in [
        (&small, LayerKind::Linear),
        (&small, LayerKind::Embedding),
        (&constrained, LayerKind::Linear),
        (&shared, LayerKind::Linear),
        (&series, LayerKind::Linear),
        (&series, LayerKind::Embedding),
    ] {
        let (oft, base) = random(config, kind);
        let x = draw([7, 12], 1, "x");
        for mode in [Mode::Eval, Mode::Train { seed: 1, step: 2 }] {
            let ctx = Ctx::new(&bank, mode);
            let merged = oft.effective(&base, &ctx).unwrap();
            assert!(
                largest(oft.forward(x.clone(), &base, &ctx) - merged.forward(x.clone())) < 1e-11
            );
            if config.cayley == Cayley::Exact {
                // R^T R = I: angles survive between the columns of W, or between the vectors of
                // an embedding.
                let gram = |w: Tensor<2>| match kind {
                    LayerKind::Embedding => w.clone().matmul(w.transpose()),
                    _ => w.clone().transpose().matmul(w),
                };
                assert!(largest(gram(merged.weight()) - gram(base.weight())) < 1e-11);
            }
        }
    }
}

#[test]
fn coft_scales_the_blocks_outside_the_ball_and_no_other() {
    let config = OftConfig {
        blocks: Blocks::Size(3),
        coft_eps: Some(1.0),
        ..OftConfig::default()
    };
    let base = FrozenBase::new(draw([6, 2], 1, "w"), None);
    let bank = Bank::default();
    let mut oft = config
        .init(&base, &InitContext::new(0, "", "", &base, &bank))
        .unwrap();
    oft.q = Param::from_tensor(bridge::tensor(
        vec![3.0, 0.0, 4.0, 0.1, 0.0, 0.1],
        [2, 3],
        &Device::default(),
        DType::F64,
    ));
    let projected = oft.skew() + oft.shift(oft.skew(), 1.0);
    // |Q|_F = 5 sqrt(2) becomes 1 / sqrt(2 blocks).
    let expected = Parametrisation::Skew.matrices(
        bridge::tensor(
            vec![0.3, 0.0, 0.4, 0.1, 0.0, 0.1],
            [2, 3],
            &Device::default(),
            DType::F64,
        ),
        3,
    );
    assert!(largest(projected - expected) < 1e-15);
}

#[test]
fn counts_are_the_published_ones() {
    let count = |config: &OftConfig, d_in, d_out| {
        config
            .count(&LayerShape::linear("", d_in, d_out, false))
            .trainable
    };
    // PEFT's MetaMathQA benchmark: 32 blocks on q and v of Llama-3.2-3B's 28 layers.
    let config = OftConfig {
        blocks: Blocks::Number(32),
        ..OftConfig::default()
    };
    assert_eq!(
        28 * (count(&config, 3072, 3072) + count(&config, 3072, 1024)),
        8_171_520
    );
    // PSOFT, table 2: blocks of 32 on the six linear layers of each of DeBERTaV3-base's 12.
    let config = OftConfig::default();
    assert_eq!(
        12 * (5 * count(&config, 768, 768) + count(&config, 3072, 768)),
        1_285_632
    );
    let shared = OftConfig {
        block_share: true,
        ..config
    };
    assert_eq!(count(&shared, 768, 768), 32 * 31 / 2);
    let all = |config: &OftConfig, d, layers| {
        layers * (4 * count(config, d, d) + count(config, d, 4 * d) + count(config, 4 * d, d))
    };
    let oft = |size, parametrisation, outputs| OftConfig {
        blocks: Blocks::Size(size),
        parametrisation,
        outputs,
        ..OftConfig::default()
    };
    let (full, skew) = (Parametrisation::Full, Parametrisation::Skew);
    // BOFT, tables 1 and 4: blocks of 16 on DeBERTaV3-base and DINOv2-large (0.79M, 2.10M);
    // table 2: on all seven linear layers of Llama-2-7B's 32 (0.13%).
    let config = oft(16, skew, Outputs::ScaleAndBias);
    assert_eq!(all(&config, 768, 12), 787_968);
    assert_eq!(all(&config, 1024, 24), 2_101_248);
    let config = oft(16, skew, Outputs::Fixed);
    let block = 6 * count(&config, 4096, 4096) + count(&config, 11008, 4096);
    assert_eq!(32 * block, 8_540_160);
    // qGOFT, table 1: blocks of 8 and 4 on DeBERTaV3-base (0.66M, 0.33M); table 2: of 16 on q, k,
    // v, o of Llama-2-7B.
    assert_eq!(all(&oft(8, full, Outputs::Fixed), 768, 12), 663_552);
    assert_eq!(all(&oft(4, full, Outputs::Fixed), 768, 12), 331_776);
    let config = oft(16, full, Outputs::Fixed);
    assert_eq!(128 * count(&config, 4096, 4096), 8_388_608);
}
