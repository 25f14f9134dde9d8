//! Adapting models on disk: what is saved answers as what was trained did.

use std::fs;
use std::path::{Path, PathBuf};

use engraft_data::read::BadRows;
use engraft_data::tokens::{Splitting, Wrapping, tiny_tokenizer};
use engraft_experiment::adapt::{
    Answers, CARD, Progress, Requests, Settings, Training, Written, adapt, merge_into, predict,
};
use engraft_experiment::inspect::inspect;
use engraft_kernels::Quantisation;
use engraft_models::Sampling;
use serde_json::{Value, json};

/// A model of the golden vectors with a tokenizer, and rows to learn.
pub(crate) struct Disk {
    pub folder: tempfile::TempDir,
}

pub(crate) const WORDS: [(&str, &str); 8] = [
    ("a good film", "yes"),
    ("a bad film", "no"),
    ("good sound and good light", "yes"),
    ("a film so bad", "no"),
    ("the light is good", "yes"),
    ("bad sound", "no"),
    ("so good", "yes"),
    ("the sound is bad", "no"),
];

impl Disk {
    pub fn new(model: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let disk = Self { folder };
        let from = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../engraft-peft/vectors/models")
            .join(model);
        fs::create_dir(disk.model()).unwrap();
        for name in ["config.json", "model.safetensors"] {
            fs::copy(from.join(name), disk.model().join(name)).unwrap();
        }
        let texts = WORDS.iter().map(|(text, _)| *text);
        let tokenizer = tiny_tokenizer(Splitting::Words, Wrapping::Encoder, texts);
        fs::write(disk.model().join("tokenizer.json"), tokenizer).unwrap();
        let rows: Vec<String> = WORDS
            .iter()
            .map(|(text, label)| format!("{text},{label}\n"))
            .collect();
        fs::write(disk.data(), format!("text,label\n{}", rows.concat())).unwrap();
        disk
    }

    pub fn model(&self) -> PathBuf {
        self.folder.path().join("model")
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("rows.csv")
    }

    pub fn settings(&self, method: &str, config: Value) -> Settings {
        Settings {
            model: self.model(),
            data: self.data(),
            glue: None,
            evaluation: Some(self.data()),
            hold_out: 0.1,
            method: (method.to_owned(), config),
            base: None,
            targets: None,
            task: None,
            max_length: Some(16),
            bad_rows: BadRows(0),
            training: Training {
                steps: Some(4),
                batch_size: 4,
                learning_rate: 0.01,
                ..Training::default()
            },
            answers: Answers::default(),
            seed: 3,
            device: "flex".to_owned(),
            out: self.folder.path().join(method),
        }
    }

    pub fn requests(&self, adapter: &Path) -> Requests {
        Requests {
            model: self.model(),
            adapter: adapter.to_owned(),
            input: self.data(),
            task: None,
            batch_size: 3,
            max_new_tokens: None,
            sampling: Sampling::default(),
            device: "flex".to_owned(),
        }
    }
}

pub(crate) fn answers(requests: &Requests) -> Vec<(String, f64)> {
    let mut all = Vec::new();
    predict(requests, |answer| {
        all.push((answer.labels[0].clone(), answer.scores[0]));
        Ok(())
    })
    .unwrap();
    all
}

#[test]
fn what_is_saved_answers_as_what_was_trained() {
    let methods = [
        ("lora", json!({"rank": 2}), true),
        ("boft", json!({"blocks": {"size": 4}}), true),
        ("ia3", json!({}), true),
        (
            "bottleneck-series",
            json!({"after": "feed-forward", "width": 4}),
            false,
        ),
        ("prefix-tuning", json!({"virtual-tokens": 3}), true),
    ];
    for model in ["bert", "llama"] {
        let disk = Disk::new(model);
        for (method, config, in_peft) in &methods {
            let settings = disk.settings(method, config.clone());
            let mut steps = 0;
            let mut evaluated = Vec::new();
            let summary = adapt(&settings, &mut |progress| match progress {
                Progress::Learned { steps: done, .. } => steps = done,
                Progress::Evaluated { done, all } => evaluated.push((done, all)),
            })
            .unwrap();
            assert_eq!(steps, 4);
            assert_eq!(evaluated, [(1, 2), (2, 2), (1, 2), (2, 2)]);
            assert_eq!(summary.written == Written::Peft, *in_peft, "{method}");
            assert!(summary.text().contains("accuracy"), "{}", summary.text());
            let screen = inspect(&settings.out).unwrap().screen();
            assert!(screen.contains("single-sentence"), "{screen}");
            let answered = answers(&disk.requests(&settings.out));
            let right = answered.iter().zip(WORDS);
            let right = right
                .filter(|((found, _), (_, label))| found == label)
                .count();
            let accuracy = summary.after.0[0].1;
            assert_eq!(
                accuracy,
                right as f64 / WORDS.len() as f64,
                "{model} {method}"
            );
        }
    }
}

#[test]
fn a_merged_checkpoint_answers_as_its_adapter() {
    let disk = Disk::new("bert");
    let settings = disk.settings("lora", json!({"rank": 2}));
    adapt(&settings, &mut |_| ()).unwrap();
    let merged = disk.folder.path().join("merged");
    merge_into(&disk.model(), &settings.out, &merged).unwrap();
    let config: Value =
        serde_json::from_str(&fs::read_to_string(merged.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["id2label"], json!({"0": "no", "1": "yes"}));
    let active = answers(&disk.requests(&settings.out));
    assert_alike(&disk, &settings, merged, &active);
}

/// Asserts that a merged checkpoint in full precision answers as the adapter did.
pub(crate) fn assert_alike(
    disk: &Disk,
    settings: &Settings,
    merged: PathBuf,
    active: &[(String, f64)],
) {
    // An adapter of nothing on the merged model: a rank that is trained for no step.
    let plain = Settings {
        model: merged.clone(),
        base: None,
        training: Training {
            steps: Some(1),
            learning_rate: 0.0,
            ..settings.training.clone()
        },
        out: disk.folder.path().join("nothing"),
        ..settings.clone()
    };
    adapt(&plain, &mut |_| ()).unwrap();
    let requests = Requests {
        model: merged,
        ..disk.requests(&plain.out)
    };
    for ((label, score), (expected, close)) in answers(&requests).iter().zip(active) {
        assert_eq!(label, expected);
        assert!((score - close).abs() < 1e-5, "{score} against {close}");
    }
}

#[test]
fn outputs_that_are_computed_again_train_the_same_adapter() {
    for model in ["bert", "llama"] {
        let disk = Disk::new(model);
        let [kept, again] = [false, true].map(|recompute| {
            let settings = disk.settings("lora", json!({"rank": 2, "dropout": 0.3}));
            let settings = Settings {
                training: Training {
                    recompute,
                    ..settings.training
                },
                out: disk.folder.path().join(format!("recompute-{recompute}")),
                ..settings
            };
            let summary = adapt(&settings, &mut |_| ()).unwrap();
            let file = settings.out.join("adapter_model.safetensors");
            (fs::read(file).unwrap(), summary.after)
        });
        assert!(kept == again, "{model}");
    }
}

#[test]
fn a_base_of_few_bits_is_loaded_again_and_merged_with_its_error() {
    let disk = Disk::new("llama");
    let how = Quantisation {
        double: true,
        ..Quantisation::default()
    };
    let settings = Settings {
        base: Some(how),
        ..disk.settings("lora", json!({"rank": 2}))
    };
    let summary = adapt(&settings, &mut |_| ()).unwrap();
    let text = summary.text();
    assert!(
        text.contains("base in nf4") && text.contains("load_in_4bit=True"),
        "{text}"
    );
    let card = fs::read_to_string(settings.out.join(CARD)).unwrap();
    let card: Value = serde_json::from_str(&card).unwrap();
    assert_eq!(
        card["base"],
        json!({"format": "nf4", "block": 64, "double": true})
    );
    let quantised = answers(&disk.requests(&settings.out));

    let merged = disk.folder.path().join("merged");
    let said = merge_into(&disk.model(), &settings.out, &merged).unwrap();
    assert_eq!(said.errors.len(), 2);
    assert!(
        said.errors[0].contains("from those of the file"),
        "{said:?}"
    );
    assert!(said.errors[1].contains("merged weights"), "{said:?}");
    assert_alike(&disk, &settings, merged, &quantised);

    // Weights that are quantised are not trained.
    let whole = Settings {
        base: Some(how),
        ..disk.settings("full", json!({}))
    };
    let error = adapt(&whole, &mut |_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
    assert!(error.to_string().contains("quantised"), "{error}");
    assert!(!whole.out.exists());
    // LoftQ quantises by itself, and PEFT's files hold it.
    let loftq = disk.settings("loftq", json!({"rank": 2, "iterations": 2}));
    let summary = adapt(&loftq, &mut |_| ()).unwrap();
    assert_eq!(summary.written, Written::Peft);
    let right = answers(&disk.requests(&loftq.out));
    let right = right
        .iter()
        .zip(WORDS)
        .filter(|((found, _), (_, label))| found == label);
    assert_eq!(
        summary.after.0[0].1,
        right.count() as f64 / WORDS.len() as f64
    );
}

#[test]
fn what_cannot_be_used_is_said_and_nothing_is_written() {
    let disk = Disk::new("bert");
    let settings = disk.settings("lora", json!({"rank": 2}));
    let said = |settings: &Settings| {
        let error = adapt(settings, &mut |_| ()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(!settings.out.exists());
        error.to_string()
    };
    let with_data = |text: &str| {
        let path = disk.folder.path().join("other.csv");
        fs::write(&path, text).unwrap();
        Settings {
            data: path,
            ..settings.clone()
        }
    };
    assert!(said(&with_data("")).contains("no rows"));
    assert!(said(&with_data("words,label\na,b\n")).contains("words"));
    let long = Settings {
        max_length: Some(10_000),
        ..with_data(&format!(
            "text,label\n{},yes\nbad,no\n",
            "good ".repeat(5000)
        ))
    };
    assert!(said(&long).contains("positions"), "{}", said(&long));

    let file = disk.model().join("model.safetensors");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 9]).unwrap();
    assert!(said(&settings).contains("truncated"));
    fs::write(&file, &whole).unwrap();

    adapt(&settings, &mut |_| ()).unwrap();
    assert!(settings.out.join(CARD).exists());
    let llama = Disk::new("llama");
    let other = Requests {
        model: llama.model(),
        ..disk.requests(&settings.out)
    };
    let error = predict(&other, |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("bert.encoder"), "{error}");
    let again = adapt(&settings, &mut |_| ()).unwrap_err();
    assert!(again.to_string().contains("not empty"), "{again}");
}
