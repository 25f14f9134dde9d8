//! How costs grow: the same step at other sizes, and the exponent of its time.

use std::path::Path;

use serde::Deserialize;

use super::cases;
use super::records::{self, Growth, Record};
use super::sides::Engraft;
use crate::error::XtaskError;

/// Counted runs at one size.
const RUNS: usize = 15;

#[derive(Deserialize)]
struct Shapes {
    growth: Vec<Axis>,
}

/// Sizes along one axis, and the exponent that the structures of these methods have there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Axis {
    axis: String,
    values: Vec<usize>,
    expected: f64,
    methods: Vec<String>,
}

/// Times every axis and method whose name contains `filter`.
///
/// # Errors
/// `benches/shapes.toml` cannot be read. A case that fails is printed and left out.
pub fn run(root: &Path, threads: usize, filter: Option<&str>) -> Result<(), XtaskError> {
    let shapes: Shapes = cases::shapes(root)?;
    let ours = Engraft::build(threads)?;
    for axis in &shapes.growth {
        for method in &axis.methods {
            let name = format!("{} {method}", axis.axis);
            if filter.is_some_and(|filter| !name.contains(filter)) {
                continue;
            }
            let measured = axis.values.iter().map(|value| {
                let what = [axis.axis.clone(), method.clone(), value.to_string()];
                Ok((*value, ours.measure("growth", &what, RUNS)?))
            });
            let points = match measured.collect::<Result<Vec<_>, XtaskError>>() {
                Ok(points) => points,
                Err(error) => {
                    eprintln!("{name}: left out: {error}");
                    continue;
                }
            };
            let growth = Growth {
                name,
                points,
                expected: axis.expected,
                day: records::today(),
            };
            println!(
                "{:<28} exponent {:>5.2}, expected {:.1}",
                growth.name,
                exponent(&growth).unwrap_or(f64::NAN),
                growth.expected
            );
            records::append(root, &Record::Growth(growth))?;
        }
    }
    Ok(())
}

/// The slope of log time against log size over the upper half of the sizes, by least squares: the
/// lower half is where fixed costs are.
pub fn exponent(growth: &Growth) -> Option<f64> {
    let upper = &growth.points[growth.points.len() / 2..];
    let logs: Vec<(f64, f64)> = upper
        .iter()
        .map(|(size, measured)| ((*size as f64).ln(), measured.ms_min.ln()))
        .collect();
    let mean =
        |pick: fn(&(f64, f64)) -> f64| logs.iter().map(pick).sum::<f64>() / logs.len() as f64;
    let (x, y) = (mean(|log| log.0), mean(|log| log.1));
    let spread: f64 = logs.iter().map(|log| (log.0 - x).powi(2)).sum();
    let slope = logs
        .iter()
        .map(|log| (log.0 - x) * (log.1 - y))
        .sum::<f64>()
        / spread;
    slope.is_finite().then_some(slope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::sides::Measured;

    #[test]
    fn the_exponent_of_a_power_is_found_behind_a_fixed_cost() {
        let point = |size: usize| {
            let ms = 1e-3 + (size as f64).powf(1.5);
            let measured = Measured {
                ms,
                ms_min: ms,
                rss_delta_mb: None,
                trainable: None,
            };
            (size, measured)
        };
        let growth = Growth {
            name: "width lora".to_owned(),
            points: [1, 16, 64, 256, 1024].map(point).to_vec(),
            expected: 1.5,
            day: 0,
        };
        assert!((exponent(&growth).unwrap() - 1.5).abs() < 1e-3);
    }
}
