//! BLEU of a corpus.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

use crate::metrics::ratio;

/// Longest n-gram.
const ORDER: usize = 4;

/// Corpus BLEU (Papineni et al. 2002), 0 to 100, as sacrebleu reports it by default (Post 2018):
/// tokens of mteval-v13a, case kept, n-grams up to 4, and where no n-gram of an order matches,
/// 1 / (2^k total) for the k-th such order (Chen and Cherry 2014, method 3). Each text has one
/// reference or several; the closest in length counts for the brevity penalty, of equally close ones
/// the shorter.
///
/// # Panics
/// If there are not as many lists of references as texts, or a list is empty.
pub fn bleu<S: AsRef<str>>(texts: &[S], references: &[Vec<S>]) -> f64 {
    assert_eq!(
        texts.len(),
        references.len(),
        "as many lists of references as texts"
    );
    let (mut matches, mut totals) = ([0u64; ORDER], [0u64; ORDER]);
    let (mut length, mut expected) = (0, 0);
    for (text, references) in texts.iter().zip(references) {
        let tokens = tokenize_13a(text.as_ref());
        let references: Vec<Vec<String>> = references
            .iter()
            .map(|reference| tokenize_13a(reference.as_ref()))
            .collect();
        length += tokens.len();
        expected += references
            .iter()
            .map(Vec::len)
            .min_by_key(|len| (len.abs_diff(tokens.len()), *len))
            .expect("each text has a reference");
        for order in 1..=ORDER {
            let found = counts(&tokens, order);
            totals[order - 1] += found.values().sum::<u64>();
            let mut allowed: HashMap<&[String], u64> = HashMap::new();
            for reference in &references {
                for (gram, count) in counts(reference, order) {
                    let most = allowed.entry(gram).or_default();
                    *most = count.max(*most);
                }
            }
            let clipped = found
                .iter()
                .map(|(gram, count)| count.min(allowed.get(gram).unwrap_or(&0)));
            matches[order - 1] += clipped.sum::<u64>();
        }
    }
    if matches == [0; ORDER] || totals.contains(&0) {
        return 0.0;
    }
    let mut missing = 1.0;
    let mut logs = 0.0;
    for (hits, total) in matches.into_iter().zip(totals) {
        let precision = match hits {
            0 => {
                missing *= 2.0;
                1.0 / (missing * total as f64)
            }
            hits => hits as f64 / total as f64,
        };
        logs += precision.ln() / ORDER as f64;
    }
    let brevity = (1.0 - ratio(expected as f64, length as f64)).min(0.0);
    100.0 * (logs + brevity).exp()
}

fn counts(tokens: &[String], order: usize) -> HashMap<&[String], u64> {
    let mut counts = HashMap::new();
    for gram in tokens.windows(order) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

/// The tokens of mteval-v13a: entities decoded, punctuation on its own, except periods and commas
/// between digits and hyphens that do not follow a digit.
pub fn tokenize_13a(text: &str) -> Vec<String> {
    static RULES: LazyLock<[(Regex, &str); 4]> = LazyLock::new(|| {
        let rule = |pattern, with| (Regex::new(pattern).expect("a valid pattern"), with);
        [
            rule(r"([{-~\[-\x60\x20-&(-+:-@/])", " $1 "),
            rule(r"([^0-9])([.,])", "$1 $2 "),
            rule(r"([.,])([^0-9])", " $1 $2"),
            rule(r"([0-9])(-)", "$1 $2 "),
        ]
    });
    let mut text = text
        .trim_end()
        .replace("<skipped>", "")
        .replace("-\n", "")
        .replace('\n', " ");
    for (entity, stands_for) in [
        ("&quot;", "\""),
        ("&amp;", "&"),
        ("&lt;", "<"),
        ("&gt;", ">"),
    ] {
        text = text.replace(entity, stands_for);
    }
    text = format!(" {text} ");
    for (pattern, with) in RULES.iter() {
        text = pattern.replace_all(&text, *with).into_owned();
    }
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::near;

    fn one(text: &str, reference: &str) -> f64 {
        bleu(&[text], &[vec![reference]])
    }

    #[test]
    fn values_by_hand() {
        assert!(near(one("a b c d e", "a b c d e"), 100.0));
        // All n-grams match; the penalty is exp(1 - 7 / 5).
        assert!(near(
            one("a b c d e", "a b c d e f g"),
            100.0 * (-0.4f64).exp()
        ));
        // 3 of 4, 2 of 3, 1 of 2, and none of 1: 1 / (2 * 1).
        let expected = 100.0 * (0.75f64 * 2.0 / 3.0 * 0.5 * 0.5).powf(0.25);
        assert!(near(one("the cat sat there", "a cat sat there"), expected));
        // 2 of 4, none of 3, of 2 and of 1: 1 / (2 * 3), 1 / (4 * 2), 1 / (8 * 1).
        let expected = 100.0 * (0.5f64 / 6.0 / 8.0 / 8.0).powf(0.25);
        assert!(near(one("the cat not there", "a cat sat there"), expected));
        assert_eq!(one("a b", "a b"), 0.0);
    }

    /// sacrebleu 2.6.0, `BLEU().corpus_score` and `Tokenizer13a`.
    #[test]
    fn sacrebleu_has_the_same_values() {
        let texts = [
            "The cat sat on the mat, didn't it?",
            "It's 3.5 km to New-York & back.",
            "completely different words here",
            "short",
        ];
        let first = [
            "The cat is sitting on the mat, isn't it?",
            "It is 3.5 km to New York &amp; back (again).",
            "nothing in common at all",
            "a much longer reference text",
        ];
        let second = [
            "A cat sat on the mat, did it not?",
            "It's 3,500 m to New-York and back.",
            "completely other words there",
            "short text",
        ];
        let single: Vec<Vec<&str>> = first.iter().map(|reference| vec![*reference]).collect();
        assert!(near(bleu(&texts, &single), 15.284194996499673));
        let both: Vec<Vec<&str>> = first.iter().zip(second).map(|(a, b)| vec![*a, b]).collect();
        assert!(near(bleu(&texts, &both), 40.8954220579559));
        assert!(near(
            one("the cat sat there", "a cat sat here"),
            31.947155212313625
        ));
        assert_eq!(one("x y z w", "a b c d"), 0.0);
        assert!(near(
            one("<a>{b}[c]-3-4, 5.6.x", "<a>{b}[c]-3-4, 5.6.x y"),
            93.94130628134762
        ));
        for (text, tokens) in [
            ("<a>{b}[c]-3-4, 5.6.x", "< a > { b } [ c ] -3 - 4 , 5.6 . x"),
            (
                "It's 3.5 km to New-York & back.",
                "It's 3.5 km to New-York & back .",
            ),
            (
                "\"q\" &quot;x&quot; a_b ~tilde é,ü.",
                "\" q \" \" x \" a _ b ~ tilde é , ü .",
            ),
            (
                "end-\nline and\nmore <skipped>1,000.5,",
                "endline and more 1,000.5 ,",
            ),
        ] {
            assert_eq!(tokenize_13a(text).join(" "), tokens);
        }
    }
}
