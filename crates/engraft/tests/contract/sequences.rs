//! Adapters of sequences and attention in decoders: behind a cache, and together with others.

use burn::tensor::{DType, Device, Int, Tensor};
use engraft::{Adapted, Injection, Key, Mode, method};
use engraft_core::{Setup, Targets, Text};
use engraft_models::{Cache, Logits, Pretrained};
use engraft_testkit::{compare, random};
use serde_json::{Value, json};

const LLAMA: &str = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16,
    "intermediate_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu", "vocab_size": 23,
    "tie_word_embeddings": true}"#;
const GPT2: &str = r#"{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 16, "n_head": 4,
    "n_layer": 2, "n_positions": 64, "vocab_size": 23, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
    "attn_pdrop": 0.0}"#;

type Model = Adapted<Pretrained>;

fn model(config: &str, adapters: &[(&str, &str, Value)]) -> Model {
    let key = Key::new(3);
    let base = Pretrained::random(config, &key, &Device::default(), DType::F64).unwrap();
    let mut adapted = Adapted::new(base);
    for (seed, (name, id, config)) in adapters.iter().enumerate() {
        let mut injection = Injection::new(seed as u64);
        if *id == "lora" {
            injection = injection.targets(Targets::names(&["lm_head"]));
        }
        let method = method(id, config).unwrap();
        adapted.attach(name, &method, &injection).unwrap();
        adapted = random::perturb_trained(adapted, 0.4, seed as u64 + 7);
    }
    adapted
}

fn ids(rows: &[[i64; 6]]) -> Tensor<2, Int> {
    let flat: Vec<i64> = rows.iter().flatten().copied().collect();
    let data = burn::tensor::TensorData::new(flat, [rows.len(), 6]);
    Tensor::from_data(data, &Device::default())
}

fn text() -> Text {
    let mask = ids(&[[1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]]);
    Text::new(ids(&[[1, 5, 2, 9, 5, 20], [0, 0, 5, 7, 2, 5]])).with_mask(mask)
}

fn logits(model: &Model, text: &Text) -> Tensor<3> {
    let output = model.model.forward(text, &model.ctx(Mode::Eval)).unwrap();
    output.logits.and_then(Logits::tokens).unwrap()
}

/// Scores behind the last token, computed from the whole text.
fn last(model: &Model, text: &Text) -> Tensor<2> {
    let all = logits(model, text);
    let tokens = all.dims()[1];
    all.narrow(1, tokens - 1, 1).squeeze_dim(1)
}

/// The same, with the text read piece by piece.
fn piecewise(model: &Model, text: &Text, sizes: &[usize]) -> Tensor<2> {
    let (mut cache, mut start) = (Cache::default(), 0);
    let mut scores = None;
    for &size in sizes {
        let part = |of: &Tensor<2, Int>| of.clone().narrow(1, start, size);
        let mut piece = Text::new(part(&text.ids));
        piece.mask = text.mask.as_ref().map(part);
        let decoder = model.model.causal_lm().unwrap();
        scores = Some(decoder.next(&piece, &mut cache, &model.ctx(Mode::Eval)));
        start += size;
    }
    scores.unwrap()
}

fn shadow() -> Value {
    json!({"rank": 2, "alpha": 0.8, "dropout": 0.0,
        "backbone": {"blocks": 2, "inner": 8, "heads": 2, "key-heads": 1, "head-width": 4}})
}

#[test]
fn a_cache_changes_nothing() {
    let pasta = json!({"special-tokens": [5, 2], "vectors": 4, "dropout": 0.0, "std": 0.5});
    let prompt = json!({"virtual-tokens": 2});
    for config in [LLAMA, GPT2] {
        for (id, own) in [
            ("shadow", shadow()),
            ("pasta", pasta.clone()),
            ("prompt-tuning", prompt.clone()),
            ("prefix-tuning", prompt.clone()),
            ("vpt", json!({"virtual-tokens": 2})),
            ("adaption-prompt", prompt.clone()),
        ] {
            let adapted = model(config, &[("one", id, own)]);
            let padded = text();
            let text = Text::new(padded.ids.clone());
            let whole = last(&adapted, &text);
            let base = last(&model(config, &[]), &text);
            assert!(compare::max_difference(&whole, &base) > 1e-4, "{id}");
            // Behind a cache padding has no position: those of one piece are the measure.
            let of_padded = piecewise(&adapted, &padded, &[6]);
            for sizes in [&[6][..], &[3, 3], &[3, 1, 2], &[3, 1, 1, 1]] {
                for (text, expected) in [(&text, &whole), (&padded, &of_padded)] {
                    let found = piecewise(&adapted, text, sizes);
                    let difference = compare::max_difference(&found, expected);
                    assert!(difference < 1e-9, "{id} {sizes:?}: {difference}");
                }
            }
        }
    }
}

#[test]
fn compositions_at_sequences_are_right_or_refused() {
    let prompt = |tokens: usize| json!({"virtual-tokens": tokens});
    let mut adapted = model(
        LLAMA,
        &[
            ("short", "prompt-tuning", prompt(2)),
            ("long", "prompt-tuning", prompt(3)),
            ("keys", "prefix-tuning", prompt(2)),
            ("more-keys", "prefix-tuning", prompt(1)),
            ("attends", "adaption-prompt", prompt(2)),
            ("also-attends", "adaption-prompt", prompt(3)),
            ("shadow", "shadow", shadow()),
            ("other-shadow", "shadow", shadow()),
            ("head", "lora", json!({"rank": 2})),
        ],
    );
    let text = text();
    let mut under = |setup: Value| -> Result<Tensor<3>, String> {
        let setup: Setup = serde_json::from_value(setup).unwrap();
        adapted.compose(&setup).map_err(|error| error.to_string())?;
        Ok(logits(&adapted, &text))
    };
    let names = [
        "short",
        "long",
        "keys",
        "more-keys",
        "attends",
        "also-attends",
        "shadow",
        "other-shadow",
    ];
    let alone: Vec<Tensor<3>> = names
        .iter()
        .map(|name| under(json!(name)).unwrap())
        .collect();
    let differ = |one: &Tensor<3>, other: &Tensor<3>| compare::max_difference(one, other) > 1e-5;
    // A stack of any two is neither of them alone.
    for (one, first) in names.iter().zip(&alone) {
        for (two, second) in names.iter().zip(&alone) {
            if one != two {
                let both = under(json!({"stack": [one, two]})).unwrap();
                assert!(differ(&both, first) && differ(&both, second), "{one} {two}");
            }
        }
    }
    // What is put in front is put there in a sum too; what attention layers return adds up.
    for pair in [
        ["short", "long"],
        ["keys", "more-keys"],
        ["attends", "also-attends"],
    ] {
        let sum = under(json!({"sum": pair})).unwrap();
        let stack = under(json!({"stack": pair})).unwrap();
        assert!(!differ(&sum, &stack), "{pair:?}");
    }
    // Changes of the same hidden states add; one after the other they do not.
    let pair = ["shadow", "other-shadow"];
    let sum = under(json!({"sum": pair})).unwrap();
    let swapped = under(json!({"sum": ["other-shadow", "shadow"]})).unwrap();
    assert!(!differ(&sum, &swapped) && differ(&sum, &under(json!({"stack": pair})).unwrap()));
    // A block of which a site has one adapter is that adapter there.
    let nested = json!({"stack": ["short", {"sum": ["head", "shadow"]}]});
    assert!(differ(&under(nested).unwrap(), &alone[0]));
    let piece = |name: &str, size: usize| json!({"of": name, "size": size});
    for (setup, reason) in [
        (json!({"sum": ["short", "shadow"]}), "stack them"),
        (json!({"parallel": ["short", "long"]}), "`parallel`"),
        (
            json!({"average": {"of": ["keys", "more-keys"]}}),
            "`average`",
        ),
        (
            json!({"split": [piece("attends", 3), piece("head", 3)]}),
            "`split`",
        ),
        (
            json!({"batch-split": [piece("shadow", 1), piece("head", 1)]}),
            "`batch-split`",
        ),
        (
            json!({"fuse": {"by": "shadow", "of": ["short", "long"]}}),
            "`fuse`",
        ),
    ] {
        let error = under(setup).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn rows_have_their_own_adapters_whatever_is_active() {
    let adapted = model(
        LLAMA,
        &[
            ("attends", "adaption-prompt", json!({"virtual-tokens": 2})),
            ("shadow", "shadow", shadow()),
            ("keys", "prefix-tuning", json!({"virtual-tokens": 2})),
        ],
    );
    let text = text();
    let rows = adapted.rows(&[Some("shadow"), None]).unwrap();
    let ctx = adapted.ctx(Mode::Eval).with_rows(&rows);
    let mixed = adapted.model.forward(&text, &ctx).unwrap();
    let mixed = mixed.logits.and_then(Logits::tokens).unwrap();
    let mut alone = adapted.clone();
    for (row, name) in [(0, vec!["shadow"]), (1, vec![])] {
        alone
            .activate(&name, engraft_core::Composition::Sum)
            .unwrap();
        let expected = logits(&alone, &text).narrow(0, row, 1);
        let found = mixed.clone().narrow(0, row, 1);
        assert!(
            compare::max_difference(&found, &expected) < 1e-9,
            "row {row}"
        );
    }
    assert!(adapted.rows(&[Some("keys"), None]).is_err());
}

#[test]
fn a_shared_output_layer_has_adapters_of_its_own() {
    for config in [LLAMA, GPT2] {
        let mut adapted = model(config, &[("head", "lora", json!({"rank": 2}))]);
        assert_eq!(adapted.counts("head").unwrap().trainable, 2 * (16 + 23));
        let text = text();
        let expected = logits(&adapted, &text);
        let base = logits(&model(config, &[]), &text);
        assert!(compare::max_difference(&expected, &base) > 1e-4);
        adapted.merge().unwrap();
        assert!(compare::max_difference(&logits(&adapted, &text), &expected) < 1e-10);
        adapted.unmerge();
        adapted.disable(true);
        assert_eq!(
            compare::max_difference(&logits(&adapted, &text), &base),
            0.0
        );
        adapted.disable(false);
        // Nothing of the head is left to the embedding.
        let folded = Adapted::new(adapted.fold().unwrap());
        assert_eq!(folded.model.config_json()["tie_word_embeddings"], false);
        assert!(compare::max_difference(&logits(&folded, &text), &expected) < 1e-10);
        let untied = Adapted::new(model(config, &[]).model.untied());
        assert_eq!(compare::max_difference(&logits(&untied, &text), &base), 0.0);
    }
}
