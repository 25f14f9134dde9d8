//! The results of an arithmetic operation.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::generate::{Draw, out_of_range};

/// What is done with two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// a + b.
    #[default]
    Add,
    /// a - b, which may be negative.
    Subtract,
    /// a * b.
    Multiply,
    /// a / b without remainder, b above 0.
    Divide,
}

/// Rows such as `17 + 5 =` with ` 22`. A model that learned one operation is adapted to another: the
/// language stays, what the sign means changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Arithmetic {
    /// The operation.
    pub operation: Operation,
    /// Most digits of both numbers, 1 to 9.
    pub digits: u32,
    /// Whether the result is written from its last digit on, which is easier to learn.
    pub reversed: bool,
}

impl Default for Arithmetic {
    fn default() -> Self {
        Self {
            operation: Operation::Add,
            digits: 2,
            reversed: false,
        }
    }
}

impl Draw for Arithmetic {
    fn count(&self) -> u64 {
        let numbers = 10u64.pow(self.digits);
        numbers * (numbers - u64::from(self.operation == Operation::Divide))
    }

    fn check(&self) -> Result<()> {
        match (1..=9).contains(&self.digits) {
            true => Ok(()),
            false => Err(out_of_range("digits", self.digits, "1 to 9")),
        }
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> (String, String) {
        let most = 10i64.pow(self.digits);
        let a = rng.random_range(0..most);
        let b = rng.random_range(i64::from(self.operation == Operation::Divide)..most);
        let (sign, result) = match self.operation {
            Operation::Add => ('+', a + b),
            Operation::Subtract => ('-', a - b),
            Operation::Multiply => ('*', a * b),
            Operation::Divide => ('/', a / b),
        };
        let result = match self.reversed {
            true => result.to_string().chars().rev().collect(),
            false => result.to_string(),
        };
        (format!("{a} {sign} {b} ="), format!(" {result}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn results_are_right() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (operation, reversed) in [
            (Operation::Add, false),
            (Operation::Subtract, false),
            (Operation::Multiply, true),
            (Operation::Divide, false),
        ] {
            let task = Arithmetic {
                operation,
                digits: 3,
                reversed,
            };
            for _ in 0..50 {
                let (prompt, answer) = task.draw(&mut rng);
                let parts: Vec<&str> = prompt.split(' ').collect();
                let (a, b): (i64, i64) = (parts[0].parse().unwrap(), parts[2].parse().unwrap());
                let answer: String = match reversed {
                    true => answer.trim().chars().rev().collect(),
                    false => answer.trim().to_owned(),
                };
                let expected = match parts[1] {
                    "+" => a + b,
                    "-" => a - b,
                    "*" => a * b,
                    _ => a / b,
                };
                assert_eq!(answer, expected.to_string(), "{prompt}");
            }
        }
        assert!(
            Arithmetic {
                digits: 0,
                ..Arithmetic::default()
            }
            .check()
            .is_err()
        );
    }
}
