//! Adapting models on disk; parameter tables; the runner with a synthetic executor: resume, damage,
//! selection, failures, processes.

mod adapt;
mod answers;
mod composition;
mod counts;
mod deltas;
mod from_python;
mod glue;
mod hub;
mod in_process;
mod merging;
mod processes;
mod synthetic;
