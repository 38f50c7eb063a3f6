//! Conversions (PTX ISA §9.7.9.21).

use super::decoder::{Decoder, class_of};
use super::mods::Mods;
use super::numeric::{self, BF16, E4M3, E5M2, F16, F32, Format, Round, TF32, flush};
use super::{Decoded, Op, unknown};
use crate::exec::lanes::{Args, Class, map1, map1_imm, map2_imm};
use crate::parse::{Instruction, Operand, Type};

/// Modifiers as bits of `imm`, so that the lane functions need capture nothing.
mod flag {
    /// Bits 0–2: a `Round`.
    pub const ROUND: u32 = 7;
    pub const FTZ: u32 = 8;
    pub const SAT: u32 = 16;
    pub const RELU: u32 = 32;
    pub const SATFINITE: u32 = 64;
}

const ROUNDS: [Round; 5] = [Round::Nearest, Round::Zero, Round::Down, Round::Up, Round::NearestAway];

fn round(imm: u32) -> Round {
    ROUNDS[(imm & flag::ROUND) as usize]
}

pub fn decode(d: &mut Decoder, i: &Instruction) -> Decoded {
    let mut m = Mods::new(i);
    if m.take("pack") {
        return pack(d, i, &mut m);
    }
    let mut imm = 0;
    let float_round = m.one_of(&["rn", "rz", "rm", "rp", "rna"]);
    let integer_round = m.one_of(&["rni", "rzi", "rmi", "rpi"]);
    if let Some(name) = float_round.or(integer_round) {
        imm |= match name {
            "rn" | "rni" => 0,
            "rz" | "rzi" => 1,
            "rm" | "rmi" => 2,
            "rp" | "rpi" => 3,
            _ => 4,
        };
    }
    for (name, bit) in
        [("ftz", flag::FTZ), ("sat", flag::SAT), ("relu", flag::RELU), ("satfinite", flag::SATFINITE)]
    {
        if m.take(name) {
            imm |= bit;
        }
    }
    let (to, from) = (m.ty()?, m.only_ty()?);
    let modes = (float_round.is_some(), integer_round.is_some());
    match (kind(to), kind(from)) {
        (Kind::Integer, Kind::Integer) if modes == (false, false) && imm & !flag::SAT == 0 => {
            integer_to_integer(d, i, to, from, imm != 0)
        }
        (Kind::Float, Kind::Integer) if modes == (true, false) => integer_to_float(d, i, to, from, imm),
        (Kind::Integer, Kind::Float) if modes == (false, true) => float_to_integer(d, i, to, from, imm),
        (Kind::Float, Kind::Float) => float_to_float(d, i, to, from, imm, modes),
        (Kind::Packed, Kind::Float) if modes == (true, false) => float_to_packed(d, i, to, from, imm),
        (Kind::Packed, Kind::Packed) if modes == (true, false) => packed_to_packed(d, i, to, from, imm),
        _ => unknown(),
    }
}

enum Kind {
    Integer,
    Float,
    Packed,
    Other,
}

fn kind(ty: Type) -> Kind {
    match ty {
        Type::U8 | Type::U16 | Type::U32 | Type::U64 | Type::S8 | Type::S16 | Type::S32 | Type::S64 => {
            Kind::Integer
        }
        Type::F16 | Type::Bf16 | Type::F32 | Type::F64 | Type::Tf32 => Kind::Float,
        Type::F16x2 | Type::Bf16x2 | Type::E4m3x2 | Type::E5m2x2 => Kind::Packed,
        _ => Kind::Other,
    }
}

/// Registers of conversions may be wider than the type, as long as they are of one file here.
fn wide(d: &mut Decoder, operand: &Operand, ty: Type, float: bool) -> Result<u16, String> {
    if let Operand::Name(_) = operand
        && let Ok(Some(reg)) = d.any_register(operand)
    {
        let narrow_file = |class: Class| matches!(class, Class::B8 | Class::B16 | Class::B32);
        let class = class_of(ty);
        if reg.class == class
            || narrow_file(reg.class) && narrow_file(class) && reg.class.size() > class.size()
        {
            return Ok(reg.index);
        }
    }
    if let Operand::Name(name) = operand
        && name == "_"
    {
        return Ok(d.sink(class_of(ty)));
    }
    d.src(operand, class_of(ty), float)
}

fn unary(d: &mut Decoder, i: &Instruction, to: Type, from: Type, imm: u32) -> Result<Args, String> {
    d.count(i, &[2])?;
    let args = Args {
        d: wide(d, &i.operands[0], to, false)?,
        a: wide(d, &i.operands[1], from, from.is_float())?,
        ..Args::default()
    };
    Ok(Args { imm, ..args })
}

/// Calls `$go!(rust type)` for the integer type.
macro_rules! for_integer {
    ($ty:expr, $go:ident) => {
        match $ty {
            Type::U8 => $go!(u8),
            Type::U16 => $go!(u16),
            Type::U32 => $go!(u32),
            Type::U64 => $go!(u64),
            Type::S8 => $go!(i8),
            Type::S16 => $go!(i16),
            Type::S32 => $go!(i32),
            Type::S64 => $go!(i64),
            _ => return unknown(),
        }
    };
}

fn integer_to_integer(d: &mut Decoder, i: &Instruction, to: Type, from: Type, sat: bool) -> Decoded {
    let args = unary(d, i, to, from, 0)?;
    macro_rules! to {
        ($from:ty) => {{
            macro_rules! pair {
                ($to:ty) => {
                    if sat {
                        map1(|a: $from| i128::from(a).clamp(<$to>::MIN.into(), <$to>::MAX.into()) as $to)
                    } else {
                        map1(|a: $from| a as $to)
                    }
                };
            }
            for_integer!(to, pair)
        }};
    }
    Ok(Op::Alu(for_integer!(from, to), args))
}

/// A 64-bit integer as an f64 rounded to odd, which any narrower rounding takes for the number itself.
fn integer_value(v: i128) -> f64 {
    let value = v as f64;
    let error = v - value as i128;
    if error == 0 || value.to_bits() & 1 == 1 {
        return value;
    }
    let away = (error > 0) == (v > 0);
    f64::from_bits(if away { value.to_bits() + 1 } else { value.to_bits() - 1 })
}

fn finish32(bits: u32, imm: u32) -> f32 {
    let x = f32::from_bits(bits);
    let x = if imm & flag::FTZ != 0 { flush(x) } else { x };
    if imm & flag::SAT != 0 { numeric::saturate(x) } else { x }
}

fn integer_to_float(d: &mut Decoder, i: &Instruction, to: Type, from: Type, imm: u32) -> Decoded {
    if imm & (flag::RELU | flag::SATFINITE) != 0 || imm & flag::ROUND == 4 {
        return unknown();
    }
    let args = unary(d, i, to, from, imm)?;
    macro_rules! from {
        ($from:ty) => {
            match to {
                Type::F32 if imm == 0 => map1(|a: $from| a as f32),
                Type::F32 => map1_imm(|a: $from, imm| {
                    finish32(F32.encode(integer_value(a.into()), round(imm), false), imm)
                }),
                Type::F64 if imm == 0 => map1(|a: $from| a as f64),
                Type::F16 if imm & !flag::ROUND == 0 => {
                    map1_imm(|a: $from, imm| F16.encode(integer_value(a.into()), round(imm), false) as u16)
                }
                Type::Bf16 if imm & !flag::ROUND == 0 => {
                    map1_imm(|a: $from, imm| BF16.encode(integer_value(a.into()), round(imm), false) as u16)
                }
                _ => return unknown(),
            }
        };
    }
    Ok(Op::Alu(for_integer!(from, from), args))
}

fn to_integral(x: f64, imm: u32) -> f64 {
    match round(imm) {
        Round::Nearest | Round::NearestAway => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

fn float_to_integer(d: &mut Decoder, i: &Instruction, to: Type, from: Type, imm: u32) -> Decoded {
    if imm & (flag::RELU | flag::SATFINITE) != 0 {
        return unknown();
    }
    let args = unary(d, i, to, from, imm)?;
    // Out-of-range values clamp with or without .sat. NaN gives 0, or the highest bit where an f64 or a 64-bit integer takes
    // part.
    macro_rules! to {
        ($to:ty) => {{
            macro_rules! nan {
                ($wide:expr) => {
                    if $wide || size_of::<$to>() == 8 { 1 << (<$to>::BITS - 1) } else { 0 }
                };
            }
            match from {
                Type::F32 => map1_imm(|a: f32, imm| {
                    let a = if imm & flag::FTZ != 0 { flush(a) } else { a };
                    if a.is_nan() { nan!(false) } else { to_integral(a.into(), imm) as $to }
                }),
                Type::F64 => {
                    map1_imm(|a: f64, imm| if a.is_nan() { nan!(true) } else { to_integral(a, imm) as $to })
                }
                Type::F16 => map1_imm(|a: u16, imm| {
                    let a = F16.decode(a.into());
                    if a.is_nan() { nan!(false) } else { to_integral(a, imm) as $to }
                }),
                Type::Bf16 => map1_imm(|a: u16, imm| {
                    let a = BF16.decode(a.into());
                    if a.is_nan() { nan!(false) } else { to_integral(a, imm) as $to }
                }),
                _ => return unknown(),
            }
        }};
    }
    Ok(Op::Alu(for_integer!(to, to), args))
}

/// Rounds once to a narrow format, after `.relu`.
fn narrow(format: Format, value: f64, imm: u32) -> u32 {
    let value = if imm & flag::RELU != 0 && value <= 0.0 { 0.0 } else { value };
    format.encode(value, round(imm), imm & flag::SATFINITE != 0)
}

fn float_to_float(
    d: &mut Decoder,
    i: &Instruction,
    to: Type,
    from: Type,
    imm: u32,
    modes: (bool, bool),
) -> Decoded {
    let args = unary(d, i, to, from, imm)?;
    let (float_round, integer_round) = modes;
    let rest = imm & !flag::ROUND;
    let away = imm & flag::ROUND == 4;
    let function = match (to, from) {
        (Type::F32, Type::F16) if modes == (false, false) && rest == 0 => map1(numeric::f16_to_f32),
        (Type::F32, Type::Bf16) if modes == (false, false) && rest == 0 => map1(numeric::bf16_to_f32),
        (Type::F64, Type::F32) if modes == (false, false) && rest == 0 => map1(|a: f32| f64::from(a)),
        (Type::F64, Type::F16) if modes == (false, false) && rest == 0 => map1(|a: u16| F16.decode(a.into())),
        (Type::F16, Type::F32) if float_round && !away && imm == 0 => map1(numeric::f32_to_f16),
        (Type::Bf16, Type::F32) if float_round && imm == 0 => map1(numeric::f32_to_bf16),
        (Type::F16, Type::F32) if float_round && !away && rest & !(flag::RELU | flag::SATFINITE) == 0 => {
            map1_imm(|a: f32, imm| narrow(F16, a.into(), imm) as u16)
        }
        (Type::Bf16, Type::F32) if float_round && !away && rest & !(flag::RELU | flag::SATFINITE) == 0 => {
            map1_imm(|a: f32, imm| narrow(BF16, a.into(), imm) as u16)
        }
        (Type::F16, Type::F64) if float_round && !away && rest == 0 => {
            map1_imm(|a: f64, imm| narrow(F16, a, imm) as u16)
        }
        // A tf32 lies in the high bits of a 32-bit register.
        (Type::Tf32, Type::F32) if float_round && rest & !flag::RELU == 0 => {
            map1_imm(|a: f32, imm| if a.is_nan() { 0x7FFF_FFFF } else { narrow(TF32, a.into(), imm) << 13 })
        }
        (Type::F32, Type::F64) if float_round && !away && rest & !(flag::FTZ | flag::SAT) == 0 => {
            map1_imm(|a: f64, imm| finish32(F32.encode(a, round(imm), false), imm))
        }
        (Type::F32, Type::F32) if !float_round && rest & !(flag::FTZ | flag::SAT) == 0 => {
            let function = |a: f32, imm: u32| {
                let a = if imm & flag::FTZ != 0 { flush(a) } else { a };
                finish32(numeric::canonical(to_integral(a.into(), imm) as f32).to_bits(), imm)
            };
            if integer_round {
                map1_imm(function)
            } else {
                map1_imm(|a: f32, imm| finish32(numeric::canonical(a).to_bits(), imm))
            }
        }
        _ => return unknown(),
    };
    Ok(Op::Alu(function, args))
}

/// `d = {hi: a, lo: b}`.
fn float_to_packed(d: &mut Decoder, i: &Instruction, to: Type, from: Type, imm: u32) -> Decoded {
    if imm & (flag::FTZ | flag::SAT) != 0 || imm & flag::ROUND > 1 {
        return unknown();
    }
    let function = match (to, from) {
        (Type::Bf16x2, Type::F32) if imm == 0 => map2_imm(|a: f32, b: f32, _| {
            u32::from(numeric::f32_to_bf16(a)) << 16 | u32::from(numeric::f32_to_bf16(b))
        }),
        (Type::F16x2, Type::F32) if imm == 0 => map2_imm(|a: f32, b: f32, _| {
            u32::from(numeric::f32_to_f16(a)) << 16 | u32::from(numeric::f32_to_f16(b))
        }),
        (Type::Bf16x2, Type::F32) => {
            map2_imm(|a: f32, b: f32, imm| narrow(BF16, a.into(), imm) << 16 | narrow(BF16, b.into(), imm))
        }
        (Type::F16x2, Type::F32) => {
            map2_imm(|a: f32, b: f32, imm| narrow(F16, a.into(), imm) << 16 | narrow(F16, b.into(), imm))
        }
        (Type::E4m3x2 | Type::E5m2x2, Type::F32) if imm & flag::SATFINITE != 0 && imm & flag::ROUND == 0 => {
            let function = if to == Type::E4m3x2 {
                map2_imm(|a: f32, b: f32, imm| {
                    (narrow(E4M3, a.into(), imm) << 8 | narrow(E4M3, b.into(), imm)) as u16
                })
            } else {
                map2_imm(|a: f32, b: f32, imm| {
                    (narrow(E5M2, a.into(), imm) << 8 | narrow(E5M2, b.into(), imm)) as u16
                })
            };
            let Op::Alu(function, mut args) = d.alu2::<u16, f32, f32>(i, function)? else { return unknown() };
            args.imm = imm;
            return Ok(Op::Alu(function, args));
        }
        _ => return unknown(),
    };
    let Op::Alu(function, mut args) = d.alu2::<u32, f32, f32>(i, function)? else { return unknown() };
    args.imm = imm;
    Ok(Op::Alu(function, args))
}

fn packed_to_packed(d: &mut Decoder, i: &Instruction, to: Type, from: Type, imm: u32) -> Decoded {
    fn widen(format: Format, pair: u16, imm: u32) -> u32 {
        let half = |code: u16| narrow(F16, format.decode(code.into()), imm);
        half(pair >> 8) << 16 | half(pair & 0xFF)
    }
    fn squeeze(format: Format, pair: u32, imm: u32) -> u16 {
        let code = |half: u32| narrow(format, F16.decode(half), imm);
        (code(pair >> 16) << 8 | code(pair & 0xFFFF)) as u16
    }
    if imm & !(flag::RELU | flag::SATFINITE) != 0 {
        return unknown();
    }
    match (to, from, imm & flag::SATFINITE != 0) {
        (Type::F16x2, Type::E4m3x2, false) => d.map1_imm(i, imm, |a: u16, imm| widen(E4M3, a, imm)),
        (Type::F16x2, Type::E5m2x2, false) => d.map1_imm(i, imm, |a: u16, imm| widen(E5M2, a, imm)),
        (Type::E4m3x2, Type::F16x2, true) => d.map1_imm(i, imm, |a: u32, imm| squeeze(E4M3, a, imm)),
        (Type::E5m2x2, Type::F16x2, true) => d.map1_imm(i, imm, |a: u32, imm| squeeze(E5M2, a, imm)),
        _ => unknown(),
    }
}

/// `cvt.pack.sat.s8.s32.b32 d, a, b, c`: a and b clamped and put together, b lowest, above them the low bits of c.
fn pack(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    if !m.take("sat") {
        return unknown();
    }
    let (to, from) = (m.ty()?, m.ty()?);
    if from != Type::S32 {
        return unknown();
    }
    let byte = to.size() == 1;
    if byte && m.ty()? != Type::B32 {
        return unknown();
    }
    m.finish()?;
    match to {
        Type::S16 => d.map2(i, |a: i32, b: i32| {
            let clamp = |v: i32| v.clamp(i16::MIN.into(), i16::MAX.into()) as u32 & 0xFFFF;
            clamp(a) << 16 | clamp(b)
        }),
        Type::U16 => d.map2(i, |a: i32, b: i32| {
            let clamp = |v: i32| v.clamp(0, u16::MAX.into()) as u32;
            clamp(a) << 16 | clamp(b)
        }),
        Type::S8 => d.map3(i, |a: i32, b: i32, c: u32| {
            let clamp = |v: i32| v.clamp(i8::MIN.into(), i8::MAX.into()) as u32 & 0xFF;
            c << 16 | clamp(a) << 8 | clamp(b)
        }),
        Type::U8 => d.map3(i, |a: i32, b: i32, c: u32| {
            let clamp = |v: i32| v.clamp(0, u8::MAX.into()) as u32;
            c << 16 | clamp(a) << 8 | clamp(b)
        }),
        _ => unknown(),
    }
}
