//! The runner with a synthetic executor: resume, damage, selection, failures, processes.

mod in_process;
mod processes;
mod synthetic;
