//! Adapters of this family on a model: compositions, fusions and packed files.

mod composition;
mod packed;
