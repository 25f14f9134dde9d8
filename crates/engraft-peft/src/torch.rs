//! PyTorch's generator on the CPU, for frozen state that PEFT's files leave to a seed.

/// MT19937 (Matsumoto and Nishimura, 1998), as `torch.Generator().manual_seed(seed)` starts it.
pub(crate) struct Generator {
    state: [u32; Self::WORDS],
    next: usize,
}

impl Generator {
    const WORDS: usize = 624;
    const SHIFT: usize = 397;

    /// The generator of a seed; as in PyTorch, only its low 32 bits count.
    pub(crate) fn new(seed: u64) -> Self {
        let mut state = [0; Self::WORDS];
        state[0] = seed as u32;
        for word in 1..Self::WORDS {
            let before: u32 = state[word - 1];
            state[word] = 1_812_433_253u32
                .wrapping_mul(before ^ (before >> 30))
                .wrapping_add(word as u32);
        }
        Self {
            state,
            next: Self::WORDS,
        }
    }

    fn twist(&mut self) {
        for word in 0..Self::WORDS {
            let mixed = (self.state[word] & 0x8000_0000)
                | (self.state[(word + 1) % Self::WORDS] & 0x7fff_ffff);
            let odd = if mixed & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[word] = self.state[(word + Self::SHIFT) % Self::WORDS] ^ (mixed >> 1) ^ odd;
        }
        self.next = 0;
    }

    pub(crate) fn word(&mut self) -> u32 {
        if self.next == Self::WORDS {
            self.twist();
        }
        let mut word = self.state[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_published_one() {
        // Reference output of MT19937 for the seed 5489: its 10000th word.
        let mut generator = Generator::new(5489);
        let word = (0..10_000).map(|_| generator.word()).last();
        assert_eq!(word, Some(4_123_659_995));
    }
}
