//! Functions of one `f32` without branches, so that loops over them vectorise.
//!
//! Polynomial and rational approximations at Chebyshev nodes with coefficients rounded to `f32`;
//! errors in ulp of the result, measured against libm in `f64` over every 251st bit pattern with
//! and without fused multiply-add (the tests fail above the bound):
//!
//! | function | bound in ulp |
//! |---|---|
//! | [`exp`] | 1.5 |
//! | [`tanh`] | 3 |
//! | [`erf`] | 3 |
//! | [`normal`], distribution | 6.5 |
//! | [`normal`], density | 2.5 |
//!
//! Results below the normal range are within 1 unit of 2^-149 more. NaN gives NaN; infinities give
//! their limits; signed zeros keep their sign where the function is odd.

/// `x * y + z`, rounded once if `FUSED`.
#[inline(always)]
fn fma<const FUSED: bool>(x: f32, y: f32, z: f32) -> f32 {
    if FUSED { x.mul_add(y, z) } else { x * y + z }
}

/// `c[0] + c[1] x + c[2] x^2 + ...`
#[inline(always)]
fn polynomial<const FUSED: bool, const N: usize>(x: f32, c: [f32; N]) -> f32 {
    let mut sum = c[N - 1];
    for i in (0..N - 1).rev() {
        sum = fma::<FUSED>(sum, x, c[i]);
    }
    sum
}

/// `x` within `[low, high]`; NaN stays NaN.
#[inline(always)]
fn clamp(x: f32, low: f32, high: f32) -> f32 {
    let x = if x < low { low } else { x };
    if x > high { high } else { x }
}

/// `2^n` for `n` in the range of normal numbers; any number for another `n`, as NaN brings.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
const ROUND: f32 = 12_582_912.0;
/// ln 2 in two parts; the product of the first with an exponent is exact.
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// `(e^r - 1 - r) / r^2` for `|r| <= ln(2) / 2`.
const EXP: [f32; 5] = [
    0.5,
    0.166_665_73,
    0.041_666_55,
    0.008_363_774,
    0.001_392_692_7,
];

/// `(n, expm1(r))` with `x + low = n ln 2 + r` and `|r| <= ln(2) / 2`, for `|x| < 2^20`.
#[inline(always)]
fn reduced_exp<const FUSED: bool>(x: f32, low: f32) -> (i32, f32) {
    let rounded = fma::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = fma::<FUSED>(n, -LN_2_HIGH, x);
    let r = fma::<FUSED>(n, -LN_2_LOW, r) + low;
    let tail = r * r * polynomial::<FUSED, _>(r, EXP);
    (
        rounded.to_bits().wrapping_sub(ROUND.to_bits()) as i32,
        r + tail,
    )
}

/// `e^(x + low)` for a small correction `low`.
#[inline(always)]
fn exp_sum<const FUSED: bool>(x: f32, low: f32) -> f32 {
    let (n, p) = reduced_exp::<FUSED>(clamp(x, -105.0, 89.0), low);
    // In two steps, because 2^n itself may be below or above the normal range. Only the last
    // product rounds.
    let half = n >> 1;
    (p + 1.0) * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `e^x`.
#[inline(always)]
pub fn exp<const FUSED: bool>(x: f32) -> f32 {
    exp_sum::<FUSED>(x, 0.0)
}

/// `tanh x = expm1(2 |x|) / (expm1(2 |x|) + 2)` with the sign of `x`.
#[inline(always)]
pub fn tanh<const FUSED: bool>(x: f32) -> f32 {
    // tanh rounds to 1 from 9.01 on.
    let (n, p) = reduced_exp::<FUSED>(clamp(2.0 * x.abs(), 0.0, 20.0), 0.0);
    let scale = power_of_two(n & 31);
    let expm1 = fma::<FUSED>(scale, p, scale - 1.0);
    (expm1 / (expm1 + 2.0)).copysign(x)
}

/// `(1 - Phi(x)) exp(x^2 / 2)` for `0 <= x <= 15`, Mills' ratio up to a constant, as a quotient of
/// polynomials with positive coefficients, so that nothing cancels.
const MILLS_ABOVE: [f32; 5] = [
    0.5,
    0.441_688_93,
    0.185_781_73,
    0.041_500_024,
    0.004_246_907,
];
const MILLS_BELOW: [f32; 6] = [
    1.0,
    1.681_262_9,
    1.213_011_5,
    0.476_198_55,
    0.104_030_63,
    0.010_645_319,
];

/// The standard normal law: `(Phi(x), phi(x))` with `Phi(x) = (1 + erf(x / sqrt 2)) / 2` and
/// `phi(x) = exp(-x^2 / 2) / sqrt(2 pi)`, both with a small relative error far into the tails.
#[inline(always)]
pub fn normal<const FUSED: bool>(x: f32) -> (f32, f32) {
    const FRAC_1_SQRT_2_PI: f32 = 0.398_942_3;
    // Both results are 0 or 1 from 14.2 on.
    let a = clamp(x.abs(), 0.0, 15.0);
    // The 12 leading bits have an exact square; rounding a^2 would cost tens of ulp in the tail.
    let high = f32::from_bits(a.to_bits() & 0xffff_f000);
    let low = (a - high) * (a + high);
    let bell = exp_sum::<FUSED>(-0.5 * high * high, -0.5 * low);
    let mills = polynomial::<FUSED, _>(a, MILLS_ABOVE) / polynomial::<FUSED, _>(a, MILLS_BELOW);
    let tail = bell * mills;
    (
        if x < 0.0 { tail } else { 1.0 - tail },
        FRAC_1_SQRT_2_PI * bell,
    )
}

/// `erf(z) / z - 1` in powers of `z^2` for `|z| <= 0.75`.
const ERF: [f32; 6] = [
    0.128_379_17,
    -0.376_126_2,
    0.112_833_865,
    -0.026_835_114,
    0.005_115_332,
    -0.000_675_648,
];

/// `erf x = 2 / sqrt(pi) * integral of exp(-t^2) from 0 to x`.
#[inline(always)]
pub fn erf<const FUSED: bool>(x: f32) -> f32 {
    let a = x.abs();
    let near = fma::<FUSED>(a, polynomial::<FUSED, _>(a * a, ERF), a);
    let (cumulative, _) = normal::<FUSED>(-std::f32::consts::SQRT_2 * a);
    let far = fma::<FUSED>(-2.0, cumulative, 1.0);
    (if a < 0.75 { near } else { far }).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest error over the sampled bit patterns, in ulp of the reference; each result may
    /// be off by one more unit of the smallest positive number.
    fn max_ulp(f: impl Fn(f32) -> f32, reference: impl Fn(f64) -> f64) -> (f64, f32) {
        let mut worst = (0.0, 0.0);
        for bits in (0..=u32::MAX).step_by(251) {
            let x = f32::from_bits(bits);
            if !x.is_finite() {
                continue;
            }
            let (found, expected) = (f(x), reference(f64::from(x)));
            if found.is_infinite() && expected.abs() >= f64::from(f32::MAX) {
                continue;
            }
            let tiny = 2f64.powi(-149);
            let exponent = expected.abs().max(2f64.powi(-126)).log2().floor();
            let error = (f64::from(found) - expected).abs();
            let ulp = (error - tiny).max(0.0) / 2f64.powi(exponent as i32 - 23);
            assert!(!ulp.is_nan(), "{x}: {found} instead of {expected}");
            if ulp > worst.0 {
                worst = (ulp, x);
            }
        }
        worst
    }

    fn check<const FUSED: bool>() {
        let cumulative = |x: f64| 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
        let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
        for (name, (ulp, at), bound) in [
            ("exp", max_ulp(exp::<FUSED>, libm::exp), 1.5),
            ("tanh", max_ulp(tanh::<FUSED>, libm::tanh), 3.0),
            ("erf", max_ulp(erf::<FUSED>, libm::erf), 3.0),
            ("Phi", max_ulp(|x| normal::<FUSED>(x).0, cumulative), 6.5),
            ("phi", max_ulp(|x| normal::<FUSED>(x).1, density), 2.5),
        ] {
            println!("{name}, fused {FUSED}: {ulp:.3} ulp at {at}");
            assert!(
                ulp <= bound,
                "{name}, fused {FUSED}: {ulp} ulp at {at}, bound {bound}"
            );
        }
    }

    #[test]
    fn errors_are_within_the_documented_bounds_fused() {
        check::<true>();
    }

    #[test]
    fn errors_are_within_the_documented_bounds_unfused() {
        check::<false>();
    }

    #[test]
    fn special_values_have_their_limits() {
        let inf = f32::INFINITY;
        assert_eq!(
            [exp::<true>(inf), exp::<true>(-inf), exp::<true>(0.0)],
            [inf, 0.0, 1.0]
        );
        assert_eq!([tanh::<true>(inf), tanh::<true>(-inf)], [1.0, -1.0]);
        assert_eq!([erf::<true>(inf), erf::<true>(-inf)], [1.0, -1.0]);
        assert_eq!(
            [normal::<true>(inf), normal::<true>(-inf)],
            [(1.0, 0.0), (0.0, 0.0)]
        );
        assert_eq!(normal::<true>(0.0).0, 0.5);
        for f in [
            exp::<true>,
            tanh::<true>,
            erf::<true>,
            |x| normal::<true>(x).0,
            |x| normal::<true>(x).1,
        ] {
            assert!(f(f32::NAN).is_nan() && f(-f32::NAN).is_nan());
        }
        for f in [tanh::<true>, erf::<true>] {
            assert_eq!([f(0.0).to_bits(), f(-0.0).to_bits()], [0, 1 << 31]);
            assert_eq!(f(-1.25), -f(1.25));
        }
    }
}
