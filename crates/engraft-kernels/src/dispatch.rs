//! One body, compiled for several instruction sets and chosen at run time.

use std::sync::atomic::{AtomicU8, Ordering};

/// An instruction set for which the kernels have their own copy, from narrow to wide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Isa {
    /// What the compiler's target guarantees (SSE2 on x86-64, NEON on AArch64).
    Portable,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL.
    Avx512,
}

/// Whether the portable copy may use fused multiply-add: elsewhere it would be a library call.
pub(crate) const PORTABLE_FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

static LIMIT: AtomicU8 = AtomicU8::new(Isa::Avx512 as u8);

/// Uses no instruction set above `limit` from now on, in the whole process.
///
/// For comparing the copies of a kernel and for counting instructions under a simulator.
pub fn limit_isa(limit: Isa) {
    LIMIT.store(limit as u8, Ordering::Relaxed);
}

/// The instruction set in use: the widest one of the machine that [`limit_isa`] allows.
pub fn isa() -> Isa {
    #[cfg(target_arch = "x86_64")]
    {
        let allowed = |isa: Isa| isa as u8 <= LIMIT.load(Ordering::Relaxed);
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if avx512 && allowed(Isa::Avx512) {
            return Isa::Avx512;
        }
        if avx2 && allowed(Isa::Avx2) {
            return Isa::Avx2;
        }
    }
    Isa::Portable
}

/// Defines a function over `T: Real` whose body is compiled for every [`Isa`].
///
/// The constant parameter tells the body whether a fused multiply-add is one instruction. What the
/// body calls must be `#[inline(always)]`, or it is compiled for the portable set only.
macro_rules! simd {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident<$t:ident, const $fused:ident: bool>($($arg:ident: $ty:ty),* $(,)?)
        $body:block
    ) => {
        $(#[$meta])*
        #[expect(unsafe_code, reason = "calls functions compiled for a detected instruction set")]
        $vis fn $name<$t: $crate::Real>($($arg: $ty),*) {
            #[inline(always)]
            fn body<$t: $crate::Real, const $fused: bool>($($arg: $ty),*) $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512<$t: $crate::Real>($($arg: $ty),*) {
                body::<$t, true>($($arg),*);
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2<$t: $crate::Real>($($arg: $ty),*) {
                body::<$t, true>($($arg),*);
            }

            match $crate::dispatch::isa() {
                // SAFETY: `isa` returns this only if the machine has every feature enabled above.
                #[cfg(target_arch = "x86_64")]
                $crate::dispatch::Isa::Avx512 => unsafe { avx512::<$t>($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::dispatch::Isa::Avx2 => unsafe { avx2::<$t>($($arg),*) },
                _ => body::<$t, { $crate::dispatch::PORTABLE_FUSED }>($($arg),*),
            }
        }
    };
}
