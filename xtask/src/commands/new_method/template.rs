//! The template of a method: the sections of `templates/method.rs.tmpl`, filled in.

const TEMPLATE: &str = include_str!("../../../templates/method.rs.tmpl");
const SECTION: &str = "=== ";
const FILE: &str = "file ";

/// What the placeholders stand for.
pub struct Names<'a> {
    /// `{{family}}`, as in the crate's name; `{{family_ident}}` is the same with `_` for `-`,
    /// `{{Family}}` in camel case.
    pub family: &'a str,
    /// `{{name}}`, the method's module; `{{Name}}` is the same in camel case, `{{id}}` with `-`.
    pub name: &'a str,
}

/// The filled-in sections.
pub struct Rendered {
    /// `=== file PATH`: paths and texts of the new files.
    pub files: Vec<(String, String)>,
    /// `=== registry line`: the line of the registry.
    pub registry_line: String,
}

/// Fills in the template. Each section lasts from its heading to the next.
pub fn render(names: &Names<'_>) -> Rendered {
    let text = TEMPLATE
        .replace("{{family}}", names.family)
        .replace("{{Family}}", &camel_case(&names.family.replace('-', "_")))
        .replace("{{id}}", &names.name.replace('_', "-"))
        .replace("{{family_ident}}", &names.family.replace('-', "_"))
        .replace("{{name}}", names.name)
        .replace("{{Name}}", &camel_case(names.name));
    let mut rendered = Rendered {
        files: Vec::new(),
        registry_line: String::new(),
    };
    let sections = text.strip_prefix(SECTION).unwrap_or(&text);
    for section in sections.split(&format!("\n{SECTION}")) {
        let (heading, body) = section.split_once('\n').unwrap_or((section, ""));
        let body = body.trim_end();
        match heading.strip_prefix(FILE) {
            Some(path) => rendered.files.push((path.into(), format!("{body}\n"))),
            None => rendered.registry_line = body.into(),
        }
    }
    rendered
}

/// `lora_xs` becomes `LoraXs`.
fn camel_case(name: &str) -> String {
    let capitalised = |word: &str| {
        let (first, rest) = word.split_at(word.len().min(1));
        first.to_uppercase() + rest
    };
    name.split('_').map(capitalised).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_placeholder_is_filled_in() {
        let rendered = render(&Names {
            family: "tensor-train",
            name: "toy_train",
        });
        let texts = rendered.files.iter().flat_map(|(path, text)| [path, text]);
        for text in texts.chain([&rendered.registry_line]) {
            assert!(!text.contains("{{") && !text.contains("=== "), "{text}");
        }
        assert_eq!(
            rendered.files[0].0,
            "crates/engraft-tensor-train/src/toy_train.rs"
        );
        assert!(rendered.files[0].1.contains("struct ToyTrainConfig"));
        assert!(
            rendered
                .registry_line
                .contains("engraft_tensor_train::toy_train::")
        );
        assert_eq!(rendered.registry_line.lines().count(), 1);
    }

    #[test]
    fn camel_case_joins_words() {
        assert_eq!(camel_case("lora_xs"), "LoraXs");
        assert_eq!(camel_case("ia3__x_"), "Ia3X");
    }
}
