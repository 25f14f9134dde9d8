//! A model of any implemented architecture.

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
};
use burn::tensor::{DType, Device, Tensor};
use engraft_core::{Adaptable, Ctx, Error, ModelShapes, Result, Slots, Text, Trained};
use engraft_tensor::{Key, suggestion};
use serde_json::Value;

use crate::bert::{Bert, BertConfig};
use crate::checkpoint::{LoadReport, Names, Origin};
use crate::decoder::{CausalLm, Untying};
use crate::gpt2::{Gpt2, Gpt2Config};
use crate::hf_vit::{HfVit, HfVitConfig};
use crate::llama::{Llama, LlamaConfig};
use crate::output::Output;
use crate::parts::{Builder, Random};
use crate::shapes::bad;

/// A model of `transformers`, from its `config.json`. Its paths are the variant's own.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one for a whole model, and its parts are matched by value"
)]
pub enum Pretrained {
    /// BERT, RoBERTa, XLM-R.
    Bert(Bert),
    /// GPT-2.
    Gpt2(Gpt2),
    /// Llama, Mistral, Qwen2, Qwen3, Gemma.
    Llama(Llama),
    /// ViT.
    Vit(HfVit),
}

/// What a `config.json` describes.
#[derive(Debug, Clone)]
pub(crate) enum Config {
    Bert(BertConfig),
    Gpt2(Gpt2Config),
    Llama(LlamaConfig),
    Vit(HfVitConfig),
}

/// Values of `model_type` that can be built.
const MODEL_TYPES: &[&str] = &[
    "bert",
    "gemma",
    "gpt2",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "roberta",
    "vit",
    "xlm-roberta",
];

impl Config {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// An architecture that is not implemented, and those of the architecture itself.
    pub fn new(json: &Value) -> Result<Self> {
        let Some(model_type) = json["model_type"].as_str() else {
            return Err(bad(format!(
                "found no model_type, expected one of {}",
                MODEL_TYPES.join(", ")
            )));
        };
        match model_type {
            "bert" | "roberta" | "xlm-roberta" => BertConfig::new(json).map(Self::Bert),
            "gpt2" => Gpt2Config::new(json).map(Self::Gpt2),
            "gemma" | "llama" | "mistral" | "qwen2" | "qwen3" => {
                LlamaConfig::new(json).map(Self::Llama)
            }
            "vit" => HfVitConfig::new(json).map(Self::Vit),
            other => Err(bad(format!(
                "found model_type `{other}`, expected one of {}{}",
                MODEL_TYPES.join(", "),
                suggestion(other, MODEL_TYPES.iter().copied())
            ))),
        }
    }

    /// Standard deviation of fresh weights.
    pub fn std(&self) -> f64 {
        match self {
            Self::Bert(config) => config.std(),
            Self::Gpt2(config) => config.std(),
            Self::Llama(config) => config.std(),
            Self::Vit(config) => config.std(),
        }
    }

    /// What files call the tensors.
    pub fn names(&self) -> Names {
        match self {
            Self::Bert(config) => Bert::names(config),
            Self::Gpt2(config) => Gpt2::names(config),
            Self::Llama(config) => Llama::names(config),
            Self::Vit(config) => HfVit::names(config),
        }
    }

    /// The model.
    pub fn build(&self, builder: &mut Builder<'_>) -> Pretrained {
        match self {
            Self::Bert(config) => Pretrained::Bert(Bert::build(config, builder)),
            Self::Gpt2(config) => Pretrained::Gpt2(Gpt2::build(config, builder)),
            Self::Llama(config) => Pretrained::Llama(Llama::build(config, builder)),
            Self::Vit(config) => Pretrained::Vit(HfVit::build(config, builder)),
        }
    }
}

/// The same expression for every variant.
macro_rules! each {
    ($self:expr, $model:ident => $result:expr) => {
        match $self {
            Pretrained::Bert($model) => $result,
            Pretrained::Gpt2($model) => $result,
            Pretrained::Llama($model) => $result,
            Pretrained::Vit($model) => $result,
        }
    };
}

/// The same change of every variant.
macro_rules! change {
    ($self:expr, $model:ident => $result:expr) => {
        match $self {
            Pretrained::Bert($model) => Pretrained::Bert($result),
            Pretrained::Gpt2($model) => Pretrained::Gpt2($result),
            Pretrained::Llama($model) => Pretrained::Llama($result),
            Pretrained::Vit($model) => Pretrained::Vit($result),
        }
    };
}

impl Pretrained {
    /// A fresh model of a `config.json`, from the streams of `key`.
    ///
    /// # Errors
    /// As reading the configuration.
    pub fn random(config: &str, key: &Key, device: &Device, dtype: DType) -> Result<Self> {
        let json = serde_json::from_str(config).map_err(|error| bad(error.to_string()))?;
        let config = Config::new(&json)?;
        let mut source = Random(key.clone());
        Ok(config.build(&mut Builder::new(&mut source, device, dtype, config.std())))
    }

    /// The `config.json` that describes the model as it is.
    pub fn config_json(&self) -> &Value {
        each!(self, model => &model.config().json)
    }

    /// What a checkpoint calls a parameter, by its path in the model.
    ///
    /// # Errors
    /// None for a model that was built: its configuration is known.
    pub fn file_name(&self, path: &str) -> Result<String> {
        Ok(Config::new(self.config_json())?.names().file(path))
    }

    /// What loading did beyond copying the checkpoint.
    pub fn report(&self) -> &LoadReport {
        &self.origin().report
    }

    pub(crate) fn origin(&self) -> &Origin {
        each!(self, model => &model.origin)
    }

    pub(crate) fn set_origin(&mut self, origin: Origin) {
        each!(self, model => model.origin = origin);
    }

    /// Hidden states, pooled vector and logits of a text.
    ///
    /// # Errors
    /// A text that does not fit the model, or a model of images.
    pub fn forward(&self, text: &Text, ctx: &Ctx) -> Result<Output> {
        match self {
            Self::Bert(model) => model.read(text, ctx),
            Self::Gpt2(model) => {
                model.check(text, ctx)?;
                Ok(model.forward(text, ctx))
            }
            Self::Llama(model) => {
                model.check(text)?;
                Ok(model.forward(text, ctx))
            }
            Self::Vit(_) => Err(Error::Unsupported(
                "found a text for a model of images".to_owned(),
            )),
        }
    }

    /// The model as a decoder with scores for the next token, for generation and scoring.
    ///
    /// # Errors
    /// A model of another kind.
    pub fn causal_lm(&self) -> Result<&dyn CausalLm> {
        match self {
            Self::Gpt2(model) => Ok(model),
            Self::Llama(model) => Ok(model),
            Self::Bert(_) | Self::Vit(_) => Err(Error::Unsupported(
                "found an encoder, expected a decoder (GPT-2, Llama) with an output layer"
                    .to_owned(),
            )),
        }
    }

    /// The model whose blocks are these ranges of this one's; see [`Llama::replicated`].
    ///
    /// # Errors
    /// A range that is empty or reaches beyond the last block.
    pub fn replicated(&self, ranges: &[[usize; 2]]) -> Result<Self> {
        Ok(match self {
            Self::Bert(model) => Self::Bert(model.replicated(ranges)?),
            Self::Gpt2(model) => Self::Gpt2(model.replicated(ranges)?),
            Self::Llama(model) => Self::Llama(model.replicated(ranges)?),
            Self::Vit(model) => Self::Vit(model.replicated(ranges)?),
        })
    }

    /// The model whose output layer has a weight of its own, which is the embedding's at first: what
    /// transformers loads with `tie_word_embeddings` = false. A model whose output layer is no
    /// embedding is left as it is.
    pub fn untied(&self) -> Self {
        match self {
            Self::Bert(model) => Self::Bert(model.untied()),
            Self::Gpt2(model) => Self::Gpt2(model.untied()),
            Self::Llama(model) => Self::Llama(model.untied()),
            Self::Vit(_) => self.clone(),
        }
    }

    /// Hidden states, pooled vector and logits of images [batch, channels, height, width].
    ///
    /// # Errors
    /// Images that do not fit the model, or a model of text.
    pub fn forward_image(&self, pixels: Tensor<4>, ctx: &Ctx) -> Result<Output> {
        match self {
            Self::Vit(model) => {
                model.check(&pixels)?;
                Ok(model.forward(pixels, ctx))
            }
            Self::Bert(_) | Self::Gpt2(_) | Self::Llama(_) => Err(Error::Unsupported(
                "found images for a model of text".to_owned(),
            )),
        }
    }
}

impl Module for Pretrained {
    fn collect_devices(&self, devices: Devices) -> Devices {
        each!(self, model => model.collect_devices(devices))
    }
    fn fork(self, device: &Device) -> Self {
        change!(self, model => model.fork(device))
    }
    fn to_device(self, device: &Device) -> Self {
        change!(self, model => model.to_device(device))
    }
    fn train(self) -> Self {
        change!(self, model => model.train())
    }
    fn valid(&self) -> Self {
        change!(self, model => model.valid())
    }
    fn materialize(self) -> Self {
        change!(self, model => model.materialize())
    }
    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        each!(self, model => model.visit(visitor));
    }
    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        change!(self, model => model.map(mapper))
    }
}

impl ModuleDisplayDefault for Pretrained {
    fn content(&self, content: Content) -> Option<Content> {
        each!(self, model => model.content(content))
    }
}

impl ModuleDisplay for Pretrained {}

impl Trained for Pretrained {}

impl Adaptable for Pretrained {
    fn shapes(&self) -> ModelShapes {
        each!(self, model => model.shapes())
    }

    fn slots(&mut self, slots: &mut Slots<'_>) {
        each!(self, model => model.slots(slots));
    }

    fn untie(&mut self) {
        each!(self, model => model.untie());
    }
}
