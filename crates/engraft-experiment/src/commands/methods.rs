//! `methods`: every registered method with what it declares about itself.

use clap::Args;
use comfy_table::{ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use engraft_core::MethodMeta;
use engraft_experiment::Result;

/// Arguments of `methods`.
#[derive(Args)]
pub struct Arguments {
    /// Print everything each method declares, as JSON
    #[arg(long)]
    json: bool,
}

/// Prints the registry, in alphabetical order of ids.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut metas: Vec<&MethodMeta> = engraft::METHODS.iter().map(|entry| entry.meta).collect();
    metas.sort_by_key(|meta| meta.id);
    if arguments.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&metas).expect("plain data")
        );
        return Ok(());
    }
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["id", "name", "family", "paper", "equation"]);
    for meta in metas {
        let family = serde_json::to_value(meta.family).expect("plain data");
        table.add_row([
            meta.id,
            meta.name,
            family.as_str().unwrap_or_default(),
            meta.paper,
            meta.equation,
        ]);
    }
    println!("{table}");
    Ok(())
}
