//! Sizes and errors.

/// What compressing or decompressing did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// The codec.
    pub codec: String,
    /// Bytes of the tensors' files that were read, and of the one that was written.
    pub bytes_in: u64,
    /// Bytes of the file that was written.
    pub bytes_out: u64,
    /// Bits of the coded tensors, without those that are kept exactly and without the file's header.
    pub bits: u64,
    /// The same by the codec's formula, where there is one.
    pub predicted: Option<f64>,
    /// |x' - x| / |x - base|, in the Frobenius norm over all tensors: relative to what was coded.
    pub error: f64,
    /// Tensor by tensor; module by module where the result is an adapter.
    pub tensors: Vec<TensorReport>,
    /// What a user should know.
    pub notes: Vec<String>,
}

/// One tensor, or the update of one module.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// What became of it: `exact`, or the codec and its outcome.
    pub how: String,
    /// Its bytes before.
    pub bytes_in: u64,
    /// Its bits after.
    pub bits: u64,
    /// The same by the codec's formula.
    pub predicted: Option<f64>,
    /// |x' - x| / |x - base|; unknown after decompression.
    pub error: Option<f64>,
}

impl Report {
    /// Bytes read for each byte written: above 1 where the result is smaller.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.bytes_in as f64 / (self.bytes_out as f64).max(1.0)
    }
}

/// Squares of errors and of what they are relative to.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Squares {
    pub error: f64,
    pub whole: f64,
}

impl Squares {
    /// The relative error: 0 where nothing is lost, infinite where something came from nothing.
    pub fn relative(self) -> f64 {
        match self.error {
            0.0 => 0.0,
            error => (error / self.whole).sqrt(),
        }
    }

    pub fn add(&mut self, other: Self) {
        self.error += other.error;
        self.whole += other.whole;
    }
}
