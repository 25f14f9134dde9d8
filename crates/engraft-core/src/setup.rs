//! Compositions of adapters, as data.

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::set::Composition;

/// How the adapters of a model act together: a name, or a block of others.
///
/// In a configuration a name is a string and a block a table of one key:
///
/// ```json
/// {"stack": ["english", {"fuse": {"by": "fusion", "of": ["ner", "pos"]}}]}
/// ```
///
/// Let y be what a layer or sublayer returns and y_i what it returns with child i. A child of which
/// a place has no adapter leaves y as it is there. The blocks are those of the AdapterHub
/// library (Poth et al., Adapters: A Unified Library for Parameter-Efficient and Modular Transfer
/// Learning, arXiv 2311.11077, section 4), which may be nested as there ([`check`](Self::check)),
/// and [`Sum`](Self::Sum).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Setup {
    /// Changes add: y + sum_i (y_i - y).
    Sum(Vec<Setup>),
    /// One after the other: each acts on what the one before it made (MAD-X, arXiv 2005.00052). On
    /// a linear layer that is a layer, so that all but the last need a weight form, and dropout is
    /// off in them.
    Stack(Vec<Setup>),
    /// The same batch through each. The model is given the batch as often as there are children
    /// ([`replicas`](Self::replicas), [`replicate`](Self::replicate)); copy i goes through child i
    /// (AdapterDrop, arXiv 2010.11918).
    Parallel(Vec<Setup>),
    /// Attention over the children's changes y_i - y, at sublayers and hidden states.
    Fuse(Fuse),
    /// The positions of every sequence, shared out in order.
    Split(Vec<Piece>),
    /// The rows of the batch, shared out in order.
    BatchSplit(Vec<Piece>),
    /// sum_i w_i y_i.
    Average(Average),
    /// The adapter of that name.
    #[serde(untagged)]
    Adapter(String),
}

/// Adapters joined by a trained module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fuse {
    /// Name of the fusion: an adapter of a method that fuses.
    pub by: String,
    /// What is fused.
    pub of: Vec<Setup>,
}

/// A share of the positions or rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Piece {
    /// What acts on it.
    pub of: Setup,
    /// How many positions or rows it has.
    pub size: usize,
}

/// A weighted mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Average {
    /// What is averaged.
    pub of: Vec<Setup>,
    /// A weight each; equal ones where they are left out.
    #[serde(default)]
    pub weights: Option<Vec<f64>>,
    /// Whether the weights are divided by their sum.
    #[serde(default = "yes")]
    pub normalise: bool,
}

fn yes() -> bool {
    true
}

impl Average {
    /// w, one per child.
    pub fn weights(&self) -> Vec<f64> {
        let equal = || vec![1.0; self.of.len()];
        let (weights, normalise) = match &self.weights {
            Some(weights) => (weights.clone(), self.normalise),
            None => (equal(), true),
        };
        let total: f64 = if normalise { weights.iter().sum() } else { 1.0 };
        weights.iter().map(|weight| weight / total).collect()
    }
}

impl From<&str> for Setup {
    fn from(name: &str) -> Self {
        Self::Adapter(name.to_owned())
    }
}

impl Setup {
    /// Adapters by name, together as `composition` says.
    pub fn of_names(names: &[String], composition: Composition) -> Self {
        let mut each: Vec<Self> = names.iter().cloned().map(Self::Adapter).collect();
        match composition {
            _ if each.len() == 1 => each.remove(0),
            Composition::Sum => Self::Sum(each),
            Composition::Stack => Self::Stack(each),
        }
    }

    /// The blocks and names directly inside.
    pub fn children(&self) -> Vec<&Self> {
        match self {
            Self::Adapter(_) => Vec::new(),
            Self::Sum(of) | Self::Stack(of) | Self::Parallel(of) => of.iter().collect(),
            Self::Fuse(fuse) => fuse.of.iter().collect(),
            Self::Average(average) => average.of.iter().collect(),
            Self::Split(pieces) | Self::BatchSplit(pieces) => {
                pieces.iter().map(|piece| &piece.of).collect()
            }
        }
    }

    /// Every name in it, fusions included, in order, each once.
    pub fn names(&self) -> Vec<&str> {
        fn collect<'a>(setup: &'a Setup, names: &mut Vec<&'a str>) {
            setup
                .children()
                .into_iter()
                .for_each(|child| collect(child, names));
            let own = match setup {
                Setup::Adapter(name) => name,
                Setup::Fuse(fuse) => &fuse.by,
                _ => return,
            };
            if !names.contains(&own.as_str()) {
                names.push(own);
            }
        }
        let mut names = Vec::new();
        collect(self, &mut names);
        names
    }

    /// How often the model must be given the batch: the children of the `parallel` block.
    pub fn replicas(&self) -> usize {
        let inside = self.children().into_iter().map(Self::replicas).max();
        match self {
            Self::Parallel(of) => of.len().max(1),
            _ => inside.unwrap_or(1),
        }
    }

    /// A batch [batch, ...] as often as the model must be given it, copy after copy.
    pub fn replicate<const D: usize>(&self, batch: Tensor<D>) -> Tensor<D> {
        batch.repeat_dim(0, self.replicas())
    }

    /// Name of the block, as written.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Adapter(_) => "adapter",
            Self::Sum(_) => "sum",
            Self::Stack(_) => "stack",
            Self::Parallel(_) => "parallel",
            Self::Fuse(_) => "fuse",
            Self::Split(_) => "split",
            Self::BatchSplit(_) => "batch-split",
            Self::Average(_) => "average",
        }
    }

    /// Blocks that may stand directly in this one.
    fn admits(&self) -> &'static [&'static str] {
        match self {
            Self::Adapter(_) => &[],
            Self::Stack(_) => &["fuse", "split", "parallel", "batch-split", "average", "sum"],
            Self::Fuse(_) => &["stack"],
            Self::Split(_) => &["split", "stack", "batch-split", "average", "sum"],
            Self::Parallel(_) => &["stack", "batch-split", "average", "sum"],
            Self::BatchSplit(_) => &["stack", "split", "batch-split", "average", "sum"],
            Self::Average(_) | Self::Sum(_) => &["stack", "split", "batch-split"],
        }
    }

    /// Whether it makes sense whatever the model: blocks nested as the library allows, at most two
    /// levels of them but for stacks of names, and weights that belong to children.
    ///
    /// # Errors
    /// The first thing that does not fit.
    pub fn check(&self) -> Result<()> {
        self.check_at(0).map_err(|reason| Error::BadConfig {
            what: "composition".to_owned(),
            reason,
        })
    }

    fn check_at(&self, level: usize) -> Result<(), String> {
        let kind = self.kind();
        let plain = matches!(self, Self::Adapter(_));
        if level > 1 && !(plain || matches!(self, Self::Stack(_))) {
            return Err(format!(
                "`{kind}` at depth {level}: expected a stack or a name"
            ));
        }
        // An empty sum is the base model.
        if self.children().is_empty() && !plain && *self != Self::Sum(Vec::new()) {
            return Err(format!(
                "`{kind}` of nothing: expected at least one adapter"
            ));
        }
        for child in self.children() {
            let inside = child.kind();
            let deep = level > 0 && matches!(self, Self::Stack(_));
            let admitted = if deep { &[][..] } else { self.admits() };
            if inside != "adapter" && !admitted.contains(&inside) {
                return Err(format!(
                    "`{inside}` in `{kind}` at depth {level}: expected names{}{}",
                    if admitted.is_empty() { "" } else { " or " },
                    admitted.join(", ")
                ));
            }
            child.check_at(level + 1)?;
        }
        match self {
            Self::Average(average) => {
                let (weights, children) = (average.weights(), average.of.len());
                if weights.len() != children {
                    return Err(format!("{} weights for {children} children", weights.len()));
                }
                if !weights.iter().all(|weight| weight.is_finite()) {
                    return Err("weights that are not finite, or whose sum is zero".to_owned());
                }
            }
            Self::Split(pieces) | Self::BatchSplit(pieces)
                if pieces.iter().any(|piece| piece.size == 0) =>
            {
                return Err(format!(
                    "`{kind}` with a piece of size 0: expected at least 1"
                ));
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a batch of that many rows of that many tokens can be shared out.
    ///
    /// # Errors
    /// The first block whose shares do not fit, with what was found and expected.
    pub fn check_batch(&self, [rows, tokens]: [usize; 2]) -> Result<()> {
        let inside = |child: &Self, batch| child.check_batch(batch);
        let fits = |kind: &str, what: &str, found: usize, expected: usize| {
            if found == expected {
                return Ok(());
            }
            Err(Error::BadConfig {
                what: "composition".to_owned(),
                reason: format!("`{kind}` shares out {expected} {what}, found {found}"),
            })
        };
        match self {
            Self::Parallel(of) => {
                let each = rows / of.len().max(1);
                fits("parallel", "rows", rows, each * of.len())?;
                of.iter()
                    .try_for_each(|child| inside(child, [each, tokens]))
            }
            Self::Split(pieces) => {
                let total = pieces.iter().map(|piece| piece.size).sum();
                fits("split", "positions", tokens, total)?;
                pieces
                    .iter()
                    .try_for_each(|piece| inside(&piece.of, [rows, piece.size]))
            }
            Self::BatchSplit(pieces) => {
                let total = pieces.iter().map(|piece| piece.size).sum();
                fits("batch-split", "rows", rows, total)?;
                pieces
                    .iter()
                    .try_for_each(|piece| inside(&piece.of, [piece.size, tokens]))
            }
            _ => {
                let mut children = self.children().into_iter();
                children.try_for_each(|child| inside(child, [rows, tokens]))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn setup(value: serde_json::Value) -> Setup {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn names_are_strings_and_blocks_are_tables_and_both_are_written_back() {
        for value in [
            json!("a"),
            json!({"stack": ["a", {"fuse": {"by": "f", "of": ["b", {"stack": ["c", "d"]}]}}]}),
            json!({"split": [{"of": "a", "size": 3}, {"of": {"sum": ["b", "c"]}, "size": 1}]}),
            json!({"parallel": ["a", {"batch-split": [{"of": "b", "size": 2}]}]}),
            json!({"average": {"of": ["a", "b"], "weights": [1.0, 3.0], "normalise": false}}),
        ] {
            let read = setup(value.clone());
            read.check().unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), value);
        }
        assert!(serde_json::from_value::<Setup>(json!({"stak": ["a"]})).is_err());
        let average = json!({"average": {"of": ["a", "b"]}});
        let Setup::Average(average) = setup(average) else {
            unreachable!()
        };
        assert_eq!(average.weights(), [0.5, 0.5]);
        let nested = setup(json!({"stack": ["a", {"fuse": {"by": "f", "of": ["b", "a"]}}]}));
        assert_eq!(nested.names(), ["a", "b", "f"]);
    }

    #[test]
    fn what_cannot_be_nested_is_refused() {
        for (value, reason) in [
            (
                json!({"fuse": {"by": "f", "of": [{"parallel": ["a"]}]}}),
                "`parallel` in `fuse`",
            ),
            (
                json!({"stack": ["a", {"stack": ["b"]}]}),
                "`stack` in `stack`",
            ),
            (
                json!({"parallel": [{"parallel": ["a"]}]}),
                "`parallel` in `parallel`",
            ),
            (
                json!({"parallel": [{"stack": ["a", {"sum": ["b"]}]}]}),
                "`sum` in `stack` at depth 1",
            ),
            (json!({"stack": []}), "`stack` of nothing"),
            (
                json!({"average": {"of": ["a"], "weights": [1.0, 2.0]}}),
                "2 weights for 1",
            ),
            (
                json!({"average": {"of": ["a", "b"], "weights": [1.0, -1.0]}}),
                "sum is zero",
            ),
            (json!({"split": [{"of": "a", "size": 0}]}), "size 0"),
        ] {
            let error = setup(value).check().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        assert!(Setup::Sum(Vec::new()).check().is_ok());
    }

    #[test]
    fn batches_that_cannot_be_shared_out_are_refused() {
        let split = setup(json!({"split": [{"of": "a", "size": 3}, {"of": "b", "size": 2}]}));
        assert!(split.check_batch([7, 5]).is_ok());
        let error = split.check_batch([7, 6]).unwrap_err().to_string();
        assert!(error.contains("5 positions, found 6"), "{error}");
        let parallel = setup(json!({"stack": ["a", {"parallel": ["b", "c", "d"]}]}));
        assert_eq!(parallel.replicas(), 3);
        assert!(parallel.check_batch([6, 1]).is_ok() && parallel.check_batch([7, 1]).is_err());
        let rows = setup(json!({"batch-split": [{"of": split, "size": 4}]}));
        assert!(rows.check_batch([4, 5]).is_ok());
        assert!(rows.check_batch([4, 4]).is_err() && rows.check_batch([3, 5]).is_err());
    }
}
