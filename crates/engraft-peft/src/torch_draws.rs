//! What PyTorch draws from its generator for PEFT, beyond VeRA's projections.

use std::f64::consts::TAU;

use crate::torch::Generator;

impl Generator {
    /// `torch.rand` in f32.
    pub(crate) fn rand(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| (self.word() & 0xff_ffff) as f32 / 16_777_216.0)
            .collect()
    }

    /// `tensor.uniform_(-bound, bound)` in bfloat16: drawn in f32 and rounded, where the upper
    /// bound, which is not in the interval, becomes the lower one.
    pub(crate) fn uniform_bf16(&mut self, bound: f64, count: usize) -> Vec<f32> {
        let (low, high) = (bf16(-bound as f32), bf16(bound as f32));
        let round = |value| match bf16(value) {
            rounded if rounded < high => rounded,
            _ => low,
        };
        self.uniform(bound, count).into_iter().map(round).collect()
    }

    /// `torch.normal(0, std, size)` in f32: Box and Muller's transform, on blocks of 16 uniform
    /// values where there are as many, else on pairs in f64.
    pub(crate) fn normal(&mut self, std: f64, count: usize) -> Vec<f32> {
        const BLOCK: usize = 16;
        if count < BLOCK {
            return self.few_normal(std, count);
        }
        let mut values = self.rand(count);
        let whole = count / BLOCK * BLOCK;
        values[..whole]
            .chunks_exact_mut(BLOCK)
            .for_each(|block| turn_normal(block, std));
        if whole < count {
            // The last 16 values are drawn again.
            let last = self.rand(BLOCK);
            let end = &mut values[count - BLOCK..];
            end.copy_from_slice(&last);
            turn_normal(end, std);
        }
        values
    }

    fn few_normal(&mut self, std: f64, count: usize) -> Vec<f32> {
        let mut kept = None;
        (0..count)
            .map(|_| {
                let value = kept.take().unwrap_or_else(|| {
                    let (u1, u2) = (self.uniform64(), self.uniform64());
                    let radius = (-2.0 * (-u2).ln_1p()).sqrt();
                    kept = Some(radius * (TAU * u1).sin());
                    radius * (TAU * u1).cos()
                });
                (value * std) as f32
            })
            .collect()
    }

    /// Uniform in [0, 1) with 53 random bits, the high word first.
    fn uniform64(&mut self) -> f64 {
        let high = u64::from(self.word());
        let word = high << 32 | u64::from(self.word());
        (word & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    }
}

/// Sixteen uniform values to normal ones: value j with value j + 8.
fn turn_normal(block: &mut [f32], std: f64) {
    let (first, second) = block.split_at_mut(8);
    for (a, b) in first.iter_mut().zip(second) {
        let (u1, u2) = (1.0 - f64::from(*a), f64::from(*b));
        let radius = (-2.0 * u1.ln()).sqrt();
        *a = (radius * (TAU * u2).cos() * std) as f32;
        *b = (radius * (TAU * u2).sin() * std) as f32;
    }
}

/// The nearest bfloat16, the even one of two equally near.
pub(crate) fn bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    f32::from_bits(rounded & 0xffff_0000)
}

/// `tensor.std()`, with n - 1 in the denominator.
pub(crate) fn std(values: &[f32]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let squares: f64 = values.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum();
    (squares / (n - 1.0)).sqrt()
}
