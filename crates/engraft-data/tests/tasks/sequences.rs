//! Tasks with labels for sequences and words.

use super::*;

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
