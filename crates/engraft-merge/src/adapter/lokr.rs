//! LOKR: dW = s W_1 (x) W_2, each whole or a product (LyCORIS, arXiv 2309.14859, section 3.2).

use engraft_linalg::Matrix;

use super::loha::factors;
use super::{Config, Form, Layout, Parts, Shapes};
use crate::error::Result;
use crate::update::{Dense, Factors, Update};

pub(super) struct Lokr;

impl Form for Lokr {
    fn name(&self) -> &'static str {
        "LOKR"
    }

    fn fields(&self) -> &'static [&'static str] {
        &[
            "lokr_w1",
            "lokr_w1_a",
            "lokr_w1_b",
            "lokr_w2",
            "lokr_w2_a",
            "lokr_w2_b",
            "lokr_t2",
        ]
    }

    fn layout(&self, _: &Config, _: &str, shapes: &Shapes<'_>) -> Layout {
        let mut kernels = ["lokr_t2", "lokr_w2"].map(shapes).into_iter();
        match kernels.find(|shape| shape.len() > 2) {
            Some(shape) => Layout::Convolution {
                kernel: shape[2..].to_vec(),
            },
            None => Layout::Linear,
        }
    }

    fn update(&self, parts: &Parts<'_>) -> Result<Update> {
        // The rank of the configuration, which scales also factors that are whole.
        let rank = parts
            .config()
            .number_of("r", "rank_pattern", parts.module)?;
        let scaling = parts.scaling("alpha", rank)?;
        let w1 = match parts.has("lokr_w1") {
            true => parts.matrix("lokr_w1")?,
            false => parts
                .matrix("lokr_w1_a")?
                .matmul(&parts.matrix("lokr_w1_b")?)?,
        };
        let w1 = w1.scale(scaling);
        if parts.has("lokr_w2") {
            return dense(&w1, &parts.matrix("lokr_w2")?);
        }
        let (left, right) = factors(parts, "lokr_t2", "lokr_w2_a", "lokr_w2_b")?;
        let (rows, columns) = (w1.rows() * left.rows(), w1.cols() * right.cols());
        if w1.rows().min(w1.cols()) * left.cols() * (rows + columns) >= rows * columns {
            return dense(&w1, &left.matmul(&right)?);
        }
        // W_1 (x) (L R) = (I (x) L) (W_1 (x) R) = (W_1 (x) L) (I (x) R).
        let (left, right) = match w1.rows() < w1.cols() {
            true => (Matrix::identity(w1.rows()).kron(&left), w1.kron(&right)),
            false => (w1.kron(&left), Matrix::identity(w1.cols()).kron(&right)),
        };
        Ok(Update::low_rank(Factors::new(left, right)?))
    }
}

fn dense(w1: &Matrix, w2: &Matrix) -> Result<Update> {
    let product = w1.kron(w2);
    let dense = Dense::new(product.rows(), product.cols(), product.to_f32())?;
    Ok(Update::dense(dense))
}
