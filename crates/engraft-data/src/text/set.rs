//! A file of text, encoded.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::read::{BadRows, Problem, Row, Source, Tolerated};
use crate::task::{Masking, Prepared};
use crate::text::batch::TextBatch;
use crate::text::example::{Example, Target};
use crate::text::pack::Packer;
use crate::text::store::Store;
use crate::tokens::{Side, Tokens};

/// Rows that are tokenized together, on all cores.
const CHUNK: usize = 512;

/// How text is encoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TextOptions {
    /// Most tokens of an example, special ones included; also the length of packed blocks.
    pub max_length: usize,
    /// Unusable rows that are left out and reported rather than an error.
    pub bad_rows: BadRows,
    /// Rows to read, from the first one on; all if absent.
    pub rows: Option<usize>,
    /// Bytes of encoded examples in memory; beyond, they are in a temporary file.
    pub memory: usize,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self {
            max_length: 128,
            bad_rows: BadRows(0),
            rows: None,
            memory: 64 << 20,
        }
    }
}

/// The examples of a file. Rows are read and tokenized once, and every unusable one is found before
/// anything is trained; epochs then read tokens, in any order.
#[derive(Debug)]
pub struct TextSet {
    path: PathBuf,
    store: Store,
    masking: Option<Masking>,
    pad: u32,
    side: Side,
    labelled: bool,
    /// Rows that were left out.
    pub problems: Vec<Problem>,
    /// Rows that were read, unusable ones included.
    pub rows: usize,
    /// Examples of which tokens were cut off.
    pub truncated: usize,
}

impl TextSet {
    /// Encodes the rows of a file with their labels.
    ///
    /// # Errors
    /// A file that cannot be read, more unusable rows than are tolerated, or no usable row.
    pub fn new(
        source: &dyn Source,
        task: &Prepared,
        tokens: &Tokens,
        options: &TextOptions,
    ) -> Result<Self> {
        Self::encode(source, task, tokens, options, true)
    }

    /// Encodes the rows of a file without labels, each as one example: requests.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn requests(
        source: &dyn Source,
        task: &Prepared,
        tokens: &Tokens,
        options: &TextOptions,
    ) -> Result<Self> {
        Self::encode(source, task, tokens, options, false)
    }

    fn encode(
        source: &dyn Source,
        task: &Prepared,
        tokens: &Tokens,
        options: &TextOptions,
        labelled: bool,
    ) -> Result<Self> {
        let cut = tokens.cut_to(options.max_length)?;
        let packed = task.packed && labelled;
        let tokens = if packed { tokens } else { &cut };
        let target = match task.masking {
            Some(_) => Target::None,
            None => Target::Same,
        };
        let mut packer = packed.then(|| Packer::new(options.max_length, target));
        let mut set = Self {
            path: source.path().to_owned(),
            store: Store::new(options.memory),
            masking: task.masking.clone().filter(|_| labelled),
            pad: tokens.special.pad,
            side: tokens.padding,
            labelled,
            problems: Vec::new(),
            rows: 0,
            truncated: 0,
        };
        let mut tolerated = options.bad_rows.start();
        let mut rows = source.rows()?.take(options.rows.unwrap_or(usize::MAX));
        loop {
            let chunk = rows.by_ref().take(CHUNK).collect::<Result<Vec<_>>>()?;
            if chunk.is_empty() {
                break;
            }
            set.rows += chunk.len();
            let path = &set.path;
            #[expect(
                clippy::result_large_err,
                reason = "as large as the example that it takes the place of"
            )]
            let encoded: Vec<Result<Example, Problem>> = chunk
                .into_par_iter()
                .map(|row| {
                    let row: Row = row?;
                    let encoded = task.encoder.encode(&row, tokens, labelled);
                    encoded.map_err(|reason| Problem::new(path, row.line, reason))
                })
                .collect();
            set.keep(encoded, packer.as_mut(), &mut tolerated)?;
        }
        if let Some(last) = packer.and_then(Packer::finish) {
            set.store.push(&last)?;
        }
        set.store.finish()?;
        set.problems = tolerated.into_problems();
        match set.store.len() {
            0 => Err(DataError::NoRows { path: set.path }),
            _ => Ok(set),
        }
    }

    fn keep(
        &mut self,
        encoded: Vec<Result<Example, Problem>>,
        mut packer: Option<&mut Packer>,
        tolerated: &mut Tolerated,
    ) -> Result<()> {
        for example in encoded {
            match (example, &mut packer) {
                (Err(problem), _) => tolerated.add(problem)?,
                (Ok(example), Some(packer)) => {
                    packer
                        .push(example)
                        .iter()
                        .try_for_each(|block| self.store.push(block))?;
                }
                (Ok(example), None) => {
                    self.truncated += usize::from(example.truncated);
                    self.store.push(&example)?;
                }
            }
        }
        Ok(())
    }

    /// Number of examples.
    pub fn len(&self) -> usize {
        self.store.len()
    }

    /// Whether there are no examples; never so.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the examples have labels.
    pub fn is_labelled(&self) -> bool {
        self.labelled
    }

    /// The examples at these indices, as they are stored.
    ///
    /// # Errors
    /// A temporary file that cannot be read any more.
    ///
    /// # Panics
    /// If an index is not below [`len`](Self::len).
    pub fn examples(&self, indices: &[usize]) -> Result<Vec<Example>> {
        self.store.get(indices)
    }

    /// Tokens of the examples at these indices.
    ///
    /// # Errors
    /// As [`examples`](Self::examples).
    pub fn lengths(&self, indices: &[usize]) -> Result<Vec<usize>> {
        Ok(self
            .examples(indices)?
            .iter()
            .map(|example| example.ids.len())
            .collect())
    }

    /// A batch of the examples at these indices. What is masked depends on (seed, epoch, index)
    /// alone, not on the batch an example is in.
    ///
    /// # Errors
    /// As [`examples`](Self::examples).
    pub fn batch(&self, indices: &[usize], seed: u64, epoch: u64) -> Result<TextBatch> {
        let mut examples = self.examples(indices)?;
        if let Some(masking) = &self.masking {
            for (example, index) in examples.iter_mut().zip(indices) {
                let stream = epoch
                    .wrapping_mul(self.len() as u64)
                    .wrapping_add(*index as u64);
                example.target = Target::Tokens(masking.apply(&mut example.ids, seed, stream));
            }
        }
        Ok(TextBatch::new(&examples, self.pad, self.side))
    }
}
