//! Directories in, directories out.

mod adapters;
mod containers;
mod fixtures;
