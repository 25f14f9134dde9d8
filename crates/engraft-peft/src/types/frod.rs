//! FROD: FRoD, whose bases belong to the part that a layer plays.

use burn::tensor::{DType, TensorData};
use engraft_core::{LayerShape, grouping::part};

use super::{Configured, PeftType, Settings, Tensors, Written, common, table};
use crate::config::Reader;
use crate::error::{Error, Result};
use crate::field::{Field, Layout, MODEL, SHARED};

/// y = x V (S + diag(lambda)) U + b with V and the places of S shared by a part's layers.
pub(super) struct Frod;

const BASIS: &str = "frod_V";
const PLACES: &str = "frod_s_indices";
const SIZE: &str = "frod_s_size";
const VALUES: &str = "frod_lambda_s_values";

impl PeftType for Frod {
    fn name(&self) -> &'static str {
        "FROD"
    }

    fn methods(&self) -> &'static [&'static str] {
        &["frod"]
    }

    fn lacks(&self) -> &'static [&'static str] {
        &["exclude_modules"]
    }

    fn read(&self, config: &mut Reader, _: &[LayerShape]) -> Result<Settings> {
        // How places were drawn and bases computed; they are read from the file.
        config.skip(&[
            "projection_prng_key",
            "save_projection",
            "init_weights",
            "progressbar",
            "runtime_offload_base_weight",
        ]);
        let own = table([
            ("sparsity", config.get("sparse_rate", 0.01)?.into()),
            ("ridge", config.get("regularization_alpha", 1e-3)?.into()),
            ("dropout", config.get("frod_dropout", 0.0)?.into()),
        ]);
        Ok(Settings {
            method: "frod",
            config: own,
            ..Settings::default()
        })
    }

    fn write(&self, layers: &[Configured]) -> Result<Written, String> {
        let keys = table([
            ("sparse_rate", common::<f64>(layers, "sparsity")?.into()),
            (
                "regularization_alpha",
                common::<f64>(layers, "ridge")?.into(),
            ),
            ("frod_dropout", common::<f64>(layers, "dropout")?.into()),
            ("projection_prng_key", 0.into()),
            ("save_projection", true.into()),
            ("init_weights", true.into()),
            ("progressbar", true.into()),
            ("runtime_offload_base_weight", false.into()),
        ]);
        Ok(Written {
            keys,
            ..Written::default()
        })
    }

    fn fields(&self, layer: &Configured) -> Result<Vec<Field>> {
        let d_in = layer.layer.d_in;
        let mut fields = vec![
            Field::same(BASIS, "v", &[d_in, d_in]),
            Field::same("frod_lambda_l", "lambda", &[d_in]),
        ];
        let entries = entries(d_in, layer.get("sparsity")?);
        if entries > 0 {
            fields.push(Field::same(VALUES, "values", &[entries]));
            fields.push(Field {
                peft: PLACES.into(),
                own: "positions".into(),
                shape: vec![2, entries],
                // The product here takes S from the right.
                layout: Layout::Coordinates { d_in, d_out: d_in },
            });
        }
        Ok(fields)
    }

    fn why_unsaved(&self) -> &'static str {
        "FRoD's bases U are not in PEFT's file: they are computed again from the weight and from a V \
         that has to have the signs of LAPACK's eigenvectors"
    }

    fn unpack(
        &self,
        layers: &[LayerShape],
        settings: &mut Settings,
        tensors: &mut Tensors,
        frozen: &Tensors,
    ) -> Result<()> {
        let mut used = Vec::new();
        for layer in layers {
            let shared = |name: &str| format!("{SHARED}{name}.{}", part(&layer.path));
            for name in [BASIS, PLACES] {
                let key = shared(name);
                if let (false, Some(data)) = (tensors.contains_key(&key), frozen.get(&key)) {
                    settings.grown.insert(key.clone(), data.clone());
                    settings.grown.insert(shared(SIZE), data.clone());
                    tensors.insert(key.clone(), data.clone());
                }
                let data = tensors.get(&key).cloned().ok_or_else(|| {
                    Error::Unsupported(format!(
                        "{key} is not in the file: PEFT computes it from the base with LAPACK, whose signs no file determines; save the adapter with `save_projection` = true"
                    ))
                })?;
                tensors.insert(format!("{MODEL}{}.{name}", layer.path), data);
                used.push(key);
            }
            if let Some(size) = tensors.get(&shared(SIZE)) {
                let found: Vec<i64> = size
                    .clone()
                    .convert::<i64>()
                    .try_to_vec()
                    .expect("converted to i64");
                if found != [layer.d_in as i64; 2] {
                    return Err(Error::Tensors(format!(
                        "{} is {found:?}, expected {:?}",
                        shared(SIZE),
                        [layer.d_in; 2]
                    )));
                }
            }
            used.push(shared(SIZE));
            // Without places off the diagonal there is nothing to train there.
            for name in [PLACES, VALUES] {
                let key = format!("{MODEL}{}.{name}", layer.path);
                if tensors
                    .get(&key)
                    .is_some_and(|data| data.num_elements() == 0)
                {
                    tensors.remove(&key);
                }
            }
        }
        used.iter().for_each(|key| drop(tensors.remove(key)));
        Ok(())
    }

    fn pack(&self, layers: &[Configured], tensors: &mut Tensors) -> Result<(), String> {
        for layer in layers {
            let LayerShape { path, d_in, .. } = &layer.layer;
            let shared = |name: &str| format!("{SHARED}{name}.{}", part(path));
            let own = |name: &str| format!("{MODEL}{path}.{name}");
            let Some(basis) = tensors.remove(&own(BASIS)) else {
                // Gradients: what is frozen has none.
                continue;
            };
            let none = || TensorData::new(Vec::<i64>::new(), [2, 0]);
            let places = tensors.remove(&own(PLACES)).unwrap_or_else(none);
            let size = TensorData::new(vec![*d_in as i64; 2], [2]);
            for (name, data) in [
                (BASIS, basis),
                (PLACES, places.convert_dtype(DType::I64)),
                (SIZE, size),
            ] {
                if let Some(other) = tensors.insert(shared(name), data.clone())
                    && other != data
                {
                    return Err(format!(
                        "{path} has another {name} than a layer that plays the same part"
                    ));
                }
            }
            tensors
                .entry(own(VALUES))
                .or_insert_with(|| TensorData::new(Vec::<f32>::new(), [0]));
        }
        Ok(())
    }
}

/// Number of trained entries off the diagonal.
fn entries(d_in: usize, sparsity: f64) -> usize {
    match (d_in * d_in) as f64 * sparsity {
        asked if asked > 0.0 => (asked as usize).max(1).min(d_in * (d_in - 1)),
        _ => 0,
    }
}
