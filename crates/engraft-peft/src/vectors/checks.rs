//! Comparisons with a case's tensors.

use std::collections::{BTreeMap, BTreeSet};

use burn::tensor::TensorData;

use super::Stop;
use super::case::{Case, Tolerance};
use super::report::{CaseReport, Worst};

/// What has been compared so far, and how it came out.
pub(super) struct Checks<'a> {
    tensors: &'a BTreeMap<String, TensorData>,
    tolerance: &'a BTreeMap<String, Tolerance>,
    compared: BTreeSet<String>,
    worst: Option<Worst>,
    wrong: Vec<String>,
}

impl<'a> Checks<'a> {
    pub(super) fn new(case: &'a Case) -> Self {
        Self::of(&case.tensors, &case.tolerance)
    }

    /// Comparisons with these tensors.
    pub(super) fn of(
        tensors: &'a BTreeMap<String, TensorData>,
        tolerance: &'a BTreeMap<String, Tolerance>,
    ) -> Self {
        Self {
            tensors,
            tolerance,
            compared: BTreeSet::new(),
            worst: None,
            wrong: Vec::new(),
        }
    }

    /// Compares with the case's tensor `key`, within its tolerance.
    pub(super) fn close(&mut self, key: &str, found: &TensorData) {
        self.compared.insert(key.to_owned());
        match self.tolerance.get(key) {
            Some(tolerance) => self.within(key, found, *tolerance),
            None => self.fail(format!("{key}: the case has no tolerance for it")),
        }
    }

    /// Compares with the case's tensor `key`, for which the case has no tolerance of its own.
    pub(super) fn within(&mut self, key: &str, found: &TensorData, tolerance: Tolerance) {
        match self.tensors.get(key) {
            Some(expected) => self.compare(key, found, expected, tolerance),
            None => self.fail(format!("{key}: the case has no such tensor")),
        }
    }

    /// Compares with the case's tensor `key`, within the tolerance of another.
    pub(super) fn as_close_as(&mut self, other: &str, key: &str, found: &TensorData) {
        match self.tolerance.get(other) {
            Some(tolerance) => self.within(key, found, *tolerance),
            None => self.fail(format!("{other}: the case has no tolerance for it")),
        }
    }

    /// Compares with a part of the case's tensor `key`, within its tolerance.
    pub(super) fn close_to(&mut self, key: &str, found: &TensorData, expected: &TensorData) {
        match self.tolerance.get(key) {
            Some(tolerance) => self.compare(key, found, expected, *tolerance),
            None => self.fail(format!("{key}: the case has no tolerance for it")),
        }
    }

    fn compare(
        &mut self,
        key: &str,
        found: &TensorData,
        expected: &TensorData,
        tolerance: Tolerance,
    ) {
        self.compared.insert(key.to_owned());
        if found.num_elements() != expected.num_elements() {
            return self.fail(format!(
                "{key}: found shape {:?}, expected {:?}",
                found.shape().to_vec(),
                expected.shape().to_vec()
            ));
        }
        let error = |(found, expected): (f64, f64)| {
            let ratio =
                (found - expected).abs() / (tolerance.atol + tolerance.rtol * expected.abs());
            // Equal infinities have no difference; a NaN is never right.
            if found == expected {
                0.0
            } else if ratio.is_nan() {
                f64::INFINITY
            } else {
                ratio
            }
        };
        let ratio = values(found)
            .into_iter()
            .zip(values(expected))
            .map(error)
            .fold(0.0, f64::max);
        if ratio > 1.0 {
            self.fail(format!("{key}: error {ratio:.3} times its tolerance"));
        }
        if self.worst.as_ref().is_none_or(|worst| ratio > worst.ratio) {
            self.worst = Some(Worst {
                tensor: key.to_owned(),
                ratio,
            });
        }
    }

    /// Notes something that must be bit by bit so.
    pub(super) fn equal(&mut self, what: &str, found: Option<&TensorData>, expected: &TensorData) {
        let same = found.is_some_and(|found| {
            found.shape() == expected.shape()
                && found.dtype() == expected.dtype()
                && found.as_bytes() == expected.as_bytes()
        });
        if !same {
            let found = found.map_or("nothing".to_owned(), |found| {
                format!("{:?} {:?}", found.dtype(), found.shape().to_vec())
            });
            self.fail(format!(
                "{what}: found {found}, not bit by bit the {:?} {:?} expected",
                expected.dtype(),
                expected.shape().to_vec()
            ));
        }
    }

    pub(super) fn fail(&mut self, reason: String) {
        self.wrong.push(reason);
    }

    /// Writes the result into the report.
    pub(super) fn finish(self, report: &mut CaseReport) -> Result<(), Stop> {
        report.compared = self.compared.len();
        report.worst = self.worst;
        report.unchecked = self
            .tolerance
            .keys()
            // The residual base is an input.
            .filter(|key| !self.compared.contains(*key) && !key.starts_with("residual."))
            .cloned()
            .collect();
        if self.wrong.is_empty() {
            Ok(())
        } else {
            Err(Stop::Fail(self.wrong.join("; ")))
        }
    }
}

/// The values of a tensor, widened.
pub(super) fn values(data: &TensorData) -> Vec<f64> {
    data.clone()
        .convert::<f64>()
        .try_to_vec()
        .expect("converted to f64")
}
