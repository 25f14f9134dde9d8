//! One tensor on both sides.

use burn::tensor::{DType, TensorData};
use engraft_core::LayerShape;

use crate::error::{Error, Result};
use crate::field::{Layout, MODEL};
use crate::turning::{slices_transposed, transposed, with_shape};

/// The keys of one tensor on both sides.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pair {
    /// Key in adapter_model.safetensors.
    pub(crate) peft: String,
    /// Key in an adapter file of Engraft.
    pub(crate) own: String,
    /// Shape in PEFT.
    pub(crate) shape: Vec<usize>,
    /// Layout.
    pub(crate) layout: Layout,
}

impl Pair {
    /// The tensor as Engraft stores it; the shape has been checked.
    ///
    /// # Errors
    /// Coordinates outside the layer.
    pub(crate) fn to_own(&self, data: &TensorData) -> Result<TensorData> {
        Ok(match &self.layout {
            Layout::Same => data.clone(),
            Layout::Transposed => transposed(data),
            Layout::Slices => slices_transposed(data),
            Layout::Reshaped(here) => with_shape(data, here),
            Layout::Zeros => {
                let values: Vec<f64> = data
                    .clone()
                    .convert::<f64>()
                    .try_to_vec()
                    .expect("converted to f64");
                if values.iter().any(|value| *value != 0.0) {
                    return Err(Error::Tensors(format!(
                        "{} holds values other than 0, and stands for a part that is switched off",
                        self.peft
                    )));
                }
                data.clone()
            }
            Layout::Coordinates { d_in, d_out } => {
                // PEFT on Windows stores them as floats.
                let values: Vec<i64> = data
                    .clone()
                    .convert::<i64>()
                    .try_to_vec()
                    .expect("converted to i64");
                let (outputs, inputs) = values.split_at(values.len() / 2);
                let place = |(&out, &input): (&i64, &i64)| match (
                    usize::try_from(out),
                    usize::try_from(input),
                ) {
                    (Ok(o), Ok(i)) if o < *d_out && i < *d_in => Ok((i * d_out + o) as i64),
                    _ => Err(Error::Tensors(format!(
                        "{}: entry ({out}, {input}) lies outside the ({d_out}, {d_in}) weight",
                        self.peft
                    ))),
                };
                let places = outputs
                    .iter()
                    .zip(inputs)
                    .map(place)
                    .collect::<Result<Vec<_>>>()?;
                let count = places.len();
                TensorData::new(places, [count])
            }
            Layout::Flat { d_in, d_out } => {
                let places: Vec<i64> = data
                    .clone()
                    .convert::<i64>()
                    .try_to_vec()
                    .expect("converted to i64");
                let count = places.len();
                let own = |place: i64| match usize::try_from(place) {
                    Ok(place) if place < d_in * d_out => {
                        Ok((place % d_in * d_out + place / d_in) as i64)
                    }
                    _ => Err(Error::Tensors(format!(
                        "{}: place {place} lies outside the ({d_out}, {d_in}) weight",
                        self.peft
                    ))),
                };
                let places = places.into_iter().map(own).collect::<Result<Vec<_>>>()?;
                TensorData::new(places, [count])
            }
        })
    }

    /// A parameter of an adapter on a layer.
    pub(crate) fn on_layer(
        layer: &LayerShape,
        name: &str,
        [peft, own]: [&str; 2],
        shape: &[usize],
        layout: Layout,
    ) -> Self {
        Self {
            peft: format!("{MODEL}{}.{peft}", layer.path),
            own: format!("model.{}.adapters.{name}.{own}", layer.path),
            shape: shape.to_vec(),
            layout,
        }
    }

    /// A trained entry of the bank under PEFT's whole key.
    pub(crate) fn trained(
        peft: String,
        name: &str,
        own: &str,
        shape: &[usize],
        layout: Layout,
    ) -> Self {
        Self {
            peft,
            own: format!("bank.trained.{name}/{own}"),
            shape: shape.to_vec(),
            layout,
        }
    }

    /// The tensor as PEFT stores it; indices are `int64` there.
    pub(crate) fn to_peft(&self, data: &TensorData) -> TensorData {
        match &self.layout {
            Layout::Same if data.dtype().is_int() => data.clone().convert_dtype(DType::I64),
            Layout::Same | Layout::Zeros => data.clone(),
            Layout::Transposed => with_shape(&transposed(data), &self.shape),
            Layout::Slices => slices_transposed(data),
            Layout::Reshaped(_) => with_shape(data, &self.shape),
            Layout::Coordinates { d_out, .. } => {
                let places: Vec<i64> = data
                    .clone()
                    .convert::<i64>()
                    .try_to_vec()
                    .expect("converted to i64");
                let outputs = places.iter().map(|place| (*place as usize % d_out) as i32);
                let inputs = places.iter().map(|place| (*place as usize / d_out) as i32);
                TensorData::new(
                    outputs.chain(inputs).collect::<Vec<i32>>(),
                    [2, places.len()],
                )
            }
            Layout::Flat { d_in, d_out } => {
                let places: Vec<i64> = data
                    .clone()
                    .convert::<i64>()
                    .try_to_vec()
                    .expect("converted to i64");
                let count = places.len();
                let there = |place: i64| {
                    let place = place as usize;
                    (place % d_out * d_in + place / d_out) as i32
                };
                let places: Vec<i32> = places.into_iter().map(there).collect();
                TensorData::new(places, [count])
            }
        }
    }
}
