//! Experiments that compare adapters fairly: one TOML in, paired runs, tables, plots and a report
//! out.
//!
//! ```text
//! schema (TOML) -> plan (runs) -> pool (processes) -> record (files) -> results -> table, plot, report
//! ```
//!
//! A run is keyed by the hash of its resolved configuration ([`spec::RunSpec::key`]), so that
//! interrupted work resumes and nothing that finished is repeated. How a run is trained is behind
//! the trait [`executor::Executor`]: everything else here knows nothing of tensors.

pub mod adapt;
pub mod composition;
pub mod counts;
pub mod diagnosis;
pub mod error;
pub mod execute;
pub mod executor;
pub mod inspect;
pub mod json;
pub mod label;
pub mod list;
pub mod measure;
pub mod merge;
pub mod plan;
pub mod plot;
pub mod pool;
pub mod process;
pub mod progress;
pub mod provenance;
pub mod record;
pub mod render;
pub mod report;
pub mod results;
pub mod run;
pub mod schema;
pub mod spec;
pub mod stats;
pub mod store;
pub mod table;
mod task_data;
pub mod verdict;
pub mod worker;
pub mod workspace;

pub use error::{Error, Result};
