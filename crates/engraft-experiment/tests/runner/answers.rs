//! Generated answers beside those that are expected.

use std::fs;
use std::path::PathBuf;

use engraft_data::tokens::{Splitting, Wrapping, tiny_tokenizer};
use engraft_experiment::adapt::{
    Answers, Requests, Scores, Settings, Training, adapt, check_writable, predict,
};
use serde_json::{Value, json};

use crate::adapt::{Disk, WORDS};

/// A decoder with a tokenizer for prompts, and a file of rows.
fn disk(model: &str, rows: &[Value]) -> (Disk, PathBuf) {
    let disk = Disk::new(model);
    let texts = WORDS.iter().flat_map(|(text, label)| [*text, *label]);
    let tokenizer = tiny_tokenizer(Splitting::Words, Wrapping::Causal, texts);
    fs::write(disk.model().join("tokenizer.json"), tokenizer).unwrap();
    let path = disk.folder.path().join("rows.jsonl");
    let lines: Vec<String> = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(&path, lines.concat()).unwrap();
    (disk, path)
}

fn prompts() -> Vec<Value> {
    let row = |(text, label)| json!({"prompt": text, "completion": format!(" {label}")});
    WORDS.map(row).to_vec()
}

fn value(scores: &Scores, name: &str) -> f64 {
    let found = scores.0.iter().find(|(known, _)| known == name);
    found.unwrap_or_else(|| panic!("no {name}: {scores}")).1
}

/// The texts of predictions, and what was measured.
fn predicted(requests: &Requests) -> (Vec<String>, Scores) {
    let mut texts = Vec::new();
    let scores = predict(requests, |answer| {
        texts.push(answer.text.unwrap());
        Ok(())
    });
    (texts, scores.unwrap())
}

#[test]
fn answers_are_compared_and_a_reloaded_adapter_has_the_same_metrics() {
    for model in ["llama", "gpt2"] {
        let (disk, rows) = disk(model, &prompts());
        let settings = disk.settings("lora", json!({"rank": 4, "alpha": 16}));
        let settings = Settings {
            data: rows.clone(),
            evaluation: Some(rows.clone()),
            targets: Some(serde_json::from_value(json!("all-linear")).unwrap()),
            training: Training {
                steps: Some(150),
                batch_size: 8,
                learning_rate: 0.02,
                ..Training::default()
            },
            ..settings
        };
        let summary = adapt(&settings, &mut |_| ()).unwrap();
        let names: Vec<&str> = summary.after.0.iter().map(|(name, _)| &name[..]).collect();
        assert_eq!(names, ["exact-match", "rouge-l", "bleu", "perplexity"]);
        let [before, after] = [&summary.before, &summary.after].map(|s| value(s, "exact-match"));
        assert!(before < 0.5 && after > 0.9, "{model}: {before} to {after}");

        let requests = Requests {
            input: rows,
            ..disk.requests(&settings.out)
        };
        let (texts, again) = predicted(&requests);
        let right = texts
            .iter()
            .zip(WORDS)
            .filter(|(text, (_, label))| text == label);
        assert_eq!(after, right.count() as f64 / WORDS.len() as f64);
        for (name, expected) in &summary.after.0 {
            let found = value(&again, name);
            assert!(
                (found - expected).abs() <= 1e-6 * expected.abs(),
                "{name}: {found}, {expected}"
            );
        }

        // Prompts alone: answers, and nothing to measure.
        let bare: Vec<Value> = WORDS.map(|(text, _)| json!({"prompt": text})).to_vec();
        let lines: Vec<String> = bare.iter().map(|row| format!("{row}\n")).collect();
        let input = disk.folder.path().join("bare.jsonl");
        fs::write(&input, lines.concat()).unwrap();
        let (found, scores) = predicted(&Requests { input, ..requests });
        assert_eq!((found, scores), (texts, Scores::default()));
    }
}

#[test]
fn the_last_turn_of_a_conversation_is_an_answer_and_rows_are_bounded() {
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let rows = WORDS.map(|(text, label)| {
        let turns = [
            turn("user", "good"),
            turn("assistant", "yes"),
            turn("user", text),
            turn("assistant", label),
        ];
        json!({"messages": turns})
    });
    let (disk, rows) = disk("llama", &rows);
    let settings = |answers: Answers, out: &str| Settings {
        data: rows.clone(),
        evaluation: None,
        hold_out: 0.5,
        answers,
        out: disk.folder.path().join(out),
        ..disk.settings("ia3", json!({}))
    };
    let bounded = Answers {
        rows: 3,
        max_new_tokens: 2,
    };
    let summary = adapt(&settings(bounded, "bounded"), &mut |_| ()).unwrap();
    let note = "exact-match, rouge-l, bleu are measured on the first 3 of 4 examples";
    assert!(summary.text().contains(note), "{}", summary.text());
    value(&summary.after, "bleu");
    let none = Answers {
        rows: 0,
        ..Answers::default()
    };
    let summary = adapt(&settings(none, "none"), &mut |_| ()).unwrap();
    assert_eq!(summary.after.0.len(), 1, "{}", summary.after);
    let requests = Requests {
        input: rows.clone(),
        max_new_tokens: Some(1),
        ..disk.requests(&disk.folder.path().join("bounded"))
    };
    let (texts, scores) = predicted(&requests);
    assert_eq!((texts.len(), scores.0.len()), (8, 4));
}

#[test]
fn a_place_where_nothing_can_be_made_is_an_error_before_anything_is_trained() {
    let disk = Disk::new("bert");
    let settings = Settings {
        out: disk.data().join("below/a/file"),
        ..disk.settings("lora", json!({"rank": 2}))
    };
    let mut heard = 0;
    let error = adapt(&settings, &mut |_| heard += 1).unwrap_err();
    assert_eq!((error.exit_code(), heard), (2, 0));
    assert!(error.to_string().contains("cannot write"), "{error}");
    let free = disk.folder.path().join("not/there/yet");
    check_writable(&free).unwrap();
    assert!(!disk.folder.path().join("not").exists());
}
