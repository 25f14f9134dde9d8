//! The nearest valid name to a misspelt one.

/// `"; nearest: a, b"` with up to three of `candidates`, best first by Jaro-Winkler similarity,
/// or every candidate when none is similar.
pub fn suggestion<'a>(found: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    let mut scored: Vec<(f64, &str)> = candidates
        .into_iter()
        .map(|name| (strsim::jaro_winkler(found, name), name))
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    let close = scored
        .iter()
        .filter(|(score, _)| *score > 0.7)
        .take(3)
        .count();
    let (label, shown) = if close == 0 {
        ("valid", &scored[..])
    } else {
        ("nearest", &scored[..close])
    };
    let names: Vec<&str> = shown.iter().map(|(_, name)| *name).collect();
    if names.is_empty() {
        String::new()
    } else {
        format!("; {label}: {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::suggestion;

    #[test]
    fn the_most_similar_name_comes_first() {
        assert_eq!(
            suggestion("lowrnk", ["svd", "lowrank", "sparse"]),
            "; nearest: lowrank"
        );
    }

    #[test]
    fn nothing_similar_lists_what_is_valid() {
        assert_eq!(suggestion("qqq", ["svd", "moe"]), "; valid: moe, svd");
        assert_eq!(suggestion("qqq", []), "");
    }
}
