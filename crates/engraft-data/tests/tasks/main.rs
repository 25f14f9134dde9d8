//! Each task from a file to a batch.

mod language;
mod sequences;

use std::path::{Path, PathBuf};

use engraft_data::read::{BadRows, open};
use engraft_data::task::{Output, Prepared, Task};
use engraft_data::text::{IGNORED, Order, Targets};
use engraft_data::tokens::{Splitting, Wrapping, tiny_tokenizer};
use engraft_data::{DataError, Metric, TextBatch, TextOptions, TextSet, Tokens};
use serde_json::json;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

fn tokens(wrapping: Wrapping) -> Tokens {
    let words = "a b c d e f g h user assistant system ### : Instruction Input Response";
    let json = tiny_tokenizer(Splitting::Words, wrapping, [words]);
    Tokens::from_json("tiny", json.as_bytes()).unwrap()
}

fn characters(wrapping: Wrapping) -> Tokens {
    let text: String = (' '..='~').chain(['\n']).collect();
    let json = tiny_tokenizer(Splitting::Characters, wrapping, [text.as_str()]);
    Tokens::from_json("tiny", json.as_bytes()).unwrap()
}

fn task(setting: serde_json::Value) -> Task {
    serde_json::from_value(setting).unwrap()
}

fn read(path: &Path, task: &Task, tokens: &Tokens) -> (Prepared, TextSet) {
    let source = open(path).unwrap();
    let prepared = task.prepare(source.as_ref(), tokens).unwrap();
    let options = TextOptions::default();
    let set = TextSet::new(source.as_ref(), &prepared, tokens, &options).unwrap();
    (prepared, set)
}

fn all(set: &TextSet) -> TextBatch {
    set.batch(&(0..set.len()).collect::<Vec<_>>(), 0, 0)
        .unwrap()
}

fn words(tokens: &Tokens, ids: &[i64]) -> Vec<String> {
    ids.iter()
        .map(|id| tokens.token(*id as u32).unwrap())
        .collect()
}

#[test]
fn the_kind_of_task_follows_from_the_columns() {
    let files = Files::new();
    let guess = |text: serde_json::Value| {
        let path = files.write("data.jsonl", &text.to_string());
        let task = Task::guess(open(&path).unwrap().as_ref()).unwrap();
        serde_json::to_value(task).unwrap()["kind"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(guess(json!({"text": "a", "label": 1})), "single-sentence");
    assert_eq!(
        guess(json!({"question1": "a", "question2": "b", "label": "x"})),
        "sentence-pair"
    );
    assert_eq!(guess(json!({"text": "a", "score": 1.5})), "regression");
    assert_eq!(guess(json!({"text": "a", "labels": ["x"]})), "multi-label");
    assert_eq!(
        guess(json!({"tokens": ["a"], "tags": [0]})),
        "token-classification"
    );
    assert_eq!(
        guess(json!({"prompt": "a", "completion": "b"})),
        "instruction"
    );
    assert_eq!(guess(json!({"messages": []})), "instruction");
    assert_eq!(guess(json!({"text": "a"})), "causal-language");
}

#[test]
fn a_bucketed_epoch_from_a_file_covers_every_row_once() {
    let files = Files::new();
    let tokens = tokens(Wrapping::Encoder);
    let rows: String = (0..1500)
        .map(|row| format!("{},{}\n", "a ".repeat(1 + row * 31 % 17), row % 3))
        .collect();
    let path = files.write("data.csv", &format!("text,label\n{rows}"));
    let source = open(&path).unwrap();
    let prepared = task(json!({"kind": "single-sentence"}))
        .prepare(source.as_ref(), &tokens)
        .unwrap();
    let in_memory =
        TextSet::new(source.as_ref(), &prepared, &tokens, &TextOptions::default()).unwrap();
    let options = TextOptions {
        memory: 0,
        ..TextOptions::default()
    };
    let in_file = TextSet::new(source.as_ref(), &prepared, &tokens, &options).unwrap();
    let order = Order::new(in_file.len(), 32, 1).unwrap().bucketed(8);
    let mut lines = Vec::new();
    for step in 0..order.steps_per_epoch() {
        let batches = order.batches(step, |rows| in_file.lengths(rows)).unwrap();
        let rows = &batches[order.window(step).1];
        let batch = in_file.batch(rows, 0, 0).unwrap();
        assert_eq!(batch, in_memory.batch(rows, 0, 0).unwrap());
        lines.extend(batch.lines);
    }
    lines.sort_unstable();
    assert_eq!(lines, (2..1502).collect::<Vec<u64>>());
}
