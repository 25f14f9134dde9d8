//! Models as shapes: enough to count parameters without loading a weight.

use serde::Serialize;
use serde_json::Value;

/// What a slot's frozen layer is. Whatever the kind, adapters see its weight as a matrix
/// `[d_in, d_out]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerKind {
    /// y = x W + b. PyTorch's `Linear` and GPT-2's `Conv1D` differ only in how a file stores W.
    Linear,
    /// Rows of W looked up by index: d_in is the vocabulary.
    Embedding,
    /// W is [d_in = in * kh * kw, d_out], applied to unfolded patches.
    Conv2d {
        /// kh and kw.
        kernel: [usize; 2],
    },
    /// A stack of linear layers of one shape, one per expert.
    Experts,
}

impl LayerKind {
    /// Rows of W per input channel: the pixels of a patch.
    pub fn pixels(self) -> usize {
        match self {
            Self::Conv2d { kernel } => kernel[0] * kernel[1],
            _ => 1,
        }
    }
}

/// One adaptable layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerShape {
    /// Path of the layer in the model, without `.weight`.
    pub path: String,
    /// What it is.
    pub kind: LayerKind,
    /// Inputs.
    pub d_in: usize,
    /// Outputs.
    pub d_out: usize,
    /// Whether it has a bias.
    pub bias: bool,
}

impl LayerShape {
    /// A linear layer.
    pub fn linear(path: impl Into<String>, d_in: usize, d_out: usize, bias: bool) -> Self {
        Self {
            path: path.into(),
            kind: LayerKind::Linear,
            d_in,
            d_out,
            bias,
        }
    }

    /// min(d_in, d_out), the largest rank of an update.
    pub fn max_rank(&self) -> usize {
        self.d_in.min(self.d_out)
    }
}

/// Where hidden states can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiteKind {
    /// After a normalisation, an embedding or a block: output only.
    Hidden,
    /// Around a sublayer (attention, feed-forward): its input and its output, before the residual sum.
    Sublayer,
    /// The keys and values of an attention layer.
    KeyValue,
    /// The sequence of tokens entering a block.
    Sequence,
    /// The embedded tokens entering the model, before positions are added.
    Prompt,
    /// What an attention layer returns, where its queries and projections can be seen.
    Attention,
}

/// One named site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SiteShape {
    /// Path of the site in the model.
    pub path: String,
    /// What happens there.
    pub kind: SiteKind,
    /// Width of the hidden states.
    pub width: usize,
}

impl SiteShape {
    /// Whether the hidden states there are those that leave a block: a path that ends in
    /// `sites.output`.
    pub fn leaves_block(&self) -> bool {
        self.path == "sites.output" || self.path.ends_with(".sites.output")
    }
}

/// What computes the hidden state at a site, as far as a map h -> g . h + o behind it can be taken
/// up there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fold {
    /// Path of the site.
    pub site: String,
    /// Parameters, by path, whose last axis is multiplied by g.
    pub scaled: Vec<String>,
    /// The one of them to which o is then added; `None` where no offset can be taken up.
    pub shifted: Option<String>,
}

/// A layer that has no weight of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Tie {
    /// Path of the layer: an output layer.
    pub layer: String,
    /// Path of the embedding whose weight it has.
    pub embedding: String,
}

/// Which part of the model a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Token, patch, position or class embeddings.
    Embedding,
    /// Attention and feed-forward layers.
    Body,
    /// Normalisation gains and offsets.
    Norm,
    /// The task head.
    Head,
}

/// One parameter of the unadapted model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ParamShape {
    /// Path of the parameter in the model's record.
    pub path: String,
    /// Number of values.
    pub numel: usize,
    /// Which part it belongs to.
    pub part: Part,
    /// Whether it is an additive offset.
    pub bias: bool,
}

/// Everything a method needs to know of a model in order to be counted and placed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ModelShapes {
    /// Adaptable layers in forward order.
    pub layers: Vec<LayerShape>,
    /// Named sites in forward order.
    pub sites: Vec<SiteShape>,
    /// All parameters.
    pub params: Vec<ParamShape>,
    /// Layers that share the weight of an embedding.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ties: Vec<Tie>,
    /// Where the model repeats layers of the one it was made from: ranges [from, to) of that one's
    /// blocks, one after the other. Empty where it does not.
    pub replicated: Vec<[usize; 2]>,
    /// What is in front of the sites, where maps can be folded into it.
    pub folds: Vec<Fold>,
    /// The `model_type` of the Hugging Face configuration, where the model has one: methods know
    /// their usual targets by it.
    pub architecture: Option<String>,
    /// That configuration.
    #[serde(skip)]
    pub config: Option<Value>,
}

impl ModelShapes {
    /// Number of values of the unadapted model.
    pub fn total(&self) -> usize {
        self.params.iter().map(|param| param.numel).sum()
    }

    /// Number of values of the task head.
    pub fn head(&self) -> usize {
        self.params
            .iter()
            .filter(|param| param.part == Part::Head)
            .map(|param| param.numel)
            .sum()
    }

    /// Adds a linear layer and its parameters.
    pub fn push_linear(&mut self, path: &str, d_in: usize, d_out: usize, bias: bool, part: Part) {
        self.push_param(format!("{path}.weight"), d_in * d_out, part, false);
        if bias {
            self.push_param(format!("{path}.bias"), d_out, part, true);
        }
        self.layers
            .push(LayerShape::linear(path, d_in, d_out, bias));
    }

    /// Adds an output layer that shares the weight of the embedding at `embedding`; a bias that it
    /// has is a parameter of its own.
    pub fn push_tied(
        &mut self,
        path: &str,
        embedding: &str,
        [d_in, d_out]: [usize; 2],
        bias: bool,
    ) {
        self.layers
            .push(LayerShape::linear(path, d_in, d_out, bias));
        self.ties.push(Tie {
            layer: path.to_owned(),
            embedding: embedding.to_owned(),
        });
    }

    /// The embedding whose weight the layer at `path` shares.
    pub fn tied_to(&self, path: &str) -> Option<&str> {
        let tie = self.ties.iter().find(|tie| tie.layer == path)?;
        Some(&tie.embedding)
    }

    /// Adds a layer of another kind, without its parameters.
    pub fn push_layer(&mut self, kind: LayerKind, layer: LayerShape) {
        self.layers.push(LayerShape { kind, ..layer });
    }

    /// Adds a parameter that no layer owns.
    pub fn push_param(&mut self, path: impl Into<String>, numel: usize, part: Part, bias: bool) {
        self.params.push(ParamShape {
            path: path.into(),
            numel,
            part,
            bias,
        });
    }

    /// Adds a named site.
    pub fn push_site(&mut self, path: impl Into<String>, kind: SiteKind, width: usize) {
        self.sites.push(SiteShape {
            path: path.into(),
            kind,
            width,
        });
    }

    /// Says what is in front of a site; see [`Fold`].
    pub fn push_fold(
        &mut self,
        site: impl Into<String>,
        scaled: Vec<String>,
        shifted: Option<String>,
    ) {
        self.folds.push(Fold {
            site: site.into(),
            scaled,
            shifted,
        });
    }

    /// Whether "all-linear" means the layer at `path`: a linear layer outside the task head.
    pub fn is_default_target(&self, path: &str) -> bool {
        let linear = |layer: &LayerShape| layer.kind == LayerKind::Linear && layer.path == path;
        !self.is_head(path) && self.layers.iter().any(linear)
    }

    /// Whether the layer at `path` belongs to the task head.
    pub fn is_head(&self, path: &str) -> bool {
        let weight = format!("{path}.weight");
        let mut params = self.params.iter();
        self.tied_to(path).is_some()
            || params.any(|param| param.path == weight && param.part == Part::Head)
    }
}
