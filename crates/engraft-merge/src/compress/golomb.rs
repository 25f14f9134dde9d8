//! Signs of few entries among many zeros: their gaps and signs in Golomb's code.
//!
//! Entries that are kept with probability p lie behind gaps of length g with probability (1 - p)^g p,
//! for which Golomb's code is the best prefix code (Golomb 1966; Gallager and van Voorhis 1975): with a
//! parameter M, g / M in unary and g mod M in truncated binary. Taking gap and sign in one number
//! j = 2 g + s, with a parameter m of its own, is that code for m = 2 M, and lies between M and M + 1
//! for odd m. Bits beyond the entropy of gaps and signs, in percent, for random places:
//!
//! | p | 0.01 | 0.05 | 0.1 | 0.2 | 0.3 | 0.36 | 0.38 | 0.4 | 0.5 | 0.6 |
//! |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
//! | Rice: M a power of two | 0.3 | 0.9 | 1.2 | 1.8 | 0.6 | 2.1 | 3.0 | 2.1 | 0.0 | 1.9 |
//! | Golomb: any M | 0.3 | 0.5 | 0.6 | 0.6 | 0.6 | 2.1 | 3.0 | 2.1 | 0.0 | 1.9 |
//! | any m, gap and sign in one | 0.3 | 0.5 | 0.6 | 0.6 | 0.6 | 1.3 | 1.3 | 1.5 | 0.0 | 1.9 |
//!
//! Above p = 1/2 the gaps between zeros are coded, each with the sign of one kept entry beside it;
//! the signs that are left follow as they are.

use super::bits::{BitReader, BitWriter};

/// Writes signs: -1, 0 or 1 for each entry.
pub(super) fn write(signs: &[i8], to: &mut BitWriter) {
    let kept = signs.iter().filter(|sign| **sign != 0).count();
    let of_kept = 2 * kept <= signs.len();
    let mut bits = signs
        .iter()
        .filter(|sign| **sign != 0)
        .map(|sign| u64::from(*sign < 0));
    let mut numbers = Vec::with_capacity(kept.min(signs.len() - kept) + 1);
    let mut gap = 0;
    for sign in signs {
        if (*sign != 0) == of_kept {
            numbers.push(2 * gap + bits.next().unwrap_or(0));
            gap = 0;
        } else {
            gap += 1;
        }
    }
    // A gap that reaches the end says that nothing follows.
    numbers.push(2 * gap);
    let code = Code::best(&numbers, signs.len());
    to.leb128(code.parameter << 1 | u64::from(of_kept));
    for number in numbers {
        code.write(number, to);
    }
    for bit in bits {
        to.write(bit, 1);
    }
}

/// Reads `count` signs; none if the bits are not such.
pub(super) fn read(from: &mut BitReader, count: usize) -> Option<Vec<i8>> {
    let head = from.leb128()?;
    let (code, of_kept) = (Code::new(head >> 1)?, head & 1 == 1);
    let mut signs = vec![i8::from(!of_kept); count];
    let mut bits = Vec::new();
    let mut at = 0;
    loop {
        let number = code.read(from)?;
        at = usize::try_from(number >> 1).ok()?.checked_add(at)?;
        if at >= count {
            break;
        }
        bits.push(number & 1 == 1);
        signs[at] = i8::from(of_kept);
        at += 1;
    }
    if at > count {
        return None;
    }
    let mut bits = bits.into_iter();
    for sign in signs.iter_mut().filter(|sign| **sign != 0) {
        let negative = match bits.next() {
            Some(bit) => bit,
            None => from.read(1)? == 1,
        };
        *sign = if negative { -1 } else { 1 };
    }
    from.is_at_end().then_some(signs)
}

/// Golomb's code of a parameter m: n / m in unary, n mod m in truncated binary.
struct Code {
    parameter: u64,
    /// ceil(log2 m), and how many remainders take a bit less.
    bits: u32,
    short: u64,
}

impl Code {
    fn new(parameter: u64) -> Option<Self> {
        if parameter == 0 || parameter > 1 << 31 {
            return None;
        }
        let bits = (parameter - 1).checked_ilog2().map_or(0, |log| log + 1);
        Some(Self {
            parameter,
            bits,
            short: (1 << bits) - parameter,
        })
    }

    /// The shortest for these numbers, of those around the best parameter for random gaps,
    /// M = log(2 - p) / -log(1 - p).
    fn best(numbers: &[u64], entries: usize) -> Self {
        let p = numbers.len() as f64 / (entries + 1) as f64;
        let random = match p < 1.0 {
            true => ((2.0 - p).ln() / -(-p).ln_1p()).ceil() as u64,
            false => 1,
        };
        let first = (2 * random).saturating_sub(4).clamp(1, (1 << 31) - 8);
        let around = (first..first + 8).filter_map(Self::new);
        let best = around.min_by_key(|code| numbers.iter().map(|n| code.len(*n)).sum::<u64>());
        best.expect("the parameters are above 0 and within bounds")
    }

    fn len(&self, number: u64) -> u64 {
        let short = number % self.parameter < self.short;
        number / self.parameter + 1 + u64::from(self.bits) - u64::from(short && self.bits > 0)
    }

    fn write(&self, number: u64, to: &mut BitWriter) {
        to.unary(number / self.parameter);
        let rest = number % self.parameter;
        if self.bits == 0 {
        } else if rest < self.short {
            to.write(rest, self.bits - 1);
        } else {
            // The last bit comes after the others, which tell whether there is one.
            let long = rest + self.short;
            to.write(long >> 1, self.bits - 1);
            to.write(long & 1, 1);
        }
    }

    fn read(&self, from: &mut BitReader) -> Option<u64> {
        let front = from.unary()?.checked_mul(self.parameter)?;
        let Some(bits) = self.bits.checked_sub(1) else {
            return Some(front);
        };
        let rest = match from.read(bits)? {
            rest if rest < self.short => rest,
            high => (high << 1 | from.read(1)?) - self.short,
        };
        front.checked_add(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::super::ternary::entropy_bits;
    use super::*;

    fn written(signs: &[i8]) -> (Vec<u8>, u64) {
        let mut writer = BitWriter::default();
        write(signs, &mut writer);
        let bits = writer.len();
        (writer.finish(), bits)
    }

    proptest! {
        #[test]
        fn signs_are_read_as_they_were_written(signs in prop_oneof![vec(-1i8..2, 0..300), vec(prop_oneof![40 => Just(0i8), 1 => Just(1), 1 => Just(-1)], 0..900)]) {
            let (bytes, _) = written(&signs);
            prop_assert_eq!(read(&mut BitReader::new(&bytes), signs.len()), Some(signs));
        }

        #[test]
        fn numbers_take_the_bits_that_were_counted(number in 0u64..5000, parameter in 1u64..600) {
            let code = Code::new(parameter).unwrap();
            let mut writer = BitWriter::default();
            code.write(number, &mut writer);
            prop_assert_eq!(writer.len(), code.len(number));
            let bytes = writer.finish();
            prop_assert_eq!(code.read(&mut BitReader::new(&bytes)), Some(number));
        }

        #[test]
        fn other_bytes_are_refused_or_are_signs(bytes in vec(any::<u8>(), 0..60), count in 0usize..400) {
            if let Some(signs) = read(&mut BitReader::new(&bytes), count) {
                prop_assert_eq!(signs.len(), count);
            }
        }
    }

    /// ComPEFT's formula: [-(k log2 k + (1 - k) log2(1 - k)) + k] d + 16 bits.
    #[test]
    fn random_signs_take_what_the_formula_says() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let d = 200_000;
        for k in [
            0.001, 0.005, 0.01, 0.03, 0.05, 0.1, 0.2, 0.25, 0.3, 0.34, 0.36, 0.382, 0.4, 0.45, 0.5,
            0.55, 0.6, 0.62, 0.65, 0.7, 0.8, 0.9, 0.99, 1.0,
        ] {
            let draw = |_| match random.random::<f64>() < k {
                true => 1 - 2 * i8::from(random.random::<bool>()),
                false => 0,
            };
            let signs: Vec<i8> = (0..d).map(draw).collect();
            let kept = signs.iter().filter(|sign| **sign != 0).count();
            let (bits, formula) = (written(&signs).1 as f64, entropy_bits(kept, d) + 16.0);
            assert!(
                (bits / formula - 1.0).abs() < 0.02,
                "{k}: {}",
                bits / formula
            );
        }
    }
}
