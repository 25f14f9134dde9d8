//! The valid name nearest to one that is not.

/// The candidate with the smallest edit distance, case aside.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let name = name.to_lowercase();
    candidates
        .into_iter()
        .min_by_key(|candidate| strsim::levenshtein(&name, &candidate.to_lowercase()))
}

/// The end of a sentence that names it.
pub(crate) fn nearest_is<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(name, candidates).map_or_else(String::new, |nearest| {
        format!("; the nearest is {nearest:?}")
    })
}

/// At most 12 names, quoted, and how many more there are.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("{name:?}")).collect();
    match names.len() {
        0..=12 => names.join(", "),
        len => format!("{} and {} more", names[..12].join(", "), len - 12),
    }
}
