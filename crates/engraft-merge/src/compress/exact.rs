//! Bytes exactly, against those of a base: what is equal is left out.
//!
//! The bytes of both are combined by exclusive or, so that equal ones become zero, and put in order of
//! their place in a number: signs and exponents, which fine-tuning seldom changes, lie together. Then
//! come in turn the lengths of a run of zeros and of what follows it (seven bits a byte), and that.

use super::coder::Coded;

/// Zeros that are left out: fewer would not pay for their lengths.
const RUN: usize = 4;

/// Bytes of numbers of `width` bytes against those of the base, of which there are as many or none.
pub(super) fn encode(bytes: &[u8], base: Option<&[u8]>, width: usize) -> Coded {
    let changed = planes(bytes, base, width);
    let mut coded = Vec::new();
    let mut at = 0;
    while at < changed.len() {
        let zeros = run(&changed[at..]);
        let start = at + zeros;
        let mut end = start;
        while end < changed.len() {
            let zeros = run(&changed[end..]);
            if zeros >= RUN || end + zeros == changed.len() {
                break;
            }
            end += zeros.max(1);
        }
        leb128(zeros, &mut coded);
        leb128(end - start, &mut coded);
        coded.extend_from_slice(&changed[start..end]);
        at = end;
    }
    Coded {
        bits: 8 * coded.len() as u64,
        bytes: coded,
        predicted: None,
    }
}

/// The bytes of a tensor of `len` bytes; none if the coded ones are not such.
pub(super) fn decode(
    coded: &[u8],
    base: Option<&[u8]>,
    width: usize,
    len: usize,
) -> Option<Vec<u8>> {
    let mut changed = Vec::with_capacity(len);
    let mut rest = coded;
    while changed.len() < len {
        let zeros = read_leb128(&mut rest)?;
        let end = changed.len().checked_add(zeros).filter(|end| *end <= len)?;
        changed.resize(end, 0);
        let count = read_leb128(&mut rest)?;
        let literal = rest.split_off(..count)?;
        if changed.len() + count > len || zeros + count == 0 {
            return None;
        }
        changed.extend_from_slice(literal);
    }
    let mut bytes = vec![0; len];
    let each = len / width.max(1);
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = changed[at % width * each + at / width] ^ base.map_or(0, |base| base[at]);
    }
    rest.is_empty().then_some(bytes)
}

/// The changed bytes, the first of all numbers, then the second, and so on.
fn planes(bytes: &[u8], base: Option<&[u8]>, width: usize) -> Vec<u8> {
    (0..width)
        .flat_map(|plane| (plane..bytes.len()).step_by(width))
        .map(|at| bytes[at] ^ base.map_or(0, |base| base[at]))
        .collect()
}

fn run(bytes: &[u8]) -> usize {
    let end = bytes.iter().position(|byte| *byte != 0);
    end.unwrap_or(bytes.len())
}

fn leb128(mut value: usize, to: &mut Vec<u8>) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn read_leb128(from: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for shift in (0..usize::BITS - 7).step_by(7) {
        let byte = from.split_off_first()?;
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_come_back(numbers in vec((any::<[u8; 8]>(), prop_oneof![3 => Just([0; 8]), 1 => any::<[u8; 8]>()]), 0..40), width in prop_oneof![Just(1usize), Just(2), Just(4), Just(8)], against: bool) {
            let base: Vec<u8> = numbers.iter().flat_map(|(base, _)| *base).collect();
            let changed = numbers.iter().flat_map(|(_, change)| *change);
            let bytes: Vec<u8> = base.iter().zip(changed).map(|(a, b)| a ^ b).collect();
            let base = against.then_some(base.as_slice());
            let coded = encode(&bytes, base, width);
            prop_assert_eq!(decode(&coded.bytes, base, width, bytes.len()), Some(bytes.clone()));
            prop_assert!(coded.bytes.len() <= bytes.len() + bytes.len() / 2 + 6);
            if !coded.bytes.is_empty() {
                prop_assert_ne!(decode(&coded.bytes[1..], base, width, bytes.len()), Some(bytes.clone()));
            }
        }

        #[test]
        fn other_bytes_are_refused_or_are_as_many(coded in vec(any::<u8>(), 0..60), len in 0usize..100) {
            if let Some(bytes) = decode(&coded, None, 1, len) {
                prop_assert_eq!(bytes.len(), len);
            }
        }
    }

    #[test]
    fn what_is_equal_takes_no_room() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i * 31) as u8).collect();
        assert!(encode(&bytes, Some(&bytes), 4).bytes.len() <= 4);
    }
}
