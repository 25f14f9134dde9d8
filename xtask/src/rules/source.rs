//! Rules on the text of one file. The forbidden words are put together from parts, so that this
//! file obeys its own rules.

use super::Finding;
use crate::workspace::TextFile;

const MOST_LINES: usize = 400;
const UNFINISHED_MACROS: &[&str] = &["todo", "unimplemented", "dbg"];
const MACHINE_FOLDERS: &[&str] = &["home", "root", "work"];
const UNSAFE_FOLDERS: &[&str] = &["crates/engraft-kernels/", "crates/engraft-tensor/src/ops"];

/// A finding for each line of `file` that `broken` gives a reason for.
fn lines(file: &TextFile, broken: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let numbered = file.text.lines().enumerate();
    numbered
        .filter_map(|(index, line)| {
            Some(Finding::new(
                format!("{}:{}", file.path, index + 1),
                broken(line)?,
            ))
        })
        .collect()
}

/// A Rust file of more than 400 lines holds more than one concept.
pub fn short_files(file: &TextFile) -> Vec<Finding> {
    let count = file.text.lines().count();
    if !file.is_rust() || count <= MOST_LINES {
        return Vec::new();
    }
    let message = format!("{count} lines, at most {MOST_LINES}: one concept per file");
    vec![Finding::new(&file.path, message)]
}

/// No placeholder, debug print or switched-off test is committed.
pub fn nothing_unfinished(file: &TextFile) -> Vec<Finding> {
    if !file.is_rust() {
        return Vec::new();
    }
    let macros = UNFINISHED_MACROS.iter().map(|name| format!("{name}!("));
    let forbidden: Vec<String> = macros.chain([format!("#[{}", "ignore")]).collect();
    lines(file, |line| {
        let found = forbidden.iter().find(|word| line.contains(*word))?;
        Some(format!(
            "`{found}` is unfinished work: finish it or take it out"
        ))
    })
}

/// No absolute path into somebody's machine: it means nothing elsewhere.
pub fn no_machine_paths(file: &TextFile) -> Vec<Finding> {
    let folders: Vec<String> = MACHINE_FOLDERS
        .iter()
        .map(|name| format!("/{name}/"))
        .collect();
    lines(file, |line| {
        let found = folders.iter().find(|folder| {
            line.match_indices(*folder)
                .any(|(start, _)| starts_a_path(&line[..start]))
        })?;
        Some(format!(
            "`{found}` is a path of one machine: name it relative to the project"
        ))
    })
}

/// Whether a slash after `before` starts an absolute path rather than continuing another one, as
/// in `frame/work/` or `$HOME/work/`.
fn starts_a_path(before: &str) -> bool {
    !before.ends_with(|c: char| c.is_alphanumeric() || "._-~*}$)>".contains(c))
}

/// Unsafe code lives in the kernels and in the extension ops, nowhere else.
pub fn unsafe_has_its_place(file: &TextFile) -> Vec<Finding> {
    if !file.is_rust()
        || UNSAFE_FOLDERS
            .iter()
            .any(|folder| file.path.starts_with(folder))
    {
        return Vec::new();
    }
    let keyword = "unsafe";
    lines(file, |line| {
        let code = line.split("//").next().unwrap_or(line);
        let uses = code.match_indices(keyword).any(|(start, word)| {
            let before = code[..start].chars().next_back();
            let after = code[start + word.len()..].trim_start();
            !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
                && ["{", "(", "fn ", "impl", "trait ", "extern "]
                    .iter()
                    .any(|next| after.starts_with(next))
        });
        uses.then(|| format!("unsafe code belongs in {}", UNSAFE_FOLDERS.join(" or ")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(rule: fn(&TextFile) -> Vec<Finding>, path: &str, text: &str) -> usize {
        rule(&TextFile {
            path: path.into(),
            text: text.into(),
        })
        .len()
    }

    #[test]
    fn four_hundred_lines_pass_and_one_more_does_not() {
        assert_eq!(count(short_files, "a.rs", &"\n".repeat(400)), 0);
        assert_eq!(count(short_files, "a.rs", &"\n".repeat(401)), 1);
        assert_eq!(count(short_files, "a.csv", &"\n".repeat(401)), 0);
    }

    #[test]
    fn unfinished_work_is_found_in_rust_only() {
        for word in ["todo", "unimplemented", "dbg"] {
            assert_eq!(
                count(nothing_unfinished, "a.rs", &format!("    {word}!();")),
                1,
                "{word}"
            );
        }
        assert_eq!(
            count(nothing_unfinished, "a.rs", &format!("#[{}]", "ignore")),
            1
        );
        assert_eq!(
            count(nothing_unfinished, "a.md", &format!("no {}!()", "todo")),
            0
        );
        assert_eq!(count(nothing_unfinished, "a.rs", "// still to do"), 0);
    }

    #[test]
    fn machine_paths_are_found_and_relative_ones_are_not() {
        let folder = |before: &str, name: &str| format!("see {before}/{name}/data.csv");
        for name in ["home", "root", "work"] {
            assert_eq!(
                count(no_machine_paths, "README.md", &folder("", name)),
                1,
                "{name}"
            );
            assert_eq!(
                count(no_machine_paths, "a.toml", &folder("file://", name)),
                1,
                "{name}"
            );
            for before in ["crates", "$HOME", "~", "${DIR}", "https://a.org"] {
                assert_eq!(
                    count(no_machine_paths, "a.rs", &folder(before, name)),
                    0,
                    "{before}"
                );
            }
        }
    }

    #[test]
    fn unsafe_is_found_outside_its_folders_only() {
        let block = format!("let x = {} {{ y }};", "unsafe");
        assert_eq!(
            count(unsafe_has_its_place, "crates/engraft-core/src/a.rs", &block),
            1
        );
        assert_eq!(
            count(
                unsafe_has_its_place,
                "crates/engraft-kernels/src/a.rs",
                &block
            ),
            0
        );
        assert_eq!(
            count(
                unsafe_has_its_place,
                "crates/engraft-tensor/src/ops/a.rs",
                &block
            ),
            0
        );
        assert_eq!(
            count(unsafe_has_its_place, "a.rs", &format!("// {block}")),
            0
        );
        assert_eq!(
            count(unsafe_has_its_place, "a.rs", "#![deny(unsafe_code)]"),
            0
        );
    }
}
