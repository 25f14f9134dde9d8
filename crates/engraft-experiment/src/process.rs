//! What the operating system says about this process and its processor.

use std::fs;

/// Largest resident memory of this process so far, in bytes; `None` where the system does not tell.
#[must_use]
pub fn peak_resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Starts the measurement of [`peak_resident_bytes`] anew, so that a process that does several
/// runs does not carry the peak of an earlier one. Where the system refuses, the peak is that of
/// the process.
pub fn reset_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Seconds of processor time of this process, over all its threads; `None` where the system does
/// not tell.
#[must_use]
pub fn cpu_seconds() -> Option<f64> {
    // Linux reports in ticks of 1/100 s to every program, whatever the kernel's own tick is.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// The processor's name, or its architecture.
#[must_use]
pub fn processor() -> String {
    fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
        .unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Processor cores that this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn linux_tells_memory_and_time() {
        let block = std::hint::black_box(vec![1_u8; 32 << 20]);
        assert!(peak_resident_bytes().unwrap() > block.len() as u64 / 2);
        assert!(cpu_seconds().unwrap() >= 0.0);
        assert!(!processor().is_empty());
    }
}
