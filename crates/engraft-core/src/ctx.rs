//! What a forward pass tells the adapters.

use std::sync::LazyLock;

use burn::tensor::Tensor;
use engraft_tensor::Key;

use crate::bank::Bank;
use crate::conv2d::Image;
use crate::relay::Relay;
use crate::rows::RowChoice;
use crate::statistics::Observer;
use crate::text::Text;

/// Whether dropout and sampling are on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Deterministic.
    #[default]
    Eval,
    /// Dropout and sampling draw from (seed, path, step).
    Train {
        /// The run's seed.
        seed: u64,
        /// The optimizer step.
        step: u64,
    },
}

static EMPTY: LazyLock<Bank> = LazyLock::new(Bank::default);

/// The context of a forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Ctx<'a> {
    bank: &'a Bank,
    mode: Mode,
    rows: Option<&'a RowChoice>,
    observer: Option<&'a Observer>,
    image: Option<&'a Image>,
    text: Option<&'a Text>,
    relay: Option<&'a Relay>,
    /// The batch rows of the tokens at hand, where rows have different adapters.
    members: Option<&'a [usize]>,
    stream: Option<&'a Tensor<2>>,
    grid: Option<[usize; 2]>,
    sequences: Option<[usize; 2]>,
    path: &'a str,
}

impl Default for Ctx<'_> {
    /// Evaluation without a bank: enough for an unadapted model.
    fn default() -> Self {
        Self {
            bank: &EMPTY,
            mode: Mode::Eval,
            rows: None,
            observer: None,
            image: None,
            text: None,
            relay: None,
            members: None,
            stream: None,
            grid: None,
            sequences: None,
            path: "",
        }
    }
}

impl<'a> Ctx<'a> {
    /// A context over a bank.
    pub fn new(bank: &'a Bank, mode: Mode) -> Self {
        Self {
            bank,
            mode,
            ..Self::default()
        }
    }

    /// The same context with a choice of adapter per batch row.
    pub fn with_rows(self, rows: &'a RowChoice) -> Self {
        Self {
            rows: Some(rows),
            ..self
        }
    }

    /// The same context with somebody who looks at the layers' inputs.
    pub(crate) fn observed_by(self, observer: Option<&'a Observer>) -> Self {
        Self { observer, ..self }
    }

    /// Shows the tokens on their way into a layer to whom they concern.
    pub(crate) fn observe(&self, path: &str, x: &Tensor<2>) {
        if let Some(observer) = self.observer {
            observer.see(path, x);
        }
    }

    /// Whether somebody looks at the layers' inputs.
    pub(crate) fn is_observed(&self) -> bool {
        self.observer.is_some()
    }

    /// The same context inside a convolution of this image.
    pub(crate) fn with_image<'b>(&self, image: &'b Image) -> Ctx<'b>
    where
        'a: 'b,
    {
        Ctx {
            image: Some(image),
            ..*self
        }
    }

    /// In a [`Conv2d`](crate::Conv2d): the image whose patches the tokens are.
    pub fn image(&self) -> Option<&'a Image> {
        self.image
    }

    /// The same context inside a model that reads this text.
    pub fn with_text<'b>(&self, text: &'b Text) -> Ctx<'b>
    where
        'a: 'b,
    {
        Ctx {
            text: Some(text),
            ..*self
        }
    }

    /// The same context in the forward pass that this belongs to.
    pub fn with_relay<'b>(&self, relay: &'b Relay) -> Ctx<'b>
    where
        'a: 'b,
    {
        Ctx {
            relay: Some(relay),
            ..*self
        }
    }

    /// What adapters of this forward pass hand on to each other, in a model of text.
    pub fn relay(&self) -> Option<&'a Relay> {
        self.relay
    }

    /// In a model of text: what it reads.
    pub fn text(&self) -> Option<&'a Text> {
        self.text
    }

    /// In a model of text: the sequences whose tokens the adapter sees, those of its own rows in a
    /// batch whose rows have different adapters.
    pub fn own_text(&self) -> Option<Text> {
        let text = self.text?;
        Some(match self.members {
            Some(rows) => text.rows(rows),
            None => text.clone(),
        })
    }

    /// The same context for these rows of the batch.
    pub(crate) fn of_members<'b>(&self, rows: &'b [usize]) -> Ctx<'b>
    where
        'a: 'b,
    {
        Ctx {
            members: Some(rows),
            ..*self
        }
    }

    /// The same context at a site of so many sequences of so many tokens.
    pub(crate) fn of_sequences(self, sequences: [usize; 2]) -> Self {
        Self {
            sequences: Some(sequences),
            ..self
        }
    }

    /// The same context in evaluation.
    pub(crate) fn evaluated(&self) -> Self {
        Self {
            mode: Mode::Eval,
            ..*self
        }
    }

    /// The same context for a share of what is flattened here; what a model reads, its grid and the
    /// stream belong to the whole.
    pub(crate) fn of_share(&self, sequences: [usize; 2]) -> Self {
        Self {
            sequences: Some(sequences),
            text: None,
            grid: self
                .grid
                .filter(|[rows, columns]| rows * columns <= sequences[1]),
            ..*self
        }
    }

    /// At a [`Site`](crate::Site) or a linear layer, where tokens are flattened: how many sequences
    /// they are, one after the other, and how many tokens each of them has.
    pub fn sequences(&self) -> Option<[usize; 2]> {
        self.sequences
    }

    /// The same context inside a model whose tokens are the cells of a grid of that many rows and
    /// columns, row by row, behind any others (a class token, prompts).
    pub fn with_grid(self, grid: [usize; 2]) -> Self {
        Self {
            grid: Some(grid),
            ..self
        }
    }

    /// In a model of images: rows and columns of the grid that the last tokens of each sequence are.
    pub fn grid(&self) -> Option<[usize; 2]> {
        self.grid
    }

    /// The same context at a sublayer whose result is added to `stream`.
    pub(crate) fn with_stream<'b>(&self, stream: &'b Tensor<2>) -> Ctx<'b>
    where
        'a: 'b,
    {
        Ctx {
            stream: Some(stream),
            ..*self
        }
    }

    /// At a [`SiteKind::Sublayer`](crate::SiteKind::Sublayer): the residual stream that the
    /// sublayer's result is added to, [tokens, width].
    pub fn stream(&self) -> Option<&'a Tensor<2>> {
        self.stream
    }

    /// The same context, seen by the slot, site or other part of a model at `path`: what is random
    /// there has streams of its own.
    pub fn at<'b>(&self, path: &'b str) -> Ctx<'b>
    where
        'a: 'b,
    {
        Ctx { path, ..*self }
    }

    /// The same context without per-row choice.
    pub(crate) fn without_rows(&self) -> Self {
        Self {
            rows: None,
            ..*self
        }
    }

    /// The slot or site that sees this context; empty outside one.
    pub fn path(&self) -> &'a str {
        self.path
    }

    /// Train or eval.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether dropout and sampling are on.
    pub fn is_training(&self) -> bool {
        matches!(self.mode, Mode::Train { .. })
    }

    /// The choice of adapter per batch row, if any.
    pub fn rows(&self) -> Option<&'a RowChoice> {
        self.rows
    }

    /// The random stream of `role` at this path and step; `None` in evaluation.
    pub fn key(&self, role: &str) -> Option<Key> {
        match self.mode {
            Mode::Eval => None,
            Mode::Train { seed, step } => Some(
                Key::new(seed)
                    .child(self.path)
                    .child(role)
                    .child(&step.to_string()),
            ),
        }
    }

    /// A shared matrix.
    ///
    /// # Panics
    /// If the bank lacks it. Attaching an adapter grows the bank it needs, so this means that a
    /// model was run with another model's bank.
    pub fn shared(&self, name: &str) -> Tensor<2> {
        self.bank.get(name).unwrap_or_else(|| {
            panic!(
                "{}: the bank has no `{name}`; run an adapted model through its own `ctx`",
                self.path
            )
        })
    }
}
