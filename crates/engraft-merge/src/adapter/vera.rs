//! VERA: dW = diag(b) B diag(d) A with A and B shared by all modules (arXiv 2310.11454, equation 2).

use super::{Form, Parts};
use crate::error::Result;
use crate::update::{Factors, Update};

pub(super) struct Vera;

const SHARED_A: &str = "base_model.vera_A";
const SHARED_B: &str = "base_model.vera_B";

impl Form for Vera {
    fn name(&self) -> &'static str {
        "VERA"
    }

    fn fields(&self) -> &'static [&'static str] {
        &["vera_lambda_b", "vera_lambda_d"]
    }

    fn refuses(&self, config: &super::Config) -> Option<String> {
        let kept = config.is_set("save_projection");
        (!kept).then(|| "`save_projection` is false: its projections grow from a seed".to_owned())
    }

    fn update(&self, parts: &Parts<'_>) -> Result<Update> {
        let (b, d) = (
            parts.vector("vera_lambda_b")?,
            parts.vector("vera_lambda_d")?,
        );
        let (shared_a, shared_b) = (parts.shared(SHARED_A)?, parts.shared(SHARED_B)?);
        if shared_b.rows() < b.len() || shared_b.cols() != d.len() || shared_a.rows() != d.len() {
            return Err(parts.error(format!(
                "{} outputs and rank {} do not fit projections of {:?} and {:?}",
                b.len(),
                d.len(),
                shared_b.shape(),
                shared_a.shape()
            )));
        }
        let rows = engraft_linalg::Matrix::from_fn(b.len(), d.len(), |i, j| shared_b.get(i, j));
        let left = rows.scale_rows(&b)?.scale_columns(&d)?;
        // The first columns of A are the module's inputs: only the base knows how many.
        let inputs = parts.shape()?.map_or(shared_a.cols(), |[_, inputs]| inputs);
        Ok(Update::low_rank(Factors::new(
            left,
            shared_a.columns(0..inputs)?,
        )?))
    }
}
