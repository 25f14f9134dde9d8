//! What can go wrong, said with what was found and what would have been admissible.

/// Result of a linear algebra operation.
pub type Result<T> = std::result::Result<T, LinalgError>;

/// Shape of a matrix, (rows, columns).
pub(crate) type Shape = (usize, usize);

/// Error of a linear algebra operation.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LinalgError {
    /// An entry is NaN or infinite.
    #[error("{operation}: entry ({row}, {col}) is {value}, expected finite numbers")]
    NonFinite {
        /// Operation that refused the input.
        operation: &'static str,
        /// Row of the first such entry.
        row: usize,
        /// Column of the first such entry.
        col: usize,
        /// The entry.
        value: f64,
    },
    /// A buffer does not have as many entries as its shape says.
    #[error("{what}: found {found} entries, expected {expected}")]
    Length {
        /// What the buffer is for.
        what: &'static str,
        /// Number of entries given.
        found: usize,
        /// Number of entries needed.
        expected: usize,
    },
    /// Two operands do not fit together.
    #[error(
        "{operation}: found shapes {}x{} and {}x{}, expected {expected}",
        left.0, left.1, right.0, right.1
    )]
    Shape {
        /// Operation that refused the operands.
        operation: &'static str,
        /// Shape of the first operand.
        left: (usize, usize),
        /// Shape of the second operand.
        right: (usize, usize),
        /// The rule between the two shapes.
        expected: &'static str,
    },
    /// A square matrix was needed.
    #[error("{operation}: found shape {rows}x{cols}, expected a square matrix")]
    NotSquare {
        /// Operation that refused the matrix.
        operation: &'static str,
        /// Rows found.
        rows: usize,
        /// Columns found.
        cols: usize,
    },
    /// A matrix without rows or without columns.
    #[error("{operation}: found shape {rows}x{cols}, expected at least one row and one column")]
    Empty {
        /// Operation that refused the matrix.
        operation: &'static str,
        /// Rows found.
        rows: usize,
        /// Columns found.
        cols: usize,
    },
    /// A rank outside the admissible interval.
    #[error("{operation}: found rank {rank}, expected {min} to {max}")]
    Rank {
        /// Operation that refused the rank.
        operation: &'static str,
        /// Rank asked for.
        rank: usize,
        /// Smallest admissible rank.
        min: usize,
        /// Largest admissible rank.
        max: usize,
    },
    /// A range of columns or a plane of rotation outside the matrix.
    #[error("{operation}: found {found}, expected {expected}")]
    Index {
        /// Operation that refused the index.
        operation: &'static str,
        /// The index or range.
        found: String,
        /// What is admissible.
        expected: String,
    },
    /// A fraction outside the interval from 0 to 1.
    #[error("energy fraction: found {0}, expected a number from 0 to 1")]
    Fraction(f64),
    /// Mode sizes whose product is not the number of entries.
    #[error(
        "tensor train: modes {modes:?} hold {} entries, expected {expected} (positive sizes whose product is the number of entries)",
        product.map_or_else(|| "too many".to_owned(), |p| p.to_string())
    )]
    Modes {
        /// Mode sizes given.
        modes: Vec<usize>,
        /// Their product, `None` if it overflows.
        product: Option<usize>,
        /// Number of entries of the tensor.
        expected: usize,
    },
    /// The matrix lacks a structure the operation relies on.
    #[error(
        "{operation}: found a deviation of {deviation:e} from a {property} matrix, expected at most {tolerance:e}"
    )]
    Property {
        /// Operation that refused the matrix.
        operation: &'static str,
        /// The missing property.
        property: &'static str,
        /// Largest absolute deviation.
        deviation: f64,
        /// Largest admissible deviation.
        tolerance: f64,
    },
    /// A linear system without a unique solution.
    #[error(
        "{operation}: the system is singular to working precision (smallest pivot {pivot:e}, expected more than {threshold:e})"
    )]
    Singular {
        /// Operation that met the system.
        operation: &'static str,
        /// Smallest pivot in absolute value.
        pivot: f64,
        /// Smallest admissible pivot.
        threshold: f64,
    },
    /// The iteration for the singular values did not converge.
    #[error("singular value decomposition of a {rows}x{cols} matrix did not converge")]
    NoConvergence {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
}
