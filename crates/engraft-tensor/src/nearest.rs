//! The nearest valid names to a misspelt one, for error messages.

/// The candidates most similar to `found`, best first, at most three.
///
/// Similarity is Jaro-Winkler; candidates below 0.6 are not worth suggesting and are dropped
/// unless nothing else remains and the list is short enough to show whole.
pub fn nearest<'a>(found: &str, candidates: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let all: Vec<&str> = candidates.into_iter().collect();
    let mut scored: Vec<(f64, &str)> = all
        .iter()
        .map(|name| {
            (
                strsim::jaro_winkler(&found.to_lowercase(), &name.to_lowercase()),
                *name,
            )
        })
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let close: Vec<&str> = scored
        .iter()
        .filter(|(score, _)| *score > 0.6)
        .map(|(_, name)| *name)
        .take(3)
        .collect();
    if close.is_empty() && all.len() <= 8 {
        all
    } else {
        close
    }
}

/// `"; nearest: a, b"`, or nothing when there is no candidate worth naming.
pub fn suggestion<'a>(found: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(found, candidates) {
        names if names.is_empty() => String::new(),
        names => format!("; nearest: {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_name_comes_first() {
        assert_eq!(nearest("lroa", ["boft", "lora", "dora"])[0], "lora");
    }

    #[test]
    fn nothing_alike_shows_a_short_list_whole_and_a_long_one_not_at_all() {
        assert_eq!(nearest("zzz", ["a", "b"]), ["a", "b"]);
        assert!(nearest("zzz", ["a", "b", "c", "d", "e", "f", "g", "h", "i"]).is_empty());
    }
}
