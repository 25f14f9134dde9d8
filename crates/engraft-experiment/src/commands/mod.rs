//! One file a command: arguments in, a library call, text out.

pub mod adapt;
pub mod calibrate;
pub mod compress;
pub mod conformance;
pub mod decompress;
pub mod inspect;
pub mod list;
pub mod measure;
pub mod merge;
pub mod merge_into;
pub mod methods;
mod model;
pub mod params;
pub mod predict;
pub mod pretrain;
pub mod run_experiment;
pub mod worker;
