//! How much of the work runs in parallel.

use faer::Par;

/// Number of parts large work is cut into, the same for every thread pool: sums are formed per
/// part, so a number that followed the pool would change the rounding of the result.
const PARTS: usize = 8;

/// Entries below which threads save too little to be worth their waiting for each other, which
/// is costly on a busy machine. Many small matrices are better spread over threads by the caller.
const PARALLEL_ENTRIES: usize = 1024 * 1024;

/// Parallelism for work on a matrix of this many entries, a function of the size alone.
pub(crate) fn parallelism(entries: usize) -> Par {
    if entries < PARALLEL_ENTRIES {
        Par::Seq
    } else {
        Par::rayon(PARTS)
    }
}
