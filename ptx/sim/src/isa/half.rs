//! f16 and bf16 arithmetic, single and packed (PTX ISA §9.7.4).
//!
//! Each operation is done in f64 and rounded once: sums and products of two are exact there, fused products are rounded to odd
//! first.

use super::decoder::Decoder;
use super::float::approximate;
use super::mods::Mods;
use super::numeric::{BF16, F16, Format, Round, add_to_odd};
use super::{Decoded, unknown};
use crate::parse::{Instruction, Type};

/// A 16-bit format.
trait Half: Copy + 'static {
    const FORMAT: Format;
    /// Whether `.ftz` may be written, and `.sat`.
    const FLUSHES: bool;
    fn value(code: u16) -> f64 {
        Self::FORMAT.decode(code.into())
    }
    fn round(value: f64) -> u16 {
        Self::FORMAT.encode(value, Round::Nearest, false) as u16
    }
}

#[derive(Clone, Copy)]
struct IsF16;
#[derive(Clone, Copy)]
struct IsBf16;
impl Half for IsF16 {
    const FORMAT: Format = F16;
    const FLUSHES: bool = true;
}
impl Half for IsBf16 {
    const FORMAT: Format = BF16;
    const FLUSHES: bool = false;
}

pub fn decode(d: &mut Decoder, i: &Instruction) -> Decoded {
    let mut m = Mods::new(i);
    let types = ["f16x2", "bf16x2", "f16", "bf16"];
    let ty = m.one_of(&types).and_then(Type::parse).ok_or("a type is missing")?;
    match ty {
        Type::F16 => operation::<IsF16>(d, i, &mut m, false),
        Type::F16x2 => operation::<IsF16>(d, i, &mut m, true),
        Type::Bf16 => operation::<IsBf16>(d, i, &mut m, false),
        _ => operation::<IsBf16>(d, i, &mut m, true),
    }
}

fn pack(lo: u16, hi: u16) -> u32 {
    u32::from(hi) << 16 | u32::from(lo)
}

/// One, two or three operands of 16 bits, or pairs of them.
fn map1(d: &mut Decoder, i: &Instruction, packed: bool, f: impl Fn(u16) -> u16 + Copy) -> Decoded {
    if packed { d.map1(i, move |a: u32| pack(f(a as u16), f((a >> 16) as u16))) } else { d.map1(i, f) }
}

fn map2(d: &mut Decoder, i: &Instruction, packed: bool, f: impl Fn(u16, u16) -> u16 + Copy) -> Decoded {
    if packed {
        d.map2(i, move |a: u32, b: u32| pack(f(a as u16, b as u16), f((a >> 16) as u16, (b >> 16) as u16)))
    } else {
        d.map2(i, f)
    }
}

fn map3(d: &mut Decoder, i: &Instruction, packed: bool, f: impl Fn(u16, u16, u16) -> u16 + Copy) -> Decoded {
    if packed {
        d.map3(i, move |a: u32, b: u32, c: u32| {
            pack(f(a as u16, b as u16, c as u16), f((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16))
        })
    } else {
        d.map3(i, f)
    }
}

fn fused<H: Half>(a: u16, b: u16, c: u16) -> f64 {
    add_to_odd(H::value(a) * H::value(b), H::value(c))
}

fn relu(value: f64) -> f64 {
    // NaN stays NaN; −0 becomes +0.
    if value <= 0.0 { 0.0 } else { value }
}

fn sat(value: f64) -> f64 {
    if value > 0.0 { value.min(1.0) } else { 0.0 }
}

fn operation<H: Half>(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>, packed: bool) -> Decoded {
    if m.take("approx") {
        return approximation::<H>(d, i, m, packed);
    }
    let rn = m.take("rn");
    let (saturate, rectify, nan) = (m.take("sat"), m.take("relu"), m.take("NaN"));
    // .ftz is refused: none of our kernels flushes half-precision subnormals.
    m.finish()?;
    if saturate && !H::FLUSHES {
        return unknown();
    }
    match (i.opcode.as_str(), saturate, rectify, nan) {
        ("add", false, false, false) => map2(d, i, packed, |a, b| H::round(H::value(a) + H::value(b))),
        ("sub", false, false, false) => map2(d, i, packed, |a, b| H::round(H::value(a) - H::value(b))),
        ("mul", false, false, false) => map2(d, i, packed, |a, b| H::round(H::value(a) * H::value(b))),
        ("add", true, false, false) => map2(d, i, packed, |a, b| H::round(sat(H::value(a) + H::value(b)))),
        ("sub", true, false, false) => map2(d, i, packed, |a, b| H::round(sat(H::value(a) - H::value(b)))),
        ("mul", true, false, false) => map2(d, i, packed, |a, b| H::round(sat(H::value(a) * H::value(b)))),
        ("fma", false, false, false) if rn => map3(d, i, packed, |a, b, c| H::round(fused::<H>(a, b, c))),
        ("fma", true, false, false) if rn => map3(d, i, packed, |a, b, c| H::round(sat(fused::<H>(a, b, c)))),
        ("fma", false, true, false) if rn => {
            map3(d, i, packed, |a, b, c| H::round(relu(fused::<H>(a, b, c))))
        }
        ("neg", false, false, false) if !rn => map1(d, i, packed, |a| a ^ 0x8000),
        ("abs", false, false, false) if !rn => map1(d, i, packed, |a| a & 0x7FFF),
        ("min", false, false, false) if !rn => map2(d, i, packed, |a, b| extremum::<H>(a, b, true, false)),
        ("max", false, false, false) if !rn => map2(d, i, packed, |a, b| extremum::<H>(a, b, false, false)),
        ("min", false, false, true) if !rn => map2(d, i, packed, |a, b| extremum::<H>(a, b, true, true)),
        ("max", false, false, true) if !rn => map2(d, i, packed, |a, b| extremum::<H>(a, b, false, true)),
        _ => unknown(),
    }
}

/// `ex2.approx` and `tanh.approx`: the f32 approximation, which is far within the bounds of these, rounded.
fn approximation<H: Half>(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>, packed: bool) -> Decoded {
    // The bf16 forms of ex2 flush subnormal inputs; their results near 1 are the same either way.
    let ftz = m.take("ftz");
    m.finish()?;
    fn of<H: Half>(a: u16, f: impl Fn(f64) -> f64) -> u16 {
        H::round(approximate(f(H::value(a)), a.into()).into())
    }
    match (i.opcode.as_str(), ftz != H::FLUSHES) {
        ("ex2", true) => map1(d, i, packed, |a| of::<H>(a, f64::exp2)),
        ("tanh", _) if !ftz => map1(d, i, packed, |a| of::<H>(a, f64::tanh)),
        _ => unknown(),
    }
}

fn extremum<H: Half>(a: u16, b: u16, min: bool, nan: bool) -> u16 {
    let (x, y) = (H::value(a), H::value(b));
    if x.is_nan() || y.is_nan() {
        let both = x.is_nan() && y.is_nan();
        return if nan || both {
            0x7FFF
        } else if x.is_nan() {
            b
        } else {
            a
        };
    }
    let less = x < y || x == y && x.is_sign_negative();
    if less == min { a } else { b }
}
