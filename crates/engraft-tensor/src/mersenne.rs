//! The generator of PyTorch on the CPU, for frozen state that methods and files leave to its seed.

use std::collections::HashMap;

/// MT19937 (Matsumoto and Nishimura, 1998), as `torch.Generator().manual_seed(seed)` starts it.
#[derive(Debug, Clone)]
pub struct MersenneTwister {
    state: [u32; Self::WORDS],
    next: usize,
}

impl MersenneTwister {
    const WORDS: usize = 624;
    const SHIFT: usize = 397;
    /// From this length on, PyTorch draws 64 bits for a place of a permutation.
    const LONG: usize = (u32::MAX / 20) as usize;

    /// The generator of a seed; as in PyTorch, only its low 32 bits count.
    pub fn new(seed: u64) -> Self {
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

    /// The next 32 bits.
    pub fn word(&mut self) -> u32 {
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

    /// The next 64 bits, the higher half first.
    fn long(&mut self) -> u64 {
        let high = u64::from(self.word());
        (high << 32) | u64::from(self.word())
    }

    /// The first `count` entries of `torch.randperm(len)`: distinct numbers below `len`, at most
    /// `len` of them. Up to 214,748,363 entries each place is exchanged with one behind it, so that
    /// only the first `count` places are computed; a longer permutation is made whole.
    pub fn permutation(&mut self, len: usize, count: usize) -> Vec<usize> {
        let count = count.min(len);
        if len < Self::LONG {
            let mut moved = HashMap::new();
            let exchange = |place| {
                let other = place + self.word() as usize % (len - place);
                let own = moved.get(&place).copied().unwrap_or(place);
                // The last place has nothing behind it, and PyTorch draws nothing for it.
                moved.insert(other, own).unwrap_or(other)
            };
            return (0..count).map(exchange).collect();
        }
        let mut order = vec![0; len];
        for place in 0..len {
            let other = (self.long() % (place as u64 + 1)) as usize;
            order[place] = order[other];
            order[other] = place;
        }
        order.truncate(count);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_published_one() {
        // Reference output of MT19937 for the seed 5489: its 10000th word.
        let mut generator = MersenneTwister::new(5489);
        let word = (0..10_000).map(|_| generator.word()).last();
        assert_eq!(word, Some(4_123_659_995));
    }

    #[test]
    fn a_permutation_and_its_beginning_agree() {
        for len in [1, 2, 7, 500] {
            let whole = MersenneTwister::new(777).permutation(len, len);
            let mut sorted = whole.clone();
            sorted.sort_unstable();
            assert!(sorted.into_iter().eq(0..len));
            let begun = MersenneTwister::new(777).permutation(len, len / 2);
            assert_eq!(begun, whole[..len / 2]);
        }
    }
}
