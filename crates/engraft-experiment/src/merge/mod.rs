//! Merging of adapters that only their models can read: what leads from here to `engraft-merge`,
//! which knows files alone.

mod calibrate;
mod changes;
mod deltas;
mod figures;
mod report;
mod run;
mod search;
pub mod tables;

pub use calibrate::{Calibrated, calibrate};
pub use deltas::{DELTA_CONFIG, DELTA_FILE, Exported, export_deltas};
pub use run::{REPORT, Watch, merge};
