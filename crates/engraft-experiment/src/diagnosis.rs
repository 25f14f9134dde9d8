//! Where in a file a mistake is, and what its author may have meant.

use crate::error::nearest_hint;

/// The line of a byte offset, counted from 1.
#[must_use]
pub fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
}

/// Adds the nearest name to serde's "unknown field `x`, expected one of `a`, `b`".
#[must_use]
pub fn with_nearest(message: &str) -> String {
    let message = message.replace("unknown field", "unknown key");
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match names.as_slice() {
        [found, choices @ ..] if message.starts_with("unknown") && !choices.is_empty() => {
            let kind = message.split('`').next().unwrap_or_default();
            format!("{kind}`{found}`: {}", nearest_hint(found, choices))
        }
        _ => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_from_one_and_names_get_their_nearest() {
        assert_eq!(
            [0, 1, 2, 9].map(|offset| line_of("a\nb", offset)),
            [1, 1, 2, 2]
        );
        assert_eq!(
            with_nearest("unknown field `stps`, expected `steps` or `seeds`"),
            "unknown key `stps`: the nearest is `steps`; valid: `steps`, `seeds`"
        );
        assert_eq!(
            with_nearest("missing field `steps`"),
            "missing field `steps`"
        );
    }
}
