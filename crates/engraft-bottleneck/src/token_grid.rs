//! Convolutions of tokens that are the cells of a grid.

use burn::tensor::Tensor;
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use engraft_core::Ctx;

/// A square convolution that keeps the grid as it is: zeros around it, dilation r.
///
/// `weight` is [outputs, inputs / groups, k, k] with an odd k, in PyTorch's order.
pub(crate) fn same_size(
    image: Tensor<4>,
    weight: Tensor<4>,
    bias: Option<Tensor<1>>,
    dilation: usize,
) -> Tensor<4> {
    let ([_, inputs, ..], [_, per_group, kernel, _]) = (image.dims(), weight.dims());
    let around = dilation * (kernel / 2);
    let options = ConvOptions::new(
        [1, 1],
        [around, around],
        [dilation, dilation],
        inputs / per_group,
    );
    conv2d(image, weight, bias, options)
}

/// Applies `convolve` ([n, width, rows, columns] to [n, width', rows, columns]) to the tokens
/// [tokens, width] of a model of images: the last tokens of each sequence are the cells of
/// [`Ctx::grid`], row by row, and every token in front of them (a class token, prompts) is an image
/// of one pixel. In a model without a grid, and in a sequence too short for it, all tokens are.
pub(crate) fn on_grid(
    x: Tensor<2>,
    ctx: &Ctx,
    convolve: impl Fn(Tensor<4>) -> Tensor<4>,
) -> Tensor<2> {
    let [tokens, width] = x.dims();
    let [_, length] = ctx.sequences().unwrap_or([1, tokens]);
    let [rows, columns] = match ctx.grid() {
        Some([rows, columns]) if rows * columns <= length => [rows, columns],
        _ => [0, 0],
    };
    let (batch, cells) = (tokens / length, rows * columns);
    let lead = length - cells;
    let x = x.reshape([batch, length, width]);
    let mut parts = Vec::with_capacity(2);
    if lead > 0 {
        let pixels = x
            .clone()
            .narrow(1, 0, lead)
            .reshape([batch * lead, width, 1, 1]);
        let y = convolve(pixels);
        let width = y.dims()[1];
        parts.push(y.reshape([batch, lead, width]));
    }
    if cells > 0 {
        let image = x.narrow(1, lead, cells).swap_dims(1, 2);
        let y = convolve(image.reshape([batch, width, rows, columns]));
        let width = y.dims()[1];
        parts.push(y.reshape([batch, width, cells]).swap_dims(1, 2));
    }
    let y = Tensor::cat(parts, 1);
    let width = y.dims()[2];
    y.reshape([tokens, width])
}

/// Whether a kernel can stay centred: the reason if not.
pub(crate) fn check_kernel(kernel: usize) -> Result<(), String> {
    if kernel % 2 == 1 {
        Ok(())
    } else {
        Err(format!("kernel {kernel}: expected an odd number"))
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use burn::tensor::Tensor;
    use engraft_core::{AnySite, Ctx, Site, SiteAdapter};

    use crate::testing::entries;

    /// What an adapter makes of [batch, tokens, width] in a model with this grid.
    pub(crate) fn on<A: SiteAdapter>(adapter: &A, x: &Tensor<3>, grid: [usize; 2]) -> Tensor<3> {
        let mut place = Site::default();
        place
            .attach("mlp", "default", AnySite::new(adapter.clone()))
            .unwrap();
        let ctx = Ctx::default().with_grid(grid);
        place.sublayer(x.clone(), x.clone(), &ctx)
    }

    /// A convolution of one image by its definition: `cells` [rows * columns][inputs] and
    /// `weight` [outputs, inputs / groups, k, k].
    pub(crate) fn convolved(
        cells: &[Vec<f64>],
        [rows, columns]: [usize; 2],
        weight: &Tensor<4>,
        dilation: usize,
    ) -> Vec<Vec<f64>> {
        let ([outputs, per_group, kernel, _], values) = (weight.dims(), entries(weight));
        let groups = cells[0].len() / per_group;
        let reach = (kernel / 2) as isize;
        let cell = |row: isize, column: isize| {
            let inside =
                row >= 0 && column >= 0 && row < rows as isize && column < columns as isize;
            inside.then(|| &cells[row as usize * columns + column as usize])
        };
        let at = |row: usize, column: usize, output: usize| {
            let mut sum = 0.0;
            for input in 0..per_group {
                for (i, dy) in (-reach..=reach).enumerate() {
                    for (j, dx) in (-reach..=reach).enumerate() {
                        let (dy, dx) = (dy * dilation as isize, dx * dilation as isize);
                        if let Some(x) = cell(row as isize + dy, column as isize + dx) {
                            let w = ((output * per_group + input) * kernel + i) * kernel + j;
                            sum += values[w] * x[output / (outputs / groups) * per_group + input];
                        }
                    }
                }
            }
            sum
        };
        (0..rows * columns)
            .map(|place| {
                (0..outputs)
                    .map(|o| at(place / columns, place % columns, o))
                    .collect()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{draw, entries};

    #[test]
    fn cells_are_convolved_row_by_row_and_the_tokens_in_front_alone() {
        let ([rows, columns], lead) = ([2, 3], 2);
        for (weight, dilation) in [
            (draw([4, 4, 3, 3], "full"), 1),
            (draw([4, 1, 3, 3], "depthwise"), 2),
            (draw([2, 2, 5, 5], "grouped"), 1),
        ] {
            let x = draw([2 * (lead + 6), 4], "x");
            let ctx = Ctx::default().with_grid([rows, columns]);
            let convolve = |image: Tensor<4>| same_size(image, weight.clone(), None, dilation);
            // Two sequences of eight tokens, as a site sees them.
            let outputs = weight.dims()[0];
            let sequence = |index: usize| x.clone().narrow(0, index * (lead + 6), lead + 6);
            for index in 0..2 {
                let found = entries(&on_grid(sequence(index), &ctx, convolve));
                let tokens: Vec<Vec<f64>> = entries(&sequence(index))
                    .chunks(4)
                    .map(<[f64]>::to_vec)
                    .collect();
                let grid = testing::convolved(&tokens[lead..], [rows, columns], &weight, dilation);
                let front = tokens[..lead].iter().map(|token| {
                    testing::convolved(std::slice::from_ref(token), [1, 1], &weight, dilation)
                        .remove(0)
                });
                let expected: Vec<f64> = front.chain(grid).flatten().collect();
                assert_eq!(found.len(), (lead + 6) * outputs);
                let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
                assert!(worst.fold(0.0, f64::max) < 1e-12);
            }
        }
        assert!(check_kernel(3).is_ok() && check_kernel(4).is_err());
    }
}
