//! Data that ships with Engraft: real digit scans, their split, domain shifts and batches.
//!
//! The order is fixed so that no image leaks between stages: [`Digits::load`] reads the source
//! images, [`Split::stratified`] divides them once, and only then [`Domain::apply`] shifts the
//! images of one part. [`batches`] orders the examples of an epoch.
//!
//! ```
//! use engraft_data::{Digits, Domain, Split, batches, few_shot};
//!
//! let digits = Digits::load()?;
//! let split = Split::stratified(&digits.labels);
//! let shots = few_shot(&digits.labels, &split.train, 8, 0)?;
//! let train = Domain::QuarterTurn.apply(&digits, &shots);
//! for batch in batches(train.len(), 16, 0, 0)? {
//!     assert!(train.gather(&batch).len() <= 16);
//! }
//! # Ok::<(), engraft_data::DataError>(())
//! ```

mod batch;
mod digits;
mod error;
pub mod generate;
pub mod glue;
mod images;
mod metric;
mod names;
pub mod read;
mod shift;
mod split;
pub mod task;
pub mod text;
pub mod tokens;

pub use batch::{Examples, batches};
pub use digits::{Dataset, Digits};
pub use error::{DataError, Result};
pub use images::{ImageBatch, ImageFolder, ImageOptions};
pub use metric::Metric;
pub use shift::Domain;
pub use split::{Split, few_shot};
pub use task::Task;
pub use text::{TextBatch, TextOptions, TextSet};
pub use tokens::Tokens;
