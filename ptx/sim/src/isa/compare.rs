//! Comparison and selection (PTX ISA §9.7.6).

use super::decoder::Decoder;
use super::mods::Mods;
use super::numeric::{BF16, F16, flush};
use super::{Decoded, Op, unknown};
use crate::exec::lanes::{AluFn, Args, Class, Lane, Registers, WARP, map2_imm};
use crate::parse::{Instruction, Operand, Type};

pub fn decode(d: &mut Decoder, i: &Instruction) -> Decoded {
    let mut m = Mods::new(i);
    match i.opcode.as_str() {
        "setp" => setp(d, i, &mut m),
        "set" => set(d, i, &mut m),
        "selp" => match m.only_ty()? {
            Type::B16 | Type::U16 | Type::S16 => d.map3(i, |a: u16, b: u16, p: bool| if p { a } else { b }),
            Type::B32 | Type::U32 | Type::S32 => d.map3(i, |a: u32, b: u32, p: bool| if p { a } else { b }),
            Type::B64 | Type::U64 | Type::S64 => d.map3(i, |a: u64, b: u64, p: bool| if p { a } else { b }),
            Type::F32 => d.map3(i, |a: f32, b: f32, p: bool| if p { a } else { b }),
            Type::F64 => d.map3(i, |a: f64, b: f64, p: bool| if p { a } else { b }),
            _ => unknown(),
        },
        "slct" => match (m.ty()?, m.only_ty()?) {
            (Type::B32 | Type::U32 | Type::S32, Type::S32) => {
                d.map3(i, |a: u32, b: u32, c: i32| if c >= 0 { a } else { b })
            }
            (Type::F32, Type::S32) => d.map3(i, |a: f32, b: f32, c: i32| if c >= 0 { a } else { b }),
            (Type::F32, Type::F32) => d.map3(i, |a: f32, b: f32, c: f32| if c >= 0.0 { a } else { b }),
            _ => unknown(),
        },
        _ => unknown(),
    }
}

const COMPARISONS: [&str; 18] = [
    "eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu", "leu", "gtu", "geu",
    "num", "nan",
];

/// Bits of lanes where `f` holds.
#[inline(always)]
fn bits<T: Lane>(a: &[T; WARP], b: &[T; WARP], f: impl Fn(T, T) -> bool) -> u32 {
    let mut out = 0;
    for lane in 0..WARP {
        out |= u32::from(f(a[lane], b[lane])) << lane;
    }
    out
}

/// Writes the outcome of a comparison: `d = t BoolOp c`, `e = !t BoolOp c`. `imm` bits 0–1: and, or, xor; bit 2: `!c`;
/// bit 3: `e` is wanted.
#[inline(always)]
fn outcome(r: &mut Registers, x: &Args, mask: u32, t: u32) {
    let c = r.pred[usize::from(x.c)] ^ if x.imm & 4 != 0 { !0 } else { 0 };
    let combine = |t: u32| match x.imm & 3 {
        0 => t & c,
        1 => t | c,
        _ => t ^ c,
    };
    let mut write = |index: u16, value: u32| {
        let old = &mut r.pred[usize::from(index)];
        *old = *old & !mask | value & mask;
    };
    write(x.d, combine(t));
    if x.imm & 8 != 0 {
        write(x.e, combine(!t));
    }
}

macro_rules! comparison {
    ($ty:ty, $f:expr) => {{
        let function: AluFn = |r, x, mask| {
            let (a, b) = (<$ty>::load(r, x.a), <$ty>::load(r, x.b));
            let t = bits(&a, &b, $f);
            outcome(r, x, mask, t);
        };
        Ok((function, <$ty as Lane>::CLASS, <$ty as Lane>::FLOAT))
    }};
}

macro_rules! integer_comparison {
    ($name:expr, $ty:ty) => {
        match $name {
            "eq" => comparison!($ty, |a, b| a == b),
            "ne" => comparison!($ty, |a, b| a != b),
            "lt" | "lo" => comparison!($ty, |a, b| a < b),
            "le" | "ls" => comparison!($ty, |a, b| a <= b),
            "gt" | "hi" => comparison!($ty, |a, b| a > b),
            "ge" | "hs" => comparison!($ty, |a, b| a >= b),
            _ => unknown(),
        }
    };
}

/// The unordered forms are true when an operand is NaN. `$v` gives an operand's value.
macro_rules! float_comparison {
    ($name:expr, $ty:ty, $v:expr) => {
        match $name {
            "eq" => comparison!($ty, |a, b| $v(a) == $v(b)),
            "ne" => comparison!($ty, |a, b| $v(a) < $v(b) || $v(a) > $v(b)),
            "lt" => comparison!($ty, |a, b| $v(a) < $v(b)),
            "le" => comparison!($ty, |a, b| $v(a) <= $v(b)),
            "gt" => comparison!($ty, |a, b| $v(a) > $v(b)),
            "ge" => comparison!($ty, |a, b| $v(a) >= $v(b)),
            "equ" => comparison!($ty, |a, b| !($v(a) < $v(b) || $v(a) > $v(b))),
            "neu" => comparison!($ty, |a, b| $v(a) != $v(b)),
            "ltu" => comparison!($ty, |a, b| !($v(a) >= $v(b))),
            "leu" => comparison!($ty, |a, b| !($v(a) > $v(b))),
            "gtu" => comparison!($ty, |a, b| !($v(a) <= $v(b))),
            "geu" => comparison!($ty, |a, b| !($v(a) < $v(b))),
            "num" => comparison!($ty, |a, b| !$v(a).is_nan() && !$v(b).is_nan()),
            "nan" => comparison!($ty, |a, b| $v(a).is_nan() || $v(b).is_nan()),
            _ => unknown(),
        }
    };
}

/// The comparison as a function that [`outcome`] ends, and the operands' class.
#[allow(clippy::neg_cmp_op_on_partial_ord)] // That is what "unordered" means.
fn compare(name: &str, ftz: bool, ty: Type) -> Result<(AluFn, Class, bool), String> {
    match ty {
        Type::F32 if ftz => float_comparison!(name, f32, flush),
        Type::F32 => float_comparison!(name, f32, |v: f32| v),
        _ if ftz => unknown(),
        Type::F64 => float_comparison!(name, f64, |v: f64| v),
        Type::F16 => float_comparison!(name, u16, |v: u16| F16.decode(v.into())),
        Type::Bf16 => float_comparison!(name, u16, |v: u16| BF16.decode(v.into())),
        Type::B16 | Type::B32 | Type::B64 if !matches!(name, "eq" | "ne") => unknown(),
        Type::S16 | Type::S32 | Type::S64 if matches!(name, "lo" | "ls" | "hi" | "hs") => unknown(),
        Type::U16 | Type::B16 => integer_comparison!(name, u16),
        Type::U32 | Type::B32 => integer_comparison!(name, u32),
        Type::U64 | Type::B64 => integer_comparison!(name, u64),
        Type::S16 => integer_comparison!(name, i16),
        Type::S32 => integer_comparison!(name, i32),
        Type::S64 => integer_comparison!(name, i64),
        _ => unknown(),
    }
}

/// `setp.lt.f16x2 p|q, a, b`: p of the low halves, q of the high ones.
#[allow(clippy::double_comparisons)] // `!=` holds for NaN, too: that is `neu`.
fn setp_pair(d: &mut Decoder, i: &Instruction, name: &str, ty: Type) -> Decoded {
    macro_rules! halves {
        ($format:expr, $f:expr) => {{
            let function: AluFn = |r, x, mask| {
                let (a, b) = (u32::load(r, x.a), u32::load(r, x.b));
                let value = |v: u32| $format.decode(v & 0xFFFF);
                let compare: fn(f64, f64) -> bool = $f;
                let low = bits(&a, &b, |a, b| compare(value(a), value(b)));
                let high = bits(&a, &b, |a, b| compare(value(a >> 16), value(b >> 16)));
                for (index, t) in [(x.d, low), (x.e, high)] {
                    let old = &mut r.pred[usize::from(index)];
                    *old = *old & !mask | t & mask;
                }
            };
            function
        }};
    }
    macro_rules! comparisons {
        ($format:expr) => {
            match name {
                "eq" => halves!($format, |a, b| a == b),
                "ne" => halves!($format, |a, b| a < b || a > b),
                "lt" => halves!($format, |a, b| a < b),
                "le" => halves!($format, |a, b| a <= b),
                "gt" => halves!($format, |a, b| a > b),
                "ge" => halves!($format, |a, b| a >= b),
                _ => return unknown(),
            }
        };
    }
    let function = if ty == Type::F16x2 { comparisons!(F16) } else { comparisons!(BF16) };
    d.count(i, &[3])?;
    let Operand::Pair(p, q) = &i.operands[0] else { return Err("wants p|q".into()) };
    let args = Args {
        d: d.dst(p, Class::Pred)?,
        e: d.dst(q, Class::Pred)?,
        a: d.source::<u32>(&i.operands[1])?,
        b: d.source::<u32>(&i.operands[2])?,
        ..Args::default()
    };
    Ok(Op::Alu(function, args))
}

/// `set.lt.u32.f32`: all ones, or 1.0, where the comparison holds.
#[allow(clippy::double_comparisons)] // as above
fn set(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let name = m.one_of(&COMPARISONS).ok_or("a comparison is missing")?;
    let (to, from) = (m.ty()?, m.only_ty()?);
    let truth = match to {
        Type::U32 | Type::S32 => u32::MAX,
        Type::F32 => 1f32.to_bits(),
        _ => return unknown(),
    };
    macro_rules! comparisons {
        ($ty:ty) => {
            match name {
                "eq" => map2_imm(|a: $ty, b: $ty, truth| if a == b { truth } else { 0 }),
                "ne" => map2_imm(|a: $ty, b: $ty, truth| if a < b || a > b { truth } else { 0 }),
                "lt" => map2_imm(|a: $ty, b: $ty, truth| if a < b { truth } else { 0 }),
                "le" => map2_imm(|a: $ty, b: $ty, truth| if a <= b { truth } else { 0 }),
                "gt" => map2_imm(|a: $ty, b: $ty, truth| if a > b { truth } else { 0 }),
                "ge" => map2_imm(|a: $ty, b: $ty, truth| if a >= b { truth } else { 0 }),
                _ => return unknown(),
            }
        };
    }
    let function = match from {
        Type::U32 | Type::B32 => comparisons!(u32),
        Type::S32 => comparisons!(i32),
        Type::F32 => comparisons!(f32),
        _ => return unknown(),
    };
    let op = match from {
        Type::F32 => d.alu2::<u32, f32, f32>(i, function)?,
        _ => d.alu2::<u32, u32, u32>(i, function)?,
    };
    let Op::Alu(function, args) = op else { return unknown() };
    Ok(Op::Alu(function, Args { imm: truth, ..args }))
}

fn setp(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let name = m.one_of(&COMPARISONS).ok_or("a comparison is missing")?;
    let combine = m.one_of(&["and", "or", "xor"]);
    let ftz = m.take("ftz");
    let ty = m.only_ty()?;
    if matches!(ty, Type::F16x2 | Type::Bf16x2) {
        return if ftz || combine.is_some() { unknown() } else { setp_pair(d, i, name, ty) };
    }
    let (function, class, float) = compare(name, ftz, ty)?;
    d.count(i, if combine.is_some() { &[4] } else { &[3] })?;
    let mut args = Args {
        a: d.src(&i.operands[1], class, float)?,
        b: d.src(&i.operands[2], class, float)?,
        ..Args::default()
    };
    match &i.operands[0] {
        Operand::Pair(p, q) => {
            args.d = d.dst(p, Class::Pred)?;
            args.e = d.dst(q, Class::Pred)?;
            args.imm |= 8;
        }
        p => args.d = d.dst(p, Class::Pred)?,
    }
    if let Some(combine) = combine {
        let c = d.predicate(&i.operands[3])?;
        args.c = c.pred;
        args.imm |= u32::from(c.negated) << 2;
        args.imm |= ["and", "or", "xor"].iter().position(|&name| name == combine).unwrap_or(0) as u32;
    } else {
        args.c = d.constant(Class::Pred, 1);
    }
    Ok(Op::Alu(function, args))
}
