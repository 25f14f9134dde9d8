//! An encoded example and its bytes.

/// The label of a token that no loss and no metric looks at.
pub const IGNORED: i64 = -100;

/// What is to be learned from an example.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// Nothing: a request.
    None,
    /// A class of the sequence.
    Class(u32),
    /// Numbers of the sequence.
    Values(Vec<f32>),
    /// A label for each token, or [`IGNORED`].
    Tokens(Vec<i64>),
    /// Each token is its own label.
    Same,
    /// Of a request: the tokens that are expected to follow.
    Answer(Vec<u32>),
}

/// A tokenized row.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// The row's line; of a block of several rows, that of the first.
    pub line: u64,
    /// The tokens.
    pub ids: Vec<u32>,
    /// The segment of each token.
    pub segments: Vec<u8>,
    /// What is to be learned.
    pub target: Target,
    /// Whether tokens were cut off.
    pub truncated: bool,
}

impl Example {
    /// Appends the example: numbers of 7 bits a byte, so that a common token takes one byte or two,
    /// and segments as runs.
    pub(super) fn write(&self, bytes: &mut Vec<u8>) {
        let (kind, count) = match &self.target {
            Target::None => (0, 0),
            Target::Class(_) => (1, 0),
            Target::Values(values) => (2, values.len()),
            Target::Tokens(_) => (3, 0),
            Target::Same => (4, 0),
            Target::Answer(ids) => (5, ids.len()),
        };
        put(
            bytes,
            kind + 8 * u64::from(self.truncated) + 16 * count as u64,
        );
        put(bytes, self.line);
        put(bytes, self.ids.len() as u64);
        self.ids.iter().for_each(|id| put(bytes, u64::from(*id)));
        for run in self.segments.chunk_by(|a, b| a == b) {
            put(bytes, run.len() as u64);
            bytes.push(run[0]);
        }
        match &self.target {
            Target::None | Target::Same => {}
            Target::Class(class) => put(bytes, u64::from(*class)),
            Target::Values(values) => {
                values
                    .iter()
                    .for_each(|value| bytes.extend(value.to_le_bytes()));
            }
            // Ignored ones as 0.
            Target::Tokens(labels) => {
                labels
                    .iter()
                    .for_each(|label| put(bytes, (label + 1).max(0) as u64));
            }
            Target::Answer(ids) => ids.iter().for_each(|id| put(bytes, u64::from(*id))),
        }
    }

    /// The example at the start of the bytes, which are moved behind it.
    pub(super) fn read(bytes: &mut &[u8]) -> Self {
        let head = take(bytes);
        let line = take(bytes);
        let len = take(bytes) as usize;
        let ids = (0..len).map(|_| take(bytes) as u32).collect();
        let mut segments = Vec::with_capacity(len);
        while segments.len() < len {
            let run = take(bytes) as usize;
            segments.resize(segments.len() + run, bytes[0]);
            *bytes = &bytes[1..];
        }
        let target = match head % 8 {
            0 => Target::None,
            1 => Target::Class(take(bytes) as u32),
            2 => {
                let (values, rest) = bytes.split_at(4 * (head / 16) as usize);
                *bytes = rest;
                let value =
                    |bytes: &[u8]| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                Target::Values(values.chunks_exact(4).map(value).collect())
            }
            3 => Target::Tokens(
                (0..len)
                    .map(|_| match take(bytes) {
                        0 => IGNORED,
                        label => label as i64 - 1,
                    })
                    .collect(),
            ),
            4 => Target::Same,
            _ => Target::Answer((0..head / 16).map(|_| take(bytes) as u32).collect()),
        };
        Self {
            line,
            ids,
            segments,
            target,
            truncated: head / 8 % 2 == 1,
        }
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 128 {
        bytes.push(number as u8 | 128);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = bytes[0];
        *bytes = &bytes[1..];
        number |= u64::from(byte & 127) << shift;
        shift += 7;
        if byte < 128 {
            return number;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn examples() -> impl Strategy<Value = Example> {
        let tokens = prop::collection::vec((any::<u32>(), 0u8..3, -1i64..70_000), 0..30);
        let values = prop::collection::vec(-1e6f32..1e6, 0..5);
        (
            any::<u64>(),
            tokens,
            values,
            0..6,
            any::<u32>(),
            any::<bool>(),
        )
            .prop_map(|(line, tokens, values, kind, class, truncated)| {
                let label = |label| if label < 0 { IGNORED } else { label };
                let target = match kind {
                    0 => Target::None,
                    1 => Target::Class(class),
                    2 => Target::Values(values),
                    3 => Target::Tokens(tokens.iter().map(|token| label(token.2)).collect()),
                    4 => Target::Same,
                    _ => Target::Answer(tokens.iter().map(|token| token.0).collect()),
                };
                let ids = tokens.iter().map(|token| token.0).collect();
                let mut segments: Vec<u8> = tokens.iter().map(|token| token.1).collect();
                segments.sort_unstable();
                Example {
                    line,
                    ids,
                    segments,
                    target,
                    truncated,
                }
            })
    }

    proptest! {
        #[test]
        fn examples_survive_as_bytes(all in prop::collection::vec(examples(), 0..5)) {
            let mut bytes = Vec::new();
            all.iter().for_each(|example| example.write(&mut bytes));
            let mut rest = bytes.as_slice();
            for example in &all {
                prop_assert_eq!(&Example::read(&mut rest), example);
            }
            prop_assert!(rest.is_empty());
        }
    }
}
