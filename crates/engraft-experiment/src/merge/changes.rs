//! What an adapter changes in the parameters of its model, one layer at a time.
//!
//! ```text
//! dW = W_effective - W,   db = b_effective - b        W: [out, in], as PyTorch has it
//! ```

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::{DType, TensorData};
use engraft_core::{
    Adaptable, Adapted, Attachment, Ctx, FrozenBase, LayerKind, Linear, Mode, ModelShapes, Slot,
    params,
};
use engraft_models::Pretrained;
use serde::Serialize;

use crate::{Error, Result};

/// How the weight of a module lies in a checkpoint of `transformers`. Its change is `[out, in]`
/// whatever that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// `[out, in]`.
    Linear,
    /// `[in, out]`: GPT-2's Conv1D.
    Transposed,
    /// `[tokens, width]`: a linear map of one-hot rows, `[in, out]`.
    Embedding,
    /// `[out, in, kh, kw]`, and so is its change.
    Convolution,
    /// No matrix, or none of a layer: a norm, positions. The change lies as the parameter does.
    AsIs,
}

/// What changes in a module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its name in a checkpoint, where that may be another than in memory.
    pub file: String,
    /// How its weight lies in a checkpoint.
    pub layout: Layout,
    /// Shape of dW; nothing where the weight stays.
    pub weight: Option<Vec<usize>>,
    /// Numbers of db; nothing where the bias stays.
    pub bias: Option<usize>,
}

/// A layer before and after.
struct Layer {
    now: Linear,
    before: FrozenBase,
}

/// An adapted model beside what it was.
pub(super) struct Changes {
    now: Adapted<Pretrained>,
    before: Adapted<Pretrained>,
    layers: BTreeMap<String, Layer>,
    /// By the path of the module.
    pub modules: BTreeMap<String, Change>,
    /// Parameters that are known whole and not as a change: heads that the checkpoint lacks, and what
    /// is neither weight nor bias.
    pub whole: Vec<String>,
    /// The adapter's name and what was attached, for messages.
    named: (String, Attachment),
    /// The layer that was computed last.
    last: Option<(String, Values)>,
}

/// dW and db, each as far as it changes.
type Values = [Vec<f32>; 2];

impl Changes {
    /// The changes of an attached adapter. `adapter` is its name in messages.
    ///
    /// # Errors
    /// A method without a weight form: adapter, method and module are named.
    pub fn new(
        adapter: &str,
        adapted: Adapted<Pretrained>,
        attachment: &Attachment,
    ) -> Result<Self> {
        let shapes = adapted.model.shapes();
        let mut before = adapted.clone();
        before.disable(true);
        let mut touched: BTreeSet<String> = attachment.params.iter().cloned().collect();
        let now = match attachment.sites.first() {
            None => adapted,
            Some(site) => {
                let folds = shapes
                    .folds
                    .iter()
                    .filter(|fold| attachment.sites.contains(&fold.site));
                let scaled = folds.flat_map(|fold| fold.scaled.iter().chain(&fold.shifted));
                touched.extend(scaled.cloned());
                let refused = |error: engraft_core::Error| {
                    let site = match &error {
                        engraft_core::Error::NoWeightForm { path, .. } => path,
                        _ => site,
                    };
                    refusal(adapter, attachment, site, &error.to_string())
                };
                Adapted::new(adapted.fold().map_err(refused)?)
            }
        };
        let mut changes = Self {
            layers: layers(now.clone(), before.clone()),
            now,
            before,
            modules: BTreeMap::new(),
            whole: Vec::new(),
            named: (adapter.to_owned(), attachment.clone()),
            last: None,
        };
        let changes_bias =
            engraft::entry(&attachment.method).is_ok_and(|entry| entry.meta.changes_bias);
        for path in &attachment.layers {
            changes.add_layer(adapter, attachment, &shapes, path, changes_bias)?;
        }
        for param in &touched {
            changes.add_param(&shapes, param)?;
        }
        Ok(changes)
    }

    fn add_layer(
        &mut self,
        adapter: &str,
        attachment: &Attachment,
        shapes: &ModelShapes,
        path: &str,
        changes_bias: bool,
    ) -> Result<()> {
        let refused = |reason: &str| refusal(adapter, attachment, path, reason);
        let Some(layer) = self.layers.get(path) else {
            return Err(refused("it is no linear layer of its own"));
        };
        let shape = matrix(shapes, path, &layer.before);
        let (weight, bias) = match changes_bias {
            // What changes is only known once it is computed.
            true => {
                let [weight, bias] = layer.values(&self.now).map_err(|error| refused(&error))?;
                let moved = |values: &[f32]| values.iter().any(|x| *x != 0.0);
                (moved(&weight), moved(&bias).then_some(bias.len()))
            }
            false => (true, None),
        };
        let change = Change {
            file: self.file(path)?,
            layout: layout(&self.now.model, shapes, path),
            weight: weight.then_some(shape),
            bias,
        };
        if change.weight.is_some() || change.bias.is_some() {
            self.modules.insert(path.to_owned(), change);
        }
        Ok(())
    }

    fn add_param(&mut self, shapes: &ModelShapes, param: &str) -> Result<()> {
        let (module, field) = param.rsplit_once('.').unwrap_or(("", param));
        let is_fresh = self
            .now
            .model
            .report()
            .fresh
            .iter()
            .any(|fresh| fresh == param);
        if is_fresh || module.is_empty() || !["weight", "bias"].contains(&field) {
            self.whole.push(param.to_owned());
            return Ok(());
        }
        let layer = self.layers.get(module);
        let file = self.file(module)?;
        let change = self.modules.entry(module.to_owned()).or_insert(Change {
            file,
            layout: layer.map_or(Layout::AsIs, |_| layout(&self.now.model, shapes, module)),
            weight: None,
            bias: None,
        });
        let shape = match layer {
            Some(layer) => matrix(shapes, module, &layer.before),
            None => read(&self.before, param)?.0,
        };
        match (field, layer) {
            ("weight", _) => change.weight = Some(shape),
            (_, Some(layer)) => change.bias = Some(layer.before.d_out()),
            (_, None) => change.bias = shape.first().copied(),
        }
        Ok(())
    }

    /// What checkpoints call a module.
    fn file(&self, module: &str) -> Result<String> {
        let name = self.now.model.file_name(&format!("{module}.weight"));
        let name = name.map_err(|error| input(error.to_string()))?;
        Ok(name.trim_end_matches(".weight").to_owned())
    }

    /// The numbers of dW or db of a module.
    ///
    /// # Errors
    /// A method without a weight form there; numbers that are not finite.
    pub fn values(&mut self, module: &str, field: &str) -> Result<Vec<f32>> {
        let at = usize::from(field == "bias");
        let values = match self.layers.get(module) {
            Some(layer) => {
                if self.last.as_ref().is_none_or(|(last, _)| last != module) {
                    self.last = None;
                    let (adapter, attachment) = &self.named;
                    let values = layer.values(&self.now);
                    let values =
                        values.map_err(|error| refusal(adapter, attachment, module, &error))?;
                    self.last = Some((module.to_owned(), values));
                }
                self.last.as_ref().expect("just made").1[at].clone()
            }
            None => {
                let param = format!("{module}.{field}");
                let [now, before] = [read(&self.now, &param)?.1, read(&self.before, &param)?.1];
                now.iter()
                    .zip(before)
                    .map(|(now, before)| now - before)
                    .collect()
            }
        };
        match values.iter().find(|x| !x.is_finite()) {
            None => Ok(values),
            Some(found) => Err(input(format!(
                "module {module}: the change of its {field} has {found}, expected finite numbers"
            ))),
        }
    }

    /// Shape and numbers of a parameter that is known whole.
    pub fn whole(&self, param: &str) -> Result<(Vec<usize>, Vec<f32>)> {
        let (shape, values) = read(&self.now, param)?;
        let layer = param
            .strip_suffix(".weight")
            .and_then(|path| self.layers.get(path));
        Ok(match (layer, &shape[..]) {
            (Some(_), &[rows, columns]) => (vec![columns, rows], transposed(&values, columns)),
            _ => (shape, values),
        })
    }
}

impl Layer {
    /// dW `[out, in]` and db, which is empty where there is no bias.
    fn values(&self, adapted: &Adapted<Pretrained>) -> std::result::Result<Values, String> {
        let ctx = Ctx::new(&adapted.bank, Mode::Eval);
        let now = self
            .now
            .effective(&ctx)
            .map_err(|error| error.to_string())?;
        let weight = now.weight() - self.before.weight();
        let bias = match (&now.bias, &self.before.bias) {
            (Some(now), Some(before)) => floats((now.clone() - before.clone()).to_data()),
            (Some(now), None) => floats(now.to_data()),
            (None, _) => Vec::new(),
        };
        Ok([floats(weight.transpose().to_data()), bias])
    }
}

/// The layers of both models by path.
fn layers(
    mut now: Adapted<Pretrained>,
    mut before: Adapted<Pretrained>,
) -> BTreeMap<String, Layer> {
    let mut bases = BTreeMap::new();
    before.each_slot(|path, slot| {
        if let Slot::Linear(linear) = slot {
            bases.insert(path.to_owned(), linear.base());
        }
    });
    let mut layers = BTreeMap::new();
    now.each_slot(|path, slot| {
        if let (Slot::Linear(linear), Some(before)) = (slot, bases.remove(path)) {
            let now = linear.clone();
            layers.insert(path.to_owned(), Layer { now, before });
        }
    });
    layers
}

fn layout(model: &Pretrained, shapes: &ModelShapes, path: &str) -> Layout {
    let kind = shapes.layers.iter().find(|layer| layer.path == path);
    match kind.map(|layer| layer.kind) {
        Some(LayerKind::Embedding) => Layout::Embedding,
        Some(LayerKind::Conv2d { .. }) => Layout::Convolution,
        _ if model.config_json()["model_type"] == "gpt2" && !shapes.is_head(path) => {
            Layout::Transposed
        }
        _ => Layout::Linear,
    }
}

/// Shape of dW.
fn matrix(shapes: &ModelShapes, path: &str, base: &FrozenBase) -> Vec<usize> {
    let kind = shapes.layers.iter().find(|layer| layer.path == path);
    match kind.map(|layer| layer.kind) {
        Some(LayerKind::Conv2d { kernel }) => {
            let channels = base.d_in() / (kernel[0] * kernel[1]);
            vec![base.d_out(), channels, kernel[0], kernel[1]]
        }
        _ => vec![base.d_out(), base.d_in()],
    }
}

/// Shape and numbers of a parameter of the model.
fn read(adapted: &Adapted<Pretrained>, param: &str) -> Result<(Vec<usize>, Vec<f32>)> {
    let found = params::read(&adapted.model, |path| path == param);
    let data = found.into_values().next();
    let data = data.ok_or_else(|| input(format!("the model has no parameter {param}")))?;
    Ok((data.shape().to_vec(), floats(data)))
}

fn floats(data: TensorData) -> Vec<f32> {
    let data = data.convert_dtype(DType::F32);
    data.try_into_vec().expect("just converted")
}

/// A row-major matrix with the columns of one of `columns` columns as rows.
fn transposed(values: &[f32], columns: usize) -> Vec<f32> {
    let column = |at: usize| values.iter().skip(at).step_by(columns).copied();
    (0..columns).flat_map(column).collect()
}

fn refusal(adapter: &str, attachment: &Attachment, module: &str, reason: &str) -> Error {
    input(format!(
        "adapter `{adapter}`, method `{}`, module `{module}`: it has no change of a weight that could be \
         merged ({reason}); keep it as an adapter beside the model, or train a method that `methods` \
         lists as mergeable",
        attachment.method
    ))
}

fn input(message: String) -> Error {
    Error::Input(message)
}
