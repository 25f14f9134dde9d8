//! docs/performance.md, from the records.

mod cells;
mod machine;
mod switches;

use std::{fmt::Write as _, fs, path::Path};

use cells::{head, line, median, memory, ms, ratio_cell, time, verdict};

use super::growth::exponent;
use super::records::{self, Growth, Pair, Record};
use super::sides::Measured;
use crate::error::XtaskError;

/// Where the page goes.
const PAGE: &str = "docs/performance.md";

/// Slack of a fitted exponent: the noise of two cores.
const SLACK: f64 = 0.15;

/// Writes the page.
///
/// # Errors
/// There are no records, or the page cannot be written.
pub fn write(root: &Path) -> Result<(), XtaskError> {
    let records = records::load(root)?;
    let path = root.join(PAGE);
    let temporary = path.with_extension("md.new");
    fs::write(&temporary, page(&records))
        .and_then(|()| fs::rename(&temporary, &path))
        .map_err(|source| XtaskError::File {
            action: "write",
            path,
            source,
        })?;
    println!("wrote {PAGE}");
    Ok(())
}

fn page(records: &[Record]) -> String {
    let mut pairs = Vec::new();
    let mut growths = Vec::new();
    for record in records {
        match record {
            Record::Pair(pair) => pairs.push(pair),
            Record::Growth(growth) => growths.push(growth),
        }
    }
    let mut page = String::from(
        "# Performance\n\n<!-- Written by `cargo xtask bench`; what it means is in docs/src/speed.md. -->\n\n",
    );
    machine::describe(&mut page, &pairs);
    for net in ["stack4", "mlp"] {
        training(&mut page, net, &pairs);
    }
    simple(&mut page, "Initialisation", "init ", &pairs);
    simple(&mut page, "Merging into one layer", "merge ", &pairs);
    copies(&mut page, &pairs);
    switches::table(&mut page, &pairs);
    simple(
        &mut page,
        "SVD merge of three adapters",
        "weighted ",
        &pairs,
    );
    batches(&mut page, &pairs);
    growth_table(&mut page, &growths);
    page
}

/// The largest ratio of times that was aimed at, and that of memory above the frozen network.
fn targets(net: &str, method: &str) -> (f64, f64) {
    match method.split('_').next().unwrap_or(method) {
        "boft" if net == "mlp" => (0.05, 0.3),
        "boft" => (0.15, 0.3),
        "hra" => (0.3, 0.3),
        "c3a" | "fourierft" | "lokr" | "loha" => (0.6, 0.7),
        "randlora" => (0.9, 0.7),
        _ => (1.0, 0.7),
    }
}

fn training(page: &mut String, net: &str, pairs: &[&Pair]) {
    let prefix = format!("train {net} ");
    let chosen: Vec<(&str, &Pair)> = pairs
        .iter()
        .filter_map(|pair| Some((pair.name.strip_prefix(&prefix)?, *pair)))
        .collect();
    if chosen.is_empty() {
        return;
    }
    head(
        page,
        &format!("A training step of {net}"),
        &[
            "method",
            "trained",
            "ours, ms",
            "PEFT, ms",
            "ratio",
            "target",
            "memory above frozen, MiB: ours / PEFT",
            "target",
        ],
    );
    let frozen = chosen
        .iter()
        .find(|(method, _)| *method == "frozen")
        .map(|(_, pair)| *pair);
    let mut logs = Vec::new();
    for (method, pair) in &chosen {
        let ratio = median(pair.ratios().into_iter());
        let (time_target, memory_target) = targets(net, method);
        let reference = matches!(*method, "frozen" | "full");
        if !reference && !method.starts_with("boft") && !method.starts_with("hra") {
            logs.push(ratio.ln());
        }
        let above = frozen.map(|frozen| {
            [(&pair.ours, &frozen.ours), (&pair.peft, &frozen.peft)]
                .map(|(side, frozen)| (memory(side) - memory(frozen)).max(0.0))
        });
        let (above, judged) = match above.filter(|_| *method != "frozen") {
            Some([ours, peft]) => {
                let judged = if reference {
                    String::new()
                } else {
                    verdict(ours, (memory_target * peft).round())
                };
                (format!("{ours:.0} / {peft:.0}"), judged)
            }
            None => (String::new(), String::new()),
        };
        let trained = pair
            .ours
            .first()
            .and_then(|measured| measured.trainable)
            .unwrap_or_default();
        line(
            page,
            &[
                (*method).to_owned(),
                trained.to_string(),
                time(ms(&pair.ours)),
                time(ms(&pair.peft)),
                ratio_cell(pair),
                if reference {
                    String::new()
                } else {
                    verdict(ratio, time_target)
                },
                above,
                judged,
            ],
        );
    }
    let mean = (logs.iter().sum::<f64>() / logs.len() as f64).exp();
    let _ = writeln!(
        page,
        "\nGeometric mean over the {} methods without BOFT and HRA: {mean:.3} ({}).",
        logs.len(),
        verdict(mean, 0.75)
    );
    let limit = pairs
        .iter()
        .find(|pair| pair.name == format!("limit {net}"));
    let lora = chosen.iter().find(|(method, _)| *method == "lora_r8");
    if let (Some(limit), Some((_, lora))) = (limit, lora) {
        let (limit, lora) = (ms(&limit.ours), ms(&lora.ours));
        let _ = writeln!(
            page,
            "\nThe products that the frozen network needs take {} ms on their own; LoRA of rank 8 takes {:.3} times \
             that ({}).",
            time(limit),
            lora / limit,
            verdict(lora / limit, 1.25)
        );
    }
}

fn simple(page: &mut String, title: &str, prefix: &str, pairs: &[&Pair]) {
    let chosen: Vec<&&Pair> = pairs
        .iter()
        .filter(|pair| pair.name.starts_with(prefix))
        .collect();
    if chosen.is_empty() {
        return;
    }
    head(
        page,
        title,
        &["case", "ours, ms", "PEFT, ms", "ratio", "target"],
    );
    for pair in chosen {
        let ratio = median(pair.ratios().into_iter());
        let target = match pair.name.as_str() {
            name if name.starts_with("weighted") => 0.05,
            "init 4096 pissa_niter_4" | "init 4096 corda" => 0.7,
            _ => 1.0,
        };
        line(
            page,
            &[
                pair.name[prefix.len()..].to_owned(),
                time(ms(&pair.ours)),
                time(ms(&pair.peft)),
                ratio_cell(pair),
                if ratio.is_nan() {
                    "reported".to_owned()
                } else {
                    verdict(ratio, target)
                },
            ],
        );
    }
}

/// The merges that should cost no more than two copies of the weight.
fn copies(page: &mut String, pairs: &[&Pair]) {
    let find = |name: &str| pairs.iter().find(|pair| pair.name == name);
    let Some(copy) = find("limit 4096").map(|pair| ms(&pair.ours)) else {
        return;
    };
    let _ = writeln!(page, "\nA copy of that weight takes {} ms.", time(copy));
    for method in ["lora_r8", "lora_r16", "shira_r8"] {
        if let Some(merge) = find(&format!("merge 4096 {method}")) {
            let ratio = ms(&merge.ours) / copy;
            let _ = writeln!(
                page,
                "{method}: {ratio:.2} copies ({}).",
                verdict(ratio, 2.0)
            );
        }
    }
}

fn batches(page: &mut String, pairs: &[&Pair]) {
    let find = |name: String| pairs.iter().find(|pair| pair.name == name);
    let rows: Vec<_> = ["1", "16", "128"]
        .into_iter()
        .filter_map(|tokens| {
            let of = |what: &str| find(format!("mixed {tokens} {what}"));
            Some((tokens, of("base")?, of("single")?, of("mixed")?))
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    head(
        page,
        "64 rows over 16 adapters",
        &[
            "tokens a row",
            "base, ms: ours / PEFT",
            "one adapter",
            "16 adapters",
            "16 over one: ours / PEFT",
            "target",
            "ratio",
        ],
    );
    for (tokens, base, single, mixed) in rows {
        let both = |pair: &Pair| format!("{} / {}", time(ms(&pair.ours)), time(ms(&pair.peft)));
        let over = [
            ms(&mixed.ours) / ms(&single.ours),
            ms(&mixed.peft) / ms(&single.peft),
        ];
        line(
            page,
            &[
                tokens.to_owned(),
                both(base),
                both(single),
                both(mixed),
                format!("{:.2} / {:.2}", over[0], over[1]),
                verdict(over[0], 1.3),
                ratio_cell(mixed),
            ],
        );
    }
}

fn growth_table(page: &mut String, growths: &[&Growth]) {
    if growths.is_empty() {
        return;
    }
    head(
        page,
        "How cost grows",
        &[
            "axis and method",
            "sizes",
            "ms there",
            "MiB there",
            "fitted exponent of time",
            "expected at most",
            "",
        ],
    );
    for growth in growths {
        let sizes = |pick: &dyn Fn(&(usize, Measured)) -> String| {
            growth
                .points
                .iter()
                .map(pick)
                .collect::<Vec<_>>()
                .join(", ")
        };
        let fitted = exponent(growth);
        let judged = match fitted {
            Some(fitted) if fitted > growth.expected + SLACK => "ABOVE",
            _ => "",
        };
        line(
            page,
            &[
                growth.name.clone(),
                sizes(&|point| point.0.to_string()),
                sizes(&|point| time(point.1.ms_min)),
                sizes(&|point| {
                    point
                        .1
                        .rss_delta_mb
                        .map_or("?".to_owned(), |mb| format!("{mb:.0}"))
                }),
                fitted.map_or("?".to_owned(), |fitted| format!("{fitted:.2}")),
                growth.expected.to_string(),
                judged.to_owned(),
            ],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, ours: f64, peft: f64) -> Pair {
        let side = |ms| Measured {
            ms,
            ms_min: ms,
            rss_delta_mb: Some(ms),
            trainable: Some(1),
        };
        Pair {
            name: name.to_owned(),
            threads: 2,
            ours: vec![side(ours)],
            peft: vec![side(peft)],
            versions: serde_json::json!({"peft": "1"}),
            day: 20_779,
            other: None,
        }
    }

    #[test]
    fn targets_are_judged_by_what_was_measured() {
        let records = [
            pair("train mlp frozen", 10.0, 20.0),
            pair("train mlp boft_m4_b8", 40.0, 1000.0),
            pair("train mlp c3a_b256", 65.0, 100.0),
        ];
        let page = page(&records.map(Record::Pair));
        assert!(
            page.contains(
                "| boft_m4_b8 | 1 | 40.0 | 1000 | 0.040 | at most 0.05: met | 30 / 980 |"
            ),
            "{page}"
        );
        assert!(
            page.contains("0.650 | at most 0.6: MISSED | 55 / 80 | at most 56: met |"),
            "{page}"
        );
        assert!(
            page.contains("1 methods without BOFT and HRA: 0.650 (at most 0.75: met)"),
            "{page}"
        );
        assert!(page.contains("Measured 2026-11-22."), "{page}");
    }
}
