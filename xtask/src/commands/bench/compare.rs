//! The comparison: every case here and in PEFT, in turn, so that both meet the same machine.

use std::{fs, path::Path, time::Instant};

use super::cases::{self, Case};
use super::records::{self, Pair, Record};
use super::sides::{Engraft, Peft};
use crate::error::XtaskError;

/// A case that takes longer than this on one side is measured in one round.
const LONG: f64 = 5_000.0;

/// Clock ticks a second in `/proc/stat`.
const TICKS: f64 = 100.0;

/// Times the cases that match and records them.
///
/// # Errors
/// A side cannot be started, or no case matches. A case that fails on a side is printed and left out.
pub fn run(
    root: &Path,
    python: &Path,
    [rounds, threads]: [usize; 2],
    filter: Option<&str>,
) -> Result<(), XtaskError> {
    let cases = cases::all(root, filter)?;
    let ours = Engraft::build(threads)?;
    let mut peft = Peft::start(root, python, threads)?;
    for case in &cases {
        match pair(&ours, &mut peft, case, [rounds, threads]) {
            Ok(pair) => {
                let ratios = pair.ratios();
                let (ours, peft) = (pair.ours[0].ms, pair.peft.first().map(|first| first.ms));
                print!("{:<34} {ours:>10.2} ms", pair.name);
                if let (Some(peft), Some(least), Some(most)) = (peft, ratios.first(), ratios.last())
                {
                    let middle = ratios[ratios.len() / 2];
                    print!(" {peft:>10.2} ms   {middle:.3} [{least:.3}, {most:.3}]");
                }
                println!();
                records::append(root, &Record::Pair(pair))?;
            }
            Err(error) => eprintln!("{}: left out: {error}", case.name()),
        }
    }
    Ok(())
}

fn pair(
    ours: &Engraft,
    peft: &mut Peft,
    case: &Case,
    [rounds, threads]: [usize; 2],
) -> Result<Pair, XtaskError> {
    let start = (Instant::now(), busy_seconds(), own_seconds());
    let mut pair = Pair {
        name: case.name(),
        threads,
        ours: Vec::new(),
        peft: Vec::new(),
        versions: peft.versions.clone(),
        day: records::today(),
        other: None,
    };
    for _ in 0..rounds.max(1) {
        pair.ours
            .push(ours.measure(case.kind, &case.what, case.runs)?);
        if case.is_shared() {
            pair.peft.push(peft.measure(case)?);
        }
        let mut firsts = pair.ours.first().into_iter().chain(pair.peft.first());
        if firsts.any(|first| first.ms > LONG) {
            break;
        }
    }
    let spent = |from: Option<f64>, to: Option<f64>| Some(to? - from?);
    pair.other = spent(start.1, busy_seconds())
        .zip(spent(start.2, own_seconds()))
        .map(|(all, own)| ((all - own) / start.0.elapsed().as_secs_f64()).max(0.0));
    Ok(pair)
}

/// CPU seconds that everything on the machine used since it started.
fn busy_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<f64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .filter_map(|word| word.parse().ok())
        .collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    // Guests are counted in user time already.
    let all: f64 = ticks.iter().take(8).sum();
    Some((all - idle) / TICKS)
}

/// CPU seconds of this process's session: its children, waited for or not.
fn own_seconds() -> Option<f64> {
    let session = field(&fs::read_to_string("/proc/self/stat").ok()?, 3)?;
    let ticks = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| fs::read_to_string(entry.ok()?.path().join("stat")).ok())
        .filter(|stat| field(stat, 3) == Some(session))
        .map(|stat| (11..15).filter_map(|at| field(&stat, at)).sum::<f64>())
        .sum::<f64>();
    Some(ticks / TICKS)
}

/// Field `at` of `/proc/PID/stat`, counted from the state, which follows the name in parentheses.
fn field(stat: &str, at: usize) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_behind_the_name() {
        let stat = "12 (a (b) c) S 1 2 7 0";
        assert_eq!((field(stat, 1), field(stat, 3)), (Some(1.0), Some(7.0)));
    }
}
