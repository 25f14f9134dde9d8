//! How images become pixels.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};
use crate::read::BadRows;

/// How images become pixels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ImageOptions {
    /// Rows of pixels.
    pub height: usize,
    /// Columns of pixels.
    pub width: usize,
    /// Subtracted from each channel's values, which are in [0, 1]; a single entry makes grey images.
    pub mean: Vec<f32>,
    /// By what each channel is then divided.
    pub std: Vec<f32>,
    /// Unusable files that are left out and reported rather than an error.
    pub bad_rows: BadRows,
}

impl Default for ImageOptions {
    fn default() -> Self {
        Self {
            height: 224,
            width: 224,
            mean: vec![0.5; 3],
            std: vec![0.5; 3],
            bad_rows: BadRows(0),
        }
    }
}

impl ImageOptions {
    /// What the `preprocessor_config.json` of a model's directory says: `size`, `image_mean` and
    /// `image_std`. Where it says nothing of the size, it is the `image_size` of `config.json`.
    ///
    /// # Errors
    /// A file that is malformed.
    pub fn load(directory: &Path) -> Result<Self> {
        let path = directory.join("preprocessor_config.json");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => "{}".to_owned(),
            Err(source) => return Err(DataError::Io { path, source }),
        };
        let fail = |reason: String| DataError::File {
            path: path.clone(),
            reason,
        };
        let json: serde_json::Value = serde_json::from_str(&text)
            .map_err(|error| fail(format!("not valid JSON: {error}")))?;
        let default = Self::of_model(directory);
        let size = &json["size"];
        let side = |name: &str, default: usize| {
            let side = size
                .get(name)
                .or_else(|| size.get("shortest_edge"))
                .unwrap_or(size);
            side.as_u64().map_or(default, |side| side as usize)
        };
        let numbers = |name: &str, default: Vec<f32>| {
            let list = json[name].as_array().map(|list| {
                list.iter()
                    .filter_map(|number| number.as_f64())
                    .map(|number| number as f32)
                    .collect()
            });
            list.unwrap_or(default)
        };
        let identity = json["do_normalize"] == false;
        Self {
            height: side("height", default.height),
            width: side("width", default.width),
            mean: if identity {
                vec![0.0; 3]
            } else {
                numbers("image_mean", default.mean)
            },
            std: if identity {
                vec![1.0; 3]
            } else {
                numbers("image_std", default.std)
            },
            bad_rows: default.bad_rows,
        }
        .checked()
    }

    /// The size that the model of a directory has, if it says so.
    fn of_model(directory: &Path) -> Self {
        let text = std::fs::read_to_string(directory.join("config.json")).unwrap_or_default();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let size = &config["image_size"];
        let side = |at: usize| size.get(at).unwrap_or(size).as_u64();
        let default = Self::default();
        Self {
            height: side(0).map_or(default.height, |side| side as usize),
            width: side(1).map_or(default.width, |side| side as usize),
            ..default
        }
    }

    pub(super) fn checked(self) -> Result<Self> {
        let bad = |what, reason: &str| {
            Err(DataError::Setting {
                what,
                reason: reason.to_owned(),
            })
        };
        if self.height == 0 || self.width == 0 {
            return bad("height and width", "found 0, expected at least 1");
        }
        if ![1, 3].contains(&self.mean.len()) || self.mean.len() != self.std.len() {
            return bad("mean and std", "expected 1 or 3 numbers each");
        }
        if self.std.iter().any(|std| !std.is_normal()) {
            return bad("std", "found 0 or a number that is not finite");
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_directory_says_how_to_prepare_images() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(
            ImageOptions::load(root.path()).unwrap(),
            ImageOptions::default()
        );
        std::fs::write(
            root.path().join("config.json"),
            r#"{"image_size": [20, 24]}"#,
        )
        .unwrap();
        let options = ImageOptions::load(root.path()).unwrap();
        assert_eq!((options.height, options.width), (20, 24));
        let write = |text: &str| {
            std::fs::write(root.path().join("preprocessor_config.json"), text).unwrap()
        };
        write(
            r#"{"size": {"height": 30, "width": 32}, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}"#,
        );
        let options = ImageOptions::load(root.path()).unwrap();
        assert_eq!((options.height, options.width), (30, 32));
        assert_eq!(
            (options.mean, options.std),
            (vec![0.1, 0.2, 0.3], vec![1.0, 2.0, 3.0])
        );
        write(r#"{"size": 16, "do_normalize": false}"#);
        let options = ImageOptions::load(root.path()).unwrap();
        assert_eq!((options.height, options.std), (16, vec![1.0; 3]));
        write(r#"{"image_std": [0, 1, 1]}"#);
        assert!(ImageOptions::load(root.path()).is_err());
    }
}
