//! The two floating-point types of the kernels.

use crate::math;
use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub};

/// `f32` or `f64`.
///
/// `f32` has the branch-free functions of [`math`](crate::math), which vectorise; `f64` serves
/// checks and uses the accurate scalar functions of libm.
pub trait Real:
    Copy
    + Debug
    + Send
    + Sync
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + MulAssign
    + sealed::Sealed
    + 'static
{
    /// 0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// Minus infinity.
    const NEG_INFINITY: Self;
    /// Rounds to this type.
    fn from_f64(value: f64) -> Self;
    /// Converts without loss.
    fn to_f64(self) -> f64;
    /// Magnitude.
    fn abs(self) -> Self;
    /// Square root, correctly rounded.
    fn sqrt(self) -> Self;
    /// `self * factor + addend`, rounded once if `FUSED`.
    fn mul_add<const FUSED: bool>(self, factor: Self, addend: Self) -> Self;
    /// `e^self`.
    fn exp<const FUSED: bool>(self) -> Self;
    /// Distribution function and density of the standard normal law.
    fn normal<const FUSED: bool>(self) -> (Self, Self);
}

mod sealed {
    pub trait Sealed: faer::traits::ComplexField {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
}

/// The members that read the same for both types.
macro_rules! common {
    () => {
        const ZERO: Self = 0.0;
        const ONE: Self = 1.0;
        const NEG_INFINITY: Self = Self::NEG_INFINITY;

        #[inline(always)]
        fn from_f64(value: f64) -> Self {
            value as Self
        }

        #[inline(always)]
        fn to_f64(self) -> f64 {
            self.into()
        }

        #[inline(always)]
        fn abs(self) -> Self {
            self.abs()
        }

        #[inline(always)]
        fn sqrt(self) -> Self {
            self.sqrt()
        }

        #[inline(always)]
        fn mul_add<const FUSED: bool>(self, factor: Self, addend: Self) -> Self {
            if FUSED {
                self.mul_add(factor, addend)
            } else {
                self * factor + addend
            }
        }
    };
}

impl Real for f32 {
    common!();

    #[inline(always)]
    fn exp<const FUSED: bool>(self) -> Self {
        math::exp::<FUSED>(self)
    }

    #[inline(always)]
    fn normal<const FUSED: bool>(self) -> (Self, Self) {
        math::normal::<FUSED>(self)
    }
}

impl Real for f64 {
    common!();

    #[inline(always)]
    fn exp<const FUSED: bool>(self) -> Self {
        libm::exp(self)
    }

    #[inline(always)]
    fn normal<const FUSED: bool>(self) -> (Self, Self) {
        use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};
        let density = 0.5 * FRAC_1_SQRT_2 * FRAC_2_SQRT_PI * libm::exp(-0.5 * self * self);
        (0.5 * libm::erfc(-self * FRAC_1_SQRT_2), density)
    }
}
