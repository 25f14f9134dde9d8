//! Which tensor of PEFT is which parameter of Engraft, in either direction.

use std::borrow::Cow;
use std::collections::BTreeMap;

use burn::tensor::{DType, TensorData};
use engraft_core::LayerShape;

use crate::error::{Error, Result};
use crate::pair::Pair;

/// Prefix of everything inside the adapted model.
pub(crate) const MODEL: &str = "base_model.model.";
/// Prefix of what belongs to no layer.
pub(crate) const SHARED: &str = "base_model.";

/// How the values of a tensor are laid out on the two sides.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Layout {
    /// Alike.
    Same,
    /// (out, in) there, [in, out] here; (out, in, kh, kw) there, [in * kh * kw, out] here.
    Transposed,
    /// The same of each of a stack of matrices.
    Slices,
    /// In the same order, but of this shape here.
    Reshaped(Vec<usize>),
    /// (2, n) there: output and input index of each entry; [n] here: in * `d_out` + out.
    Coordinates {
        /// Inputs of the layer.
        d_in: usize,
        /// Outputs of the layer.
        d_out: usize,
    },
    /// `[n]` places of entries: out * `d_in` + in there, in * `d_out` + out here.
    Flat {
        /// Inputs of the layer.
        d_in: usize,
        /// Outputs of the layer.
        d_out: usize,
    },
    /// Zeros there, stored for parts that an option switches off; nothing here.
    Zeros,
}

/// One parameter of an adapter on a layer, or of its shared state.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    /// Name in PEFT, below the layer.
    pub(crate) peft: Cow<'static, str>,
    /// Name in Engraft, below the adapter.
    pub(crate) own: Cow<'static, str>,
    /// Shape in PEFT.
    pub(crate) shape: Vec<usize>,
    /// Layout.
    pub(crate) layout: Layout,
}

impl Field {
    pub(crate) fn same(
        peft: impl Into<Cow<'static, str>>,
        own: impl Into<Cow<'static, str>>,
        shape: &[usize],
    ) -> Self {
        Self {
            peft: peft.into(),
            own: own.into(),
            shape: shape.to_vec(),
            layout: Layout::Same,
        }
    }

    /// `shape` is (out, in) or (out, in, kh, kw), as in PEFT.
    pub(crate) fn transposed(
        peft: impl Into<Cow<'static, str>>,
        own: impl Into<Cow<'static, str>>,
        shape: impl AsRef<[usize]>,
    ) -> Self {
        Self {
            peft: peft.into(),
            own: own.into(),
            shape: shape.as_ref().to_vec(),
            layout: Layout::Transposed,
        }
    }

    pub(crate) fn reshaped(
        peft: impl Into<Cow<'static, str>>,
        own: impl Into<Cow<'static, str>>,
        shape: &[usize],
        here: &[usize],
    ) -> Self {
        Self {
            peft: peft.into(),
            own: own.into(),
            shape: shape.to_vec(),
            layout: Layout::Reshaped(here.to_vec()),
        }
    }

    /// Zeros that PEFT stores and Engraft does not have.
    pub(crate) fn zeros(peft: impl Into<Cow<'static, str>>, shape: &[usize]) -> Self {
        Self {
            peft: peft.into(),
            own: Cow::Borrowed(""),
            shape: shape.to_vec(),
            layout: Layout::Zeros,
        }
    }

    /// The pair of keys on a layer.
    pub(crate) fn on_layer(self, layer: &LayerShape, name: &str) -> Pair {
        let Self {
            peft,
            own,
            shape,
            layout,
        } = self;
        Pair {
            peft: format!("{MODEL}{}.{peft}", layer.path),
            own: format!("model.{}.adapters.{name}.{own}", layer.path),
            shape,
            layout,
        }
    }

    /// The pair of keys in the bank.
    pub(crate) fn in_bank(self, name: &str) -> Pair {
        let Self {
            peft,
            own,
            shape,
            layout,
        } = self;
        Pair {
            peft: format!("{SHARED}{peft}"),
            own: format!("bank.given.{name}/{own}"),
            shape,
            layout,
        }
    }
}

/// Whether a type of numbers can stand for `pair`'s.
fn is_readable(dtype: DType) -> bool {
    matches!(
        dtype,
        DType::F64 | DType::F32 | DType::F16 | DType::BF16 | DType::I64 | DType::I32
    )
}

/// The tensors of a file as Engraft stores them.
///
/// # Errors
/// Missing, unexpected and misshapen tensors, all of them named.
pub(crate) fn to_own(
    pairs: &[Pair],
    found: &BTreeMap<String, TensorData>,
) -> Result<BTreeMap<String, TensorData>> {
    let mut wrong = Vec::new();
    for pair in pairs {
        match found.get(&pair.peft) {
            None => wrong.push(format!("{} is missing", pair.peft)),
            Some(data) if data.shape().to_vec() != pair.shape => wrong.push(format!(
                "{} has shape {:?}, expected {:?}",
                pair.peft,
                data.shape().to_vec(),
                pair.shape
            )),
            Some(data) if !is_readable(data.dtype()) => {
                wrong.push(format!("{} holds {:?}", pair.peft, data.dtype()))
            }
            Some(_) => {}
        }
    }
    wrong.extend(
        found
            .keys()
            .filter(|key| !pairs.iter().any(|pair| pair.peft == **key))
            .map(|key| format!("{key} is unexpected")),
    );
    if !wrong.is_empty() {
        return Err(Error::Tensors(wrong.join("; ")));
    }
    let mut own = BTreeMap::new();
    for pair in pairs {
        let data = pair.to_own(&found[&pair.peft])?;
        if pair.layout != Layout::Zeros {
            own.insert(pair.own.clone(), data);
        }
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(layout: Layout, shape: &[usize]) -> Pair {
        Pair {
            peft: "there".to_owned(),
            own: "here".to_owned(),
            shape: shape.to_vec(),
            layout,
        }
    }

    #[test]
    fn every_layout_survives_the_round_trip() {
        let matrix = TensorData::new(vec![1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3]);
        for layout in [Layout::Same, Layout::Transposed, Layout::Reshaped(vec![6])] {
            let pair = pair(layout, &[2, 3]);
            assert_eq!(pair.to_peft(&pair.to_own(&matrix).unwrap()), matrix);
        }
        assert_eq!(
            crate::turning::transposed(&matrix),
            TensorData::new(vec![1.0f32, 4.0, 2.0, 5.0, 3.0, 6.0], [3, 2])
        );
        let places = TensorData::new(vec![5i32, 0, 1], [3]);
        let flat = pair(Layout::Flat { d_in: 3, d_out: 2 }, &[3]);
        let own = flat.to_own(&places).unwrap();
        // (out, in) = (1, 2), (0, 0), (0, 1).
        assert_eq!(own, TensorData::new(vec![5i64, 0, 2], [3]));
        assert_eq!(flat.to_peft(&own), places);
        assert!(
            flat.to_own(&TensorData::new(vec![0i32, 6, 1], [3]))
                .is_err()
        );
        let places = TensorData::new(vec![0i32, 1, 2, 0], [2, 2]);
        let pair = pair(Layout::Coordinates { d_in: 3, d_out: 2 }, &[2, 2]);
        let own = pair.to_own(&places).unwrap();
        assert_eq!(own, TensorData::new(vec![4i64, 1], [2]));
        assert_eq!(pair.to_peft(&own), places);
        assert!(
            pair.to_own(&TensorData::new(vec![2i32, 1, 2, 0], [2, 2]))
                .is_err()
        );
    }

    #[test]
    fn zeros_are_checked_and_dropped() {
        let pairs = [pair(Layout::Zeros, &[2])];
        let read = |values: [f32; 2]| {
            let found =
                BTreeMap::from([("there".to_owned(), TensorData::new(values.to_vec(), [2]))]);
            to_own(&pairs, &found)
        };
        assert!(read([0.0, 0.0]).unwrap().is_empty());
        assert!(
            read([0.0, 1.0])
                .unwrap_err()
                .to_string()
                .contains("other than 0")
        );
    }

    #[test]
    fn wrong_tensors_are_all_named() {
        let pairs = [
            pair(Layout::Same, &[2]),
            Pair {
                peft: "other".to_owned(),
                ..pair(Layout::Same, &[2])
            },
        ];
        let found = BTreeMap::from([
            ("there".to_owned(), TensorData::zeros::<f32, _>([3])),
            ("odd".to_owned(), TensorData::zeros::<f32, _>([1])),
        ]);
        let message = to_own(&pairs, &found).unwrap_err().to_string();
        assert!(
            message.contains("there has shape [3], expected [2]")
                && message.contains("other is missing")
                && message.contains("odd is unexpected"),
            "{message}"
        );
    }
}
