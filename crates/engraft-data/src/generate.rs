//! Tasks that are generated: no download, seeded, of any size.

mod arithmetic;
mod modular;
mod recall;
mod sql;

use std::collections::HashSet;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::read::{Row, Table};

pub use arithmetic::{Arithmetic, Operation};
pub use modular::ModularAddition;
pub use recall::Recall;
pub use sql::TemplateSql;

/// A generated task. Each row has a `prompt` and a `completion`, whatever the task; to classify,
/// take the prompt for the text and the completion for the label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Generated {
    /// The results of an arithmetic operation.
    Arithmetic(Arithmetic),
    /// The value of a key, from a list of keys with values.
    Recall(Recall),
    /// Sums modulo a number.
    ModularAddition(ModularAddition),
    /// Questions to a table, as queries.
    TemplateSql(TemplateSql),
}

/// Draws prompts with their answers.
trait Draw {
    /// Different prompts that exist, at most.
    fn count(&self) -> u64;
    /// One of them, all with the same probability.
    fn draw(&self, rng: &mut ChaCha8Rng) -> (String, String);
    /// What is wrong with the settings, if anything.
    fn check(&self) -> Result<()>;
}

impl Generated {
    fn draw(&self) -> &dyn Draw {
        match self {
            Self::Arithmetic(task) => task,
            Self::Recall(task) => task,
            Self::ModularAddition(task) => task,
            Self::TemplateSql(task) => task,
        }
    }

    /// The name of the task in files.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Arithmetic(_) => "arithmetic",
            Self::Recall(_) => "recall",
            Self::ModularAddition(_) => "modular-addition",
            Self::TemplateSql(_) => "template-sql",
        }
    }

    /// Parts of these sizes, in which no prompt is there twice. More parts, or a larger last one,
    /// leave the rows before as they are.
    ///
    /// # Errors
    /// A setting out of its range, or more rows than there are prompts.
    pub fn generate<const N: usize>(&self, sizes: [usize; N], seed: u64) -> Result<[Table; N]> {
        let task = self.draw();
        task.check()?;
        let total: usize = sizes.iter().sum();
        if total as u64 > task.count() {
            let reason = format!("found {total}, expected at most {}", task.count());
            return Err(DataError::Setting {
                what: "rows",
                reason,
            });
        }
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut seen = HashSet::new();
        Ok(sizes.map(|size| {
            let mut rows = Vec::with_capacity(size);
            while rows.len() < size {
                let (prompt, completion) = task.draw(&mut rng);
                if seen.insert(prompt.clone()) {
                    let fields = [("prompt", prompt.into()), ("completion", completion.into())];
                    rows.push(Row::new(rows.len() as u64 + 1, fields));
                }
            }
            Table::new(self.name(), rows)
        }))
    }
}

/// An error about a setting.
fn out_of_range<T: std::fmt::Display>(what: &'static str, found: T, expected: &str) -> DataError {
    DataError::Setting {
        what,
        reason: format!("found {found}, expected {expected}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tasks() -> Vec<Generated> {
        vec![
            Generated::Arithmetic(Arithmetic::default()),
            Generated::Arithmetic(Arithmetic {
                operation: Operation::Divide,
                digits: 3,
                reversed: true,
            }),
            Generated::Recall(Recall::default()),
            Generated::ModularAddition(ModularAddition::default()),
            Generated::TemplateSql(TemplateSql::default()),
        ]
    }

    fn texts(table: &Table) -> Vec<(&str, &str)> {
        table
            .as_slice()
            .iter()
            .map(|row| (row.text("prompt").unwrap(), row.text("completion").unwrap()))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20))]
        #[test]
        fn parts_are_disjoint_and_depend_on_the_seed_alone(seed: u64, train in 1usize..200, test in 1usize..100) {
            for task in tasks() {
                let [first, second] = task.generate([train, test], seed).unwrap();
                let all: HashSet<&str> =
                    texts(&first).into_iter().chain(texts(&second)).map(|(prompt, _)| prompt).collect();
                prop_assert_eq!(all.len(), train + test);
                let [again, more] = task.generate([train, test + 5], seed).unwrap();
                prop_assert_eq!(again.as_slice(), first.as_slice());
                prop_assert_eq!(&more.as_slice()[..test], second.as_slice());
            }
        }
    }

    #[test]
    fn asking_for_more_than_there_is_is_an_error() {
        let task = Generated::ModularAddition(ModularAddition { modulus: 5 });
        let [all] = task.generate([25], 0).unwrap();
        assert_eq!(all.as_slice().len(), 25);
        let message = task.generate([20, 6], 0).unwrap_err().to_string();
        assert!(
            message.contains("found 26, expected at most 25"),
            "{message}"
        );
        let json = serde_json::to_value(&task).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"kind": "modular-addition", "modulus": 5})
        );
        assert_eq!(serde_json::from_value::<Generated>(json).unwrap(), task);
    }
}
