//! Methods of merging.

mod average;
mod copa;
mod mask_counts;
mod mask_file;
mod masks;
mod mbc;
mod rmm;
mod rmm_file;
mod search;

pub use average::{Ema, average, ema_weights, fedavg};
pub use copa::{Copa, Form, copa};
pub use mask_counts::{MaskCounts, MaskStatistics};
pub use mask_file::{MaskFile, MaskWriter};
pub use masks::{Mask, TaskMasks, consensus};
pub use mbc::{Clusters, Embedding, k_means, merge_clusters};
pub use rmm::{Basis, Rmm, Vectors};
pub use rmm_file::{RmmFile, RmmWriter};
pub use search::{Evaluation, Found, Search};
