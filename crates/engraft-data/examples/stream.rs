//! Encodes a file and prints what it took: `stream FILE TOKENIZER_DIR`.

use engraft_data::read::open;
use engraft_data::{Task, TextOptions, TextSet, Tokens};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, directory] = arguments.as_slice() else {
        return Err("expected: stream FILE TOKENIZER_DIR".into());
    };
    let source = open(file.as_ref())?;
    let tokens = Tokens::load(directory.as_ref())?;
    let task = Task::guess(source.as_ref())?.prepare(source.as_ref(), &tokens)?;
    let options = TextOptions {
        memory: 8 << 20,
        ..TextOptions::default()
    };
    let set = TextSet::new(source.as_ref(), &task, &tokens, &options)?;
    println!(
        "{} examples of {} rows, {} cut, {} unusable",
        set.len(),
        set.rows,
        set.truncated,
        set.problems.len()
    );
    let peak = std::fs::read_to_string("/proc/self/status")?;
    println!(
        "{}",
        peak.lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap_or_default()
    );
    Ok(())
}
