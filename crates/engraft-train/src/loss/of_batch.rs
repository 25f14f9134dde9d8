//! The loss of a batch of text.

use burn::tensor::{Int, Tensor, TensorData};
use engraft_data::task::Output;
use engraft_data::text::{IGNORED, Targets};
use engraft_tensor::bridge::tensor;
use engraft_tensor::ops::mean_squared_error;

use crate::error::{Error, Result};
use crate::loss::{CrossEntropy, Loss, binary_cross_entropy, next_token, same_token};

/// The loss of logits for sequences, [batch, outputs]: cross entropy for classes, binary cross
/// entropy for several labels, mean squared error for a number. `settings` are those of classes.
///
/// # Errors
/// Targets that are not of sequences, or of another width than the logits.
pub fn sequence_loss(
    settings: &CrossEntropy,
    output: Output,
    logits: Tensor<2>,
    targets: &Targets,
) -> Result<Loss> {
    let [rows, outputs] = logits.dims();
    let device = logits.device().without_autodiff();
    match (output, targets) {
        (Output::Class, Targets::Classes(classes)) => {
            settings.check(outputs)?;
            in_range(classes, outputs)?;
            let labels =
                Tensor::<1, Int>::from_data(TensorData::new(classes.clone(), [rows]), &device);
            Ok(Loss {
                mean: settings.loss(logits, labels),
                weight: counted(classes),
            })
        }
        (Output::Number | Output::Classes, Targets::Values { values, width })
            if *width == outputs =>
        {
            let values = values.iter().copied().map(f64::from).collect();
            let values = tensor(values, [rows, outputs], &device, logits.dtype());
            let mean = match output {
                Output::Number => mean_squared_error(logits, values),
                _ => binary_cross_entropy(logits, values),
            };
            Ok(Loss {
                mean,
                weight: rows as f64,
            })
        }
        _ => unfit(output, outputs, targets),
    }
}

/// The loss of logits for tokens, [batch, tokens, outputs]: cross entropy with the label of each
/// token, or of the one after it.
///
/// # Errors
/// Targets that are not of tokens, or beyond the outputs.
pub fn token_loss(
    settings: &CrossEntropy,
    output: Output,
    logits: Tensor<3>,
    targets: &Targets,
) -> Result<Loss> {
    let [batch, tokens, outputs] = logits.dims();
    let device = logits.device().without_autodiff();
    let Targets::Tokens(labels) = targets else {
        return unfit(output, outputs, targets);
    };
    settings.check(outputs)?;
    in_range(labels, outputs)?;
    let all =
        Tensor::<2, Int>::from_data(TensorData::new(labels.clone(), [batch, tokens]), &device);
    match output {
        // A single token has none after it.
        Output::NextToken if tokens > 1 => {
            let weight = labels.chunks(tokens).map(|row| counted(&row[1..])).sum();
            Ok(Loss {
                mean: next_token(settings, logits, all),
                weight,
            })
        }
        Output::TokenClass | Output::MaskedToken => Ok(Loss {
            mean: same_token(settings, logits, all),
            weight: counted(labels),
        }),
        _ => unfit(output, outputs, targets),
    }
}

fn counted(labels: &[i64]) -> f64 {
    labels.iter().filter(|label| **label != IGNORED).count() as f64
}

fn in_range(labels: &[i64], outputs: usize) -> Result<()> {
    let outside = |label: &&i64| **label != IGNORED && !(0..outputs as i64).contains(*label);
    match labels.iter().find(outside) {
        None => Ok(()),
        Some(label) => Err(Error::BadConfig {
            what: "labels",
            reason: format!(
                "found {label}, expected labels below the {outputs} outputs of the model"
            ),
        }),
    }
}

fn unfit(output: Output, outputs: usize, targets: &Targets) -> Result<Loss> {
    let found = match targets {
        Targets::None => "no targets".to_owned(),
        Targets::Classes(_) => "a class for each sequence".to_owned(),
        Targets::Values { width, .. } => format!("{width} numbers for each sequence"),
        Targets::Tokens(_) => "a label for each token".to_owned(),
        Targets::Answers(_) => "an answer to each request".to_owned(),
    };
    let reason = format!("found {found}, expected what fits {outputs} outputs for {output:?}");
    Err(Error::BadConfig {
        what: "targets",
        reason,
    })
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_tensor::bridge::values;

    use super::*;

    #[test]
    fn each_output_has_its_loss_and_weight() {
        let device = Device::default();
        let logits = || tensor(vec![0.0; 6], [2, 3], &device, DType::F64);
        let settings = CrossEntropy::default();
        let loss = |output, targets: &Targets| sequence_loss(&settings, output, logits(), targets);
        let classes = loss(Output::Class, &Targets::Classes(vec![2, IGNORED])).unwrap();
        assert!((values(&classes.mean)[0] - 3f64.ln()).abs() < 1e-15 && classes.weight == 1.0);
        let numbers = Targets::Values {
            values: vec![1.0; 6],
            width: 3,
        };
        assert_eq!(values(&loss(Output::Number, &numbers).unwrap().mean), [1.0]);
        let several = loss(Output::Classes, &numbers).unwrap();
        assert!((values(&several.mean)[0] - 2f64.ln()).abs() < 1e-15 && several.weight == 2.0);
        let message = |result: Result<Loss>| result.unwrap_err().to_string();
        assert!(message(loss(Output::Class, &Targets::Classes(vec![0, 3]))).contains("found 3"));
        assert!(message(loss(Output::Number, &Targets::None)).contains("found no targets"));

        let logits = || tensor(vec![0.0; 12], [2, 3, 2], &device, DType::F64);
        let labels = Targets::Tokens(vec![1, 1, IGNORED, IGNORED, 0, 1]);
        let loss = |output| token_loss(&settings, output, logits(), &labels).unwrap();
        assert_eq!(loss(Output::TokenClass).weight, 4.0);
        assert_eq!(loss(Output::NextToken).weight, 3.0);
        assert!((values(&loss(Output::NextToken).mean)[0] - 2f64.ln()).abs() < 1e-15);
    }
}
