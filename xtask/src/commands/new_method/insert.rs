//! Inserting a line where the alphabet wants it.

const BEGIN: &str = "// registry: begin";
const END: &str = "// registry: end";

/// `lib` with the line `pub mod name;` among its modules, or after everything else if there are
/// none.
pub fn module(lib: &str, name: &str) -> String {
    let mut lines: Vec<&str> = lib.lines().collect();
    let modules: Vec<(usize, &str)> = lines
        .iter()
        .enumerate()
        .filter_map(|(at, line)| Some((at, module_name(line)?)))
        .collect();
    let next = modules.iter().find(|(_, other)| *other > name);
    let at = match (next, modules.last()) {
        (Some((at, _)), _) => above_its_comments(&lines, *at),
        (None, Some((at, _))) => at + 1,
        (None, None) => lines.len(),
    };
    let line = format!("pub mod {name};");
    lines.insert(at, &line);
    lines.join("\n") + "\n"
}

fn module_name(line: &str) -> Option<&str> {
    line.strip_prefix("pub mod ")?.strip_suffix(';')
}

/// The first line of the comments and attributes that belong to line `at`.
fn above_its_comments(lines: &[&str], at: usize) -> usize {
    let belongs = |line: &&&str| line.starts_with("///") || line.starts_with("#[");
    at - lines[..at].iter().rev().take_while(belongs).count()
}

/// `registry` with `line` between its markers, before the first line that is greater.
///
/// # Errors
/// A marker is missing; the reason names both.
pub fn registry_line(registry: &str, line: &str) -> Result<String, String> {
    let mut lines: Vec<&str> = registry.lines().collect();
    let marker = |text: &str| lines.iter().position(|line| line.trim() == text);
    let (Some(begin), Some(end)) = (marker(BEGIN), marker(END)) else {
        return Err(format!(
            "expected the lines `{BEGIN}` and `{END}` around the methods"
        ));
    };
    let rows = lines.get(begin + 1..end).unwrap_or_default();
    let before = rows
        .iter()
        .position(|row| row.trim() > line.trim())
        .unwrap_or(rows.len());
    lines.insert(begin + 1 + before, line);
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_goes_to_its_place() {
        let lib = "//! Docs.\n\npub mod b;\npub mod d;\n\npub use b::B;\n";
        assert!(module(lib, "a").starts_with("//! Docs.\n\npub mod a;\npub mod b;\n"));
        assert!(module(lib, "c").contains("pub mod b;\npub mod c;\npub mod d;\n"));
        assert!(module(lib, "e").contains("pub mod d;\npub mod e;\n\npub use"));
        assert_eq!(module("//! Docs.\n", "a"), "//! Docs.\npub mod a;\n");
    }

    #[test]
    fn a_module_keeps_its_comments() {
        let lib = "pub mod a;\n/// The last.\n#[cfg(unix)]\npub mod c;\n";
        let expected = "pub mod a;\npub mod b;\n/// The last.\n#[cfg(unix)]\npub mod c;\n";
        assert_eq!(module(lib, "b"), expected);
    }

    #[test]
    fn a_registry_line_goes_to_its_place_whatever_the_indentation() {
        let registry =
            "fn all() {\n    // registry: begin\n    b(),\n    d(),\n    // registry: end\n}\n";
        for (line, after) in [("a(),", "begin"), ("    c(),", "b(),"), ("e(),", "d(),")] {
            let inserted = registry_line(registry, line).unwrap();
            assert!(
                inserted.contains(&format!("{after}\n{line}\n")),
                "{inserted}"
            );
        }
    }

    #[test]
    fn a_registry_without_markers_is_refused() {
        assert!(
            registry_line("fn all() {}\n", "a(),")
                .unwrap_err()
                .contains(BEGIN)
        );
    }
}
