//! Small numbers without gaps between their bits.

/// Bytes that `count` numbers of `bits` bits take.
pub fn size(count: usize, bits: usize) -> usize {
    (count * bits).div_ceil(8)
}

/// Number i of `bits` bits at bit i `bits` of the stream, the lowest bit of a byte first.
pub fn pack(codes: &[u8], bits: usize) -> Vec<u8> {
    let mut bytes = vec![0; size(codes.len(), bits)];
    for (index, &code) in codes.iter().enumerate() {
        let at = index * bits;
        let wide = u16::from(code) << (at % 8);
        bytes[at / 8] |= wide as u8;
        if let (Some(next), true) = (bytes.get_mut(at / 8 + 1), wide > 0xff) {
            *next |= (wide >> 8) as u8;
        }
    }
    bytes
}

/// The first `count` numbers of a stream.
pub fn unpack(bytes: &[u8], count: usize, bits: usize) -> Vec<u8> {
    let mask = (1u16 << bits) - 1;
    (0..count)
        .map(|index| {
            let at = index * bits;
            let high = bytes.get(at / 8 + 1).copied().unwrap_or(0);
            let wide = u16::from(bytes[at / 8]) | u16::from(high) << 8;
            (wide >> (at % 8) & mask) as u8
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_any_width_and_length_is_read_back() {
        for bits in 1..=8 {
            for count in [0, 1, 7, 8, 9, 31] {
                let mask = ((1u16 << bits) - 1) as u8;
                let codes: Vec<u8> = (0..count)
                    .map(|i: usize| (i as u8).wrapping_mul(151) & mask)
                    .collect();
                let bytes = pack(&codes, bits);
                assert_eq!(bytes.len(), size(count, bits));
                assert_eq!(unpack(&bytes, count, bits), codes, "{bits} {count}");
            }
        }
    }

    #[test]
    fn the_first_number_has_the_lowest_bits() {
        assert_eq!(pack(&[1, 0, 1, 1], 1), [0b1101]);
        assert_eq!(pack(&[3, 5], 4), [0x53]);
        assert_eq!(pack(&[0b101, 0b011, 0b111], 3), [0b1101_1101, 0b1]);
    }
}
