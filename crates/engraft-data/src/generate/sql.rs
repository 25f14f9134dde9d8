//! Questions to a table, as queries.

use rand::RngExt;
use rand::seq::{IndexedRandom, index};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::generate::{Draw, out_of_range};

/// Rows such as `singer (age, city, rank) how many have age over 30 ?` with
/// ` SELECT COUNT(*) FROM singer WHERE age > 30`: a table with three columns drawn from a list, one
/// of ten kinds of question, and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TemplateSql {
    /// The largest number.
    pub largest: u64,
}

impl Default for TemplateSql {
    fn default() -> Self {
        Self { largest: 100 }
    }
}

const TABLES: [&str; 12] = [
    "singer", "concert", "student", "teacher", "album", "city", "flight", "car", "order", "player",
    "team", "book",
];
const COLUMNS: [&str; 12] = [
    "age", "name", "year", "price", "rank", "weight", "height", "score", "size", "speed",
    "country", "level",
];

/// A question and its query; `{t}`: the table, `{a}`, `{b}`: columns, `{n}`: a number.
const TEMPLATES: [(&str, &str); 10] = [
    ("how many are there ?", "SELECT COUNT(*) FROM {t}"),
    ("list each {a}", "SELECT {a} FROM {t}"),
    ("what is the largest {a} ?", "SELECT MAX({a}) FROM {t}"),
    ("what is the mean {a} ?", "SELECT AVG({a}) FROM {t}"),
    ("list {a} by {b}", "SELECT {a} FROM {t} ORDER BY {b}"),
    (
        "count them by {a}",
        "SELECT {a}, COUNT(*) FROM {t} GROUP BY {a}",
    ),
    (
        "how many have {a} over {n} ?",
        "SELECT COUNT(*) FROM {t} WHERE {a} > {n}",
    ),
    (
        "which {a} have {b} under {n} ?",
        "SELECT {a} FROM {t} WHERE {b} < {n}",
    ),
    (
        "what is the sum of {a} where {b} is {n} ?",
        "SELECT SUM({a}) FROM {t} WHERE {b} = {n}",
    ),
    (
        "which {n} have the most {a} ?",
        "SELECT * FROM {t} ORDER BY {a} DESC LIMIT {n}",
    ),
];

impl TemplateSql {
    /// Questions of a template about three columns of one table.
    fn questions(self, (question, _): &(&str, &str)) -> u64 {
        let columns = match (question.contains("{a}"), question.contains("{b}")) {
            (false, _) => 1,
            (true, false) => 3,
            (true, true) => 6,
        };
        columns
            * if question.contains("{n}") {
                self.largest
            } else {
                1
            }
    }

    fn templates(self) -> u64 {
        TEMPLATES
            .iter()
            .map(|template| self.questions(template))
            .sum()
    }
}

impl Draw for TemplateSql {
    fn count(&self) -> u64 {
        // Three of twelve columns, in any order.
        TABLES.len() as u64 * 12 * 11 * 10 * self.templates()
    }

    fn check(&self) -> Result<()> {
        match (1..=1 << 32).contains(&self.largest) {
            true => Ok(()),
            false => Err(out_of_range("largest", self.largest, "1 to 4294967296")),
        }
    }

    fn draw(&self, rng: &mut ChaCha8Rng) -> (String, String) {
        let table = TABLES.choose(rng).expect("there are tables");
        let columns = index::sample(rng, COLUMNS.len(), 3).into_vec();
        // A template with more questions is drawn more often.
        let mut drawn = rng.random_range(0..self.templates());
        let mut templates = TEMPLATES.iter();
        let template = templates
            .find(
                |template| match drawn.checked_sub(self.questions(template)) {
                    Some(left) => {
                        drawn = left;
                        false
                    }
                    None => true,
                },
            )
            .expect("the draw is below their sum");
        let number = rng.random_range(1..=self.largest).to_string();
        let asked = index::sample(rng, 3, 2);
        let [a, b] = [0, 1].map(|place| COLUMNS[columns[asked.index(place)]]);
        let fill = |text: &str| {
            let text = text
                .replace("{t}", table)
                .replace("{a}", a)
                .replace("{b}", b);
            text.replace("{n}", &number)
        };
        let listed: Vec<&str> = columns.iter().map(|column| COLUMNS[*column]).collect();
        let prompt = format!("{table} ({}) {}", listed.join(", "), fill(template.0));
        (prompt, format!(" {}", fill(template.1)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;
    use rand::SeedableRng;

    #[test]
    fn a_question_has_one_query_about_its_own_table_and_columns() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut seen: HashMap<String, String> = HashMap::new();
        for _ in 0..2000 {
            let (prompt, query) = TemplateSql::default().draw(&mut rng);
            assert!(!query.contains('{') && !prompt.contains('{'));
            let (table, rest) = prompt.split_once(" (").unwrap();
            let columns = rest.split_once(')').unwrap().0;
            assert!(query.contains(&format!("FROM {table}")));
            let named: HashSet<&str> = COLUMNS
                .into_iter()
                .filter(|column| {
                    query
                        .split(|c: char| !c.is_alphabetic())
                        .any(|word| word == *column)
                })
                .collect();
            assert!(
                named.iter().all(|column| columns.contains(column)),
                "{prompt}: {query}"
            );
            let before = seen.insert(prompt.clone(), query.clone());
            assert!(before.is_none_or(|before| before == query), "{prompt}");
        }
    }
}
