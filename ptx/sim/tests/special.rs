//! Where the manual's tables promise exact results of approximate instructions (PTX ISA §9.7.3).

#![cfg(target_os = "linux")] // as the crate is

mod common;

use common::vectors::check32;

/// Stands for "no promise": no instruction returns this NaN.
const ANY: u32 = 0x7FC0_DEAD;

/// The exact result at zero, subnormals and infinities.
fn special(x: u32, exact: impl Fn(f64) -> f64) -> u32 {
    let x = f32::from_bits(x);
    if x != 0.0 && !x.is_subnormal() && !x.is_infinite() {
        return ANY;
    }
    let y = exact(f64::from(x)) as f32;
    if y.is_nan() { 0x7FFF_FFFF } else { y.to_bits() }
}

#[test]
fn exact_at_special_operands() {
    check32(
        "sm_80",
        "7.0",
        &[
            ("ex2.approx.f32 %f3, %f0; mov.b32 %r10, %f3;", |a, _, _| special(a, f64::exp2)),
            ("cos.approx.f32 %f3, %f0; mov.b32 %r10, %f3;", |a, _, _| special(a, f64::cos)),
            ("sin.approx.f32 %f3, %f0; mov.b32 %r10, %f3;", |a, _, _| special(a, f64::sin)),
            ("tanh.approx.f32 %f3, %f0; mov.b32 %r10, %f3;", |a, _, _| special(a, f64::tanh)),
        ],
        |a, b| a == b || a == ANY || b == ANY,
    );
}
