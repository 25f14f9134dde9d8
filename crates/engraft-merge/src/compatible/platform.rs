//! What PEFT leaves to the machine it runs on: random draws, and the signs of singular vectors.

use engraft_linalg::Svd;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// What is drawn for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw<'a> {
    /// The module.
    pub module: &'a str,
    /// Which of its tensors.
    pub of: Drawn,
    /// The adapter.
    pub adapter: &'a str,
}

/// A tensor that is pruned at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drawn {
    /// A of LoRA.
    A,
    /// B of LoRA.
    B,
    /// The update, as the module's weight lies in the base.
    Delta,
}

/// Answers for the machine.
pub trait Platform {
    /// Which of `count` numbers are kept, each with a probability of `density`.
    fn kept(&mut self, draw: Draw<'_>, count: usize, density: f64) -> Result<Vec<bool>, String>;

    /// A decomposition with the signs that the machine's would have: clamped factors depend on them.
    fn signed(&mut self, module: &str, svd: Svd) -> Svd {
        let _ = module;
        svd
    }
}

/// Draws from a seed, the same on every machine; signs as [`engraft_linalg::svd()`] has them.
#[derive(Debug, Clone)]
pub struct Seeded(ChaCha8Rng);

impl Seeded {
    /// Draws of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }
}

impl Platform for Seeded {
    fn kept(&mut self, _: Draw<'_>, count: usize, density: f64) -> Result<Vec<bool>, String> {
        fn draw(rng: &mut impl Rng, density: f64) -> bool {
            rng.random::<f64>() < density
        }
        Ok((0..count).map(|_| draw(&mut self.0, density)).collect())
    }
}
