//! Decoders against numbers of `transformers` and PEFT, and what must hold of any of them.

mod properties;
mod reference;

/// Panics unless all numbers agree up to `tolerance` of the largest.
#[track_caller]
fn close(name: &str, found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected
        .iter()
        .fold(0.0f64, |most, value| most.max(value.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() <= tolerance * largest,
            "{name}, {at}: {found} instead of {expected} (largest {largest})"
        );
    }
}
