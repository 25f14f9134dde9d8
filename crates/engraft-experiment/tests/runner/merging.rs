//! Statistics of tasks, merges that weigh by them, and weights that are searched for.

use std::fs;
use std::path::{Path, PathBuf};

use engraft_data::Task;
use engraft_data::task::CausalLanguage;
use engraft_experiment::adapt::{Sample, Settings, adapt};
use engraft_experiment::merge::{Watch, calibrate, merge};
use engraft_merge::file::TensorFiles;
use serde_json::json;

use crate::adapt::{Disk, WORDS};

struct Quiet;

impl Watch for Quiet {
    fn exporting(&mut self, _: &str) {}
    fn searching(&mut self, _: usize, _: usize) {}
    fn modules(&mut self, _: usize) {}
    fn merged(&mut self, _: &str) {}
}

fn sample(disk: &Disk, adapter: &Path, data: PathBuf, examples: usize) -> Sample {
    Sample {
        model: disk.model(),
        adapter: adapter.to_owned(),
        data,
        task: None,
        max_length: None,
        examples,
        batch_size: 4,
    }
}

#[test]
fn statistics_are_means_over_examples_and_weigh_merges() {
    let disk = Disk::new("bert");
    let at = |name: &str| disk.folder.path().join(name);
    let trained = |seed: u64| {
        let settings = Settings {
            seed,
            out: at(&format!("lora-{seed}")),
            ..disk.settings("lora", json!({"rank": 2}))
        };
        adapt(&settings, &mut |_| ()).unwrap();
        settings.out
    };
    let adapters = [trained(3), trained(4)];
    let rows = |from: usize, to: usize| {
        let path = at(&format!("rows-{from}-{to}.csv"));
        let lines = WORDS[from..to]
            .iter()
            .map(|(text, label)| format!("{text},{label}\n"));
        fs::write(&path, format!("text,label\n{}", lines.collect::<String>())).unwrap();
        path
    };
    let statistics = |name: &str, data: PathBuf| {
        let out = at(name);
        let done = calibrate(&sample(&disk, &adapters[0], data, 2), "flex", &out).unwrap();
        (done, TensorFiles::open(&out).unwrap())
    };
    let (done, both) = statistics("both.safetensors", rows(0, 4));
    assert_eq!(done.examples, 2);
    let first = statistics("first.safetensors", rows(0, 1)).1;
    let second = statistics("second.safetensors", rows(1, 2)).1;
    assert_eq!(both.infos().len(), 2 * done.modules.len());
    for module in &done.modules {
        let read =
            |files: &TensorFiles, field: &str| files.read(&format!("{module}.{field}")).unwrap();
        let mean = [read(&first, "fisher"), read(&second, "fisher")];
        let fisher = read(&both, "fisher");
        assert!(fisher.data.iter().any(|x| *x > 0.0), "{module}");
        for (at, found) in fisher.data.iter().enumerate() {
            let expected = 0.5 * (mean[0].data[at] + mean[1].data[at]);
            assert!(
                (found - expected).abs() <= 1e-5 * expected.abs() + 1e-12,
                "{found} {expected}"
            );
        }
        let gram = read(&both, "gram");
        let n = gram.shape[0];
        assert_eq!(gram.shape, [n, n]);
        for i in 0..n {
            assert!(gram.data[i * n + i] >= 0.0);
            for j in 0..i {
                let [a, b] = [gram.data[i * n + j], gram.data[j * n + i]];
                assert!((a - b).abs() <= 1e-5 * gram.data[i * n + i].max(1.0));
            }
        }
    }
    let other = at("other.safetensors");
    calibrate(&sample(&disk, &adapters[1], disk.data(), 8), "flex", &other).unwrap();
    for method in ["fisher", "regmean"] {
        let recipe = at(&format!("{method}.toml"));
        let text = format!(
            "base = \"model\"\nmethod = \"{method}\"\nsaved = \"average\"\n\
             [[adapter]]\npath = \"lora-3\"\nstatistics = \"both.safetensors\"\n\
             [[adapter]]\npath = \"lora-4\"\nstatistics = \"other.safetensors\"\n\
             [output]\nrank = 4\n"
        );
        fs::write(&recipe, text).unwrap();
        let outcome = merge(&recipe, &at(method), true, &mut Quiet).unwrap();
        assert!(outcome.norm() > 0.0 && outcome.error() < 1.0);
        assert_eq!(outcome.modules.len(), done.modules.len());
    }
}

#[test]
fn weights_are_searched_for_on_examples() {
    let disk = Disk::new("llama");
    let at = |name: &str| disk.folder.path().join(name);
    for seed in [3, 4] {
        let settings = disk.settings("lora", json!({"rank": 2}));
        let mut training = settings.training.clone();
        training.steps = Some(12);
        let settings = Settings {
            seed,
            task: Some(Task::CausalLanguage(CausalLanguage::default())),
            training,
            out: at(&format!("lora-{seed}")),
            ..settings
        };
        adapt(&settings, &mut |_| ()).unwrap();
    }
    let recipe = at("search.toml");
    let text = "base = \"model\"\n[[adapter]]\npath = \"lora-3\"\n[[adapter]]\npath = \"lora-4\"\n\
                [search]\ndata = \"rows.csv\"\nexamples = 4\nbudget = 12\npenalty = 0.0\n";
    fs::write(&recipe, text).unwrap();
    let outcome = merge(&recipe, &at("found"), true, &mut Quiet).unwrap();
    let found = outcome.search.as_ref().unwrap();
    assert_eq!(found.history.len(), 12);
    // The first is the base: what was learned is better than nothing.
    assert!(found.best.loss < found.history[0].loss, "{found:?}");
    let weights = outcome.adapters.iter().map(|(_, _, weight)| *weight);
    assert_eq!(weights.collect::<Vec<_>>(), found.best.coefficients);
    let page = fs::read_to_string(at("found").join("report.html")).unwrap();
    assert!(page.contains("<h2>Search</h2>"));
    assert!(at("found").join("adapter_config.json").exists());
}
