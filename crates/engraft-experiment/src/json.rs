//! JSON that hashes: sorted keys, one form for one value, and a helper for numbers that diverged.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The canonical text of a value: objects with sorted keys, no white space, shortest round-trip
/// numbers.
#[must_use]
pub fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            let body: Vec<String> = entries
                .into_iter()
                .map(|(key, value)| format!("{}:{}", Value::String(key.clone()), canonical(value)))
                .collect();
            format!("{{{}}}", body.join(","))
        }
        Value::Array(items) => {
            let body: Vec<String> = items.iter().map(canonical).collect();
            format!("[{}]", body.join(","))
        }
        scalar => scalar.to_string(),
    }
}

/// The SHA-256 of bytes, in lower-case hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The SHA-256 of a value's canonical text.
///
/// # Panics
/// Never for the types of this crate: all of them have a JSON form.
#[must_use]
pub fn digest<T: Serialize>(value: &T) -> String {
    let value = serde_json::to_value(value).expect("a record has string keys only");
    sha256(canonical(&value).as_bytes())
}

/// Numbers that may have diverged: JSON has no NaN and no infinity, so both are stored as `null`
/// and read back as NaN.
pub mod diverging {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes a number, or `null` when it is not finite.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        if value.is_finite() {
            serializer.serialize_f64(*value)
        } else {
            serializer.serialize_none()
        }
    }

    /// Reads a number, NaN for `null`.
    ///
    /// # Errors
    /// When the value is neither a number nor `null`.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        Option::<f64>::deserialize(deserializer).map(|value| value.unwrap_or(f64::NAN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_sorted_at_every_depth() {
        let value: Value =
            serde_json::from_str(r#"{"b": [1, {"z": 0.1, "a": null}], "a": "\"x\""}"#).unwrap();
        assert_eq!(
            canonical(&value),
            r#"{"a":"\"x\"","b":[1,{"a":null,"z":0.1}]}"#
        );
    }

    #[test]
    fn the_hash_is_sha_256() {
        assert_eq!(
            sha256(b"abc"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest(&json!({})), sha256(b"{}"));
    }
}
