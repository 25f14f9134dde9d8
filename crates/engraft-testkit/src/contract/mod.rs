//! The contract suite: every promise of a method's declaration, over shapes and precisions.
//!
//! Each check is a function of a case (one configuration on one shape in one precision) in a
//! file of its own. A method's violations are reported together, so that one run shows all of them.

mod at_init;
mod case;
mod configuration;
mod counted;
mod files;
mod forms;
mod frozen;
mod gradients;
mod merging;
mod quantised;
mod records;
mod sampling;
mod seeding;
mod switching;

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use burn::tensor::DType;
use engraft_core::{LayerShape, MethodEntry};

use case::Case;

/// What a check returns: the first thing that is not as promised.
type Outcome = Result<(), Box<dyn std::error::Error>>;

/// A check and its name.
type Check = (&'static str, fn(&Case) -> Outcome);

/// [d_in, d_out]: smallest, row, column, prime, block-straddling, square, wide, tall.
const SHAPES: [[usize; 2]; 8] = [
    [1, 1],
    [1, 4],
    [5, 1],
    [7, 5],
    [12, 18],
    [16, 16],
    [24, 40],
    [40, 24],
];

const CHECKS: [Check; 13] = [
    ("configuration", configuration::check),
    ("at init", at_init::check),
    ("forms", forms::check),
    ("gradients", gradients::check),
    ("frozen", frozen::check),
    ("files", files::check),
    ("counted", counted::check),
    ("merging", merging::check),
    ("quantised", quantised::check),
    ("seeding", seeding::check),
    ("sampling", sampling::check),
    ("records", records::check),
    ("switching", switching::check),
];

/// Something a method promised and did not keep.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The method.
    pub method: String,
    /// Its configuration, shape and precision.
    pub case: String,
    /// The check.
    pub check: &'static str,
    /// The numbers.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {}: {}: {}",
            self.method, self.case, self.check, self.detail
        )
    }
}

/// Holds one method to its declaration.
///
/// # Panics
/// With all violations in one message, if there are any.
pub fn check(entry: &MethodEntry) {
    report(violations(entry));
}

/// Holds every method to its declaration, two at a time.
///
/// # Panics
/// With all violations of all methods in one message, if there are any.
pub fn check_all(entries: &[MethodEntry]) {
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(entry) = entries.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let violations = violations(entry);
                    found
                        .lock()
                        .expect("no thread panics while it holds the list")
                        .extend(violations);
                }
            });
        }
    });
    report(
        found
            .into_inner()
            .expect("no thread panics while it holds the list"),
    );
}

/// Every promise that a method does not keep.
pub fn violations(entry: &MethodEntry) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut examined = 0;
    for [d_in, d_out] in SHAPES {
        for bias in [false, true] {
            let layer = LayerShape::linear("block.fc1", d_in, d_out, bias);
            let place = format!("{d_in} -> {d_out}{}", if bias { " with bias" } else { "" });
            let mut run = |check: &'static str, case: String, body: &mut dyn FnMut() -> Outcome| {
                if let Err(detail) = caught(body) {
                    found.push(Violation {
                        method: entry.meta.id.to_owned(),
                        case: format!("{case} at {place}"),
                        check,
                        detail,
                    });
                }
            };
            for dtype in [DType::F32, DType::F64] {
                run("default configuration", format!("{dtype:?}"), &mut || {
                    configuration::default_is_admitted_or_refused(entry, &layer, dtype)
                });
            }
            let mut examples = Vec::new();
            run("examples", String::new(), &mut || {
                examples = entry.examples(&layer);
                Ok(())
            });
            for method in &examples {
                for dtype in [DType::F32, DType::F64] {
                    examined += 1;
                    let name = format!("{} {dtype:?}", method.config());
                    let mut case = None;
                    run("attach", name.clone(), &mut || {
                        case = Some(Case::new(*entry, method.clone(), &layer, dtype)?);
                        Ok(())
                    });
                    let Some(case) = case else { continue };
                    for (check, body) in CHECKS {
                        run(check, name.clone(), &mut || body(&case));
                    }
                }
            }
        }
    }
    if examined == 0 {
        let detail = "it gives no example on any shape".to_owned();
        found.push(Violation {
            method: entry.meta.id.to_owned(),
            case: String::new(),
            check: "examples",
            detail,
        });
    }
    found
}

/// The error or the panic of a check, as a sentence.
fn caught(body: &mut dyn FnMut() -> Outcome) -> Result<(), String> {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(panic) => Err(format!("panicked: {}", message(panic.as_ref()))),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message")
}

fn report(violations: Vec<Violation>) {
    let lines: Vec<String> = violations.iter().map(Violation::to_string).collect();
    assert!(
        lines.is_empty(),
        "{} violations of the contract:\n{}",
        lines.len(),
        lines.join("\n")
    );
}

/// An error with `detail` unless `holds`.
fn ensure(holds: bool, detail: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(detail().into()) }
}
