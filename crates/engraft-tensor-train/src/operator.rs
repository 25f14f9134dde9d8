//! Matrix product operators: a matrix as a chain of small tensors with row and column indices.
//!
//! M(i_1 ... i_5, j_1 ... j_5) = T_1(i_1, j_1) T_2(i_2, j_2) ... T_5(i_5, j_5) with T_k
//! [D_{k-1}, i_k, j_k, D_k] and D_0 = D_5 = 1. Rows and columns are in row-major order.

use burn::tensor::Tensor;
use engraft_linalg::{LinalgError, Matrix, Svd, svd};

use crate::modes::primes;

/// Number of tensors: two auxiliary ones, the central one, two auxiliary ones.
pub(crate) const LENGTH: usize = 5;

/// The place of the central tensor.
pub(crate) const CENTRE: usize = 2;

/// The factors of a width in the authors' code.
const PUBLISHED: [(usize, [usize; LENGTH]); 4] = [
    (768, [3, 4, 4, 4, 4]),
    (1024, [4, 4, 4, 4, 4]),
    (3072, [4, 4, 8, 6, 4]),
    (4096, [4, 4, 8, 8, 4]),
];

/// A width as a product of five: the published one where there is one, otherwise its primes, from
/// the largest on, each to the factor that is smallest so far, those near the centre first.
pub(crate) fn five(width: usize) -> [usize; LENGTH] {
    if let Some((_, factors)) = PUBLISHED.iter().find(|(known, _)| *known == width) {
        return *factors;
    }
    let mut factors = [1; LENGTH];
    for prime in primes(width).into_iter().rev() {
        let place = [2, 1, 3, 0, 4].into_iter().min_by_key(|&k| factors[k]);
        factors[place.expect("five places")] *= prime;
    }
    factors
}

/// Shapes of the tensors for these factors, with bonds of at most `bond` and of no more than what
/// an exact decomposition needs.
pub(crate) fn shapes(
    inputs: [usize; LENGTH],
    outputs: [usize; LENGTH],
    bond: usize,
) -> [[usize; 4]; LENGTH] {
    let sizes: [usize; LENGTH] = std::array::from_fn(|k| inputs[k] * outputs[k]);
    // The bond after the first k tensors.
    let bonds = |k: usize| {
        let (before, after) = sizes.split_at(k);
        bond.min(before.iter().product())
            .min(after.iter().product())
    };
    std::array::from_fn(|k| [bonds(k), inputs[k], outputs[k], bonds(k + 1)])
}

/// x M, x [n, rows] to [n, cols]: tensor after tensor, or through M where that takes fewer
/// multiplications, as it does for many tokens and wide bonds.
pub(crate) fn apply(x: Tensor<2>, tensors: &[Tensor<4>]) -> Tensor<2> {
    let [n, rows] = x.dims();
    let (mut chained, mut formed) = (0, 0);
    let (mut before, mut done, mut rest) = (1, 1, rows);
    for tensor in tensors {
        let [left, input, output, right] = tensor.dims();
        done *= output;
        chained += left * right * done * rest;
        before *= input;
        formed += left * right * done * before;
        rest /= input;
    }
    if n * chained <= formed + n * rows * done {
        chain(x, tensors)
    } else {
        x.matmul(matrix(tensors))
    }
}

/// x M, tensor after tensor: sum_k D_{k-1} D_k (j_1 ... j_k) (i_k ... i_5) multiplications a token.
fn chain(x: Tensor<2>, tensors: &[Tensor<4>]) -> Tensor<2> {
    let [n, mut rest] = x.dims();
    // [n j_1 ... j_{k-1}, D_{k-1} i_k, i_{k+1} ...]: what is done, contracted next, and left.
    let mut done = n;
    let mut state: Tensor<3> = x.unsqueeze();
    for tensor in tensors {
        let [left, input, output, right] = tensor.dims();
        rest /= input;
        let across =
            tensor
                .clone()
                .permute([2, 3, 0, 1])
                .reshape([1, output * right, left * input]);
        state = across.matmul(state.reshape([done, left * input, rest]));
        done *= output;
    }
    state.reshape([n, done / n])
}

/// M, [rows, cols].
pub(crate) fn matrix(tensors: &[Tensor<4>]) -> Tensor<2> {
    let mut product: Option<Tensor<3>> = None;
    for tensor in tensors {
        let [left, input, output, right] = tensor.dims();
        let tensor = tensor.clone();
        product = Some(match product {
            None => tensor.reshape([input, output, right]),
            Some(so_far) => {
                let [rows, cols, _] = so_far.dims();
                so_far
                    .reshape([rows * cols, left])
                    .matmul(tensor.reshape([left, input * output * right]))
                    .reshape([rows, cols, input, output, right])
                    .swap_dims(1, 2)
                    .reshape([rows * input, cols * output, right])
            }
        });
    }
    let product = product.expect("a chain has at least one tensor");
    let [rows, cols, _] = product.dims();
    product.reshape([rows, cols])
}

/// The tensors of a weight, row-major, in the given shapes: by singular value decompositions from
/// both ends, so that T_1, T_2 have orthonormal columns, T_4, T_5 orthonormal rows, and the central
/// tensor has the norm of M. Exact unless the bonds are truncated.
///
/// # Errors
/// NaN or infinite weights, no convergence.
pub(crate) fn decompose(
    weight: &Matrix,
    shapes: &[[usize; 4]; LENGTH],
) -> Result<[Vec<f64>; LENGTH], LinalgError> {
    let size = |k: usize| shapes[k][1] * shapes[k][2];
    let split = |rest: Matrix, rows: usize, rank: usize| {
        let cols = rest.as_slice().len() / rows;
        svd(&Matrix::from_vec(rows, cols, rest.into_vec())?)?.truncated(rank)
    };
    let mut rest = interleaved(weight, shapes);
    let mut tensors: [Vec<f64>; LENGTH] = Default::default();
    for k in 0..CENTRE {
        let [left, _, _, right] = shapes[k];
        let Svd { u, s, vt } = split(rest, left * size(k), right)?;
        (tensors[k], rest) = (u.into_vec(), vt.scale_rows(&s)?);
    }
    for k in (CENTRE + 1..LENGTH).rev() {
        let [left, _, _, right] = shapes[k];
        let rows = rest.as_slice().len() / (size(k) * right);
        let Svd { u, s, vt } = split(rest, rows, left)?;
        (tensors[k], rest) = (vt.into_vec(), u.scale_columns(&s)?);
    }
    tensors[CENTRE] = rest.into_vec();
    Ok(tensors)
}

/// The entries of a weight in the order (i_1, j_1), ..., (i_5, j_5), as one row.
fn interleaved(weight: &Matrix, shapes: &[[usize; 4]; LENGTH]) -> Matrix {
    Matrix::from_fn(1, weight.as_slice().len(), |_, mut place| {
        let (mut row, mut col, mut rows, mut cols) = (0, 0, 1, 1);
        for [_, input, output, _] in shapes.iter().rev() {
            col += place % output * cols;
            place /= output;
            row += place % input * rows;
            place /= input;
            (rows, cols) = (rows * input, cols * output);
        }
        weight.get(row, col)
    })
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};
    use engraft_tensor::{Init, Key, bridge};

    use super::*;

    fn draw(shape: [usize; 2], role: &str) -> Tensor<2> {
        let key = Key::new(1).child(role);
        Init::Normal { std: 1.0 }.tensor(shape, &key, &Device::default(), DType::F64)
    }

    fn tensors(weight: &Tensor<2>, bond: usize) -> Vec<Tensor<4>> {
        let [rows, cols] = weight.dims();
        let shapes = shapes(five(rows), five(cols), bond);
        let values = decompose(&bridge::to_matrix(weight), &shapes).unwrap();
        let tensor =
            |(values, shape)| bridge::tensor(values, shape, &Device::default(), DType::F64);
        values.into_iter().zip(shapes).map(tensor).collect()
    }

    #[test]
    fn factors_have_the_width_as_product() {
        for width in (1..200).chain([768, 1024, 3072, 4096, 11_008]) {
            assert_eq!(five(width).iter().product::<usize>(), width);
        }
        assert_eq!((five(1), five(7)), ([1; 5], [1, 1, 7, 1, 1]));
    }

    #[test]
    fn without_truncation_it_is_the_matrix_and_the_centre_holds_its_norm() {
        for shape in [[12, 30], [7, 5], [1, 1], [64, 16]] {
            let weight = draw(shape, "w");
            let tensors = tensors(&weight, usize::MAX);
            let scale = bridge::to_matrix(&weight).frobenius_norm();
            let distance = bridge::to_matrix(&(matrix(&tensors) - weight.clone())).max_abs();
            assert!(distance < 1e-13 * scale, "{shape:?}: {distance:e}");
            let x = draw([3, shape[0]], "x");
            for found in [apply(x.clone(), &tensors), chain(x.clone(), &tensors)] {
                let distance = found - x.clone().matmul(weight.clone());
                assert!(bridge::to_matrix(&distance).max_abs() < 1e-12 * scale);
            }
            let centre = tensors[CENTRE].clone().powf_scalar(2.0).sum();
            assert!((bridge::values(&centre)[0].sqrt() - scale).abs() < 1e-12 * scale);
        }
    }

    #[test]
    fn truncation_leaves_out_the_least_and_keeps_the_frames_orthonormal() {
        let weight = draw([16, 24], "w");
        let norm = |tensor: &Tensor<2>| bridge::to_matrix(tensor).frobenius_norm();
        let mut errors = Vec::new();
        for bond in [1, 2, 4, 8] {
            let tensors = tensors(&weight, bond);
            assert!(tensors.iter().all(|tensor| tensor.dims()[3] <= bond));
            let part = matrix(&tensors);
            let error = norm(&(weight.clone() - part.clone()));
            // What is left out is orthogonal to what is kept.
            let square = |x: f64| x * x;
            let total = square(error) + square(norm(&part));
            assert!((total - square(norm(&weight))).abs() < 1e-11 * total);
            errors.push(error);
            let [_, i, j, right] = tensors[0].dims();
            let frame = tensors[0].clone().reshape([i * j, right]);
            let gram = bridge::to_matrix(&frame.clone().transpose().matmul(frame));
            assert!(gram.max_abs_diff(&Matrix::identity(right)).unwrap() < 1e-13);
        }
        assert!(
            errors.windows(2).all(|pair| pair[1] < pair[0]),
            "{errors:?}"
        );
    }
}
