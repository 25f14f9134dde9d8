//! Tensors that PEFT stores more than once.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::TensorData;

use crate::pair::Pair;

/// What a module that is saved whole keeps of itself from before, which `bias = "all"` stores along.
const ORIGINAL: &str = ".original_module.";

/// Takes out of `found` the frozen originals of modules that are saved whole, and lets tensors that are
/// stored again under the name of a module that shares them (a tied output layer) stand for the same:
/// they have the same last name and the same values as one that is read. Each gets a pair of its own,
/// so that whoever looks for a tensor by PEFT's key finds it under every name. Returns the keys of both.
pub(crate) fn take(found: &mut BTreeMap<String, TensorData>, pairs: &mut Vec<Pair>) -> Vec<String> {
    let read: BTreeSet<String> = pairs.iter().map(|pair| pair.peft.clone()).collect();
    let is_original = |key: &str| !read.contains(key) && key.contains(ORIGINAL);
    let mut copies: Vec<String> = found
        .keys()
        .filter(|key| is_original(key))
        .cloned()
        .collect();
    found.retain(|key, _| !is_original(key));
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    let same = |(key, data): (&String, &TensorData)| {
        let twin = pairs
            .iter()
            .find(|pair| last(&pair.peft) == last(key) && found.get(&pair.peft) == Some(data))?;
        Some(Pair {
            peft: key.clone(),
            ..twin.clone()
        })
    };
    let unread = found.iter().filter(|(key, _)| !read.contains(*key));
    let again: Vec<Pair> = unread.filter_map(same).collect();
    copies.extend(again.iter().map(|pair| pair.peft.clone()));
    pairs.extend(again);
    copies
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::Layout;

    #[test]
    fn copies_are_read_with_what_they_repeat_and_others_stay_unexpected() {
        let data = |values: [f32; 2]| TensorData::new(values.to_vec(), [2]);
        let mut found: BTreeMap<String, TensorData> = [
            ("head.bias", data([1.0, 2.0])),
            ("head.original_module.bias", data([0.0, 0.5])),
            ("output.bias", data([1.0, 2.0])),
            ("other.bias", data([1.0, 2.5])),
            ("output.weight", data([1.0, 2.0])),
        ]
        .into_iter()
        .map(|(key, data)| (key.to_owned(), data))
        .collect();
        let pair = |peft: &str| Pair {
            peft: peft.to_owned(),
            own: "model.head.bias".to_owned(),
            shape: vec![2],
            layout: Layout::Same,
        };
        let mut pairs = vec![pair("head.bias")];
        let copies = take(&mut found, &mut pairs);
        assert_eq!(copies, ["head.original_module.bias", "output.bias"]);
        assert_eq!(pairs, [pair("head.bias"), pair("output.bias")]);
        let left: Vec<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(
            left,
            ["head.bias", "other.bias", "output.bias", "output.weight"]
        );
    }
}
