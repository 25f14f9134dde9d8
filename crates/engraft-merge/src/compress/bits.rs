//! Bits one after the other, the lowest bit of a byte first.

/// Bits that are written.
#[derive(Debug, Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    /// Bits that do not fill a byte yet, and how many.
    buffer: u64,
    filled: u32,
}

impl BitWriter {
    /// The lowest `bits` bits of a number, at most 32.
    pub fn write(&mut self, value: u64, bits: u32) {
        debug_assert!(bits <= 32 && value >> bits == 0);
        self.buffer |= value << self.filled;
        self.filled += bits;
        while self.filled >= 8 {
            self.bytes.push(self.buffer as u8);
            self.buffer >>= 8;
            self.filled -= 8;
        }
    }

    /// `value` ones and a zero.
    pub fn unary(&mut self, mut value: u64) {
        while value >= 32 {
            self.write(u64::from(u32::MAX), 32);
            value -= 32;
        }
        self.write((1 << value) - 1, value as u32);
        self.write(0, 1);
    }

    /// Seven bits a byte, the lowest first; the eighth says whether more follow.
    pub fn leb128(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.write(value & 0x7f | 0x80, 8);
            value >>= 7;
        }
        self.write(value, 8);
    }

    /// How many bits there are.
    pub fn len(&self) -> u64 {
        8 * self.bytes.len() as u64 + u64::from(self.filled)
    }

    /// The bytes, the last one filled up with zeros.
    pub fn finish(mut self) -> Vec<u8> {
        if self.filled > 0 {
            self.bytes.push(self.buffer as u8);
        }
        self.bytes
    }
}

/// Bits that are read; nothing beyond their end.
#[derive(Debug)]
pub(super) struct BitReader<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl<'a> BitReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// A number of `bits` bits, at most 32.
    pub fn read(&mut self, bits: u32) -> Option<u64> {
        let first = (self.at / 8) as usize;
        let mut word = [0; 8];
        let there = self.bytes.get(first..)?;
        let taken = there.len().min(8);
        word[..taken].copy_from_slice(&there[..taken]);
        let shift = (self.at % 8) as u32;
        if self.at + u64::from(bits) > 8 * self.bytes.len() as u64 {
            return None;
        }
        self.at += u64::from(bits);
        Some(u64::from_le_bytes(word) >> shift & ((1 << bits) - 1))
    }

    /// How many ones there are before the next zero.
    pub fn unary(&mut self) -> Option<u64> {
        let mut value = 0;
        while self.read(1)? == 1 {
            value += 1;
        }
        Some(value)
    }

    /// As [`BitWriter::leb128`] wrote it.
    pub fn leb128(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.read(8)?;
            value |= (byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Whether nothing but the filling of the last byte is left.
    pub fn is_at_end(&self) -> bool {
        self.at.div_ceil(8) == self.bytes.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read(numbers in vec((any::<u32>(), 0u32..33, 0u64..100, any::<u32>()), 0..50)) {
            let mut writer = BitWriter::default();
            for (value, bits, ones, long) in &numbers {
                writer.write(u64::from(*value) & ((1 << bits) - 1), *bits);
                writer.unary(*ones);
                writer.leb128(u64::from(*long) << 20);
            }
            let len = writer.len();
            let bytes = writer.finish();
            prop_assert_eq!(bytes.len() as u64, len.div_ceil(8));
            let mut reader = BitReader::new(&bytes);
            for (value, bits, ones, long) in &numbers {
                prop_assert_eq!(reader.read(*bits), Some(u64::from(*value) & ((1 << bits) - 1)));
                prop_assert_eq!(reader.unary(), Some(*ones));
                prop_assert_eq!(reader.leb128(), Some(u64::from(*long) << 20));
            }
            prop_assert!(reader.is_at_end());
            prop_assert_eq!(reader.read(9), None);
        }
    }
}
