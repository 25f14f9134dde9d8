//! LOHA: dW = s (A_1 B_1) . (A_2 B_2), entry by entry (FedPara, arXiv 2108.06098, section 2.2). It is
//! the product of the factors' Khatri-Rao products, of rank r^2.

use engraft_linalg::Matrix;

use super::{Config, Form, Layout, Parts, Shapes};
use crate::error::Result;
use crate::update::{Dense, Factors, Update};

pub(super) struct Loha;

impl Form for Loha {
    fn name(&self) -> &'static str {
        "LOHA"
    }

    fn fields(&self) -> &'static [&'static str] {
        &[
            "hada_w1_a",
            "hada_w1_b",
            "hada_w2_a",
            "hada_w2_b",
            "hada_t1",
            "hada_t2",
        ]
    }

    fn layout(&self, _: &Config, _: &str, shapes: &Shapes<'_>) -> Layout {
        match shapes("hada_t1") {
            core if core.len() > 2 => Layout::Convolution {
                kernel: core[2..].to_vec(),
            },
            _ => Layout::Linear,
        }
    }

    fn update(&self, parts: &Parts<'_>) -> Result<Update> {
        let rank = parts.tensor("hada_w1_b")?.shape[0];
        let scaling = parts.scaling("alpha", rank as f64)?;
        let (left_1, right_1) = factors(parts, "hada_t1", "hada_w1_a", "hada_w1_b")?;
        let (left_2, right_2) = factors(parts, "hada_t2", "hada_w2_a", "hada_w2_b")?;
        if left_1.rows() != left_2.rows() || right_1.cols() != right_2.cols() {
            return Err(parts.error(format!(
                "its two products are {}x{} and {}x{}, expected one shape",
                left_1.rows(),
                right_1.cols(),
                left_2.rows(),
                right_2.cols()
            )));
        }
        let (rows, columns) = (left_1.rows(), right_1.cols());
        let whole = left_1.cols() * left_2.cols();
        if whole * (rows + columns) < rows * columns {
            let left = face_splitting(&left_1, &left_2).scale(scaling);
            let right = face_splitting(&right_1.transpose(), &right_2.transpose()).transpose();
            return Ok(Update::low_rank(Factors::new(left, right)?));
        }
        let (one, other) = (left_1.matmul(&right_1)?, left_2.matmul(&right_2)?);
        let both = one.as_slice().iter().zip(other.as_slice());
        let data = both.map(|(a, b)| (scaling * a * b) as f32).collect();
        Ok(Update::dense(Dense::new(rows, columns, data)?))
    }
}

/// A B; with a core T of `[i, j, ...]` the sum over i and j of a_i (x) (T_ij b_j), of `[out, in ...]`,
/// whose left factor is A^T.
pub(super) fn factors(parts: &Parts<'_>, core: &str, a: &str, b: &str) -> Result<(Matrix, Matrix)> {
    let (a, b) = (parts.matrix(a)?, parts.matrix(b)?);
    if !parts.has(core) {
        return Ok((a, b));
    }
    let core = parts.tensor(core)?;
    let (ranks, sides) = (core.shape[0], core.shape[2..].iter().product::<usize>());
    let inner = core.shape[1];
    if a.rows() != ranks || b.rows() != inner {
        return Err(parts.error(format!(
            "a core of shape {:?} between factors of {} and {} rows",
            core.shape,
            a.rows(),
            b.rows()
        )));
    }
    let mut right = Matrix::zeros(ranks, b.cols() * sides);
    for i in 0..ranks {
        for j in 0..inner {
            let kernel = &core.data[(i * inner + j) * sides..][..sides];
            for (r, b) in b.row(j).iter().enumerate() {
                let to = &mut right.row_mut(i)[r * sides..][..sides];
                to.iter_mut()
                    .zip(kernel)
                    .for_each(|(x, t)| *x += b * f64::from(*t));
            }
        }
    }
    Ok((a.transpose(), right))
}

/// Rows of all products of a row of A and the same row of B: `[n, p]` and `[n, q]` make `[n, p q]`.
fn face_splitting(a: &Matrix, b: &Matrix) -> Matrix {
    let width = b.cols();
    Matrix::from_fn(a.rows(), a.cols() * width, |i, j| {
        a.get(i, j / width) * b.get(i, j % width)
    })
}
