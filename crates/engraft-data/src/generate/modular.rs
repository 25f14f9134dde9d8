//! Sums modulo a number.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::generate::{Draw, out_of_range};

/// Rows such as `96 + 5 =` with ` 4` for (96 + 5) mod 97 (Power et al. 2022, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ModularAddition {
    /// The modulus.
    pub modulus: u64,
}

impl Default for ModularAddition {
    fn default() -> Self {
        Self { modulus: 97 }
    }
}

impl Draw for ModularAddition {
    fn count(&self) -> u64 {
        self.modulus * self.modulus
    }

    fn check(&self) -> Result<()> {
        match (1..=1 << 20).contains(&self.modulus) {
            true => Ok(()),
            false => Err(out_of_range("modulus", self.modulus, "1 to 1048576")),
        }
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> (String, String) {
        let [a, b] = [(); 2].map(|()| rng.random_range(0..self.modulus));
        (
            format!("{a} + {b} ="),
            format!(" {}", (a + b) % self.modulus),
        )
    }
}
