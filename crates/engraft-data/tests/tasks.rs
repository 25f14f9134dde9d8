//! Each task from a file to a batch.

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
fn a_sentence_has_a_class() {
    let files = Files::new();
    let tokens = tokens(Wrapping::Encoder);
    let path = files.write("data.csv", "Sentence,label\na b,pos\n\"c\",neg\n");
    let (prepared, set) = read(&path, &task(json!({"kind": "single-sentence"})), &tokens);
    assert_eq!(prepared.labels.names(), ["neg", "pos"]);
    assert_eq!((prepared.output, prepared.outputs()), (Output::Class, 2));
    assert_eq!(prepared.metrics[0], Metric::Accuracy);
    let batch = all(&set);
    assert_eq!(
        (batch.size, batch.tokens, batch.lines.as_slice()),
        (2, 4, [2, 3].as_slice())
    );
    assert_eq!(
        words(&tokens, &batch.ids),
        ["[CLS]", "a", "b", "[SEP]", "[CLS]", "c", "[SEP]", "[PAD]"]
    );
    assert_eq!(batch.mask, [1, 1, 1, 1, 1, 1, 1, 0]);
    assert_eq!(batch.targets, Targets::Classes(vec![1, 0]));
    let error = prepared.check_head(1).unwrap_err().to_string();
    assert!(
        error.contains("found 2 labels") && error.contains("\"neg\", \"pos\""),
        "{error}"
    );

    // Requests need no label; validation rows need a known one.
    let requests = files.write("requests.jsonl", "{\"Sentence\": \"d\"}\n");
    let source = open(&requests).unwrap();
    let options = TextOptions::default();
    let set = TextSet::requests(source.as_ref(), &prepared, &tokens, &options).unwrap();
    assert_eq!(all(&set).targets, Targets::None);
    let validation = files.write("validation.csv", "Sentence,label\na,pos\nb,neu\nc\n");
    let source = open(&validation).unwrap();
    let error = TextSet::new(source.as_ref(), &prepared, &tokens, &options)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("validation.csv:3: column label: found label \"neu\""),
        "{error}"
    );
    let options = TextOptions {
        bad_rows: BadRows(2),
        ..options
    };
    let set = TextSet::new(source.as_ref(), &prepared, &tokens, &options).unwrap();
    let lines: Vec<u64> = set.problems.iter().map(|problem| problem.line).collect();
    assert_eq!(
        (set.len(), set.rows, lines.as_slice()),
        (1, 3, [3, 4].as_slice())
    );
}

#[test]
fn missing_columns_and_empty_files_are_errors_that_help() {
    let files = Files::new();
    let tokens = tokens(Wrapping::Encoder);
    let message = |text: &str, setting: serde_json::Value| {
        let path = files.write("data.csv", text);
        let source = open(&path).unwrap();
        task(setting)
            .prepare(source.as_ref(), &tokens)
            .unwrap_err()
            .to_string()
    };
    let single = json!({"kind": "single-sentence"});
    assert!(message("a,b\n", single.clone()).contains("found no rows"));
    let error = message("txt,label\na,1\n", single);
    assert!(
        error.contains("found columns \"txt\", \"label\"; expected one of \"text\""),
        "{error}"
    );
    let error = message(
        "txt,label\na,1\n",
        json!({"kind": "single-sentence", "text": "text"}),
    );
    assert!(
        error.ends_with("expected \"text\"; the nearest is \"txt\""),
        "{error}"
    );
    let error = message("sentence1,label\na,1\n", json!({"kind": "sentence-pair"}));
    assert!(
        error.contains("the settings `first` and `second`"),
        "{error}"
    );
    let error = serde_json::from_value::<Task>(json!({"kind": "regression", "lable": "x"}));
    assert!(error.unwrap_err().to_string().contains("lable"));
    assert!(matches!(
        open(Path::new("data.txt")),
        Err(DataError::File { .. })
    ));
    assert!(matches!(
        open(Path::new("none.csv")),
        Err(DataError::Io { .. })
    ));
}

#[test]
fn a_pair_has_segments_and_numbers_are_learned() {
    let files = Files::new();
    let tokens = tokens(Wrapping::Encoder);
    let path = files.write("data.jsonl", "{\"premise\": \"a\", \"hypothesis\": \"b c\", \"label\": 1}\n{\"premise\": \"a\", \"hypothesis\": \"b\", \"label\": 0}");
    let (prepared, set) = read(&path, &task(json!({"kind": "sentence-pair"})), &tokens);
    assert_eq!(prepared.labels.names(), ["0", "1"]);
    let batch = all(&set);
    assert_eq!(batch.segments[..6], [0, 0, 0, 1, 1, 1]);
    assert_eq!(
        words(&tokens, &batch.ids[..6]),
        ["[CLS]", "a", "[SEP]", "b", "c", "[SEP]"]
    );

    let path = files.write("data.csv", "sentence1,sentence2,score\na,b,2.5\nc,d,nan\n");
    let source = open(&path).unwrap();
    let prepared = task(json!({"kind": "regression"}))
        .prepare(source.as_ref(), &tokens)
        .unwrap();
    let options = TextOptions {
        bad_rows: BadRows(1),
        ..TextOptions::default()
    };
    let set = TextSet::new(source.as_ref(), &prepared, &tokens, &options).unwrap();
    assert_eq!(
        all(&set).targets,
        Targets::Values {
            values: vec![2.5],
            width: 1
        }
    );
    assert!(
        set.problems[0]
            .to_string()
            .contains("data.csv:3: column score: found \"nan\"")
    );
    assert_eq!(prepared.outputs(), 1);
}

#[test]
fn several_labels_apply_at_once() {
    let files = Files::new();
    let tokens = tokens(Wrapping::Encoder);
    let multi = json!({"kind": "multi-label"});
    let path = files.write("data.jsonl", "{\"text\": \"a\", \"labels\": [\"x\", \"z\"]}\n{\"text\": \"b\", \"labels\": [\"y\"]}\n{\"text\": \"c\", \"labels\": []}");
    let (prepared, set) = read(&path, &task(multi.clone()), &tokens);
    assert_eq!(prepared.labels.names(), ["x", "y", "z"]);
    let expected = vec![1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0];
    assert_eq!(
        all(&set).targets,
        Targets::Values {
            values: expected.clone(),
            width: 3
        }
    );
    let path = files.write("data.csv", "text,label\na,\"x, z\"\nb,y\nc,\n");
    assert_eq!(
        all(&read(&path, &task(multi), &tokens).1).targets,
        Targets::Values {
            values: expected.clone(),
            width: 3
        }
    );
    let path = files.write("data.csv", "text,x,y,z\na,1,0,1\nb,0,1,0\nc,0,0,0\n");
    let indicators = json!({"kind": "multi-label", "indicators": ["x", "y", "z"]});
    let found = all(&read(&path, &task(indicators), &tokens).1).targets;
    assert_eq!(
        found,
        Targets::Values {
            values: expected,
            width: 3
        }
    );
}

#[test]
fn a_words_tag_is_the_label_of_its_first_token() {
    let files = Files::new();
    let tokens = characters(Wrapping::Encoder);
    let path = files.write("data.jsonl", "{\"tokens\": [\"ab\", \"c\"], \"ner_tags\": [\"B\", \"O\"]}\n{\"tokens\": [\"ab\"], \"ner_tags\": [\"B\", \"O\"]}");
    let source = open(&path).unwrap();
    let prepared = task(json!({"kind": "token-classification"}))
        .prepare(source.as_ref(), &tokens)
        .unwrap();
    let options = TextOptions {
        bad_rows: BadRows(1),
        ..TextOptions::default()
    };
    let set = TextSet::new(source.as_ref(), &prepared, &tokens, &options).unwrap();
    assert_eq!(
        words(&tokens, &all(&set).ids),
        ["[CLS]", "a", "b", "c", "[SEP]"]
    );
    assert_eq!(
        all(&set).targets,
        Targets::Tokens(vec![IGNORED, 0, IGNORED, 1, IGNORED])
    );
    assert!(
        set.problems[0].to_string().contains("1 tokens with 2 tags"),
        "{:?}",
        set.problems
    );
}

#[test]
fn texts_are_packed_into_blocks_with_end_tokens() {
    let files = Files::new();
    let tokens = tokens(Wrapping::Causal);
    let path = files.write("data.csv", "text\na b c d e\nf g\n");
    let source = open(&path).unwrap();
    let options = TextOptions {
        max_length: 4,
        ..TextOptions::default()
    };
    let read = |setting| {
        let prepared = task(setting).prepare(source.as_ref(), &tokens).unwrap();
        TextSet::new(source.as_ref(), &prepared, &tokens, &options).unwrap()
    };
    let set = read(json!({"kind": "causal-language"}));
    let batch = all(&set);
    let found = words(&tokens, &batch.ids);
    assert_eq!(
        found[..8],
        ["[BOS]", "a", "b", "c", "d", "e", "[EOS]", "[BOS]"]
    );
    assert_eq!(found[8..], ["f", "g", "[EOS]", "[PAD]"]);
    let Targets::Tokens(labels) = &batch.targets else {
        panic!("{batch:?}")
    };
    assert_eq!(labels[..11], batch.ids[..11]);
    assert_eq!(labels[11], IGNORED);
    let set = read(json!({"kind": "causal-language", "packed": false}));
    assert_eq!(
        words(&tokens, &all(&set).ids),
        ["[BOS]", "a", "b", "c", "[BOS]", "f", "g", "[EOS]"]
    );
    assert_eq!((set.truncated, set.len()), (1, 2));
}

#[test]
fn masks_depend_on_the_example_and_the_epoch_not_on_the_batch() {
    let files = Files::new();
    let tokens = tokens(Wrapping::Encoder);
    let text: String = (0..20)
        .map(|_| "a b c d e f g h a b c d e f g h\n")
        .collect();
    let path = files.write("data.csv", &format!("text\n{text}"));
    let (prepared, set) = read(&path, &task(json!({"kind": "masked-language"})), &tokens);
    assert_eq!(prepared.output, Output::MaskedToken);
    let labels = |rows: &[usize], epoch| match set.batch(rows, 7, epoch).unwrap().targets {
        Targets::Tokens(labels) => labels,
        other => panic!("{other:?}"),
    };
    let pair = labels(&[3, 5], 0);
    assert_eq!(pair, [labels(&[3], 0), labels(&[5], 0)].concat());
    assert_ne!(labels(&[3], 0), labels(&[3], 1));
    assert_ne!(labels(&[3], 0), labels(&[5], 0));
    let causal = self::tokens(Wrapping::Causal);
    assert!(causal.special.mask.is_some());
    let bare = Tokens::from_json(
        "bare",
        tiny_tokenizer(Splitting::Words, Wrapping::Causal, [])
            .replace("[MASK]", "mask")
            .as_bytes(),
    )
    .unwrap();
    let source = open(&path).unwrap();
    let error = task(json!({"kind": "masked-language"}))
        .prepare(source.as_ref(), &bare)
        .unwrap_err();
    assert!(error.to_string().contains("found no mask token"), "{error}");
}

/// The prompt's and the answer's text of each example, by its labels.
fn divided(tokens: &Tokens, batch: &TextBatch) -> Vec<(String, String)> {
    let Targets::Tokens(labels) = &batch.targets else {
        panic!("{batch:?}")
    };
    (0..batch.size)
        .map(|row| {
            let (mut prompt, mut answer) = (String::new(), String::new());
            for place in row * batch.tokens..(row + 1) * batch.tokens {
                let token = tokens.token(batch.ids[place] as u32).unwrap();
                match labels[place] {
                    _ if batch.mask[place] == 0 => assert_eq!(labels[place], IGNORED),
                    IGNORED => prompt += &token,
                    label => {
                        assert_eq!(label, batch.ids[place]);
                        answer += &token;
                    }
                }
            }
            (prompt, answer)
        })
        .collect()
}

#[test]
fn only_answers_are_learned() {
    let files = Files::new();
    let tokens = characters(Wrapping::Causal);
    let instruction = json!({"kind": "instruction"});
    let path = files.write("data.csv", "prompt,completion\n1 + 2 =, 3\nhi,oh\n");
    let (_, set) = read(&path, &task(instruction.clone()), &tokens);
    let pair = |prompt: &str, answer: &str| (prompt.to_owned(), answer.to_owned());
    assert_eq!(
        divided(&tokens, &all(&set)),
        [pair("[BOS]1 + 2 =", " 3[EOS]"), pair("[BOS]hi", "oh[EOS]")]
    );

    let path = files.write("data.jsonl", "{\"instruction\": \"Add\", \"input\": \"1, 2\", \"output\": \"3\"}\n{\"instruction\": \"Hi\", \"input\": \"\", \"output\": \"Oh\"}");
    let (_, set) = read(&path, &task(instruction.clone()), &tokens);
    let forms = divided(&tokens, &all(&set));
    assert_eq!(
        forms[0],
        pair(
            "[BOS]### Instruction:\nAdd\n\n### Input:\n1, 2\n\n### Response:\n",
            "3[EOS]"
        )
    );
    assert_eq!(
        forms[1],
        pair("[BOS]### Instruction:\nHi\n\n### Response:\n", "Oh[EOS]")
    );

    let messages = json!({"messages": [
        {"role": "system", "content": "S"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
        {"from": "human", "value": "r"}, {"from": "gpt", "value": "b"}]});
    let path = files.write("data.jsonl", &messages.to_string());
    let (prepared, set) = read(&path, &task(instruction.clone()), &tokens);
    let turns = divided(&tokens, &all(&set));
    assert_eq!(turns[0].1, "a\n\nb\n\n[EOS]");
    assert!(
        turns[0].0.contains("### user:\nr\n\n### assistant:\n"),
        "{turns:?}"
    );
    let source = open(&path).unwrap();
    let set =
        TextSet::requests(source.as_ref(), &prepared, &tokens, &TextOptions::default()).unwrap();
    let request = words(&tokens, &all(&set).ids).concat();
    assert!(request.ends_with("b\n\n### assistant:\n"), "{request}");

    let setting = json!({"kind": "instruction", "template": "Q: {q}[ ({hint})] A:", "completion": "sql", "turn": "x{content}"});
    let path = files.write("data.csv", "q,hint,sql\nwho,me, you\nwhy,, so\n");
    let (_, set) = read(&path, &task(setting), &tokens);
    assert_eq!(
        divided(&tokens, &all(&set))[0],
        pair("[BOS]Q: who (me) A:", " you[EOS]")
    );
    assert_eq!(
        divided(&tokens, &all(&set))[1],
        pair("[BOS]Q: why A:", " so[EOS]")
    );
}

#[test]
fn a_prompt_that_leaves_no_room_is_reported() {
    let files = Files::new();
    let tokens = characters(Wrapping::Causal);
    let path = files.write(
        "data.csv",
        "prompt,completion\nabcdefghij,k\nab,cdefghijk\n",
    );
    let source = open(&path).unwrap();
    let prepared = task(json!({"kind": "instruction"}))
        .prepare(source.as_ref(), &tokens)
        .unwrap();
    let options = TextOptions {
        max_length: 8,
        bad_rows: BadRows(1),
        ..TextOptions::default()
    };
    let set = TextSet::new(source.as_ref(), &prepared, &tokens, &options).unwrap();
    assert!(
        set.problems[0]
            .to_string()
            .contains("the prompt takes 10 of at most 8 tokens"),
        "{:?}",
        set.problems
    );
    assert_eq!(
        divided(&tokens, &all(&set)),
        [("[BOS]ab".to_owned(), "cdefg".to_owned())]
    );
    assert_eq!(set.truncated, 1);
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
