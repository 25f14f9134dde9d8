//! A convolution as a linear map of patches.

use burn::module::Module;
use burn::tensor::Tensor;
use burn::tensor::module::{conv2d, unfold4d};
use burn::tensor::ops::{ConvOptions, UnfoldOptions};

use crate::ctx::Ctx;
use crate::linear::Linear;
use crate::transparent::transparent;

/// How patches are cut out of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patches {
    /// Height and width of a patch.
    pub kernel: [usize; 2],
    /// Rows and columns from one patch to the next.
    pub stride: [usize; 2],
    /// Zeros around the image, above and to the left as well as below and to the right.
    pub padding: [usize; 2],
    /// Rows and columns from one pixel of a patch to the next.
    pub dilation: [usize; 2],
}

impl Patches {
    /// Patches of this size at every pixel, without padding.
    pub fn of(kernel: [usize; 2]) -> Self {
        Self {
            kernel,
            stride: [1, 1],
            padding: [0, 0],
            dilation: [1, 1],
        }
    }

    /// Rows and columns of patches of an image `[height, width]`.
    pub fn grid(&self, image: [usize; 2]) -> [usize; 2] {
        [0, 1].map(|axis| {
            let reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
            (image[axis] + 2 * self.padding[axis] - reach) / self.stride[axis] + 1
        })
    }

    /// The patches of an image [batch, channels, height, width] as tokens
    /// [batch * rows * columns, channels * kernel height * kernel width], in PyTorch's order.
    pub fn unfold(&self, image: Tensor<4>) -> Tensor<2> {
        let options = UnfoldOptions::new(self.stride, self.padding, self.dilation);
        let patches = unfold4d(image, self.kernel, options);
        let [batch, size, count] = patches.dims();
        patches.swap_dims(1, 2).reshape([batch * count, size])
    }

    /// The adjoint of [`unfold`](Self::unfold): tokens added up where they lie in an image
    /// [batch, channels, height, width].
    pub fn fold(&self, tokens: Tensor<2>, image: [usize; 4]) -> Tensor<4> {
        let [batch, channels, height, width] = image;
        let ([rows, columns], [kernel_rows, kernel_columns]) =
            (self.grid([height, width]), self.kernel);
        let patches = tokens
            .reshape([
                batch,
                rows * columns,
                channels * kernel_rows * kernel_columns,
            ])
            .swap_dims(1, 2);
        burn::tensor::module::fold4d(
            patches,
            [height, width],
            self.kernel,
            UnfoldOptions::new(self.stride, self.padding, self.dilation),
        )
    }
}

/// The image in a convolution, for adapters that look beyond single patches.
#[derive(Debug, Clone)]
pub struct Image {
    /// [batch, channels, height, width].
    pub pixels: Tensor<4>,
    /// How the tokens are cut out of it.
    pub patches: Patches,
}

/// y = conv(x) with a slot: adapters see the linear map of patches, W: [in * kh * kw, out], whose
/// rows are in the order of PyTorch's flattened weight (out, in, kh, kw).
///
/// # Shapes
/// - input: [batch, in, height, width]
/// - output: [batch, out, rows, columns]
#[derive(Debug, Clone)]
pub struct Conv2d {
    /// The linear map of patches. Its record keys are those of this layer.
    pub linear: Linear,
    /// How patches are cut.
    pub patches: Patches,
}

transparent!(Conv2d { linear, patches });

impl Conv2d {
    /// Applies the convolution and its active adapters. Without any, the patches are not formed.
    pub fn forward(&self, x: Tensor<4>, ctx: &Ctx) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let [rows, columns] = self.patches.grid([height, width]);
        if !self.linear.is_adapting() && !ctx.is_observed() {
            let Patches {
                kernel: [kernel_rows, kernel_columns],
                stride,
                padding,
                dilation,
            } = self.patches;
            let base = self.linear.base();
            let weight = base.weight().transpose();
            let out = weight.dims()[0];
            let weight = weight.reshape([out, channels, kernel_rows, kernel_columns]);
            let options = ConvOptions::new(stride, padding, dilation, 1);
            return conv2d(x, weight, base.bias, options);
        }
        let tokens = self.patches.unfold(x.clone());
        let image = Image {
            pixels: x,
            patches: self.patches,
        };
        let ctx = ctx.with_image(&image);
        let ctx = ctx.of_sequences([batch, rows * columns]);
        let y = self.linear.forward_tokens(tokens, &ctx);
        let out = y.dims()[1];
        y.reshape([batch, rows * columns, out])
            .swap_dims(1, 2)
            .reshape([batch, out, rows, columns])
    }
}
