//! Weights that are searched for.

use engraft_merge::recipe::{Merger, Recipe};

use crate::made::{Files, MODULES};
use crate::merges::{dense, distance, run};

const TWO: &str = "[[adapter]]\npath = \"a\"\n[[adapter]]\npath = \"b\"\n";

#[test]
fn the_weights_of_a_known_sum_are_found() {
    let files = Files::new();
    files.lora("a", 2, 3, 3);
    files.lora("b", 3, 3, 4);
    let text = format!("{TWO}[search]\ndata = \"few.csv\"\nbudget = 400\npenalty = 0.0\n");
    let path = files.at("recipe.toml");
    std::fs::write(&path, &text).unwrap();
    let recipe = Recipe::read(&path).unwrap();
    let searching = recipe.search.clone().unwrap();
    assert_eq!(searching.data, files.at("few.csv"));
    let mut merger = Merger::open(&recipe, None).unwrap();
    let module = MODULES[0].0;
    let (a, b) = (dense(&files, "a", module), dense(&files, "b", module));
    let wanted = a.iter().zip(&b).map(|(a, b)| 0.8 * a - 0.3 * b);
    let wanted: Vec<f32> = wanted.collect();
    merger
        .search(&searching.search(), |merger| {
            let update = merger.update(module)?.to_dense(None)?;
            Ok(distance(&update.data, &wanted).powi(2))
        })
        .unwrap();
    let out = files.at("out");
    std::fs::create_dir(&out).unwrap();
    let outcome = merger.write(&recipe, &out, false, &mut |_| {}).unwrap();
    let found = outcome.search.unwrap();
    assert!((found.best.coefficients[0] - 0.8).abs() < 1e-3, "{found:?}");
    assert!((found.best.coefficients[1] + 0.3).abs() < 1e-3);
    assert!(distance(&dense(&files, "out", module), &wanted) < 1e-2);
    // Without the search there are no weights to merge with.
    let message = run(&files, &text, "unsearched").unwrap_err().to_string();
    assert!(message.contains("cargo xtask merge"), "{message}");
}

#[test]
fn searches_that_make_no_sense() {
    let files = Files::new();
    files.lora("a", 2, 3, 3);
    files.lora("b", 2, 3, 5);
    let search = "[search]\ndata = \"few.csv\"\n";
    let weighted = TWO.replacen("\"a\"", "\"a\"\nweight = 2.0", 1);
    for (text, expected) in [
        (format!("{TWO}{search}budget = 0"), "at least 1"),
        (format!("{TWO}{search}bugdet = 3"), "nearest: `budget`"),
        (
            format!("{weighted}{search}"),
            "adapter `a`: its weight is 2",
        ),
        (
            format!("weights = {{ ema = 0.5 }}\n{TWO}{search}"),
            "both set the weights",
        ),
        (
            format!("method = \"rmm\"\n{TWO}{search}"),
            "several adapters",
        ),
        (
            format!("method = \"average\"\n{TWO}{search}"),
            "of any sign",
        ),
        (format!("{TWO}{search}[compatible]"), "of any sign"),
    ] {
        let message = run(&files, &text, "refused").unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}
