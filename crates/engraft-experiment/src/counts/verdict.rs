//! Whether a computed number agrees with a published one.

use std::fmt;

/// How a row of a parameter table ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The same whole number.
    Exact,
    /// Rounded to the printed digits, the same.
    Rounded,
    /// Cut off after the printed digits, the same.
    Truncated,
    /// At most one unit of the last printed digit away.
    OffByOne,
    /// Different.
    Mismatch,
    /// Different, because the paper counts something else, which the row explains.
    OtherConvention,
    /// Computed, and the paper prints no number.
    Unpublished,
    /// The setting is not known or depends on data.
    NotComputable,
    /// The method is not in the registry.
    NotRegistered,
}

impl Verdict {
    /// All of them, best first.
    pub const ALL: [Self; 9] = [
        Self::Exact,
        Self::Rounded,
        Self::Truncated,
        Self::OffByOne,
        Self::Mismatch,
        Self::OtherConvention,
        Self::Unpublished,
        Self::NotComputable,
        Self::NotRegistered,
    ];
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Exact => "exact",
            Self::Rounded => "rounded",
            Self::Truncated => "truncated",
            Self::OffByOne => "off by one in the last digit",
            Self::Mismatch => "MISMATCH",
            Self::OtherConvention => "another convention",
            Self::Unpublished => "nothing published",
            Self::NotComputable => "not computable",
            Self::NotRegistered => "not registered",
        })
    }
}

/// A published number: its digits without the point, and what one unit of the last digit is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    digits: u128,
    decimals: u32,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    /// 10 to this power.
    Power(u32),
    /// Hundredths of the base.
    Percent,
}

impl Published {
    /// Reads `9175040`, `26.2M`, `540K`, `1.3B` or `0.13%`. Of a round figure only the first
    /// `significant` digits count: `200M` with one of them is `2` hundred million.
    #[must_use]
    pub fn parse(text: &str, significant: Option<u32>) -> Option<Self> {
        let number = text.trim_end_matches(['K', 'M', 'B', '%']);
        let unit = match &text[number.len()..] {
            "" => Unit::Power(0),
            "K" => Unit::Power(3),
            "M" => Unit::Power(6),
            "B" => Unit::Power(9),
            "%" => Unit::Percent,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let all = format!("{whole}{fraction}");
        if whole.is_empty() || !all.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let digits: u128 = all.parse().ok()?;
        let mut published = Self {
            digits,
            decimals: u32::try_from(fraction.len()).ok()?,
            unit,
        };
        if let (Some(significant), Unit::Power(power), 0) = (significant, unit, published.decimals)
        {
            let dropped = u32::try_from(all.len()).ok()?.checked_sub(significant)?;
            if !digits.is_multiple_of(10u128.pow(dropped)) {
                return None;
            }
            published.digits /= 10u128.pow(dropped);
            published.unit = Unit::Power(power + dropped);
        }
        Some(published)
    }

    /// Whether it is a share of the base.
    #[must_use]
    pub fn is_percentage(&self) -> bool {
        self.unit == Unit::Percent
    }

    /// Compares with a computed count, of `base` parameters where a percentage is published.
    #[must_use]
    pub fn verdict(&self, count: usize, base: usize) -> Verdict {
        // The count in units of the last printed digit is numerator / denominator.
        let shifted = count as u128 * 10u128.pow(self.decimals);
        let (numerator, denominator) = match self.unit {
            Unit::Power(power) => (shifted, 10u128.pow(power)),
            Unit::Percent => (100 * shifted, base.max(1) as u128),
        };
        let truncated = numerator / denominator;
        let rounded = (2 * numerator + denominator) / (2 * denominator);
        if denominator == 1 && self.decimals == 0 && numerator == self.digits {
            Verdict::Exact
        } else if rounded == self.digits {
            Verdict::Rounded
        } else if truncated == self.digits {
            Verdict::Truncated
        } else if numerator.abs_diff(self.digits * denominator) <= denominator && denominator > 1 {
            Verdict::OffByOne
        } else {
            Verdict::Mismatch
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(text: &str, count: usize) -> Verdict {
        Published::parse(text, None)
            .unwrap()
            .verdict(count, 6_738_415_616)
    }

    #[test]
    fn digits_decide() {
        for (text, count, expected) in [
            ("9175040", 9_175_040, Verdict::Exact),
            ("9175040", 9_175_041, Verdict::Mismatch),
            ("26.2M", 26_247_168, Verdict::Rounded),
            ("1.19M", 1_198_080, Verdict::Truncated),
            ("0.94M", 934_848, Verdict::OffByOne),
            ("0.024M", 25_344, Verdict::Mismatch),
            ("0.82M", 2_150_400, Verdict::Mismatch),
            ("540K", 540_672, Verdict::Truncated),
            ("41K", 40_960, Verdict::Rounded),
            ("0.25%", 16_777_216, Verdict::Rounded),
            ("0.125%", 8_388_608, Verdict::OffByOne),
            ("0.007%", 524_160, Verdict::Truncated),
            ("1.5B", 1_450_000_000, Verdict::Rounded),
        ] {
            assert_eq!(verdict(text, count), expected, "{text} and {count}");
        }
    }

    #[test]
    fn a_round_figure_claims_fewer_digits() {
        let published = Published::parse("200M", Some(2)).unwrap();
        assert_eq!(published.verdict(201_326_592, 1), Verdict::Rounded);
        assert_eq!(published.verdict(216_000_000, 1), Verdict::Mismatch);
        assert_eq!(verdict("200M", 201_326_592), Verdict::Mismatch);
        assert!(Published::parse("216M", Some(2)).is_none());
    }

    #[test]
    fn what_is_not_a_number_is_refused() {
        for text in ["", "M", "1.2X", "1,000", "-3", "1.2.3", "72.1 KB", ".5M"] {
            assert_eq!(Published::parse(text, None), None, "{text}");
        }
        assert!(Published::parse("0.13%", None).unwrap().is_percentage());
    }
}
