//! PyTorch's generator on the CPU, for frozen state that PEFT's files leave to a seed.

use engraft_tensor::MersenneTwister;

/// Draws of tensors from the generator that `torch.Generator().manual_seed(seed)` starts.
pub(crate) struct Generator(MersenneTwister);

impl Generator {
    /// The generator of a seed; as in PyTorch, only its low 32 bits count.
    pub(crate) fn new(seed: u64) -> Self {
        Self(MersenneTwister::new(seed))
    }

    pub(crate) fn word(&mut self) -> u32 {
        self.0.word()
    }

    /// `tensor.uniform_(-bound, bound)` in f32: 24 random bits a value, scaled and moved with one
    /// rounding, as PyTorch's compiled loop does.
    pub(crate) fn uniform(&mut self, bound: f64, count: usize) -> Vec<f32> {
        let (from, to) = (-bound as f32, bound as f32);
        (0..count)
            .map(|_| ((self.word() & 0xff_ffff) as f32 / 16_777_216.0).mul_add(to - from, from))
            .collect()
    }

    /// A matrix (rows, cols) as PEFT's VeRA draws it: `kaiming_uniform_` with gain sqrt 2.
    pub(crate) fn kaiming_uniform(&mut self, rows: usize, cols: usize) -> Vec<f32> {
        let bound = 3f64.sqrt() * (2f64.sqrt() / (cols as f64).sqrt());
        self.uniform(bound, rows * cols)
    }
}
