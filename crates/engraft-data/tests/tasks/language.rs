//! Tasks whose labels are tokens.

use super::*;

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
            let span = row * batch.tokens..(row + 1) * batch.tokens;
            let cells = labels[span.clone()]
                .iter()
                .zip(&batch.ids[span.clone()])
                .zip(&batch.mask[span]);
            for ((label, id), present) in cells {
                let token = tokens.token(*id as u32).unwrap();
                match *label {
                    label if *present == 0 => assert_eq!(label, IGNORED),
                    IGNORED => prompt += &token,
                    label => {
                        assert_eq!(label, *id);
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
    assert!(request.ends_with("r\n\n### assistant:\n"), "{request}");
    let Targets::Answers(answers) = all(&set).targets else {
        panic!("an answer is expected");
    };
    assert_eq!(tokens.decode(&answers[0]).unwrap(), "b\n\n");

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
