//! Data: what ships with Engraft, what is read from local files, and what is generated.
//!
//! # Text from files
//!
//! [`read::open`] opens CSV, TSV, JSON lines and Parquet, [`glue::Glue`] the benchmark's directories;
//! rows are streamed. A [`Task`] says what they mean and is settled for a file by [`Task::prepare`].
//! A [`TextSet`] encodes the rows with the [`Tokens`] of a model, reports every row that cannot be
//! used with its line, and gives batches in any order. [`ImageFolder`] does the same for images.
//! [`generate::Generated`] makes rows that need no file.
//!
//! ```
//! use engraft_data::generate::{Arithmetic, Generated};
//! use engraft_data::text::Order;
//! use engraft_data::tokens::{Splitting, Wrapping, tiny_tokenizer};
//! use engraft_data::{Task, TextOptions, TextSet, Tokens};
//!
//! let [rows] = Generated::Arithmetic(Arithmetic::default()).generate([100], 0)?;
//! let json = tiny_tokenizer(Splitting::Characters, Wrapping::Causal, ["0123456789 +-*/="]);
//! let tokens = Tokens::from_json("arithmetic", json.as_bytes())?;
//! let task = Task::guess(&rows)?.prepare(&rows, &tokens)?;
//! let set = TextSet::new(&rows, &task, &tokens, &TextOptions::default())?;
//! let order = Order::new(set.len(), 16, 0)?;
//! let rows = order.batches(0, |rows| set.lengths(rows))?.remove(0);
//! assert_eq!(set.batch(&rows, 0, 0)?.size, 16);
//! # Ok::<(), engraft_data::DataError>(())
//! ```
//!
//! # Digits
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
