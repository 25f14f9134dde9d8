//! What a method declares about itself. The contract suite holds it to every word.

use serde::Serialize;

/// The family a method belongs to: one crate each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Trained parts of the model itself: full fine-tuning, linear probe.
    Baseline,
    /// Products of two thin matrices.
    Lowrank,
    /// Low-rank or spectral updates started from the singular vectors of the weight.
    Svd,
    /// Kronecker products.
    Kronecker,
    /// Block-diagonal and butterfly orthogonal rotations.
    Butterfly,
    /// Givens rotations and reflections.
    Givens,
    /// Tensor trains.
    TensorTrain,
    /// Circulant, Toeplitz and spectral structure.
    Structured,
    /// Deltas at few entries.
    Sparse,
    /// Bottleneck networks at sublayers.
    Bottleneck,
    /// Scales, shifts and edits of features.
    Features,
    /// Trained tokens, keys and values.
    Prompt,
}

/// The four kinds of method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An adapter on one frozen layer.
    Graft,
    /// Chosen parameters of the model itself are trained.
    Selection,
    /// Coupled across layers.
    ModelGraft,
    /// Acts on hidden states at a named site.
    Site,
}

/// What the adapted model computes before training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AtInit {
    /// The base model, to rounding.
    Identity,
    /// The base model to the stated relative distance of the output.
    Bounded(f64),
    /// Really something else.
    NotIdentity,
}

/// What the gradient is the gradient of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gradient {
    /// The derivative of the output.
    Exact,
    /// The derivative of a stated surrogate, [`crate::Adapter::surrogate`].
    Surrogate(&'static str),
}

/// What happens to the base while training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BaseWeights {
    /// Bit-identical.
    Frozen,
    /// Selected parameters are trained.
    Selected,
}

/// The declaration of a method.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct MethodMeta {
    /// Unique id in kebab case, as written in configurations.
    pub id: &'static str,
    /// Name as the field writes it.
    pub name: &'static str,
    /// Its family.
    pub family: Family,
    /// Its kind; a composition has several.
    pub kinds: &'static [Kind],
    /// arXiv id of the paper, or empty for a baseline.
    pub paper: &'static str,
    /// The defining equation, rows as tokens: y = x W + b.
    pub equation: &'static str,
    /// The type in Hugging Face PEFT, where there is one.
    pub peft: Option<&'static str>,
    /// Whether it folds into the base weights.
    pub mergeable: bool,
    /// Whether an output depends on the other tokens of its batch. In a mixed batch the adapter then
    /// sees its own rows alone.
    pub whole_batch: bool,
    /// Whether it makes sequences, or the keys that they see, longer. All rows of a batch then have
    /// the same adapter.
    pub lengthens: bool,
    /// Whether it changes the layer's bias too (then it needs a slot, not only a weight). An offset
    /// that is an option of the method is not declared: it shows in the weight form.
    pub changes_bias: bool,
    /// Whether it adds a penalty to the training loss; see [`crate::Adapter::penalty`].
    pub regularised: bool,
    /// What it computes before training.
    pub at_init: AtInit,
    /// What its gradient is.
    pub gradient: Gradient,
    /// What happens to the base.
    pub base: BaseWeights,
    /// Which shapes it admits, in words.
    pub admits: &'static str,
}

impl MethodMeta {
    /// The most common declaration: a mergeable graft that starts at the identity, has exact
    /// gradients, leaves the base frozen and admits every shape. Methods override what differs.
    pub const fn graft(
        id: &'static str,
        name: &'static str,
        family: Family,
        paper: &'static str,
        equation: &'static str,
    ) -> Self {
        Self {
            id,
            name,
            family,
            kinds: &[Kind::Graft],
            paper,
            equation,
            peft: None,
            mergeable: true,
            whole_batch: false,
            lengthens: false,
            changes_bias: false,
            regularised: false,
            at_init: AtInit::Identity,
            gradient: Gradient::Exact,
            base: BaseWeights::Frozen,
            admits: "any linear layer",
        }
    }
}
