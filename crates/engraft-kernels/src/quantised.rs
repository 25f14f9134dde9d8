//! Matrices of few bits: blocks of numbers with one scale each.

use std::fmt;

use crate::parallel::{for_each, rows_per_task};
use crate::quantisation::{Quantisation, Scales, code};
use crate::{Real, bit_stream, expect_len};

/// An entry that cannot be quantised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NotFinite {
    /// Its place among the entries.
    pub position: usize,
    /// What it is.
    pub value: f64,
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { position, value } = self;
        write!(
            f,
            "found {value} at entry {position}, expected a number that single precision holds"
        )
    }
}

impl std::error::Error for NotFinite {}

/// A matrix `[rows, columns]` whose entry `i` of block `k` is `s_k q_i`: `s_k` the largest magnitude of the
/// block, `q_i` the nearest number of a [`NumberFormat`](crate::NumberFormat).
///
/// Blocks run over rows one after the other, as those of bitsandbytes over PyTorch's weights (out,
/// in); codes are packed without gaps, the first in the lowest bits.
#[derive(Debug, Clone, PartialEq)]
pub struct QuantisedMatrix {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    how: Quantisation,
    codes: Vec<u8>,
    scales: Scales,
}

impl QuantisedMatrix {
    /// The row-major matrix `values`, quantised.
    ///
    /// # Errors
    /// An entry that is not finite in single precision.
    ///
    /// # Panics
    /// Unless there are `rows * columns` numbers and blocks have entries.
    pub fn new<T: Real>(
        values: &[T],
        [rows, columns]: [usize; 2],
        how: Quantisation,
    ) -> Result<Self, NotFinite> {
        expect_len("values", values, rows * columns);
        assert!(how.block > 0, "found blocks of no entry");
        let infinite = |value: &T| !(value.to_f64() as f32).is_finite();
        if let Some(position) = values.iter().position(infinite) {
            return Err(NotFinite {
                position,
                value: values[position].to_f64(),
            });
        }
        let levels = how.format.levels();
        let mut scales = vec![0.0; values.len().div_ceil(how.block)];
        let mut codes = vec![0; values.len()];
        // A bisection is about as much work as 16 products.
        let blocks = rows_per_task(scales.len(), 16 * how.block);
        let of_blocks = codes.chunks_mut(blocks * how.block);
        let tasks = scales.chunks_mut(blocks).zip(of_blocks);
        for_each(
            tasks.zip(values.chunks(blocks * how.block)),
            |((scales, codes), values)| {
                let blocks = codes.chunks_mut(how.block).zip(values.chunks(how.block));
                for (scale, (codes, values)) in scales.iter_mut().zip(blocks) {
                    let largest = |most: f64, value: &T| most.max(value.to_f64().abs());
                    *scale = values.iter().fold(0.0, largest) as f32;
                    for (kept, value) in codes.iter_mut().zip(values) {
                        *kept = code(levels, value.to_f64(), *scale);
                    }
                }
            },
        );
        Ok(Self {
            rows,
            columns,
            how,
            codes: bit_stream::pack(&codes, how.format.bits()),
            scales: Scales::new(scales, how.double),
        })
    }

    /// Rows and columns.
    pub fn dims(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// How it was quantised.
    pub fn how(&self) -> Quantisation {
        self.how
    }

    /// Bytes of codes and scales.
    pub fn bytes(&self) -> usize {
        self.how.bytes(self.rows * self.columns)
    }

    /// The matrix as numbers, row-major.
    pub fn decode<T: Real>(&self) -> Vec<T> {
        let mut values = vec![T::ZERO; self.rows * self.columns];
        self.decode_rows(0, &mut values);
        values
    }

    /// The rows from `first` on, as many as fill `values`.
    ///
    /// # Panics
    /// If there are fewer.
    pub fn decode_rows<T: Real>(&self, first: usize, values: &mut [T]) {
        let start = first * self.columns;
        assert!(
            start + values.len() <= self.rows * self.columns,
            "found rows from {first} with {} numbers, expected those of {} rows of {}",
            values.len(),
            self.rows,
            self.columns
        );
        match self.how.format.bits() {
            8 => self.decode_from::<T, 1>(start, values),
            4 => self.decode_from::<T, 2>(start, values),
            _ => self.decode_from::<T, 4>(start, values),
        }
    }

    /// The entries from `start` on; a byte holds `N` of them.
    fn decode_from<T: Real, const N: usize>(&self, start: usize, values: &mut [T]) {
        let table = self.table::<T, N>();
        // Whole blocks, so that a task starts where a scale does, but for the first.
        let at_once = rows_per_task(values.len(), 4).next_multiple_of(self.how.block);
        let lead = (at_once - start % at_once).min(values.len());
        let (first, rest) = values.split_at_mut(lead);
        let rest = rest.chunks_mut(at_once).enumerate();
        let rest = rest.map(|(at, part)| (start + lead + at * at_once, part));
        let tasks: Vec<(usize, &mut [T])> = [(start, first)].into_iter().chain(rest).collect();
        for_each(tasks.into_iter(), |(start, mut values)| {
            let mut at = start;
            while !values.is_empty() {
                let block = at / self.how.block;
                let taken = ((block + 1) * self.how.block - at).min(values.len());
                let (part, rest) = values.split_at_mut(taken);
                let scale = T::from_f64(self.scales.get(block).into());
                expand(&self.codes, at, &table, scale, part);
                (values, at) = (rest, at + taken);
            }
        });
    }

    /// The numbers of every byte.
    fn table<T: Real, const N: usize>(&self) -> Vec<[T; N]> {
        let (levels, bits) = (self.how.format.levels(), self.how.format.bits());
        let number = |code: u8| {
            let value = levels.values.get(usize::from(code));
            T::from_f64(value.copied().unwrap_or(0.0))
        };
        let bytes = 0..=u8::MAX;
        let numbers = |byte: u8| {
            let codes = bit_stream::unpack(&[byte], N, bits);
            std::array::from_fn(|at| number(codes[at]))
        };
        bytes.map(numbers).collect()
    }

    /// Squares of the norms of what quantising `values` lost, and of `values`.
    ///
    /// # Panics
    /// Unless there are as many numbers as entries.
    pub fn loss<T: Real>(&self, values: &[T]) -> [f64; 2] {
        expect_len("values", values, self.rows * self.columns);
        let at_once = (1 << 18) / self.columns.max(1);
        let at_once = at_once.max(1);
        let mut squares = [0.0; 2];
        let parts = values.chunks((at_once * self.columns).max(1));
        for (part, values) in parts.enumerate() {
            let mut kept = vec![T::ZERO; values.len()];
            self.decode_rows(part * at_once, &mut kept);
            for (value, kept) in values.iter().zip(&kept) {
                let (value, kept) = (value.to_f64(), kept.to_f64());
                squares[0] += (value - kept) * (value - kept);
                squares[1] += value * value;
            }
        }
        squares
    }
}

/// The entries from `at` on of a stream of codes, times a scale.
#[inline]
fn expand<T: Real, const N: usize>(
    codes: &[u8],
    at: usize,
    table: &[[T; N]],
    scale: T,
    values: &mut [T],
) {
    let one = |at: usize| table[usize::from(codes[at / N])][at % N] * scale;
    let lead = (at.next_multiple_of(N) - at).min(values.len());
    let (first, values) = values.split_at_mut(lead);
    for (place, value) in first.iter_mut().enumerate() {
        *value = one(at + place);
    }
    let at = at + lead;
    let (whole, rest) = values.as_chunks_mut::<N>();
    for (&byte, values) in codes[at / N..].iter().zip(whole.iter_mut()) {
        let numbers = &table[usize::from(byte)];
        for (value, &number) in values.iter_mut().zip(numbers) {
            *value = number * scale;
        }
    }
    let at = at + N * whole.len();
    for (place, value) in rest.iter_mut().enumerate() {
        *value = one(at + place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NumberFormat;
    use crate::testing::{assert_thread_independent, narrow, noise};
    use proptest::prelude::*;

    fn schemes() -> impl Strategy<Value = Quantisation> {
        let formats = prop::sample::select(NumberFormat::ALL.to_vec());
        (formats, 1usize..80, any::<bool>()).prop_map(|(format, block, double)| Quantisation {
            format,
            block,
            double,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn entries_move_by_half_a_gap_and_quantising_again_changes_nothing(
            rows in 0usize..12,
            columns in 1usize..50,
            how in schemes(),
            zero: bool,
            seed: u64,
        ) {
            let how = Quantisation { double: false, ..how };
            let mut values = narrow(&noise(rows * columns, seed));
            if zero {
                values.iter_mut().take(how.block).for_each(|value| *value = 0.0);
            }
            let matrix = QuantisedMatrix::new(&values, [rows, columns], how).unwrap();
            let kept: Vec<f32> = matrix.decode();
            let levels = &how.format.levels().values;
            let gap = levels.windows(2).map(|w| w[1] - w[0]).fold(0.0, f64::max);
            let blocks = values.chunks(how.block).zip(kept.chunks(how.block));
            let (mut lost, mut whole) = (0.0, 0.0);
            for (values, kept) in blocks {
                let scale = values.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                for (value, kept) in values.iter().zip(kept) {
                    let distance = f64::from(value - kept).abs();
                    prop_assert!(distance <= f64::from(scale) * (gap / 2.0 + 1e-6));
                    lost += f64::from(value - kept).powi(2);
                    whole += f64::from(*value).powi(2);
                }
                prop_assert!(scale > 0.0 || kept.iter().all(|value| *value == 0.0));
                let most = kept.iter().fold(0.0f32, |most, value| most.max(value.abs()));
                prop_assert_eq!(most, scale);
            }
            let [found, norm] = matrix.loss(&values);
            prop_assert!((found - lost).abs() <= 1e-6 * whole && (norm - whole).abs() <= 1e-6 * whole);
            prop_assert_eq!(&QuantisedMatrix::new(&kept, [rows, columns], how).unwrap(), &matrix);
            let wide: Vec<f64> = matrix.decode();
            prop_assert_eq!(&QuantisedMatrix::new(&wide, [rows, columns], how).unwrap(), &matrix);
        }

        #[test]
        fn rows_are_those_of_the_whole_and_bytes_are_counted(
            rows in 1usize..12,
            columns in 1usize..50,
            how in schemes(),
            first in 0usize..12,
            seed: u64,
        ) {
            let values = noise(rows * columns, seed);
            let matrix = QuantisedMatrix::new(&values, [rows, columns], how).unwrap();
            let whole: Vec<f64> = matrix.decode();
            let first = first % rows;
            let mut part = vec![0.0; (rows - first).div_ceil(2) * columns];
            matrix.decode_rows(first, &mut part);
            prop_assert_eq!(&part[..], &whole[first * columns..][..part.len()]);
            let scales = match &matrix.scales {
                Scales::Single(scales) => 4 * scales.len(),
                Scales::Double { codes, scales, .. } => codes.len() + 4 * scales.len() + 4,
            };
            prop_assert_eq!(matrix.bytes(), matrix.codes.len() + scales);
        }
    }

    #[test]
    fn doubly_quantised_scales_are_near() {
        // Scales that lie close to each other, as a weight's do: 127 steps of the largest distance
        // from their mean.
        let values: Vec<f64> = noise(64 * 1000, 1).iter().map(|z| z * z * z).collect();
        let how = Quantisation::default();
        let single = QuantisedMatrix::new(&values, [100, 640], how).unwrap();
        let double = Quantisation {
            double: true,
            ..how
        };
        let double = QuantisedMatrix::new(&values, [100, 640], double).unwrap();
        assert_eq!(single.codes, double.codes);
        for block in 0..1000 {
            let [single, double] = [&single, &double].map(|matrix| matrix.scales.get(block));
            assert!((single - double).abs() < 0.01 * single, "{single} {double}");
        }
        // QLoRA: 0.5 bits a number become 0.127.
        let bits = |matrix: &QuantisedMatrix| 8.0 * matrix.bytes() as f64 / 64_000.0;
        assert!((bits(&single) - 4.5).abs() < 1e-3 && (bits(&double) - 4.127).abs() < 1e-3);
    }

    #[test]
    fn what_is_not_finite_is_named() {
        for value in [f32::NAN, f32::INFINITY] {
            let error = QuantisedMatrix::new(&[0.0, value], [1, 2], Quantisation::default());
            assert_eq!(error.unwrap_err().position, 1);
        }
        let error = QuantisedMatrix::new(&[1e300], [1, 1], Quantisation::default()).unwrap_err();
        assert!(error.to_string().contains("1000000000000"), "{error}");
        assert!(
            Quantisation {
                block: 0,
                ..Quantisation::default()
            }
            .validate()
            .is_err()
        );
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let values = narrow(&noise(1001 * 917, 1));
        assert_thread_independent(|| {
            let how = Quantisation::default();
            let matrix = QuantisedMatrix::new(&values, [1001, 917], how).unwrap();
            matrix.decode()
        });
    }
}
