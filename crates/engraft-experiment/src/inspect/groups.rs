//! Tensors whose names differ only in numbers, as one line.

use std::collections::BTreeMap;

use engraft_core::Header;

/// Tensors of one shape and precision whose names differ only in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The name, with `{0-11}` for numbers.
    pub pattern: String,
    /// Shape of each.
    pub shape: Vec<usize>,
    /// Precision.
    pub dtype: String,
    /// How many.
    pub count: usize,
    /// Values of all together.
    pub numel: usize,
}

/// A name split at its dots; numbers apart.
fn parts(name: &str) -> (Vec<&str>, Vec<u64>) {
    let mut numbers = Vec::new();
    let words = name.split('.').map(|word| match word.parse() {
        Ok(number) => {
            numbers.push(number);
            "#"
        }
        Err(_) => word,
    });
    (words.collect(), numbers)
}

/// The least and the greatest of each number of a name.
type Spans = Vec<(u64, u64)>;

/// What the tensors of a group have in common: the words of the name, shape and precision.
type Key<'a> = (Vec<&'a str>, &'a [usize], &'a str);

/// The groups of all files together, in the order of their names.
pub fn groups<'a>(headers: impl Iterator<Item = &'a Header>) -> Vec<Group> {
    let mut found: BTreeMap<Key<'_>, (Spans, usize)> = BTreeMap::new();
    for (name, info) in headers.flat_map(|header| &header.tensors) {
        let (words, numbers) = parts(name);
        let key = (words, info.shape.as_slice(), info.dtype.as_str());
        let fresh = || (numbers.iter().map(|&n| (n, n)).collect(), 0);
        let (spans, count): &mut (Spans, usize) = found.entry(key).or_insert_with(fresh);
        for (span, number) in spans.iter_mut().zip(numbers) {
            *span = (span.0.min(number), span.1.max(number));
        }
        *count += 1;
    }
    let group = |((words, shape, dtype), (spans, count)): (Key<'_>, _)| {
        let (spans, count): (Spans, usize) = (spans, count);
        let mut spans = spans.into_iter();
        let named: Vec<String> = words
            .iter()
            .map(|word| match spans.as_slice().first() {
                Some(&(least, most)) if *word == "#" => {
                    spans.next();
                    match least == most {
                        true => least.to_string(),
                        false => format!("{{{least}-{most}}}"),
                    }
                }
                _ => (*word).to_owned(),
            })
            .collect();
        Group {
            pattern: named.join("."),
            shape: shape.to_vec(),
            dtype: dtype.to_owned(),
            count,
            numel: count * shape.iter().product::<usize>(),
        }
    };
    found.into_iter().map(group).collect()
}

#[cfg(test)]
mod tests {
    use engraft_core::TensorInfo;

    use super::*;

    #[test]
    fn names_that_differ_in_numbers_are_one_line() {
        let info = |shape: &[usize]| TensorInfo {
            dtype: "F32".to_owned(),
            shape: shape.to_vec(),
            bytes: 0,
        };
        let header = Header {
            tensors: [
                ("layers.0.q", info(&[2, 3])),
                ("layers.11.q", info(&[2, 3])),
                ("layers.5.q", info(&[4])),
                ("norm", info(&[])),
            ]
            .map(|(name, info)| (name.to_owned(), info))
            .into(),
            ..Header::default()
        };
        let lines: Vec<(String, usize, usize)> = groups([&header].into_iter())
            .into_iter()
            .map(|group| (group.pattern, group.count, group.numel))
            .collect();
        let line = |pattern: &str, count, numel| (pattern.to_owned(), count, numel);
        assert_eq!(
            lines,
            [
                line("layers.{0-11}.q", 2, 12),
                line("layers.5.q", 1, 4),
                line("norm", 1, 1)
            ]
        );
    }
}
