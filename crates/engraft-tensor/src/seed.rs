//! Random streams keyed by (run seed, parameter path, role).
//!
//! Burn has one process-wide generator and initialises parameters lazily, so the numbers a
//! parameter receives depend on thread order (two runs of one seed can differ). Here each stream
//! is a ChaCha8 generator whose 256-bit key is the SHA-256 of seed, path and role: independent of
//! the device, of the precision and of which other parameters exist.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use sha2::{Digest, Sha256};

/// Where a random stream belongs: the run's seed and the path below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    seed: u64,
    path: String,
}

impl Key {
    /// The root of all streams of a run.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            path: String::new(),
        }
    }

    /// The run's seed.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The key one level down, as in `key.child("blocks.0.fc1").child("a")`.
    pub fn child(&self, name: &str) -> Self {
        let path = if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}/{name}", self.path)
        };
        Self {
            seed: self.seed,
            path,
        }
    }

    /// The generator of this key's stream, at its beginning.
    pub fn rng(&self) -> ChaCha8Rng {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        hash.update(self.path.as_bytes());
        ChaCha8Rng::from_seed(hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn a_stream_depends_on_seed_and_path_and_on_nothing_else() {
        let draw = |key: &Key| key.rng().next_u64();
        let key = Key::new(7).child("fc1").child("a");
        let again = std::thread::spawn({
            let key = key.clone();
            move || key.rng().next_u64()
        });
        assert_eq!(draw(&key), again.join().unwrap());
        assert_ne!(draw(&key), draw(&Key::new(8).child("fc1").child("a")));
        assert_ne!(draw(&key), draw(&Key::new(7).child("fc1").child("b")));
    }
}
