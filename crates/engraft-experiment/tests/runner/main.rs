//! Adapting models on disk; parameter tables; the runner with a synthetic executor: resume, damage,
//! selection, failures, processes.

mod adapt;
mod counts;
mod in_process;
mod processes;
mod synthetic;
