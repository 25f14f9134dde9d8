//! Every registered method keeps every promise of its declaration, and methods in real models do what
//! no small model can show.

mod folding;
mod sequences;
mod usual_targets;

/// `ENGRAFT_METHODS=lora,dora` holds only these to their word, while one is being written.
#[test]
fn every_method_keeps_its_promises() {
    let chosen = std::env::var("ENGRAFT_METHODS").ok();
    let entries: Vec<_> = engraft::METHODS
        .iter()
        .filter(|entry| {
            chosen
                .as_ref()
                .is_none_or(|ids| ids.split(',').any(|id| id == entry.meta.id))
        })
        .copied()
        .collect();
    assert!(!entries.is_empty(), "no method is called {chosen:?}");
    engraft_testkit::contract::check_all(&entries);
}
