//! How the entries of a thin matrix are arranged as a tensor.

/// Mode sizes for a matrix [d, r] by (r, d), from the LoRETTA authors' code.
const PUBLISHED: [(usize, usize, &[usize]); 25] = [
    (8, 768, &[8, 8, 12, 8]),
    (8, 1024, &[4, 8, 8, 8, 4]),
    (8, 1280, &[4, 8, 8, 8, 5]),
    (8, 1536, &[4, 8, 8, 8, 6]),
    (8, 1600, &[5, 8, 8, 8, 5]),
    (8, 2304, &[8, 8, 8, 4, 9]),
    (8, 4096, &[16, 16, 8, 4, 4]),
    (8, 5120, &[8, 8, 10, 8, 8]),
    (8, 8192, &[4, 16, 16, 16, 4]),
    (16, 768, &[8, 16, 12, 8]),
    (16, 1024, &[4, 8, 16, 8, 4]),
    (16, 1280, &[4, 8, 16, 8, 5]),
    (16, 1536, &[4, 8, 16, 8, 6]),
    (16, 1600, &[5, 8, 16, 8, 5]),
    (16, 2304, &[8, 8, 8, 8, 9]),
    (16, 4096, &[16, 16, 16, 4, 4]),
    (16, 5120, &[8, 16, 10, 8, 8]),
    (16, 8192, &[4, 16, 16, 16, 8]),
    (64, 768, &[8, 8, 12, 8, 8]),
    (64, 1024, &[4, 8, 8, 8, 8, 4]),
    (64, 1280, &[4, 8, 8, 8, 8, 5]),
    (64, 1536, &[4, 8, 8, 8, 8, 6]),
    (64, 1600, &[5, 8, 8, 8, 8, 5]),
    (64, 4096, &[16, 16, 16, 4, 4, 4]),
    (64, 5120, &[5, 8, 8, 16, 8, 8]),
];

/// Mode sizes n_1, ..., n_D with product d r for a matrix with d r entries: the published ones where
/// there are any, otherwise those of d followed by those of r, each split into about log_8 modes of
/// nearly equal size. A prime is one mode, so the saving is lost there but nothing fails.
pub fn modes(d: usize, r: usize) -> Vec<usize> {
    match PUBLISHED
        .iter()
        .find(|(rank, width, _)| (*rank, *width) == (r, d))
    {
        Some((_, _, modes)) => modes.to_vec(),
        None => balanced(d).into_iter().chain(balanced(r)).collect(),
    }
}

/// n as a product of about log_8 n factors of nearly equal size, ascending.
pub(crate) fn balanced(n: usize) -> Vec<usize> {
    let count = ((n as f64).log2() / 3.0).round().max(1.0) as usize;
    let mut factors = vec![1; count];
    for prime in primes(n).into_iter().rev() {
        let smallest = factors.iter_mut().min().expect("at least one");
        *smallest *= prime;
    }
    factors.sort_unstable();
    // Fewer primes than modes leave ones over.
    let ones = factors
        .iter()
        .take(count - 1)
        .filter(|&&factor| factor == 1)
        .count();
    factors.split_off(ones)
}

/// Prime factors of n, ascending.
pub(crate) fn primes(mut n: usize) -> Vec<usize> {
    let mut found = Vec::new();
    let mut p = 2;
    while p * p <= n {
        while n.is_multiple_of(p) {
            found.push(p);
            n /= p;
        }
        p += 1;
    }
    if n > 1 {
        found.push(n);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_modes_have_the_right_product() {
        for (rank, width, modes) in PUBLISHED {
            assert_eq!(
                modes.iter().product::<usize>(),
                rank * width,
                "({rank}, {width})"
            );
        }
    }

    #[test]
    fn any_number_is_split_into_balanced_factors() {
        for n in 1..=3000 {
            let factors = balanced(n);
            assert_eq!(factors.iter().product::<usize>(), n);
            assert!(
                n == 1 || factors.iter().all(|&factor| factor > 1),
                "{n}: {factors:?}"
            );
        }
        assert_eq!(balanced(3072), [6, 8, 8, 8]);
        assert_eq!(balanced(1), [1]);
        assert_eq!(balanced(1009), [1009]);
        assert_eq!(modes(64, 4), [8, 8, 4]);
    }
}
