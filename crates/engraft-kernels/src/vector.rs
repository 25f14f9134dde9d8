//! Vectors of numbers that are worked on side by side.
//!
//! The compiler turns loops over slices into vector instructions well and arithmetic on small
//! arrays badly: a butterfly on arrays of 16 numbers takes seven times as long as on registers.

use crate::Real;
use std::fmt::Debug;

/// Numbers of a vector: one register of AVX-512 in `f32`.
pub(crate) const LANES: usize = 16;

/// One number of each of [`LANES`] problems.
///
/// Implementations on registers are used under the instruction set they are written for and
/// nowhere else; [`vectors!`] sees to it.
pub trait Vector<T>: Copy + Debug + Send + Sync + 'static {
    /// The same number in every lane.
    fn splat(value: T) -> Self;
    /// Reads.
    fn load(from: &[T; LANES]) -> Self;
    /// Writes.
    fn store(self, to: &mut [T; LANES]);
    /// `self + other`.
    fn plus(self, other: Self) -> Self;
    /// `self - other`.
    fn minus(self, other: Self) -> Self;
    /// `self * factor`.
    fn times(self, factor: Self) -> Self;
    /// `self * factor + addend`, rounded once where the instruction set can.
    fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// Rows become lanes.
    fn transpose(rows: &mut [Self; LANES]);

    /// The sum of all lanes, in halves.
    #[inline(always)]
    fn sum(self) -> T
    where
        T: Real,
    {
        let mut lanes = [T::ZERO; LANES];
        self.store(&mut lanes);
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}

/// A vector in memory, for every type and instruction set.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct Plain<T, const FUSED: bool>(pub(crate) [T; LANES]);

/// A vector in memory, on a cache line of its own in `f32`.
pub(crate) type Line<T> = Plain<T, false>;

/// One loop over the lanes of `self` and what it is combined with.
macro_rules! lanes {
    ($first:expr, |$lane:ident| $value:expr) => {{
        let mut out = $first;
        for $lane in 0..LANES {
            out.0[$lane] = $value;
        }
        out
    }};
}

impl<T: Real, const FUSED: bool> Vector<T> for Plain<T, FUSED> {
    #[inline(always)]
    fn splat(value: T) -> Self {
        Self([value; LANES])
    }

    #[inline(always)]
    fn load(from: &[T; LANES]) -> Self {
        Self(*from)
    }

    #[inline(always)]
    fn store(self, to: &mut [T; LANES]) {
        *to = self.0;
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        lanes!(self, |i| self.0[i] + other.0[i])
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        lanes!(self, |i| self.0[i] - other.0[i])
    }

    #[inline(always)]
    fn times(self, factor: Self) -> Self {
        lanes!(self, |i| self.0[i] * factor.0[i])
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        lanes!(self, |i| self.0[i]
            .mul_add::<FUSED>(factor.0[i], addend.0[i]))
    }

    #[inline(always)]
    fn transpose(rows: &mut [Self; LANES]) {
        for i in 0..LANES {
            for j in 0..i {
                let upper = rows[j].0[i];
                rows[j].0[i] = rows[i].0[j];
                rows[i].0[j] = upper;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
#[expect(
    unsafe_code,
    reason = "registers; the types are used under their instruction sets alone"
)]
mod x86 {
    use super::{LANES, Plain, Vector};
    use std::arch::x86_64::*;

    /// 16 numbers in one register.
    #[derive(Debug, Clone, Copy)]
    #[repr(transparent)]
    pub struct Avx512(__m512);

    // SAFETY (all blocks): `vectors!` instantiates a body with this type only inside a function
    // that is compiled for AVX-512 and was chosen because the machine has it; loads and stores are
    // unaligned and stay inside the arrays.
    impl Vector<f32> for Avx512 {
        #[inline(always)]
        fn splat(value: f32) -> Self {
            Self(unsafe { _mm512_set1_ps(value) })
        }

        #[inline(always)]
        fn load(from: &[f32; LANES]) -> Self {
            Self(unsafe { _mm512_loadu_ps(from.as_ptr()) })
        }

        #[inline(always)]
        fn store(self, to: &mut [f32; LANES]) {
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        fn plus(self, other: Self) -> Self {
            Self(unsafe { _mm512_add_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn minus(self, other: Self) -> Self {
            Self(unsafe { _mm512_sub_ps(self.0, other.0) })
        }

        #[inline(always)]
        fn times(self, factor: Self) -> Self {
            Self(unsafe { _mm512_mul_ps(self.0, factor.0) })
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            Self(unsafe { _mm512_fmadd_ps(self.0, factor.0, addend.0) })
        }

        /// Interleaves numbers, pairs, quarters and halves of registers.
        #[inline(always)]
        fn transpose(rows: &mut [Self; LANES]) {
            unsafe {
                let mut a = [_mm512_setzero_ps(); LANES];
                for i in 0..8 {
                    let (x, y) = (rows[2 * i].0, rows[2 * i + 1].0);
                    a[2 * i] = _mm512_unpacklo_ps(x, y);
                    a[2 * i + 1] = _mm512_unpackhi_ps(x, y);
                }
                // b[4 i + c]: column c of each quarter, rows 4 i to 4 i + 3.
                let mut b = a;
                for i in 0..4 {
                    for half in 0..2 {
                        let x = _mm512_castps_pd(a[4 * i + half]);
                        let y = _mm512_castps_pd(a[4 * i + 2 + half]);
                        b[4 * i + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(x, y));
                        b[4 * i + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(x, y));
                    }
                }
                for c in 0..4 {
                    let (x, y) = (b[c], b[4 + c]);
                    let (z, w) = (b[8 + c], b[12 + c]);
                    let even = [
                        _mm512_shuffle_f32x4::<0x88>(x, y),
                        _mm512_shuffle_f32x4::<0x88>(z, w),
                    ];
                    let odd = [
                        _mm512_shuffle_f32x4::<0xdd>(x, y),
                        _mm512_shuffle_f32x4::<0xdd>(z, w),
                    ];
                    rows[c].0 = _mm512_shuffle_f32x4::<0x88>(even[0], even[1]);
                    rows[8 + c].0 = _mm512_shuffle_f32x4::<0xdd>(even[0], even[1]);
                    rows[4 + c].0 = _mm512_shuffle_f32x4::<0x88>(odd[0], odd[1]);
                    rows[12 + c].0 = _mm512_shuffle_f32x4::<0xdd>(odd[0], odd[1]);
                }
            }
        }
    }

    /// 16 numbers in two registers.
    #[derive(Debug, Clone, Copy)]
    pub struct Avx2([__m256; 2]);

    // SAFETY (all blocks): as above, with AVX2 and FMA.
    impl Vector<f32> for Avx2 {
        #[inline(always)]
        fn splat(value: f32) -> Self {
            Self(unsafe { [_mm256_set1_ps(value); 2] })
        }

        #[inline(always)]
        fn load(from: &[f32; LANES]) -> Self {
            let low = from.as_ptr();
            Self(unsafe { [_mm256_loadu_ps(low), _mm256_loadu_ps(low.add(8))] })
        }

        #[inline(always)]
        fn store(self, to: &mut [f32; LANES]) {
            let low = to.as_mut_ptr();
            unsafe {
                _mm256_storeu_ps(low, self.0[0]);
                _mm256_storeu_ps(low.add(8), self.0[1]);
            }
        }

        #[inline(always)]
        fn plus(self, other: Self) -> Self {
            let ([a, b], [c, d]) = (self.0, other.0);
            Self(unsafe { [_mm256_add_ps(a, c), _mm256_add_ps(b, d)] })
        }

        #[inline(always)]
        fn minus(self, other: Self) -> Self {
            let ([a, b], [c, d]) = (self.0, other.0);
            Self(unsafe { [_mm256_sub_ps(a, c), _mm256_sub_ps(b, d)] })
        }

        #[inline(always)]
        fn times(self, factor: Self) -> Self {
            let ([a, b], [c, d]) = (self.0, factor.0);
            Self(unsafe { [_mm256_mul_ps(a, c), _mm256_mul_ps(b, d)] })
        }

        #[inline(always)]
        fn mul_add(self, factor: Self, addend: Self) -> Self {
            let ([a, b], [c, d], [e, f]) = (self.0, factor.0, addend.0);
            Self(unsafe { [_mm256_fmadd_ps(a, c, e), _mm256_fmadd_ps(b, d, f)] })
        }

        #[inline(always)]
        fn transpose(rows: &mut [Self; LANES]) {
            let mut plain = [Plain::<f32, true>::splat(0.0); LANES];
            for (row, plain) in rows.iter().zip(&mut plain) {
                row.store(&mut plain.0);
            }
            Plain::transpose(&mut plain);
            for (row, plain) in rows.iter_mut().zip(&plain) {
                *row = Self::load(&plain.0);
            }
        }
    }
}

/// Defines a function over `T: Real` whose body is compiled for every [`Isa`](crate::Isa), with the
/// vectors `V` of that set. What the body calls must be `#[inline(always)]`, closures included.
macro_rules! vectors {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<$t:ident, $v:ident>($($arg:ident: $ty:ty),* $(,)?)
        $body:block
    ) => {
        $(#[$meta])*
        #[expect(unsafe_code, reason = "calls functions compiled for a detected instruction set")]
        $vis fn $name<$t: $crate::Real>($($arg: $ty),*) {
            #[inline(always)]
            fn body<$t: $crate::Real, $v: $crate::vector::Vector<$t>>($($arg: $ty),*) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512<$t: $crate::Real>($($arg: $ty),*) {
                body::<$t, $t::Avx512>($($arg),*);
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2<$t: $crate::Real>($($arg: $ty),*) {
                body::<$t, $t::Avx2>($($arg),*);
            }

            match $crate::dispatch::isa() {
                // SAFETY: `isa` returns this only if the machine has every feature enabled above.
                #[cfg(target_arch = "x86_64")]
                $crate::dispatch::Isa::Avx512 => unsafe { avx512::<$t>($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::dispatch::Isa::Avx2 => unsafe { avx2::<$t>($($arg),*) },
                _ => body::<$t, $crate::vector::Plain<$t, { $crate::dispatch::PORTABLE_FUSED }>>($($arg),*),
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::noise;

    vectors! {
        fn columns<T, V>(from: &[T], to: &mut [T]) {
            let mut rows = [V::splat(T::ZERO); LANES];
            for (row, from) in rows.iter_mut().zip(from.as_chunks::<LANES>().0) {
                *row = V::load(from);
            }
            V::transpose(&mut rows);
            for (row, to) in rows.iter().zip(to.as_chunks_mut::<LANES>().0) {
                row.store(to);
            }
        }
    }

    #[test]
    fn rows_become_columns() {
        let from: Vec<f32> = noise(LANES * LANES, 1).iter().map(|x| *x as f32).collect();
        let mut to = vec![0.0; from.len()];
        columns(&from, &mut to);
        for i in 0..LANES {
            for j in 0..LANES {
                assert_eq!(to[i * LANES + j].to_bits(), from[j * LANES + i].to_bits());
            }
        }
    }
}
