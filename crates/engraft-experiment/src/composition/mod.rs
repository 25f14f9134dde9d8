//! Arithmetic of adapters as experiments: adapters are trained apart, added, subtracted and negated,
//! and what comes out is measured beside each of them and beside one that was trained on all data.
//!
//! ```text
//! schema (TOML) -> run (a method and a seed: train, add, measure) -> results -> table, report
//! ```
//!
//! Composing Parameter-Efficient Modules with Arithmetic Operations, 2306.14870. Every sum is made
//! twice: of the changes dW (exact), and of the factors themselves as the paper does
//! ([`engraft_merge::arithmetic`]).

mod data;
mod results;
mod run;
pub mod schema;
mod sum;
mod table;
mod train;

pub use run::{Settings, Summary, run_composition};
