//! Parameter tables; the runner with a synthetic executor: resume, damage, selection, failures, processes.

mod counts;
mod in_process;
mod processes;
mod synthetic;
