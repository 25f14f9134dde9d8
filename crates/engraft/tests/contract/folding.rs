//! A folded model is a plain one that computes the same.

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor};
use engraft::{Adapted, Injection, Key, Mode, Targets, method};
use engraft_core::{Adaptable, Ctx, params};
use engraft_models::{Mlp, MlpConfig, Vit, VitConfig};
use engraft_testkit::{compare, random};
use proptest::prelude::*;
use serde_json::json;

fn ssf<M: Adaptable>(model: M, seed: u64, targets: Targets) -> Adapted<M> {
    let mut adapted = Adapted::new(model);
    let injection = Injection::new(seed).targets(targets);
    adapted
        .attach("ssf", &method("ssf", &json!({})).unwrap(), &injection)
        .unwrap();
    random::perturb_trained(adapted, 0.3, seed)
}

/// The paths and shapes of a model's parameters.
fn parameters<M: Adaptable>(model: &M) -> Vec<(String, Vec<usize>)> {
    let listed = params::list(model).into_iter();
    listed.map(|found| (found.path, found.shape)).collect()
}

/// Compares before and after, `apart` from the base.
fn same(
    what: &str,
    found: &Tensor<2>,
    expected: &Tensor<2>,
    base: &Tensor<2>,
    terms: usize,
) -> Result<(), TestCaseError> {
    compare::close(what, found, expected, terms)
        .map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert!(
        compare::max_difference(expected, base) > 1e-3,
        "the adapter changes nothing"
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn ssf_folds_into_the_layers_of_an_mlp(dims in prop::collection::vec(1usize..9, 2..5), bias: bool, double: bool, seed: u64) {
        let dtype = if double { DType::F64 } else { DType::F32 };
        let config = MlpConfig { bias, ..MlpConfig::new(&dims) };
        let model = Mlp::new(&config, &Key::new(seed), &Device::default(), dtype).unwrap();
        let x: Tensor<2> = random::normal([5, dims[0]], "x", &Device::default(), dtype);
        let base = model.forward(x.clone(), &Ctx::default());
        let adapted = ssf(model, seed, Targets::default());
        let expected = adapted.model.forward(x.clone(), &adapted.ctx(Mode::Eval));
        let folded = adapted.fold().unwrap();
        same("folded", &folded.forward(x.clone(), &Ctx::default()), &expected, &base, dims.iter().sum())?;
        // Layers without a bias have one now; nothing else is new, and the adapted model is as it was.
        let layers = dims.len() - 1;
        prop_assert_eq!(parameters(&folded).len(), 2 * layers);
        let after = adapted.model.forward(x, &adapted.ctx(Mode::Eval));
        prop_assert!(compare::identical("the adapted model", &after, &expected).is_ok());
    }

    #[test]
    fn ssf_folds_into_the_layers_norms_and_embeddings_of_a_vit(heads in 1usize..3, depth in 1usize..3, double: bool, seed: u64) {
        let dtype = if double { DType::F64 } else { DType::F32 };
        let config = VitConfig {
            image: 6, patch: 3, channels: 2, width: 4 * heads, depth, heads, mlp_width: 10, classes: 3, epsilon: 1e-6,
        };
        let mut model = Vit::new(&config, &Key::new(seed), &Device::default(), dtype).unwrap();
        let head = random::normal([4 * heads, 3], "head", &Device::default(), dtype);
        model.head.weight = Param::from_tensor(head).into();
        let plain = parameters(&model);
        let x: Tensor<2> = random::normal([4, 72], "x", &Device::default(), dtype);
        let base = model.forward(x.clone(), &Ctx::default());
        let adapted = ssf(model, seed, Targets::default());
        let sites = adapted.attachments().next().unwrap().sites.clone();
        // The embedding, two norms a block, the final norm.
        prop_assert_eq!(sites.len(), 2 + 2 * depth);
        let expected = adapted.model.forward(x.clone(), &adapted.ctx(Mode::Eval));
        let folded = adapted.fold().unwrap();
        same("folded", &folded.forward(x, &Ctx::default()), &expected, &base, 200 * depth)?;
        prop_assert_eq!(parameters(&folded), plain);
    }
}

fn vit() -> Vit {
    let config = VitConfig {
        image: 6,
        patch: 3,
        channels: 2,
        width: 8,
        depth: 2,
        heads: 2,
        mlp_width: 12,
        classes: 3,
        epsilon: 1e-6,
    };
    Vit::new(&config, &Key::new(1), &Device::default(), DType::F64).unwrap()
}

#[test]
fn what_has_nothing_in_front_of_it_is_refused_by_name() {
    // Behind a block there is a sum.
    let targets = Targets::names(&["blocks.1.sites.output"]);
    let error = ssf(vit(), 1, targets).fold().unwrap_err().to_string();
    assert!(error.contains("blocks.1.sites.output"), "{error}");
    // A low-rank edit of some tokens is no map of every hidden state.
    let mut adapted = Adapted::new(vit());
    let loreft = method("loreft", &json!({"rank": 2})).unwrap();
    adapted.attach("reft", &loreft, &Injection::new(0)).unwrap();
    let error = adapted.fold().unwrap_err().to_string();
    assert!(
        error.contains("blocks.0.sites.output") && error.contains("`reft`"),
        "{error}"
    );
}

#[test]
fn grafts_fold_as_they_merge_and_what_is_off_is_left_out() {
    let x: Tensor<2> = random::normal([4, 72], "x", &Device::default(), DType::F64);
    let mut model = vit();
    let head = random::normal([8, 3], "head", &Device::default(), DType::F64);
    model.head.weight = Param::from_tensor(head).into();
    let mut adapted = Adapted::new(model);
    let base = adapted.model.forward(x.clone(), &Ctx::default());
    let lora = method("lora", &json!({"rank": 2})).unwrap();
    adapted.attach("lora", &lora, &Injection::new(0)).unwrap();
    let mut adapted = random::perturb_trained(adapted, 0.3, 4);
    let expected = adapted.model.forward(x.clone(), &adapted.ctx(Mode::Eval));
    let folded = adapted.fold().unwrap().forward(x.clone(), &Ctx::default());
    compare::close("folded", &folded, &expected, 100).unwrap();
    adapted.disable(true);
    let folded = adapted.fold().unwrap().forward(x, &Ctx::default());
    compare::identical("folded while disabled", &folded, &base).unwrap();
    adapted.disable(false);
    adapted.merge().unwrap();
    assert!(adapted.fold().unwrap_err().to_string().contains("unmerge"));
}
