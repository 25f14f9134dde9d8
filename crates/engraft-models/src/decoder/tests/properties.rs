//! What must hold of any decoder.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use engraft_core::{
    Adaptable, AnySite, AttentionView, Ctx, Gradients, Result, SiteAdapter, Slot, Slots, Text,
    params,
};
use engraft_tensor::{Init, Key, bridge};
use serde_json::{Value, json};

use super::close;
use crate::decoder::{Cache, Generation, Sampling, generate, perplexity, score};
use crate::output::Logits;
use crate::pretrained::Pretrained;
use crate::testing::agrees_with_its_shapes;

/// Does something at a site of any kind with trained values [1, width].
#[derive(Module, Debug)]
struct Touch {
    value: Param<Tensor<2>>,
    placed: bool,
}

impl Touch {
    fn new(width: usize, path: &str, device: &Device, dtype: DType, placed: bool) -> Self {
        let init = Init::Normal { std: 0.7 };
        let value = init.tensor([1, width], &Key::new(5).child(path), device, dtype);
        Self {
            value: Param::from_tensor(value),
            placed,
        }
    }
}

impl SiteAdapter for Touch {
    fn wrap(&self, input: Tensor<2>, output: Tensor<2>, _: &Ctx) -> Tensor<2> {
        output + input * self.value.val()
    }

    fn extend_key_value(
        &self,
        keys: Tensor<4>,
        values: Tensor<4>,
        _: &Ctx,
    ) -> (Tensor<4>, Tensor<4>) {
        let [batch, heads, _, width] = keys.dims();
        let own = self.value.val().reshape([1, heads, 1, width]);
        let own = own.expand([batch, heads, 1, width]);
        let extended = |x: Tensor<4>, by: f64| Tensor::cat(vec![own.clone() * by, x], 2);
        (extended(keys, 1.0), extended(values, 0.5))
    }

    fn extend_sequence(&self, tokens: Tensor<3>, _: &Ctx) -> Tensor<3> {
        let [batch, _, width] = tokens.dims();
        let own = self.value.val().unsqueeze::<3>().expand([batch, 1, width]);
        Tensor::cat(vec![own, tokens], 1)
    }

    fn positions(&self) -> usize {
        usize::from(self.placed)
    }

    fn attend(&self, output: Tensor<3>, view: &AttentionView<'_>, _: &Ctx) -> Tensor<3> {
        let (keys, values) = (view.project)(self.value.val().unsqueeze());
        let mean = (keys + values).mean_dim(2).mean_dim(3);
        output + (view.output)(view.queries.clone() * 0.1 * mean)
    }
}

/// Attaches [`Touch`] at every site whose path ends so.
fn touch<M: Adaptable>(model: &mut M, ends: &[&str], device: &Device, dtype: DType, placed: bool) {
    let shapes = model.shapes();
    model.slots(&mut Slots::new(&mut |path, slot| {
        if let (Slot::Site(site), true) = (slot, ends.iter().any(|end| path.ends_with(end))) {
            let shape = shapes
                .sites
                .iter()
                .find(|shape| shape.path == path)
                .unwrap();
            let adapter = Touch::new(shape.width, path, device, dtype, placed);
            site.attach(path, "touch", AnySite::new(adapter)).unwrap();
        }
    }));
}

fn tiny(model_type: &str) -> Value {
    match model_type {
        "gpt2" => {
            json!({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": 13,
            "n_embd": 8, "n_head": 2, "n_layer": 2, "n_positions": 40, "initializer_range": 0.4})
        }
        _ => {
            json!({"model_type": model_type, "architectures": ["LlamaForCausalLM"], "vocab_size": 13,
            "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 4, "sliding_window": 4, "use_sliding_window": true,
            "max_window_layers": 1, "initializer_range": 0.4})
        }
    }
}

const KINDS: [&str; 6] = ["gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma"];

fn random(model_type: &str, device: &Device) -> Pretrained {
    let config = tiny(model_type).to_string();
    Pretrained::random(&config, &Key::new(1), device, DType::F64).unwrap()
}

fn ids(rows: &[&[i64]], device: &Device) -> Tensor<2, Int> {
    let data = TensorData::new(rows.concat(), [rows.len(), rows[0].len()]);
    Tensor::from_data(data, device)
}

/// Scores of the token behind the last, read whole.
fn whole(model: &Pretrained, text: &Text, ctx: &Ctx) -> Vec<f64> {
    let Some(Logits::Tokens(logits)) = model.forward(text, ctx).unwrap().logits else {
        panic!("a language model")
    };
    let tokens = text.dims()[1];
    bridge::values(&logits.narrow(1, tokens - 1, 1))
}

/// What is attached in turn where caches are checked.
const SITES: [&[&str]; 6] = [
    &[],
    &["sites.prompt"],
    &["key_value"],
    &["sites.sequence"],
    &[
        "sites.prompt",
        "layers.1.sites.sequence",
        "h.1.sites.sequence",
    ],
    &[
        "attended",
        "sites.mlp",
        "sites.attention",
        ".output",
        "key_value",
        "sites.prompt",
    ],
];

#[test]
fn step_by_step_is_the_same_as_whole() {
    let (device, ctx) = (Device::default(), Ctx::default());
    let tokens: [[i64; 9]; 2] = [[1, 5, 9, 2, 2, 7, 12, 3, 4], [4, 4, 0, 11, 6, 5, 8, 8, 10]];
    for kind in KINDS {
        for (sites, placed) in SITES.iter().zip([false, true, true, false, true, false]) {
            let mut model = random(kind, &device);
            touch(&mut model, sites, &device, DType::F64, placed);
            let decoder = model.causal_lm().unwrap();
            let mut cache = Cache::default();
            let mut from = 0;
            for to in [3, 4, 6, 7, 8, 9] {
                let part = |from: usize| {
                    let rows = tokens.each_ref().map(|row| &row[from..to]);
                    Text::new(ids(&rows, &device))
                };
                let scores = bridge::values(&decoder.next(&part(from), &mut cache, &ctx));
                let expected = whole(&model, &part(0), &ctx);
                close(
                    &format!("{kind} with {sites:?}, {to}"),
                    &scores,
                    &expected,
                    1e-10,
                );
                from = to;
            }
            assert_eq!(cache.len(), 9);
        }
    }
}

#[test]
fn padding_on_the_left_changes_nothing_that_follows() {
    let (device, ctx) = (Device::default(), Ctx::default());
    for kind in KINDS {
        for sites in SITES {
            let mut model = random(kind, &device);
            touch(&mut model, sites, &device, DType::F64, true);
            let decoder = model.causal_lm().unwrap();
            let prompt = Text::new(ids(&[&[0, 0, 3, 9, 5], &[7, 1, 2, 2, 6]], &device))
                .with_mask(ids(&[&[0, 0, 1, 1, 1], &[1, 1, 1, 1, 1]], &device));
            let mut cache = Cache::default();
            let first = bridge::values(&decoder.next(&prompt, &mut cache, &ctx));
            let more = Text::new(ids(&[&[8], &[11]], &device));
            let second = bridge::values(&decoder.next(&more, &mut cache, &ctx));
            for (row, alone) in [vec![3, 9, 5], vec![7, 1, 2, 2, 6]].into_iter().enumerate() {
                let range = row * 13..(row + 1) * 13;
                let name = format!("{kind} with {sites:?}, {row}");
                let text = Text::new(ids(&[&alone], &device));
                close(
                    &name,
                    &first[range.clone()],
                    &whole(&model, &text, &ctx),
                    1e-10,
                );
                let longer = [alone, vec![[8, 11][row]]].concat();
                let text = Text::new(ids(&[&longer], &device));
                close(&name, &second[range], &whole(&model, &text, &ctx), 1e-10);
            }
        }
    }
}

#[test]
fn gradients_reach_the_adapters_of_all_sites() {
    let device = Device::default().autodiff();
    for kind in KINDS {
        let mut model = random(kind, &device);
        let sites = model.shapes().sites;
        touch(&mut model, &[""], &device, DType::F64, true);
        let text = Text::new(ids(&[&[1, 5, 9, 2, 7]], &device));
        let hidden = model.forward(&text, &Ctx::default()).unwrap().hidden;
        let weights =
            Init::Normal { std: 1.0 }.tensor(hidden.dims(), &Key::new(9), &device, DType::F64);
        let gradients = Gradients::backward(&(hidden * weights).sum(), &model);
        for site in sites {
            let path = format!("{}.adapters.touch.value", site.path);
            let gradient = gradients
                .get(&path)
                .unwrap_or_else(|| panic!("{kind}: {path}"));
            let largest = gradient.clone().abs().max().into_scalar::<f64>();
            assert!(largest > 1e-9, "{kind}: {path}");
        }
    }
}

#[test]
fn repeated_blocks_are_those_of_the_ranges() {
    let (device, ctx) = (Device::default(), Ctx::default());
    let model = random("qwen2", &device);
    let text = Text::new(ids(&[&[1, 5, 9, 2, 7, 3]], &device));
    let same = model.replicated(&[[0, 2], [2, 3]]).unwrap();
    assert_eq!(whole(&same, &text, &ctx), whole(&model, &text, &ctx));
    let longer = model.replicated(&[[0, 2], [1, 3]]).unwrap();
    assert_eq!(longer.config_json()["num_hidden_layers"], 4);
    let read = |model: &Pretrained, path: &str| {
        let values = params::read(model, |found| found == path);
        values.into_values().next().unwrap()
    };
    let path = |block: usize| format!("model.layers.{block}.mlp.up_proj.weight");
    for (copy, original) in [(0, 0), (1, 1), (2, 1), (3, 2)] {
        read(&longer, &path(copy)).assert_eq(&read(&model, &path(original)), true);
    }
    agrees_with_its_shapes(longer);
    assert!(model.replicated(&[[0, 4]]).is_err() && model.replicated(&[[1, 1]]).is_err());
    for kind in KINDS {
        let model = random(kind, &device);
        let longer = model.replicated(&[[0, 1], [0, 2]]).unwrap();
        let same = longer.replicated(&[[0, 1], [2, 3]]).unwrap();
        let first = model.replicated(&[[0, 2]]).unwrap();
        assert_eq!(
            whole(&same, &text, &ctx),
            whole(&first, &text, &ctx),
            "{kind}"
        );
        agrees_with_its_shapes(longer);
    }
}

#[test]
fn scores_are_sums_of_log_probabilities() -> Result<()> {
    let (device, ctx) = (Device::default(), Ctx::default());
    let model = random("llama", &device);
    let decoder = model.causal_lm()?;
    let pairs = [
        (vec![1, 5], vec![9, 2, 7]),
        (vec![4], vec![6]),
        (vec![3, 3, 3, 3, 3, 3], vec![]),
    ];
    let scores = score(decoder, &pairs, &device, &ctx)?;
    for ((context, more), score) in pairs.iter().zip(&scores) {
        let (mut expected, mut greedy) = (0.0, true);
        let mut read = context.clone();
        for token in more {
            let logits = whole(&model, &Text::new(ids(&[&read], &device)), &ctx);
            let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
            expected += logits[*token as usize] - total.ln();
            greedy &= logits.iter().all(|logit| *logit <= logits[*token as usize]);
            read.push(*token);
        }
        assert!((score.log_likelihood - expected).abs() < 1e-10);
        assert_eq!((score.tokens, score.is_greedy), (more.len(), greedy));
    }
    // What a model generates is what it finds likeliest.
    let generation = Generation {
        max_new_tokens: 3,
        ..Generation::default()
    };
    let prompt = Text::new(ids(&[&[1, 5]], &device));
    let likeliest = generate(decoder, &prompt, &generation, &ctx)?.remove(0);
    let best = score(decoder, &[(vec![1, 5], likeliest)], &device, &ctx)?;
    assert!(best[0].is_greedy && perplexity(&best) < 13.0);
    assert!(score(decoder, &[(vec![], vec![1])], &device, &ctx).is_err());
    Ok(())
}

#[test]
fn sampling_repeats_with_its_seed_and_stops() {
    let (device, ctx) = (Device::default(), Ctx::default());
    let model = random("gpt2", &device);
    let decoder = model.causal_lm().unwrap();
    let prompt = Text::new(ids(&[&[1, 5], &[1, 5]], &device));
    let run = |seed: u64, stop: Vec<i64>| {
        let generation = Generation {
            max_new_tokens: 12,
            stop,
            sampling: Sampling {
                temperature: 1.5,
                seed,
                ..Sampling::default()
            },
        };
        generate(decoder, &prompt, &generation, &ctx).unwrap()
    };
    let texts = run(1, Vec::new());
    assert_eq!(texts, run(1, Vec::new()));
    assert_ne!(texts, run(2, Vec::new()));
    assert_ne!(texts[0], texts[1]);
    let stop = texts[0][4];
    let stopped = run(1, vec![stop]);
    let first = texts[0].iter().position(|token| *token == stop).unwrap();
    assert_eq!(stopped[0], texts[0][..=first]);
}

#[test]
fn what_cannot_be_read_is_refused() {
    let (device, ctx) = (Device::default(), Ctx::default());
    let generation = Generation::default();
    let gpt2 = random("gpt2", &device);
    let decoder = gpt2.causal_lm().unwrap();
    let message = |text: &Text| {
        generate(decoder, text, &generation, &ctx)
            .unwrap_err()
            .to_string()
    };
    let text = Text::new(ids(&[&[1, 5]], &device));
    assert!(message(&text).contains("64 to follow, expected at most 40"));
    let right = text.clone().with_mask(ids(&[&[1, 0]], &device));
    assert!(message(&right).contains("on the left"));
    assert!(
        gpt2.forward(&Text::new(ids(&[&[13]], &device)), &ctx)
            .is_err()
    );
    assert!(
        gpt2.forward(&Text::new(ids(&[&[1; 41]], &device)), &ctx)
            .is_err()
    );
    let mut bare = tiny("llama");
    bare["architectures"] = json!(["LlamaModel"]);
    let bare = Pretrained::random(&bare.to_string(), &Key::new(1), &device, DType::F32).unwrap();
    let decoder = bare.causal_lm().unwrap();
    let error = generate(decoder, &text, &generation, &ctx).unwrap_err();
    assert!(error.to_string().contains("ForCausalLM"));
}
