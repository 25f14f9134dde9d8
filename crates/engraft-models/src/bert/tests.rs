use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor};
use engraft_core::{AnySite, Ctx, Mode, SiteAdapter, Text};
use engraft_tensor::{Init, Key, bridge};

use super::Bert;
use crate::Logits;
use crate::pretrained::Pretrained;
use crate::testing::{Case, Prompt, agrees_with_its_shapes, attach, fixture, tolerances, vectors};

fn bert(case: &Case) -> &Bert {
    match &case.model {
        Pretrained::Bert(model) => model,
        other => panic!("{other:?}"),
    }
}

#[test]
fn golden_vectors() {
    for name in ["bert", "roberta", "bert_cls"] {
        let case = Case::load(&vectors(name));
        let output = case.model.forward(&case.text(), &Ctx::default()).unwrap();
        for (key, tolerance) in tolerances(&format!("model__{name}")) {
            match key.as_str() {
                "out.last_hidden_state" => case.agrees(&key, &output.hidden, tolerance),
                "out.pooler_output" => {
                    case.agrees(&key, output.pooled.as_ref().unwrap(), tolerance);
                }
                _ => {
                    let logits = output.logits.clone().and_then(Logits::sequence);
                    case.agrees(&key, &logits.unwrap(), tolerance);
                }
            }
        }
        assert_eq!(output.logits.is_some(), name == "bert_cls");
    }
}

#[test]
fn heads_as_transformers_computes_them() {
    for name in [
        "bert_mlm",
        "roberta_mlm",
        "roberta_mlm_untied",
        "bert_tokens",
        "roberta_tokens",
        "roberta_regression",
    ] {
        let case = Case::load(&fixture(name));
        let output = case.model.forward(&case.text(), &Ctx::default()).unwrap();
        let tolerance = case.usual("out.logits");
        match output.logits.unwrap() {
            Logits::Sequence(logits) => case.agrees("out.logits", &logits, tolerance),
            Logits::Tokens(logits) => case.agrees("out.logits", &logits, tolerance),
        }
        agrees_with_its_shapes(case.model);
    }
}

/// The keys and values that PEFT's prefix tuning puts in front of one layer.
#[derive(Module, Debug)]
struct Prefix {
    /// [tokens, 2 width]: keys, values.
    values: Param<Tensor<2>>,
}

impl SiteAdapter for Prefix {
    fn extend_key_value(
        &self,
        keys: Tensor<4>,
        values: Tensor<4>,
        _: &Ctx,
    ) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, _, width] = keys.dims();
        let own = self.values.val();
        let count = own.dims()[0];
        let front = |half: usize| {
            let own = own.clone().narrow(1, half * heads * width, heads * width);
            let own = own.reshape([1, count, heads, width]).swap_dims(1, 2);
            own.expand([batch, heads, count, width])
        };
        (
            Tensor::cat(vec![front(0), keys], 2),
            Tensor::cat(vec![front(1), values], 2),
        )
    }

    fn positions(&self) -> usize {
        self.values.dims()[0]
    }
}

#[test]
fn virtual_tokens_and_prefixes_as_peft_has_them() {
    for name in ["bert_prompted", "roberta_prompted"] {
        let case = Case::load(&fixture(name));
        let ctx = Ctx::default();
        let plain = bert(&case).forward(&case.text(), &ctx);
        let hidden = "out.last_hidden_state";
        case.agrees(hidden, &plain.hidden, case.usual(hidden));
        // PEFT drops segments where the task is feature extraction.
        let text = Text {
            segments: None,
            ..case.text()
        };

        let mut prompted = bert(&case).clone();
        attach(&mut prompted, |path| {
            let prompt = Prompt::new(case.floats("prompt"));
            (path == "sites.prompt").then(|| AnySite::new(prompt))
        });
        let output = prompted.forward(&text, &ctx);
        let pooled = "out.prompted.pooler_output";
        case.agrees(pooled, &output.pooled.unwrap(), case.usual(pooled));
        let hidden = "out.prompted.last_hidden_state";
        let expected = case.floats::<3>(hidden).narrow(1, 3, 6);
        let apart = (output.hidden - expected).abs().max().into_scalar::<f64>();
        assert!(apart <= 2.0 * case.usual(hidden)[0], "{name}: {apart}");

        let mut prefixed = bert(&case).clone();
        attach(&mut prefixed, |path| {
            let layer = path.strip_prefix("encoder.layer.")?;
            let layer = layer.strip_suffix(".attention.self.key_value")?;
            let first = 16 * layer.parse::<usize>().unwrap();
            let values = case.floats::<2>("prefix").narrow(1, first, 16);
            Some(AnySite::new(Prefix {
                values: Param::from_tensor(values),
            }))
        });
        let output = prefixed.forward(&text, &ctx);
        let hidden = "out.prefixed.last_hidden_state";
        case.agrees(hidden, &output.hidden, case.usual(hidden));
    }
}

const CONFIG: &str = r#"{"model_type": "bert", "architectures": ["BertForSequenceClassification"], "vocab_size": 11,
    "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12, "max_position_embeddings": 7,
    "type_vocab_size": 2, "id2label": {"0": "a", "1": "b", "2": "c"}}"#;

fn random(config: &str) -> Pretrained {
    Pretrained::random(config, &Key::new(3), &Device::default(), DType::F64).unwrap()
}

fn text(ids: [[i64; 4]; 2]) -> Text {
    Text::new(Tensor::<2, Int>::from_data(ids, &Device::default()))
}

const IDS: [[i64; 4]; 2] = [[1, 2, 3, 4], [5, 6, 0, 0]];

fn logits(model: &Pretrained, text: &Text, ctx: &Ctx) -> Vec<f64> {
    let logits = model.forward(text, ctx).unwrap().logits.unwrap();
    bridge::values(&logits.sequence().unwrap())
}

#[test]
fn every_head_has_the_shapes_that_are_stated() {
    for (family, base) in [
        ("bert", "Bert"),
        ("roberta", "Roberta"),
        ("xlm-roberta", "XLMRoberta"),
    ] {
        for class in [
            "Model",
            "ForSequenceClassification",
            "ForTokenClassification",
            "ForMaskedLM",
        ] {
            let config = CONFIG
                .replace("BertForSequenceClassification", &format!("{base}{class}"))
                .replace("\"bert\"", &format!("\"{family}\""));
            agrees_with_its_shapes(random(&config));
            agrees_with_its_shapes(random(&config.replacen(
                '{',
                "{\"tie_word_embeddings\": false, ",
                1,
            )));
        }
    }
}

#[test]
fn padding_changes_nothing_in_f64() {
    let model = random(CONFIG);
    let ctx = Ctx::default();
    let mask = Tensor::from_data([[1, 1, 1, 1], [1, 1, 0, 0]], &Device::default());
    let padded = logits(&model, &text(IDS).with_mask(mask), &ctx);
    let short = Text::new(Tensor::from_data([[5, 6]], &Device::default()));
    let alone = logits(&model, &short, &ctx);
    for (a, b) in padded[3..].iter().zip(&alone) {
        assert!((a - b).abs() < 1e-12);
    }
}

#[test]
fn a_record_finds_its_paths() {
    let device = Device::default();
    let other = Pretrained::random(CONFIG, &Key::new(4), &device, DType::F64).unwrap();
    let (a, ctx) = (random(CONFIG), Ctx::default());
    assert_ne!(
        logits(&a, &text(IDS), &ctx),
        logits(&other, &text(IDS), &ctx)
    );
    let b = other.load_record(a.clone().into_record());
    assert_eq!(logits(&a, &text(IDS), &ctx), logits(&b, &text(IDS), &ctx));
}

#[test]
fn dropout_acts_in_training_only_and_differs_by_place_and_step() {
    let bank = engraft_core::Bank::default();
    let at = |step| Ctx::new(&bank, Mode::Train { seed: 1, step });
    let model = random(CONFIG);
    let eval = logits(&model, &text(IDS), &Ctx::default());
    assert_ne!(logits(&model, &text(IDS), &at(0)), eval);
    assert_ne!(
        logits(&model, &text(IDS), &at(0)),
        logits(&model, &text(IDS), &at(1))
    );
    assert_eq!(
        logits(&model, &text(IDS), &at(2)),
        logits(&model, &text(IDS), &at(2))
    );

    let off = CONFIG.replacen(
        '{',
        "{\"hidden_dropout_prob\": 0.0, \"attention_probs_dropout_prob\": 0.0, ",
        1,
    );
    let without = random(&off);
    assert_eq!(logits(&without, &text(IDS), &at(0)), eval);
    // Of the probabilities alone: the formed ones agree with the kernel's where almost none is dropped.
    let rare = off.replace("probs_dropout_prob\": 0.0", "probs_dropout_prob\": 1e-12");
    for (a, b) in logits(&random(&rare), &text(IDS), &at(0)).iter().zip(&eval) {
        assert!((a - b).abs() < 1e-9);
    }
    let most = off.replace("probs_dropout_prob\": 0.0", "probs_dropout_prob\": 0.9");
    assert_ne!(logits(&random(&most), &text(IDS), &at(0)), eval);
}

#[test]
fn prompts_of_blocks_are_visible_and_dropped_again() {
    let mut model = random(CONFIG);
    let ctx = Ctx::default();
    let mask = Tensor::from_data([[1, 1, 1, 1], [1, 1, 0, 0]], &Device::default());
    let text = text(IDS).with_mask(mask);
    let plain = logits(&model, &text, &ctx);
    attach(&mut model, |path| {
        let tokens = match path {
            "bert.encoder.layer.0.sites.sequence" => 3,
            "bert.encoder.layer.1.sites.sequence" => 1,
            _ => return None,
        };
        let key = Key::new(tokens as u64);
        let init = Init::Normal { std: 1.0 };
        let prompt = init.tensor([tokens, 8], &key, &Device::default(), DType::F64);
        Some(AnySite::new(Prompt::new(prompt)))
    });
    assert_eq!(model.forward(&text, &ctx).unwrap().hidden.dims(), [2, 4, 8]);
    assert_ne!(logits(&model, &text, &ctx), plain);
}

#[test]
fn texts_and_configurations_that_do_not_fit_are_errors() {
    let model = random(CONFIG);
    let message = |text: Text| {
        let error = model.forward(&text, &Ctx::default()).unwrap_err();
        error.to_string()
    };
    let found = message(text([[1, 2, 3, 11], [0; 4]]));
    assert!(
        found.contains("token 11") && found.contains("0 to 10"),
        "{found}"
    );
    let segments = text([[0, 0, 0, 2], [0; 4]]).ids;
    assert!(message(text(IDS).with_segments(segments)).contains("segment 2"));
    let long = Text::new(Tensor::zeros([1, 8], &Device::default()));
    assert!(message(long).contains("at most 7"));
    let mask = Tensor::from_data([[1, 1]], &Device::default());
    assert!(message(text(IDS).with_mask(mask)).contains("[1, 2]"));
    assert!(message(Text::new(Tensor::zeros([1, 0], &Device::default()))).contains("0 tokens"));
    let mut prompted = random(CONFIG);
    attach(&mut prompted, |path| {
        let device = Device::default();
        let prompt = Init::ZEROS.tensor([4, 8], &Key::new(0), &device, DType::F64);
        (path == "bert.sites.prompt").then(|| AnySite::new(Prompt::new(prompt)))
    });
    let error = prompted.forward(&text(IDS), &Ctx::default()).unwrap_err();
    assert!(error.to_string().contains("found 8 tokens"), "{error}");

    let refused = |from: &str, to: &str| {
        let config = CONFIG.replace(from, to);
        assert_ne!(config, CONFIG);
        let device = Device::default();
        let made = Pretrained::random(&config, &Key::new(0), &device, DType::F32);
        made.unwrap_err().to_string()
    };
    assert!(refused("heads\": 2", "heads\": 3").contains("divisor of hidden_size 8"));
    assert!(
        refused("ForSequenceClassification", "ForQuestionAnswering")
            .contains("ForTokenClassification")
    );
    assert!(refused("\"hidden_size\": 8,", "").contains("hidden_size"));
    assert!(
        refused("{\"model_type\": \"bert\"", "{\"model_type\": \"brt\"").contains("nearest: bert")
    );
    assert!(refused("\"vocab_size\"", "\"hidden_act\": \"gleu\", \"vocab_size\"").contains("gelu"));
}
