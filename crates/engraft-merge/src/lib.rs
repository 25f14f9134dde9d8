//! Merging, arithmetic and compression of adapters, on the host: safetensors in, safetensors out.
//!
//! An adapter is seen as what it changes: dW of each module, exactly, in the form that its method
//! has ([`update::Update`]). Merging adds and compares these, not the factors that happen to make them.

pub mod adapter;
pub mod arithmetic;
pub mod base;
pub mod compatible;
pub mod compress;
pub mod diagnose;
pub mod error;
pub mod factorise;
pub mod file;
pub mod methods;
pub mod pipeline;
pub mod spectral;
mod strips;
pub mod switch;
pub mod update;

pub use error::{Error, Result};
