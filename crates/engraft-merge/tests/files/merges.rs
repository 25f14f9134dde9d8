//! Recipes from directories to directories.

use engraft_merge::adapter::Adapter;
use engraft_merge::base::Base;
use engraft_merge::recipe::{Merger, Outcome, Recipe};

use crate::made::{Files, MODULES};

/// Runs a recipe; adapters and base are those of the directory.
pub fn run(files: &Files, text: &str, out: &str) -> engraft_merge::Result<Outcome> {
    let path = files.at("recipe.toml");
    std::fs::write(&path, text).unwrap();
    let recipe = Recipe::read(&path)?;
    let base = recipe.base.as_deref().map(Base::open).transpose()?;
    let merger = Merger::open(&recipe, base)?;
    std::fs::create_dir_all(files.at(out)).unwrap();
    merger.write(&recipe, &files.at(out), true, &mut |_| {})
}

/// dW of an adapter as numbers.
pub fn dense(files: &Files, adapter: &str, module: &str) -> Vec<f32> {
    let base = Base::open(&files.at("base")).unwrap();
    let adapter = Adapter::open(adapter, &files.at(adapter)).unwrap();
    let update = adapter.update(module, Some(&base)).unwrap();
    let layout = &adapter.modules()[module].layout;
    update
        .to_dense(Some(&base.weight(module, layout).unwrap().data))
        .unwrap()
        .data
}

pub fn distance(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| square(f64::from(*a) - f64::from(*b)))
        .sum();
    let norm: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    (error / norm.max(1e-30)).sqrt()
}

const TWO: &str =
    "[[adapter]]\npath = \"a\"\nweight = 0.7\n[[adapter]]\npath = \"b\"\nweight = -0.4\n";

/// The weighted sum of two adapters' updates.
fn sum(files: &Files, module: &str) -> Vec<f32> {
    let (a, b) = (dense(files, "a", module), dense(files, "b", module));
    a.iter().zip(b).map(|(a, b)| 0.7 * a - 0.4 * b).collect()
}

#[test]
fn every_form_holds_the_weighted_sum() {
    let files = Files::new();
    files.lora("a", 2, 3, 3);
    files.lora("b", 3, 3, 4);
    for (form, kind) in [("auto", "LORA"), ("lora", "LORA"), ("delta", "DELTA")] {
        let outcome = run(&files, &format!("{TWO}[output]\nform = \"{form}\""), form).unwrap();
        assert_eq!(outcome.error(), 0.0);
        assert!(outcome.diagnosis.is_some());
        let merged = Adapter::open("merged", &files.at(form)).unwrap();
        assert_eq!(merged.type_name(), kind);
        for (module, _) in MODULES {
            assert!(distance(&dense(&files, form, module), &sum(&files, module)) < 1e-6);
        }
    }
    run(
        &files,
        &format!("base = \"base\"\n{TWO}[output]\nform = \"checkpoint\""),
        "folded",
    )
    .unwrap();
    let (before, after) = (files.tensors("base"), files.tensors("folded"));
    assert_eq!(
        before.infos().keys().collect::<Vec<_>>(),
        after.infos().keys().collect::<Vec<_>>()
    );
    for name in before.infos().keys() {
        let (w, found) = (
            before.read(name).unwrap().data,
            after.read(name).unwrap().data,
        );
        let module = name.trim_end_matches(".weight");
        match MODULES.iter().any(|(known, _)| *known == module) {
            true => {
                let change: Vec<f32> = found.iter().zip(&w).map(|(x, w)| x - w).collect();
                assert!(distance(&change, &sum(&files, module)) < 1e-5, "{name}");
            }
            false => assert_eq!(found, w, "{name}"),
        }
    }
    assert!(files.at("folded/config.json").exists());
    // A checkpoint in one file brings what lies beside it, too.
    let single = files.at("single");
    let all = before
        .infos()
        .keys()
        .map(|name| (name.clone(), before.read(name).unwrap()));
    crate::made::write(
        &single.join("model.safetensors"),
        &all.collect(),
        safetensors::Dtype::F32,
    );
    std::fs::write(single.join("config.json"), "{}").unwrap();
    let text = format!("base = \"single\"\n{TWO}[output]\nform = \"checkpoint\"");
    run(&files, &text, "one").unwrap();
    assert!(files.at("one/config.json").exists());
    let one = files.tensors("one");
    for name in after.infos().keys() {
        assert_eq!(one.read(name).unwrap(), after.read(name).unwrap());
    }
}

#[test]
fn a_lora_of_a_rank_reports_the_error_it_has() {
    let files = Files::new();
    files.lora("a", 2, 3, 3);
    files.lora("b", 3, 3, 4);
    let outcome = run(&files, &format!("{TWO}[output]\nrank = 3"), "out").unwrap();
    for (module, _) in MODULES {
        let found = distance(&dense(&files, "out", module), &sum(&files, module));
        let stated = outcome.modules[module].error;
        assert!(
            (found - stated).abs() < 1e-5 && stated > 1e-3,
            "{found} {stated}"
        );
    }
}

#[test]
fn scalings_stay_scalings_and_fold_into_weights_and_biases() {
    let files = Files::new();
    files.ia3("a", 5);
    files.ia3("b", 6);
    let outcome = run(&files, &format!("base = \"base\"\n{TWO}"), "out").unwrap();
    assert_eq!(outcome.form, "IA3");
    for (module, _) in MODULES {
        assert!(distance(&dense(&files, "out", module), &sum(&files, module)) < 1e-5);
    }
    run(
        &files,
        &format!("base = \"base\"\n{TWO}[output]\nform = \"checkpoint\""),
        "folded",
    )
    .unwrap();
    let name = "model.layers.1.q_proj.bias";
    let (before, after) = (
        files.tensors("base").read(name).unwrap(),
        files.tensors("folded").read(name).unwrap(),
    );
    let l = |adapter: &str| {
        let adapter = Adapter::open(adapter, &files.at(adapter)).unwrap();
        adapter
            .tensor("model.layers.1.q_proj", "ia3_l")
            .unwrap()
            .data
    };
    let (a, b) = (l("a"), l("b"));
    for (at, (b0, b1)) in before.data.iter().zip(&after.data).enumerate() {
        let expected = b0 * (1.0 + 0.7 * (a[at] - 1.0) - 0.4 * (b[at] - 1.0));
        assert!((b1 - expected).abs() < 1e-5);
    }
}

#[test]
fn an_adapter_and_its_negation_are_nothing() {
    let files = Files::new();
    files.lora("a", 2, 3, 3);
    let text =
        "[[adapter]]\npath = \"a\"\n[[adapter]]\npath = \"a\"\nname = \"minus\"\nweight = -1.0\n";
    for (method, out) in [
        ("linear", "linear"),
        ("ties", "ties"),
        ("magnitude-prune", "pruned"),
    ] {
        run(
            &files,
            &format!("method = \"{method}\"\n{text}[output]\nform = \"delta\""),
            out,
        )
        .unwrap();
        for (module, _) in MODULES {
            assert!(
                dense(&files, out, module).iter().all(|x| x.abs() < 1e-6),
                "{method}"
            );
        }
    }
}

#[test]
fn every_method_of_the_table_merges_directories() {
    let files = Files::new();
    files.lora("a", 2, 3, 3);
    files.lora("b", 2, 3, 5);
    for name in engraft_merge::pipeline::methods::methods().keys() {
        if ["fisher", "regmean"].contains(&name.as_str()) {
            continue;
        }
        let text =
            "[[adapter]]\npath = \"a\"\n[[adapter]]\npath = \"b\"\n[output]\nform = \"delta\"";
        let outcome = run(
            &files,
            &format!("method = \"{name}\"\n{text}"),
            &format!("out-{name}"),
        );
        assert!(outcome.unwrap().norm() > 0.0, "{name}");
    }
    let outcome = run(
        &files,
        &format!("method = \"factor-wise\"\n{TWO}"),
        "factors",
    )
    .unwrap();
    assert!(outcome.factor_wise().unwrap() > 0.1);
    run(&files, &format!("method = \"copa\"\n{TWO}"), "copa").unwrap();
    run(
        &files,
        &format!("{TWO}[compatible]\ncombination_type = \"ties_svd\"\ndensity = 0.5"),
        "peft",
    )
    .unwrap();
}

#[test]
fn parameters_that_are_whole_are_kept_averaged_or_refused() {
    let files = Files::new();
    files.lora("a", 2, 3, 3);
    let own = Adapter::open("a", &files.at("a")).unwrap();
    for (name, value) in [("b", 1.0), ("c", 4.0)] {
        let infos = own.files().infos().keys();
        let mut tensors: crate::made::Tensors = infos
            .map(|key| {
                let inner = key.trim_start_matches("base_model.model.").to_owned();
                (inner, own.files().read(key).unwrap())
            })
            .collect();
        let head = engraft_merge::file::HostTensor::new(vec![2, 8], vec![value; 16]);
        tensors.insert("score.weight".to_owned(), head);
        let config = serde_json::Value::Object(own.config().keys().clone());
        files.adapter(name, config, &tensors);
    }
    let two = "[[adapter]]\npath = \"b\"\nweight = 2.0\n[[adapter]]\npath = \"c\"\n";
    let message = run(&files, two, "refused").unwrap_err().to_string();
    assert!(
        message.contains("adapter `c`") && message.contains("score.weight"),
        "{message}"
    );
    let outcome = run(
        &files,
        &format!("base = \"base\"\nsaved = \"average\"\n{two}[output]\nform = \"checkpoint\""),
        "mean",
    )
    .unwrap();
    assert_eq!(outcome.saved, ["score.weight"]);
    assert_eq!(
        files.tensors("mean").read("score.weight").unwrap().data,
        [2.0; 16]
    );
    let outcome = run(&files, &format!("saved = \"average\"\n{two}"), "lora").unwrap();
    assert_eq!(outcome.form, "LoRA");
    let merged = Adapter::open("merged", &files.at("lora")).unwrap();
    assert_eq!(merged.saved().collect::<Vec<_>>(), ["score.weight"]);
    assert_eq!(
        merged.config().keys()["modules_to_save"],
        serde_json::json!(["score"])
    );
}
