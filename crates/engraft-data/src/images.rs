//! Folders of images: a directory for each class.

mod options;

use std::path::{Path, PathBuf};

use image::imageops::FilterType;
use image::{ImageError, ImageReader};

use crate::error::{DataError, Result};
use crate::read::{Problem, RowError};
use crate::task::Labels;

pub use options::ImageOptions;

/// Images of one size, with classes.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageBatch {
    /// `[size, channels, height, width]`, row-major.
    pub pixels: Vec<f32>,
    /// The shape of `pixels`.
    pub shape: [usize; 4],
    /// `[size]`.
    pub labels: Vec<i64>,
}

/// A directory whose directories are classes and hold `.png` and `.jpeg` files. Names are in memory,
/// images are decoded batch by batch.
#[derive(Debug, Clone)]
pub struct ImageFolder {
    options: ImageOptions,
    /// The names of the classes, in alphabetical order.
    pub labels: Labels,
    files: Vec<(PathBuf, u32)>,
    /// Files that were left out.
    pub problems: Vec<Problem>,
}

impl ImageFolder {
    /// The images of a directory, in the alphabetical order of their paths. The head of each file is
    /// read; hidden files do not count.
    ///
    /// # Errors
    /// A directory that cannot be read, more files than are tolerated that are no images, or none
    /// that is one.
    pub fn open(directory: &Path, options: ImageOptions) -> Result<Self> {
        Self::read(directory, None, options)
    }

    /// The same with the classes of another directory, that of training.
    ///
    /// # Errors
    /// As [`open`](Self::open), and a directory that is not the name of a class.
    pub fn open_with(directory: &Path, labels: &Labels, options: ImageOptions) -> Result<Self> {
        Self::read(directory, Some(labels), options)
    }

    fn read(directory: &Path, labels: Option<&Labels>, options: ImageOptions) -> Result<Self> {
        let options = options.checked()?;
        let classes: Vec<PathBuf> = entries(directory)?
            .into_iter()
            .filter(|path| path.is_dir())
            .collect();
        let name = |path: &Path| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        let labels = match labels {
            Some(labels) => labels.clone(),
            None if classes.is_empty() => {
                let reason = "found no directories in it, expected one for each class".to_owned();
                return Err(DataError::File {
                    path: directory.to_owned(),
                    reason,
                });
            }
            None => Labels::new(classes.iter().map(|class| name(class)).collect())?,
        };
        let (mut files, mut tolerated) = (Vec::new(), options.bad_rows.start());
        for class in &classes {
            let label = labels
                .index("directory", &name(class).into())
                .map_err(|error| DataError::File {
                    path: class.clone(),
                    reason: error.to_string(),
                })?;
            for path in entries(class)? {
                match reader(&path).and_then(|reader| reader.into_dimensions()) {
                    Ok(_) => files.push((path, label)),
                    Err(error) => tolerated.add(Problem::new(&path, 1, broken(&error)))?,
                }
            }
        }
        if files.is_empty() {
            return Err(DataError::NoRows {
                path: directory.to_owned(),
            });
        }
        Ok(Self {
            options,
            labels,
            files,
            problems: tolerated.into_problems(),
        })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are no images; never so.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The file of an image, and its class.
    ///
    /// # Panics
    /// If the index is not below [`len`](Self::len).
    pub fn file(&self, index: usize) -> (&Path, u32) {
        let (path, label) = &self.files[index];
        (path, *label)
    }

    /// The images at these indices, resized with a triangle filter that covers what shrinks.
    ///
    /// # Errors
    /// A file whose pixels cannot be decoded.
    ///
    /// # Panics
    /// If an index is not below [`len`](Self::len).
    pub fn batch(&self, indices: &[usize]) -> Result<ImageBatch> {
        let ImageOptions {
            height,
            width,
            mean,
            ..
        } = &self.options;
        let shape = [indices.len(), mean.len(), *height, *width];
        let mut pixels = Vec::with_capacity(shape.iter().product());
        for index in indices {
            self.decode(self.file(*index).0, &mut pixels)?;
        }
        let labels = indices
            .iter()
            .map(|index| i64::from(self.file(*index).1))
            .collect();
        Ok(ImageBatch {
            pixels,
            shape,
            labels,
        })
    }

    /// The pixels of one file, `[channels, height, width]`, as a request.
    ///
    /// # Errors
    /// A file that cannot be decoded, or bad options.
    pub fn pixels(path: &Path, options: &ImageOptions) -> Result<Vec<f32>> {
        let mut pixels = Vec::new();
        decode(path, &options.clone().checked()?, &mut pixels)?;
        Ok(pixels)
    }

    fn decode(&self, path: &Path, pixels: &mut Vec<f32>) -> Result<()> {
        decode(path, &self.options, pixels)
    }
}

fn decode(path: &Path, options: &ImageOptions, pixels: &mut Vec<f32>) -> Result<()> {
    let decoded = reader(path)
        .and_then(ImageReader::decode)
        .map_err(|error| DataError::File {
            path: path.to_owned(),
            reason: broken(&error).to_string(),
        })?;
    let (height, width) = (options.height as u32, options.width as u32);
    let channels = options.mean.len();
    let bytes = match channels {
        1 => image::imageops::resize(&decoded.to_luma8(), width, height, FilterType::Triangle)
            .into_raw(),
        _ => image::imageops::resize(&decoded.to_rgb8(), width, height, FilterType::Triangle)
            .into_raw(),
    };
    for (channel, (mean, std)) in options.mean.iter().zip(&options.std).enumerate() {
        let values = bytes.iter().skip(channel).step_by(channels);
        pixels.extend(values.map(|value| (f32::from(*value) / 255.0 - mean) / std));
    }
    Ok(())
}

/// By content, whatever the name says.
fn reader(path: &Path) -> Result<ImageReader<std::io::BufReader<std::fs::File>>, ImageError> {
    Ok(ImageReader::open(path)?.with_guessed_format()?)
}

fn broken(error: &ImageError) -> RowError {
    RowError::Image(format!("not readable as a PNG or JPEG image: {error}"))
}

/// What a directory holds, in alphabetical order, hidden files aside.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| DataError::Io {
        path: directory.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(io)? {
        let entry = entry.map_err(io)?;
        if !entry.file_name().to_string_lossy().starts_with('.') {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use image::{Rgb, RgbImage};

    use super::*;
    use crate::read::BadRows;

    fn folder() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (class, color, names) in [
            ("red", [255, 0, 0], ["a.png", "b.jpg"]),
            ("blue", [0, 0, 255], ["c.png", "d.jpeg"]),
        ] {
            std::fs::create_dir(root.path().join(class)).unwrap();
            for name in names {
                let image = RgbImage::from_pixel(9, 7, Rgb(color));
                image.save(root.path().join(class).join(name)).unwrap();
            }
        }
        std::fs::write(root.path().join("red/.hidden"), "x").unwrap();
        root
    }

    #[test]
    fn directories_are_classes_and_pixels_are_normalised() {
        let root = folder();
        let options = ImageOptions {
            height: 4,
            width: 5,
            ..ImageOptions::default()
        };
        let images = ImageFolder::open(root.path(), options.clone()).unwrap();
        assert_eq!(images.labels.names(), ["blue", "red"]);
        let batch = images.batch(&[0, 3]).unwrap();
        assert_eq!(
            (batch.shape, batch.labels.as_slice()),
            ([2, 3, 4, 5], [0, 1].as_slice())
        );
        assert_eq!(batch.pixels[..20], [-1.0; 20]);
        assert_eq!(batch.pixels[40..60], [1.0; 20]);
        // JPEG is lossy.
        assert!(
            batch.pixels[60..80]
                .iter()
                .all(|red| (red - 1.0).abs() < 0.03)
        );
        let grey = ImageOptions {
            mean: vec![0.0],
            std: vec![1.0],
            ..options
        };
        let grey = ImageFolder::open_with(root.path(), &images.labels, grey).unwrap();
        let batch = grey.batch(&[0]).unwrap();
        assert_eq!(batch.shape, [1, 1, 4, 5]);
        assert!(batch.pixels.iter().all(|value| (0.05..0.1).contains(value)));
    }

    #[test]
    fn files_that_are_no_images_are_reported() {
        let root = folder();
        std::fs::write(root.path().join("blue/e.png"), "no image").unwrap();
        let open = |limit| {
            let options = ImageOptions {
                bad_rows: BadRows(limit),
                ..ImageOptions::default()
            };
            ImageFolder::open(root.path(), options)
        };
        let message = open(0).unwrap_err().to_string();
        assert!(
            message.contains("e.png:1: not readable as a PNG or JPEG image"),
            "{message}"
        );
        let images = open(1).unwrap();
        assert_eq!((images.len(), images.problems.len()), (4, 1));
        let other = Labels::new(vec!["red".into(), "bleu".into()]).unwrap();
        let error =
            ImageFolder::open_with(root.path(), &other, ImageOptions::default()).unwrap_err();
        assert!(
            error.to_string().contains("the nearest is \"bleu\""),
            "{error}"
        );
        assert!(ImageFolder::open(&root.path().join("red"), ImageOptions::default()).is_err());
        // Whole head, cut pixels: seen when the batch is decoded.
        let whole = std::fs::read(root.path().join("red/a.png")).unwrap();
        std::fs::write(root.path().join("red/a.png"), &whole[..whole.len() - 20]).unwrap();
        let images = open(1).unwrap();
        assert!(
            images
                .batch(&[2])
                .unwrap_err()
                .to_string()
                .contains("a.png: not readable")
        );
    }
}
