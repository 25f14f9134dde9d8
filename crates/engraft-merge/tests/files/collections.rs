//! Recipes that make several adapters, and weights that follow from the order or size of tasks.

use engraft_merge::adapter::Adapter;
use engraft_merge::methods::{MaskFile, RmmFile};
use engraft_merge::recipe::{Collected, MASK_FILE, Outcome, RMM_FILE};
use safetensors::Dtype;

use crate::made::{Files, MODULES, Tensors, random, write};
use crate::merges::{dense, distance, run};

const THREE: &str =
    "[[adapter]]\npath = \"a\"\n[[adapter]]\npath = \"b\"\n[[adapter]]\npath = \"c\"\n";
const NAMES: [&str; 3] = ["a", "b", "c"];

fn three(ranks: [usize; 3]) -> Files {
    let files = Files::new();
    for (at, (name, rank)) in NAMES.iter().zip(ranks).enumerate() {
        files.lora(name, rank, 3, 3 + at as u64);
    }
    files
}

fn sum(files: &Files, module: &str, weights: &[f64]) -> Vec<f32> {
    let all: Vec<Vec<f32>> = NAMES
        .iter()
        .map(|name| dense(files, name, module))
        .collect();
    let entry = |at: usize| {
        let terms = all.iter().zip(weights);
        terms.map(|(own, w)| w * f64::from(own[at])).sum::<f64>() as f32
    };
    (0..all[0].len()).map(entry).collect()
}

fn collected(outcome: &Outcome) -> &Collected {
    outcome.collected.as_ref().unwrap()
}

#[test]
fn weights_of_moving_averages_and_of_clients() {
    let files = three([2, 3, 1]);
    for (key, out, weights) in [
        ("{ ema = 0.75 }", "ema", [0.5625, 0.1875, 0.25]),
        ("{ samples = [100, 300, 100] }", "fedavg", [0.2, 0.6, 0.2]),
    ] {
        let outcome = run(&files, &format!("weights = {key}\n{THREE}"), out).unwrap();
        assert_eq!((outcome.form.as_str(), outcome.error()), ("LoRA", 0.0));
        for ((_, _, found), expected) in outcome.adapters.iter().zip(weights) {
            assert!((found - expected).abs() < 1e-12);
        }
        for (module, _) in MODULES {
            // Ranks 2, 3 and 1 stack to 6.
            assert_eq!(outcome.modules[module].rank, Some(6));
            let found = distance(&dense(&files, out, module), &sum(&files, module, &weights));
            assert!(found < 1e-6, "{found}");
        }
    }
}

#[test]
fn weights_that_make_no_sense() {
    let files = three([2, 2, 2]);
    let weighted = THREE.replacen("\"a\"", "\"a\"\nweight = 2.0", 1);
    for (text, expected) in [
        (format!("weights = {{ ema = 1.5 }}\n{THREE}"), "from 0 to 1"),
        (
            format!("weights = {{ samples = [1, 2] }}\n{THREE}"),
            "2 numbers of samples for 3 adapters",
        ),
        (
            format!("weights = {{ samples = [1, 2, -3] }}\n{THREE}"),
            "numbers from 0",
        ),
        (
            format!("weights = {{ ema = 0.5 }}\n{weighted}"),
            "adapter `a`: its weight is 2",
        ),
        (format!("weights = {{ emma = 0.5 }}\n{THREE}"), "`ema`"),
    ] {
        let message = run(&files, &text, "refused").unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn a_reversible_merge_gives_every_adapter_back() {
    let files = three([2, 3, 1]);
    for (size, out) in [(3, "whole"), (1, "small")] {
        let text = format!("method = \"rmm\"\noptions = {{ size = {size} }}\n{THREE}");
        let outcome = run(&files, &text, out).unwrap();
        let Collected::Rmm {
            errors, numbers, ..
        } = collected(&outcome)
        else {
            panic!("{outcome:?}");
        };
        let file = RmmFile::load(&files.at(out).join(RMM_FILE)).unwrap();
        assert_eq!(file.tasks, NAMES);
        let stored: usize = file.modules.values().map(|rmm| rmm.numbers()).sum();
        assert_eq!(stored, *numbers);
        for name in NAMES {
            let back = format!("{out}/{name}");
            let (mut lost, mut norm) = (0.0, 0.0);
            for (module, _) in MODULES {
                let own = dense(&files, name, module);
                let error = distance(&dense(&files, &back, module), &own);
                let stated = outcome.parts[name].modules[module].error;
                assert!((error - stated).abs() < 1e-5, "{error} {stated}");
                let square: f64 = own.iter().map(|x| f64::from(*x).powi(2)).sum();
                lost += error * error * square;
                norm += square;
            }
            let total = (lost / norm).sqrt();
            assert!((total - errors[name]).abs() < 1e-5);
            assert_eq!(total < 1e-5, size == 3, "{size}: {total}");
        }
    }
    let whole = "method = \"rmm\"\noptions = { vectors = \"whole\" }\n";
    run(&files, &format!("{whole}{THREE}"), "vectors").unwrap();
    // A module that an adapter lacks comes back as nothing.
    files.lora("c", 1, 2, 5);
    let text = format!("method = \"rmm\"\noptions = {{ size = 3 }}\nmissing = \"zero\"\n{THREE}");
    run(&files, &text, "missing").unwrap();
    let back = dense(&files, "missing/c", MODULES[2].0);
    assert!(back.iter().all(|x| x.abs() < 1e-6));
}

#[test]
fn clusters_are_of_adapters_that_are_alike() {
    let files = three([2, 2, 2]);
    // b is nearly a, at twice its weight.
    let own = Adapter::open("a", &files.at("a")).unwrap();
    let mut rng = rand::SeedableRng::seed_from_u64(9);
    let near = own.files().infos().keys().map(|key| {
        let mut tensor = own.files().read(key).unwrap();
        let noise = random(&tensor.shape, &mut rng);
        let pairs = tensor.data.iter_mut().zip(noise.data);
        pairs.for_each(|(x, noise)| *x += 0.01 * noise);
        let inner = key.trim_start_matches("base_model.model.").to_owned();
        (inner, tensor)
    });
    let near: Tensors = near.collect();
    let config = serde_json::Value::Object(own.config().keys().clone());
    files.adapter("c", config, &near);
    let weighted = THREE.replacen("\"c\"", "\"c\"\nweight = 3.0", 1);
    let text = format!("method = \"mbc\"\noptions = {{ clusters = 2 }}\n{weighted}");
    let outcome = run(&files, &text, "out").unwrap();
    let Collected::Mbc { assignment, .. } = collected(&outcome) else {
        panic!("{outcome:?}");
    };
    assert_eq!(
        (assignment["a"], assignment["b"], assignment["c"]),
        (0, 1, 0)
    );
    assert_eq!(outcome.parts["cluster-0"].adapters, ["a", "c"]);
    for (module, _) in MODULES {
        for (part, weights) in [
            ("out/cluster-0", [0.25, 0.0, 0.75]),
            ("out/cluster-1", [0.0, 1.0, 0.0]),
        ] {
            let expected = sum(&files, module, &weights);
            assert!(distance(&dense(&files, part, module), &expected) < 1e-6);
        }
    }
    let text = format!("method = \"mbc\"\noptions = {{ clusters = 1 }}\n{THREE}");
    let outcome = run(&files, &text, "one").unwrap();
    assert_eq!(outcome.parts.len(), 1);

    files.lora("b", 3, 3, 4);
    let message = run(&files, &text, "ranks").unwrap_err().to_string();
    assert!(
        message.contains("adapter `b`: it has") && message.contains("ranks"),
        "{message}"
    );
}

#[test]
fn masks_of_a_merge_reconstruct_its_tasks() {
    let files = three([2, 3, 1]);
    let options = "{ lambda = 0.4, votes = 2, reconstruct = true, of = { method = \"ties\", options = { density = 0.5 } } }";
    let text = format!("method = \"task_masks\"\noptions = {options}\n{THREE}");
    let outcome = run(&files, &text, "out").unwrap();
    let ties = format!("method = \"ties\"\noptions = {{ density = 0.5 }}\n{THREE}");
    run(&files, &ties, "ties").unwrap();
    let file = MaskFile::load(&files.at("out").join(MASK_FILE)).unwrap();
    assert_eq!(file.tasks, NAMES);
    let mut kept = [0; 3];
    let mut entries = 0;
    for (module, shape) in MODULES {
        let merged = dense(&files, "ties", module);
        assert_eq!(dense(&files, "out/merged", module), merged);
        let (found, masks) = &file.modules[module];
        assert_eq!(*found, shape);
        entries += merged.len();
        for (task, name) in NAMES.iter().enumerate() {
            let own = dense(&files, name, module);
            let back = dense(&files, &format!("out/{name}"), module);
            for (at, tau) in merged.iter().enumerate() {
                let keeps = own[at].abs() >= 0.4 * (tau - own[at]).abs();
                assert_eq!(masks.masks[task].get(at), keeps);
                assert_eq!(back[at], if keeps { *tau } else { 0.0 });
                kept[task] += usize::from(keeps);
            }
        }
        let consensus = dense(&files, "out/consensus", module);
        for (at, tau) in merged.iter().enumerate() {
            let votes = masks.masks.iter().filter(|mask| mask.get(at)).count();
            assert_eq!(consensus[at], if votes >= 2 { *tau } else { 0.0 });
        }
    }
    let Collected::TaskMasks { tasks, statistics } = collected(&outcome) else {
        panic!("{outcome:?}");
    };
    assert_eq!(*tasks, NAMES);
    assert_eq!(statistics.shared.iter().sum::<usize>(), entries);
    for (density, kept) in statistics.densities.iter().zip(kept) {
        assert!((density - kept as f64 / entries as f64).abs() < 1e-12);
    }
    // A LoRA of all, without the rest.
    let text = format!("method = \"task-masks\"\n{THREE}[output]\nform = \"lora\"");
    let outcome = run(&files, &text, "linear").unwrap();
    assert_eq!(outcome.parts.keys().collect::<Vec<_>>(), ["merged"]);
    assert_eq!(outcome.parts["merged"].form, "LoRA");
}

#[test]
fn collections_that_make_no_sense() {
    let files = three([2, 2, 2]);
    let taken = THREE.replacen("\"a\"", "\"a\"\nname = \"merged\"", 1);
    let nested = THREE.replacen("\"a\"", "\"a\"\nname = \"x/y\"", 1);
    for (text, expected) in [
        (
            "method = \"rmmm\"\n".to_owned() + THREE,
            "the nearest is `rmm`",
        ),
        (
            format!("method = \"rmm\"\noptions = {{ sise = 1 }}\n{THREE}"),
            "nearest: `size`",
        ),
        (
            format!("method = \"rmm\"\noptions = {{ size = 0 }}\n{THREE}"),
            "`size` is 0",
        ),
        (
            format!("method = \"rmm\"\n{THREE}[output]\nform = \"delta\""),
            "as a LoRA",
        ),
        (
            format!("method = \"mbc\"\n{THREE}"),
            "missing field `clusters`",
        ),
        (
            format!("method = \"mbc\"\noptions = {{ clusters = 4 }}\n{THREE}"),
            "4 `clusters` of 3",
        ),
        (
            format!(
                "base = \"base\"\nmethod = \"task-masks\"\n{THREE}[output]\nform = \"checkpoint\""
            ),
            "several adapters",
        ),
        (
            format!("method = \"task-masks\"\noptions = {{ votes = 4 }}\n{THREE}"),
            "`votes` is 4",
        ),
        (
            format!("method = \"task-masks\"\noptions = {{ of = \"rmm\" }}\n{THREE}"),
            "no method `rmm`",
        ),
        (
            format!("method = \"task-masks\"\n{taken}"),
            "another `name`",
        ),
        (
            format!("method = \"rmm\"\n{nested}"),
            "no name of a directory",
        ),
    ] {
        let message = run(&files, &text, "refused").unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    files.ia3("c", 5);
    let message = run(&files, &format!("method = \"rmm\"\n{THREE}"), "ia3")
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("adapter `c`, module") && message.contains("`mbc`"),
        "{message}"
    );
}

#[test]
fn statistics_are_asked_for_and_used() {
    let files = three([2, 2, 2]);
    for method in ["fisher", "regmean"] {
        let text = format!("method = \"{method}\"\n{THREE}");
        let message = run(&files, &text, "refused").unwrap_err().to_string();
        assert!(
            message.contains("adapter `a`") && message.contains("cargo xtask calibrate"),
            "{message}"
        );
    }
    let ones = |x: f32| {
        let mut tensors = Tensors::new();
        for (module, [rows, columns]) in MODULES {
            let tensor = |shape: [usize; 2], at: &dyn Fn(usize, usize) -> f32| {
                let data = (0..shape[0] * shape[1]).map(|i| at(i / shape[1], i % shape[1]));
                engraft_merge::file::HostTensor::new(shape.to_vec(), data.collect())
            };
            tensors.insert(
                format!("{module}.fisher"),
                tensor([rows, columns], &|_, _| x),
            );
            let identity = |i, j| if i == j { x } else { 0.0 };
            tensors.insert(
                format!("{module}.gram"),
                tensor([columns, columns], &identity),
            );
        }
        tensors
    };
    let mut text = String::new();
    for (name, x) in NAMES.iter().zip([1.0, 2.0, 5.0]) {
        write(
            &files.at(&format!("{name}.safetensors")),
            &ones(x),
            Dtype::F32,
        );
        text += &format!("[[adapter]]\npath = \"{name}\"\nstatistics = \"{name}.safetensors\"\n");
    }
    for method in ["fisher", "regmean"] {
        run(
            &files,
            &format!("base = \"base\"\nmethod = \"{method}\"\n{text}[output]\nform = \"delta\""),
            method,
        )
        .unwrap();
        for (module, _) in MODULES {
            let expected = sum(&files, module, &[0.125, 0.25, 0.625]);
            let found = distance(&dense(&files, method, module), &expected);
            assert!(found < 1e-4, "{method}: {found}");
        }
    }
}
