//! Statistics of a task for merges that weigh updates by them.
//!
//! With the adapter active, for every module y = x W^T + b whose weight it changes, over n examples, each a
//! batch of its own:
//!
//! ```text
//! <module>.gram     X^T X / rows of X,  X the inputs of the module over all tokens       [in, in]
//! <module>.fisher   1/n sum_i (d log p(y_i | x_i) / dW)^2, entry by entry, at W + dW     [out, in]
//! ```
//!
//! log p is that of the example's own targets (the empirical Fisher information): the sum over the tokens
//! that are predicted, over the classes of an example, or minus half of the squared error.

use std::collections::HashMap;
use std::path::Path;

use burn::tensor::{DType, Tensor};
use engraft_core::{Adapted, Needs};
use engraft_merge::file::{HostTensor, TensorSpool};
use safetensors::Dtype;

use super::changes::{Changes, Layout};
use crate::adapt::{Judge, Sample, check_writable};
use crate::{Error, Result};

/// What a calibration came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Calibrated {
    /// Modules with statistics.
    pub modules: Vec<String>,
    /// Examples that were seen.
    pub examples: usize,
    /// What a user should know.
    pub warnings: Vec<String>,
}

/// Writes the statistics of an adapter's task. Examples are seen one by one, whatever the sample says of
/// batches. All Gram matrices and squared gradients are in memory at once.
///
/// # Errors
/// A model, adapter or data that cannot be read, an adapter without a weight form, or one that changes no
/// weight of a layer. Nothing was written then.
pub fn calibrate(sample: &Sample, device: &str, out: &Path) -> Result<Calibrated> {
    check_writable(out)?;
    let sample = Sample {
        batch_size: 1,
        ..sample.clone()
    };
    let name = sample
        .adapter
        .file_name()
        .unwrap_or(sample.adapter.as_os_str());
    let name = name.to_string_lossy().into_owned();
    let device = engraft_tensor::device(device).map_err(input)?.autodiff();
    let judge = Judge::new(&sample, &device)?;
    let (adapted, mut warnings) = judge.adapted(&sample.adapter)?;
    let attachment = adapted.attachments().last().cloned();
    let attachment = attachment
        .ok_or_else(|| Error::Input(format!("adapter `{name}`: its files attach nothing")))?;
    let folded = adapted
        .fold()
        .map_err(|error| Error::Input(format!("adapter `{name}`: {error}")))?;
    let changes = Changes::new(&name, adapted, &attachment)?;
    let mut modules = Vec::new();
    for (module, change) in &changes.modules {
        match (change.layout, &change.weight) {
            (Layout::Linear | Layout::Transposed, Some(_)) => modules.push(module.clone()),
            (_, None) => {}
            (layout, _) => warnings.push(format!(
                "{module}: no statistics of {layout:?}: its merge takes the plain mean"
            )),
        }
    }
    drop(changes);
    if modules.is_empty() {
        return Err(Error::Input(format!(
            "adapter `{name}` changes the weight of no linear layer: there is nothing to take statistics of"
        )));
    }
    let needs = Needs {
        moment: true,
        squared_gradient: true,
        ..Needs::default()
    };
    let mut failed = None;
    let found =
        Adapted::new(folded).statistics(&modules, needs, judge.batches(), |model, batch| {
            let loss = judge.likelihood(model, batch);
            loss.map_or_else(
                |error| {
                    failed.get_or_insert(error);
                    Tensor::zeros([1], &device)
                },
                |(loss, _)| loss,
            )
        });
    if let Some(error) = failed {
        return Err(error);
    }
    let found = found.map_err(input)?;
    let examples = judge.batches().len();
    let mut file = TensorSpool::create(out).map_err(input)?;
    for (module, statistics) in found.iter() {
        let (Some(moment), Some(squares)) = (&statistics.moment, &statistics.squared_gradient)
        else {
            continue;
        };
        let gram = moment.clone() / statistics.tokens.max(1) as f64;
        // Weights are [in, out] here, and as PyTorch has them in the file.
        let fisher = squares.clone().transpose() / examples as f64;
        for (field, matrix) in [("gram", gram), ("fisher", fisher)] {
            let name = format!("{module}.{field}");
            let pushed = file.push(&name, Dtype::F32, &host(matrix));
            pushed.map_err(input)?;
        }
    }
    let metadata = HashMap::from([
        ("engraft".to_owned(), "statistics".to_owned()),
        ("adapter".to_owned(), name),
        ("examples".to_owned(), examples.to_string()),
    ]);
    file.finish(&metadata).map_err(input)?;
    Ok(Calibrated {
        modules,
        examples,
        warnings,
    })
}

fn host(matrix: Tensor<2>) -> HostTensor {
    let shape = matrix.dims().to_vec();
    let data = matrix.into_data().convert_dtype(DType::F32);
    HostTensor::new(shape, data.try_into_vec().expect("just converted"))
}

fn input(error: impl std::fmt::Display) -> Error {
    Error::Input(error.to_string())
}
