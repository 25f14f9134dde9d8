//! ROUGE-L.

use crate::metrics::ratio;

/// Mean F-measure of the longest common subsequence of tokens (Lin 2004): with P = lcs / tokens of
/// the text and R = lcs / tokens of the reference, 2 P R / (P + R). Tokens are runs of a-z and 0-9
/// after lower-casing, without stemming, as in the package rouge_score.
///
/// # Panics
/// If the lengths differ.
pub fn rouge_l<S: AsRef<str>>(texts: &[S], references: &[S]) -> f64 {
    assert_eq!(texts.len(), references.len(), "as many texts as references");
    let scores = texts.iter().zip(references).map(|(text, reference)| {
        let (text, reference) = (tokens(text.as_ref()), tokens(reference.as_ref()));
        let common = longest_common(&text, &reference) as f64;
        ratio(2.0 * common, (text.len() + reference.len()) as f64)
    });
    ratio(scores.sum(), texts.len() as f64)
}

fn tokens(text: &str) -> Vec<String> {
    let text = text.to_lowercase();
    let runs = text.split(|char: char| !char.is_ascii_lowercase() && !char.is_ascii_digit());
    runs.filter(|run| !run.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Length of the longest common subsequence, in O(len(a) len(b)) time and O(len(b)) memory.
fn longest_common(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for left in a {
        let mut diagonal = 0;
        for (place, right) in b.iter().enumerate() {
            let above = row[place + 1];
            row[place + 1] = if left == right {
                diagonal + 1
            } else {
                above.max(row[place])
            };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::tests::near;

    #[test]
    fn values_by_hand() {
        // The subsequence is "police the gunman": 3 of 4 and 3 of 4.
        assert!(near(
            rouge_l(&["police kill the gunman"], &["police ended the gunman"]),
            0.75
        ));
        assert_eq!(rouge_l(&["", "a"], &["a", "A."]), 0.5);
        assert_eq!(rouge_l::<&str>(&[], &[]), 0.0);
    }

    /// rouge_score 0.1.2, `RougeScorer(["rougeL"], use_stemmer=False)`.
    #[test]
    fn rouge_score_has_the_same_values() {
        let texts = [
            "The cat sat on the mat, didn't it?",
            "It's 3.5 km to New-York & back.",
            "completely different words here",
            "short",
        ];
        let references = [
            "The cat is sitting on the mat, isn't it?",
            "It is 3.5 km to New York &amp; back (again).",
            "nothing in common at all",
            "a much longer reference text",
        ];
        assert!(near(
            rouge_l(&texts[..1], &references[..1]),
            0.7368421052631577
        ));
        assert!(near(rouge_l(&texts, &references), 0.38421052631578945));
        assert!(near(
            rouge_l(&["the uber 12ab cd END!"], &["Über-größe 12ab_cd the end"]),
            0.5
        ));
    }
}
