//! f32 and f64 arithmetic (PTX ISA §9.7.3).
//!
//! `.rn` and friends are IEEE 754 exactly. The `.approx` forms promise an error bound only, and hardware keeps it in its own
//! way: here the correctly rounded result is moved by up to one unit in the last place, up or down by a hash of the operand,
//! so that no test can come to rely on exactness. Zero, infinite and NaN results are not moved.

use super::decoder::Decoder;
use super::mods::Mods;
use super::numeric::{self, Round, add_to_odd, canonical, flush, saturate};
use super::{Decoded, Op, unknown};
use crate::exec::lanes::AluFn;
use crate::parse::{Instruction, Type};

/// Modifiers that most instructions share.
struct Common {
    round: Option<Round>,
    ftz: bool,
    sat: bool,
}

impl Common {
    fn take(m: &mut Mods<'_>) -> Self {
        let round = m.one_of(&["rn", "rz", "rm", "rp"]).map(|name| match name {
            "rn" => Round::Nearest,
            "rz" => Round::Zero,
            "rm" => Round::Down,
            _ => Round::Up,
        });
        Self { round, ftz: m.take("ftz"), sat: m.take("sat") }
    }
}

/// What `.ftz` (bit 0) and `.sat` (bit 1) of `imm` make of an operation's inputs and result.
#[inline(always)]
fn input(x: f32, imm: u32) -> f32 {
    if imm & 1 != 0 { flush(x) } else { x }
}

#[inline(always)]
fn output(x: f32, imm: u32) -> f32 {
    let x = input(canonical(x), imm);
    if imm & 2 != 0 { saturate(x) } else { x }
}

pub fn decode(d: &mut Decoder, i: &Instruction) -> Decoded {
    let mut m = Mods::new(i);
    match i.opcode.as_str() {
        "add" | "sub" | "mul" | "fma" | "mad" => arithmetic(d, i, &mut m),
        "div" | "rcp" | "sqrt" | "rsqrt" => divide(d, i, &mut m),
        "ex2" | "lg2" | "sin" | "cos" | "tanh" => transcendental(d, i, &mut m),
        "min" | "max" => min_max(d, i, &mut m),
        "neg" | "abs" => {
            let ftz = m.take("ftz");
            match (m.only_ty()?, i.opcode.as_str(), ftz) {
                (Type::F32, "neg", false) => d.map1(i, |a: f32| -a),
                (Type::F32, "neg", true) => d.map1(i, |a: f32| -flush(a)),
                (Type::F32, _, false) => d.map1(i, f32::abs),
                (Type::F32, _, true) => d.map1(i, |a: f32| flush(a).abs()),
                (Type::F64, "neg", false) => d.map1(i, |a: f64| -a),
                (Type::F64, _, false) => d.map1(i, f64::abs),
                _ => unknown(),
            }
        }
        // The sign is the first operand's, the value the second's.
        "copysign" => match m.only_ty()? {
            Type::F32 => d.map2(i, |sign: f32, value: f32| value.copysign(sign)),
            Type::F64 => d.map2(i, |sign: f64, value: f64| value.copysign(sign)),
            _ => unknown(),
        },
        "testp" => {
            let what = m.one_of(&["finite", "infinite", "number", "notanumber", "normal", "subnormal"]);
            match (what, m.only_ty()?) {
                (Some("finite"), Type::F32) => d.map1(i, |a: f32| a.is_finite()),
                (Some("infinite"), Type::F32) => d.map1(i, |a: f32| a.is_infinite()),
                (Some("number"), Type::F32) => d.map1(i, |a: f32| !a.is_nan()),
                (Some("notanumber"), Type::F32) => d.map1(i, |a: f32| a.is_nan()),
                (Some("normal"), Type::F32) => d.map1(i, |a: f32| a.is_normal()),
                (Some("subnormal"), Type::F32) => d.map1(i, |a: f32| a.is_subnormal()),
                _ => unknown(),
            }
        }
        _ => unknown(),
    }
}

fn arithmetic(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let c = Common::take(m);
    let ty = m.only_ty()?;
    let ternary = matches!(i.opcode.as_str(), "fma" | "mad");
    if ternary && c.round.is_none() {
        return Err("a rounding mode is required".into());
    }
    let round = c.round.unwrap_or(Round::Nearest);
    let flags = u32::from(c.ftz) | u32::from(c.sat) << 1;
    if ty == Type::F64 {
        if round != Round::Nearest || flags != 0 {
            return unknown();
        }
        return match i.opcode.as_str() {
            "add" => d.map2(i, |a: f64, b: f64| a + b),
            "sub" => d.map2(i, |a: f64, b: f64| a - b),
            "mul" => d.map2(i, |a: f64, b: f64| a * b),
            _ => d.map3(i, f64::mul_add),
        };
    }
    if ty != Type::F32 {
        return unknown();
    }
    if round != Round::Nearest {
        return directed(d, i, round, flags);
    }
    match (i.opcode.as_str(), flags) {
        ("add", 0) => d.map2(i, |a: f32, b: f32| canonical(a + b)),
        ("sub", 0) => d.map2(i, |a: f32, b: f32| canonical(a - b)),
        ("mul", 0) => d.map2(i, |a: f32, b: f32| canonical(a * b)),
        ("add", _) => map2_imm(d, i, flags, |a, b, f| output(input(a, f) + input(b, f), f)),
        ("sub", _) => map2_imm(d, i, flags, |a, b, f| output(input(a, f) - input(b, f), f)),
        ("mul", _) => map2_imm(d, i, flags, |a, b, f| output(input(a, f) * input(b, f), f)),
        (_, 0) => d.alu3::<f32, f32, f32, f32>(i, fused_multiply_add()),
        _ => d.map3_imm(i, flags, |a: f32, b: f32, c: f32, f| {
            output(input(a, f).mul_add(input(b, f), input(c, f)), f)
        }),
    }
}

/// `d = f(a, b, imm)`.
fn map2_imm<F: Fn(f32, f32, u32) -> f32 + Copy>(d: &mut Decoder, i: &Instruction, imm: u32, f: F) -> Decoded {
    let function = crate::exec::lanes::map2_imm(f);
    let Op::Alu(function, mut args) = d.alu2::<f32, f32, f32>(i, function)? else { return unknown() };
    args.imm = imm;
    Ok(Op::Alu(function, args))
}

/// `fma.rn.f32` through the machine's own instruction where it has one: `mul_add` compiled without it is a library call.
fn fused_multiply_add() -> AluFn {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") {
        use crate::exec::lanes::Lane;
        #[target_feature(enable = "fma,avx2")]
        fn hardware(r: &mut crate::exec::lanes::Registers, x: &crate::exec::lanes::Args, mask: u32) {
            let (a, b, c) = (f32::load(r, x.a), f32::load(r, x.b), f32::load(r, x.c));
            let mut d = [0.0; 32];
            for k in 0..32 {
                d[k] = canonical(a[k].mul_add(b[k], c[k]));
            }
            f32::store(r, x.d, mask, &d);
        }
        // SAFETY: the features are there.
        return |r, x, mask| unsafe { hardware(r, x, mask) };
    }
    crate::exec::lanes::map3(|a: f32, b: f32, c: f32| canonical(a.mul_add(b, c)))
}

/// `.rz`, `.rm`, `.rp`: in f64 rounded to odd (products of f32 are exact there), then once to f32.
fn directed(d: &mut Decoder, i: &Instruction, round: Round, flags: u32) -> Decoded {
    const fn mode(imm: u32) -> Round {
        match imm >> 2 {
            1 => Round::Zero,
            2 => Round::Up,
            _ => Round::Down,
        }
    }
    /// An exact sum of zero has the sign that the mode says.
    fn signed_zero(exact: f64, a: f64, b: f64, round: Round) -> f64 {
        if exact == 0.0 && a.is_sign_negative() != b.is_sign_negative() {
            if round == Round::Down { -0.0 } else { 0.0 }
        } else {
            exact
        }
    }
    fn narrow(exact: f64, f: u32) -> f32 {
        output(f32::from_bits(numeric::F32.encode(exact, mode(f), false)), f)
    }
    let imm = flags
        | match round {
            Round::Zero => 1,
            Round::Up => 2,
            _ => 3,
        } << 2;
    match i.opcode.as_str() {
        "add" | "sub" => {
            let sum = |a: f64, b: f64, f: u32| narrow(signed_zero(add_to_odd(a, b), a, b, mode(f)), f);
            if i.opcode == "add" {
                map2_imm(d, i, imm, move |a, b, f| sum(input(a, f).into(), input(b, f).into(), f))
            } else {
                map2_imm(d, i, imm, move |a, b, f| sum(input(a, f).into(), (-input(b, f)).into(), f))
            }
        }
        "mul" => map2_imm(d, i, imm, |a, b, f| narrow(f64::from(input(a, f)) * f64::from(input(b, f)), f)),
        _ => d.map3_imm(i, imm, |a: f32, b: f32, c: f32, f| {
            let (product, c) = (f64::from(input(a, f)) * f64::from(input(b, f)), f64::from(input(c, f)));
            narrow(signed_zero(add_to_odd(product, c), product, c, mode(f)), f)
        }),
    }
}

/// The result of an approximate instruction: `exact` rounded, then moved by −1, 0 or 1 unit in the last place.
#[inline(always)]
pub(super) fn approximate(exact: f64, seed: u32) -> f32 {
    let x = exact as f32;
    if x == 0.0 || !x.is_finite() {
        return canonical(x);
    }
    let move_by = (seed.wrapping_mul(0x9E37_79B1) >> 16) % 3;
    let moved = f32::from_bits(x.to_bits().wrapping_add(move_by).wrapping_sub(1));
    if moved.is_finite() && moved != 0.0 { moved } else { x }
}

fn divide(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let kind = m.one_of(&["rn", "approx", "full"]).ok_or("needs .rn, .approx or .full")?;
    let ftz = u32::from(m.take("ftz"));
    let ty = m.only_ty()?;
    match (i.opcode.as_str(), kind, ty, ftz) {
        ("div", "rn", Type::F64, 0) => d.map2(i, |a: f64, b: f64| a / b),
        ("rcp", "rn", Type::F64, 0) => d.map1(i, |a: f64| 1.0 / a),
        ("sqrt", "rn", Type::F64, 0) => d.map1(i, f64::sqrt),
        (_, _, Type::F64, _) => unknown(),
        ("div", "rn", Type::F32, f) => map2_imm(d, i, f, |a, b, f| output(input(a, f) / input(b, f), f)),
        ("rcp", "rn", Type::F32, f) => d.map1_imm(i, f, |a: f32, f| output(1.0 / input(a, f), f)),
        ("sqrt", "rn", Type::F32, f) => d.map1_imm(i, f, |a: f32, f| output(input(a, f).sqrt(), f)),
        ("div", "approx", Type::F32, f) => map2_imm(d, i, f, |a, b, f| {
            let (a, b) = (input(a, f), input(b, f));
            // For 2^126 < |b| < 2^128 the hardware's reciprocal underflows: 0, and NaN for infinite a.
            if b.abs() > f32::from_bits(0x7E80_0000) && b.is_finite() {
                return if a.is_infinite() {
                    f32::from_bits(numeric::F32_NAN)
                } else {
                    0.0f32.copysign(a) * b.signum()
                };
            }
            output(approximate(f64::from(a) / f64::from(b), a.to_bits() ^ b.to_bits()), f)
        }),
        ("div", "full", Type::F32, f) => map2_imm(d, i, f, |a, b, f| {
            let (a, b) = (input(a, f), input(b, f));
            output(approximate(f64::from(a) / f64::from(b), a.to_bits() ^ b.to_bits()), f)
        }),
        ("rcp", "approx", Type::F32, f) => d.map1_imm(i, f, |a: f32, f| {
            let a = input(a, f);
            output(approximate(1.0 / f64::from(a), a.to_bits()), f)
        }),
        ("sqrt", "approx", Type::F32, f) => d.map1_imm(i, f, |a: f32, f| {
            let a = input(a, f);
            output(approximate(f64::from(a).sqrt(), a.to_bits()), f)
        }),
        ("rsqrt", "approx", Type::F32, f) => d.map1_imm(i, f, |a: f32, f| {
            let a = input(a, f);
            output(approximate(1.0 / f64::from(a).sqrt(), a.to_bits()), f)
        }),
        _ => unknown(),
    }
}

fn transcendental(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    if !m.take("approx") {
        return unknown();
    }
    let f = u32::from(m.take("ftz"));
    if m.only_ty()? != Type::F32 {
        return unknown();
    }
    macro_rules! approx {
        ($f:expr) => {
            d.map1_imm(i, f, |a: f32, f| {
                let a = input(a, f);
                let exact = $f(f64::from(a));
                // At zero, subnormals and infinities the manual's tables give exact results: ex2(±0) and cos(±0) are 1,
                // tanh(±∞) is ±1 (§9.7.3.18–23).
                if a.is_infinite() || a.is_subnormal() || a == 0.0 {
                    return output(canonical(exact as f32), f);
                }
                output(approximate(exact, a.to_bits()), f)
            })
        };
    }
    match i.opcode.as_str() {
        "ex2" => approx!(f64::exp2),
        "lg2" => approx!(f64::log2),
        "sin" => approx!(f64::sin),
        "cos" => approx!(f64::cos),
        "tanh" if f == 0 => approx!(f64::tanh),
        _ => unknown(),
    }
}

fn min_max(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    /// −0 is less than +0; a NaN loses against a number, or wins when `nan` is set.
    fn pick(a: f32, b: f32, min: bool, nan: bool) -> f32 {
        if a.is_nan() || b.is_nan() {
            let both = a.is_nan() && b.is_nan();
            return canonical(if nan || both {
                f32::NAN
            } else if a.is_nan() {
                b
            } else {
                a
            });
        }
        let less = a < b || a == b && a.is_sign_negative();
        if less == min { a } else { b }
    }
    let f = u32::from(m.take("ftz"));
    let nan = m.take("NaN");
    let signs = m.take("xorsign");
    if signs != m.take("abs") {
        return unknown();
    }
    let ty = m.only_ty()?;
    if signs {
        // Of the magnitudes, with the product's sign; not for a NaN.
        fn signed(a: f32, b: f32, min: bool, flags: u32) -> f32 {
            let (a, b) = (input(a, flags), input(b, flags));
            let picked = pick(a.abs(), b.abs(), min, flags & 4 != 0);
            let sign = (a.to_bits() ^ b.to_bits()) & 1 << 31;
            if picked.is_nan() { picked } else { f32::from_bits(picked.to_bits() | sign) }
        }
        let flags = f | u32::from(nan) << 2;
        return match (ty, i.opcode.as_str()) {
            (Type::F32, "min") => map2_imm(d, i, flags, |a, b, f| signed(a, b, true, f)),
            (Type::F32, _) => map2_imm(d, i, flags, |a, b, f| signed(a, b, false, f)),
            _ => unknown(),
        };
    }
    match (ty, i.opcode.as_str(), nan) {
        (Type::F32, "min", false) => map2_imm(d, i, f, |a, b, f| pick(input(a, f), input(b, f), true, false)),
        (Type::F32, "min", true) => map2_imm(d, i, f, |a, b, f| pick(input(a, f), input(b, f), true, true)),
        (Type::F32, _, false) => map2_imm(d, i, f, |a, b, f| pick(input(a, f), input(b, f), false, false)),
        (Type::F32, _, true) => map2_imm(d, i, f, |a, b, f| pick(input(a, f), input(b, f), false, true)),
        (Type::F64, "min", false) if f == 0 => d.map2(i, f64::min),
        (Type::F64, _, false) if f == 0 => d.map2(i, f64::max),
        _ => unknown(),
    }
}
