//! NumPy's default generator, for frozen state that PEFT's files leave to a seed.

/// `numpy.random.default_rng(seed)`: PCG64 (O'Neill 2014, XSL-RR on 128 bits) seeded by NumPy's
/// `SeedSequence`.
pub(crate) struct DefaultRng {
    state: u128,
    increment: u128,
    /// The unused half of a 64-bit word.
    half: Option<u32>,
}

impl DefaultRng {
    const MULTIPLIER: u128 = 0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645;

    pub(crate) fn new(seed: u64) -> Self {
        let words = seed_words(seed);
        let wide = |high: u64, low: u64| u128::from(high) << 64 | u128::from(low);
        let increment = wide(words[2], words[3]) << 1 | 1;
        let mut rng = Self {
            state: 0,
            increment,
            half: None,
        };
        rng.advance();
        rng.state = rng.state.wrapping_add(wide(words[0], words[1]));
        rng.advance();
        rng
    }

    fn advance(&mut self) {
        self.state = self
            .state
            .wrapping_mul(Self::MULTIPLIER)
            .wrapping_add(self.increment);
    }

    fn word64(&mut self) -> u64 {
        self.advance();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    /// The low half of a word, then its high half.
    fn word32(&mut self) -> u32 {
        self.half.take().unwrap_or_else(|| {
            let word = self.word64();
            self.half = Some((word >> 32) as u32);
            word as u32
        })
    }

    /// Uniform in 0 ..= last, by Lemire's method on 32 or 64 bits.
    fn at_most(&mut self, last: u64) -> u64 {
        const ALL: u64 = u32::MAX as u64;
        match last {
            0 => 0,
            ALL => u64::from(self.word32()),
            u64::MAX => self.word64(),
            last if last < ALL => {
                let count = last + 1;
                let threshold = (ALL - last) % count;
                loop {
                    let product = u64::from(self.word32()) * count;
                    if product & ALL >= threshold {
                        return product >> 32;
                    }
                }
            }
            last => {
                let count = u128::from(last) + 1;
                let threshold = u128::from(u64::MAX - last) % count;
                loop {
                    let product = u128::from(self.word64()) * count;
                    if product & u128::from(u64::MAX) >= threshold {
                        return (product >> 64) as u64;
                    }
                }
            }
        }
    }

    /// Uniform in 0 ..= last, by rejection of masked words.
    fn masked(&mut self, last: u32) -> u32 {
        let mask = u32::MAX.checked_shr(last.leading_zeros()).unwrap_or(0);
        loop {
            let value = self.word32() & mask;
            if value <= last {
                return value;
            }
        }
    }

    /// Exchanges with random places from the last one down to `first`.
    fn exchange(&mut self, values: &mut [i64], first: usize) {
        for i in (first..values.len()).rev() {
            let j = self.at_most(i as u64) as usize;
            values.swap(i, j);
        }
    }

    /// `shuffle(values)`, of fewer than 2^32 values.
    pub(crate) fn shuffle(&mut self, values: &mut [i64]) {
        for i in (1..values.len()).rev() {
            let j = self.masked(i as u32) as usize;
            values.swap(i, j);
        }
    }

    /// `choice(population, size, replace=False)`.
    pub(crate) fn choice(&mut self, population: usize, size: usize) -> Vec<i64> {
        if population > 10_000 && size > population / 50 {
            let mut all: Vec<i64> = (0..population as i64).collect();
            self.exchange(&mut all, (population - size).max(1));
            return all.split_off(population - size);
        }
        // Floyd's algorithm.
        let mut chosen = std::collections::HashSet::new();
        let mut order = Vec::with_capacity(size);
        for last in population - size..population {
            let drawn = self.at_most(last as u64) as i64;
            let taken = if chosen.insert(drawn) {
                drawn
            } else {
                chosen.insert(last as i64);
                last as i64
            };
            order.push(taken);
        }
        self.exchange(&mut order, 1);
        order
    }
}

/// `SeedSequence(seed).generate_state(4, uint64)` for a pool of four words.
fn seed_words(seed: u64) -> [u64; 4] {
    const POOL: usize = 4;
    const XSHIFT: u32 = 16;
    fn hashed(value: u32, constant: &mut u32, multiplier: u32) -> u32 {
        let mut value = value ^ *constant;
        *constant = constant.wrapping_mul(multiplier);
        value = value.wrapping_mul(*constant);
        value ^ (value >> XSHIFT)
    }
    fn mixed(x: u32, y: u32) -> u32 {
        let result = x
            .wrapping_mul(0xca01_f9dd)
            .wrapping_sub(y.wrapping_mul(0x4973_f715));
        result ^ (result >> XSHIFT)
    }

    let entropy = [seed as u32, (seed >> 32) as u32];
    let mut constant = 0x43b0_d7e5;
    let mut pool = [0u32; POOL];
    for (place, word) in pool.iter_mut().enumerate() {
        let entropy = entropy.get(place).copied().unwrap_or(0);
        *word = hashed(entropy, &mut constant, 0x931e_8875);
    }
    for from in 0..POOL {
        for to in 0..POOL {
            if from != to {
                let word = hashed(pool[from], &mut constant, 0x931e_8875);
                pool[to] = mixed(pool[to], word);
            }
        }
    }
    let mut constant = 0x8b51_f9dd;
    let mut next = |place: usize| u64::from(hashed(pool[place % POOL], &mut constant, 0x58f3_8ded));
    std::array::from_fn(|word| {
        let low = next(2 * word);
        low | next(2 * word + 1) << 32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_draws_are_numpys() {
        let words = |seed| {
            let mut rng = DefaultRng::new(seed);
            [rng.word64(), rng.word64(), rng.word64()]
        };
        assert_eq!(
            words(0),
            [
                11749869230777074271,
                4976686463289251617,
                755828109848996024
            ]
        );
        assert_eq!(
            words((1 << 40) + 7),
            [
                15307346044642009514,
                4709548916763817589,
                2836937976252648324
            ]
        );
        let mut rng = DefaultRng::new(42);
        assert_eq!(rng.choice(64, 10), [5, 43, 4, 37, 25, 58, 61, 6, 12, 51]);
        let mut values: Vec<i64> = (0..12).collect();
        rng.shuffle(&mut values);
        assert_eq!(values, [7, 0, 4, 2, 3, 5, 8, 1, 10, 6, 11, 9]);
        let mut rng = DefaultRng::new(3);
        let chosen = rng.choice(20_000, 1000);
        assert_eq!(chosen[..5], [14316, 13289, 12713, 5283, 2159]);
        assert_eq!(chosen.iter().sum::<i64>(), 9_808_118);
        let mut values: Vec<i64> = (0..5).collect();
        rng.shuffle(&mut values);
        assert_eq!(values, [2, 0, 4, 3, 1]);
    }
}
