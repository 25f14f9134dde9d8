//! Where and when it was measured.

use std::{fmt::Write as _, fs};

use super::super::records::Pair;
use crate::process;

/// The first lines of the page.
pub fn describe(page: &mut String, pairs: &[&Pair]) {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = info.lines().find(|line| line.starts_with(key))?;
        line.split_once(':')
            .map(|(_, value)| value.trim().to_owned())
    };
    let processors = info
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let widest = ["avx512f", "avx2", "sse2"].into_iter().find(|name| {
        value("flags").is_some_and(|flags| flags.split(' ').any(|flag| flag == *name))
    });
    let rustc = process::capture(std::process::Command::new("rustc").arg("--version"));
    let _ = writeln!(
        page,
        "Machine: {} ({} processors, {}). {}.",
        value("model name").unwrap_or_else(|| "unknown".to_owned()),
        processors,
        widest.unwrap_or("no SIMD known"),
        rustc.unwrap_or_default().trim(),
    );
    if let Some(pair) = pairs.last() {
        let version = |key: &str| pair.versions[key].as_str().unwrap_or("?").to_owned();
        let _ = writeln!(
            page,
            "Compared with PEFT {} on PyTorch {}, Python {}. {} threads on each side.",
            version("peft"),
            version("torch"),
            version("python"),
            pair.threads,
        );
    }
    let days = |pick: fn(std::slice::Iter<'_, u64>) -> Option<&u64>| {
        let mut days: Vec<u64> = pairs.iter().map(|pair| pair.day).collect();
        days.sort_unstable();
        pick(days.iter()).copied()
    };
    if let (Some(first), Some(last)) = (days(|mut days| days.next()), days(|days| days.last())) {
        let (first, last) = (date(first), date(last));
        let range = if first == last {
            first
        } else {
            format!("{first} to {last}")
        };
        let _ = writeln!(page, "Measured {range}.");
    }
    let busiest = pairs
        .iter()
        .filter_map(|pair| pair.other)
        .fold(0.0, f64::max);
    let _ = writeln!(
        page,
        "\nA case is timed in a process of its own, here and there in turn; a cell is the median over rounds of \
         each process's median, a ratio is ours over PEFT's in the same round: median [least, most]. Other \
         programs kept at most {busiest:.2} cores busy during a case.",
    );
}

/// Day, month and year of a number of days since 1970 (Hinnant's algorithm for the Gregorian calendar).
fn date(days: u64) -> String {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}
