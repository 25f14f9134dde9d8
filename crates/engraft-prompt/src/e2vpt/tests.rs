//! Pruning and rewinding, update by update.

use std::collections::BTreeMap;

use burn::tensor::{DType, Device};
use engraft_core::{Adapted, AnyMethod, Gradients, Injection, Mode, Trained, params};
use engraft_tensor::bridge::values;
use engraft_testkit::{Harness, random};

use super::*;

/// The layers of the test model.
const LAYERS: usize = 2;

fn model(config: &E2vptConfig) -> Adapted<Harness> {
    let layer = LayerShape::linear("block.fc1", 8, 4, true);
    let harness = Harness::new(&layer, 0, &Device::default().autodiff(), DType::F64);
    let mut adapted = Adapted::new(harness.with_front(0));
    let method = AnyMethod::new(config).unwrap();
    adapted.attach("a", &method, &Injection::new(1)).unwrap();
    adapted
}

fn gradients(adapted: &Adapted<Harness>) -> Gradients {
    let x = random::normal([2, 3, 8], "x", &Device::default().autodiff(), DType::F64);
    let y = adapted.model.forward(x, &adapted.ctx(Mode::Eval));
    Gradients::backward(&(y.clone() * y).sum(), adapted)
}

fn read(adapted: &Adapted<Harness>, ending: &str) -> BTreeMap<String, Vec<f64>> {
    let found = params::read(adapted, |path| path.ends_with(ending)).into_iter();
    let floats = |data: burn::tensor::TensorData| data.convert::<f64>().try_to_vec().unwrap();
    found.map(|(path, data)| (path, floats(data))).collect()
}

#[test]
fn the_least_important_are_pruned_everywhere_and_the_rest_starts_again() {
    let config = E2vptConfig {
        virtual_tokens: 4,
        key_values: 2,
        segments: 4,
        token_sparsity: 0.25,
        segment_sparsity: 0.5,
        prune_at: 0.5,
        measured: 0.25,
        patch_size: 1,
    };
    let mut adapted = model(&config);
    let start = [read(&adapted, ".a.tokens"), read(&adapted, ".a.key_values")];
    adapted = random::perturb_trained(adapted, 0.5, 3);
    assert_ne!(read(&adapted, ".a.tokens"), start[0]);
    let time = |step| Time { step, total: 4 };
    // The first update is not measured, but says where the second is taken.
    let first = gradients(&adapted);
    assert!(adapted.after_update(time(0), &first).unwrap().is_empty());
    assert!(
        read(&adapted, "importance.tokens")
            .values()
            .flatten()
            .all(|score| *score == 0.0)
    );

    // dL/drho of a token: its gradient times itself, over all layers.
    let second = gradients(&adapted);
    let tokens = read(&adapted, ".a.tokens");
    let mut scores = [0.0; 4];
    for (path, tokens) in &tokens {
        let gradient = values(second.get(path).unwrap());
        for (entry, product) in tokens.iter().zip(gradient).map(|(p, g)| p * g).enumerate() {
            scores[entry / 8] += product;
        }
    }
    let resets = adapted.after_update(time(1), &second).unwrap();
    assert_eq!(resets.len(), 2 * LAYERS);
    let importance = read(&adapted, "importance.tokens");
    for (found, score) in importance.values().next().unwrap().iter().zip(scores) {
        assert!((found - score.abs()).abs() < 1e-10 * score.abs().max(1.0));
    }
    assert_eq!(
        [read(&adapted, ".a.tokens"), read(&adapted, ".a.key_values")],
        start
    );

    let least = (0..4)
        .min_by(|a, b| scores[*a].abs().total_cmp(&scores[*b].abs()))
        .unwrap();
    let masks = read(&adapted, ".a.mask.kept");
    assert_eq!(masks.len(), LAYERS);
    for mask in masks.values() {
        for (token, kept) in mask.chunks(4).enumerate() {
            let expected = if token == least { 0.0 } else { 2.0 };
            assert_eq!(kept.iter().sum::<f64>(), expected, "token {token}");
        }
    }
    let structure = adapted.structure("a").unwrap();
    let sequence = structure
        .values()
        .find(|numbers| !numbers.is_empty())
        .unwrap();
    assert_eq!(sequence[..], [("tokens", 3.0), ("segments", 6.0)]);
    // Nothing more happens in the second part.
    let third = gradients(&adapted);
    assert!(adapted.after_update(time(2), &third).unwrap().is_empty());
    assert_eq!(read(&adapted, ".a.mask.kept"), masks);
}
