//! Wavelet filters, and what one wavelet coefficient adds to a matrix.

use engraft_tensor::suggestion;

/// One family a line: its name and its low-pass reconstruction filter (Daubechies, symlets and
/// coiflets as tabulated by `PyWavelets`, in PEFT's selection).
///
/// PEFT's `coif4` is not orthonormal (its squares sum to 1.0099); it is kept, so that files mean
/// the same. PEFT's `coif5` has 48 numbers where 30 belong and fails on every layer there; it is
/// left out.
static FILTERS: &str = include_str!("wavelets.txt");

/// A pair of reconstruction filters of even length L.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wavelet {
    low: Vec<f64>,
    high: Vec<f64>,
}

impl Wavelet {
    /// The wavelet of this name.
    ///
    /// # Errors
    /// An unknown name, as a sentence with the nearest.
    pub(crate) fn find(name: &str) -> Result<Self, String> {
        let families = || FILTERS.lines().filter_map(|line| line.split_once(' '));
        let low: Vec<f64> = families()
            .find(|(family, _)| *family == name)
            .map(|(_, filter)| {
                filter
                    .split(' ')
                    .map(|tap| tap.parse().expect("the table holds numbers"))
                    .collect()
            })
            .ok_or_else(|| {
                let names: Vec<&str> = families().map(|(family, _)| family).collect();
                format!(
                    "wavelet-family `{name}`: expected one of {}{}",
                    names.join(", "),
                    suggestion(name, names.iter().copied())
                )
            })?;
        let sign = |k| if k % 2 == 0 { 1.0 } else { -1.0 };
        let high = low.iter().rev().enumerate();
        let high = high.map(|(k, tap)| sign(k) * tap).collect();
        Ok(Self { low, high })
    }

    /// Length L of the filters.
    pub(crate) fn len(&self) -> usize {
        self.low.len()
    }

    /// Width of the coefficients of `width` values: L - 2 more, made even.
    fn padded(&self, width: usize) -> usize {
        (width + self.len() - 2).next_multiple_of(2)
    }

    /// The L x L values that a unit coefficient at (row, col) of a [rows, cols] matrix adds to it by
    /// one level of the inverse transform, as ((row, col), value); what falls outside is left out.
    ///
    /// The coefficients are centred in a matrix of their padded widths, whose four quarters are the
    /// bands. The upper right quarter holds what PEFT calls cH: high-pass along the rows' index and
    /// low-pass along the columns', so that each axis takes its filter from the half in which the
    /// coefficient lies on the other axis.
    pub(crate) fn patch(
        &self,
        [row, col]: [usize; 2],
        [rows, cols]: [usize; 2],
    ) -> Vec<([usize; 2], f64)> {
        let place = |at: usize, width: usize| {
            let half = self.padded(width) / 2;
            let centred = at + (self.padded(width) - width) / 2;
            (centred >= half, centred % half)
        };
        let (lower, row) = place(row, rows);
        let (right, col) = place(col, cols);
        let along = |first: usize, width: usize, high: bool| -> Vec<(usize, f64)> {
            let filter = if high { &self.high } else { &self.low };
            let taps = filter.iter().enumerate();
            let inside = taps.filter_map(|(k, tap)| {
                let at = (2 * first + k).checked_sub(self.len() - 2)?;
                (at < width).then_some((at, *tap))
            });
            inside.collect()
        };
        let across = along(col, cols, lower);
        along(row, rows, right)
            .into_iter()
            .flat_map(|(i, a)| across.iter().map(move |(j, b)| ([i, *j], a * b)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_orthonormal_to_their_even_shifts() {
        for line in FILTERS.lines() {
            let name = line.split(' ').next().unwrap();
            let wavelet = Wavelet::find(name).unwrap();
            if name == "coif4" {
                continue;
            }
            let product = |a: &[f64], b: &[f64], shift: usize| -> f64 {
                a.iter().skip(shift).zip(b).map(|(a, b)| a * b).sum()
            };
            for shift in (0..wavelet.len()).step_by(2) {
                let expected = f64::from(u8::from(shift == 0));
                for filter in [&wavelet.low, &wavelet.high] {
                    let found = product(filter, filter, shift);
                    assert!((found - expected).abs() < 1e-7, "{name} {shift}: {found}");
                }
                let mixed = product(&wavelet.low, &wavelet.high, shift);
                assert!(mixed.abs() < 1e-7, "{name} {shift}: {mixed}");
            }
        }
    }

    #[test]
    fn an_unknown_family_names_the_nearest() {
        let message = Wavelet::find("db22").unwrap_err();
        assert!(
            message.contains("`db22`") && message.contains("nearest: db2"),
            "{message}"
        );
    }
}
