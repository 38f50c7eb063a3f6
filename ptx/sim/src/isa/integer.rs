//! Integer arithmetic (PTX ISA §9.7.1, §9.7.2).

use super::decoder::Decoder;
use super::mods::Mods;
use super::{Decoded, Op, unknown};
use crate::exec::lanes::{AluFn, Lane};
use crate::parse::{Instruction, Type};

/// `f!(d, i, ty, |a, b| …)` for each integer type, `a` and `b` of the Rust type that goes with it.
macro_rules! for_int {
    ($ty:expr, $d:expr, $i:expr, $map:ident, |$($x:ident),*| $body:expr) => {
        match $ty {
            Type::U16 | Type::B16 => $d.$map($i, |$($x: u16),*| $body),
            Type::U32 | Type::B32 => $d.$map($i, |$($x: u32),*| $body),
            Type::U64 | Type::B64 => $d.$map($i, |$($x: u64),*| $body),
            Type::S16 => $d.$map($i, |$($x: i16),*| $body),
            Type::S32 => $d.$map($i, |$($x: i32),*| $body),
            Type::S64 => $d.$map($i, |$($x: i64),*| $body),
            _ => unknown(),
        }
    };
}

pub fn decode(d: &mut Decoder, i: &Instruction) -> Decoded {
    let mut m = Mods::new(i);
    match i.opcode.as_str() {
        "add" | "sub" | "addc" | "subc" => add(d, i, &mut m),
        "mul" => multiply(d, i, &mut m),
        "mad" | "madc" => multiply_add(d, i, &mut m),
        "mul24" => {
            let hi = m.one_of(&["hi", "lo"]).ok_or("needs .hi or .lo")? == "hi";
            match (m.only_ty()?, hi) {
                (Type::U32, false) => d.map2(i, |a: u32, b: u32| (a & 0xFF_FFFF).wrapping_mul(b & 0xFF_FFFF)),
                (Type::S32, false) => d.map2(i, |a: i32, b: i32| (a << 8 >> 8).wrapping_mul(b << 8 >> 8)),
                _ => unknown(),
            }
        }
        "sad" => {
            let ty = m.only_ty()?;
            match ty {
                Type::U16 => d.map3(i, |a: u16, b: u16, c: u16| c.wrapping_add(a.abs_diff(b))),
                Type::U32 => d.map3(i, |a: u32, b: u32, c: u32| c.wrapping_add(a.abs_diff(b))),
                Type::U64 => d.map3(i, |a: u64, b: u64, c: u64| c.wrapping_add(a.abs_diff(b))),
                Type::S16 => d.map3(i, |a: i16, b: i16, c: u16| c.wrapping_add(a.abs_diff(b))),
                Type::S32 => d.map3(i, |a: i32, b: i32, c: u32| c.wrapping_add(a.abs_diff(b))),
                Type::S64 => d.map3(i, |a: i64, b: i64, c: u64| c.wrapping_add(a.abs_diff(b))),
                _ => unknown(),
            }
        }
        // Division by zero gives an unspecified value: all ones here.
        "div" => {
            let ty = m.only_ty()?;
            for_int!(ty, d, i, map2, |a, b| if b == 0 { !0 } else { a.wrapping_div(b) })
        }
        "rem" => {
            let ty = m.only_ty()?;
            for_int!(ty, d, i, map2, |a, b| if b == 0 { !0 } else { a.wrapping_rem(b) })
        }
        "abs" => match m.only_ty()? {
            Type::S16 => d.map1(i, i16::wrapping_abs),
            Type::S32 => d.map1(i, i32::wrapping_abs),
            Type::S64 => d.map1(i, i64::wrapping_abs),
            _ => unknown(),
        },
        "neg" => match m.only_ty()? {
            Type::S16 => d.map1(i, i16::wrapping_neg),
            Type::S32 => d.map1(i, i32::wrapping_neg),
            Type::S64 => d.map1(i, i64::wrapping_neg),
            _ => unknown(),
        },
        "min" | "max" => {
            let relu = m.take("relu");
            let ty = m.only_ty()?;
            match (i.opcode.as_str(), relu, ty) {
                ("min", true, Type::S32) => d.map2(i, |a: i32, b: i32| a.min(b).max(0)),
                ("max", true, Type::S32) => d.map2(i, |a: i32, b: i32| a.max(b).max(0)),
                (_, true, _) => unknown(),
                ("min", ..) => for_int!(ty, d, i, map2, |a, b| a.min(b)),
                _ => for_int!(ty, d, i, map2, |a, b| a.max(b)),
            }
        }
        "popc" => match m.only_ty()? {
            Type::B32 => d.map1(i, u32::count_ones),
            Type::B64 => d.map1(i, u64::count_ones),
            _ => unknown(),
        },
        "clz" => match m.only_ty()? {
            Type::B32 => d.map1(i, u32::leading_zeros),
            Type::B64 => d.map1(i, u64::leading_zeros),
            _ => unknown(),
        },
        "brev" => match m.only_ty()? {
            Type::B32 => d.map1(i, u32::reverse_bits),
            Type::B64 => d.map1(i, u64::reverse_bits),
            _ => unknown(),
        },
        "bfind" => find_bit(d, i, &mut m),
        "bfe" => match m.only_ty()? {
            Type::U32 => d.map3(i, |a: u32, at: u32, len: u32| extract(a.into(), at, len, 32, false) as u32),
            Type::S32 => {
                d.map3(i, |a: i32, at: u32, len: u32| extract(a as i64 as u64, at, len, 32, true) as u32)
            }
            Type::U64 => d.map3(i, |a: u64, at: u32, len: u32| extract(a, at, len, 64, false)),
            Type::S64 => d.map3(i, |a: u64, at: u32, len: u32| extract(a, at, len, 64, true)),
            _ => unknown(),
        },
        "bfi" => insert(d, i, &mut m),
        "dp4a" => dot(d, i, &mut m),
        "dp2a" => dot_of_two(d, i, &mut m),
        "bmsk" => {
            let wrap = m.one_of(&["clamp", "wrap"]).ok_or("needs .clamp or .wrap")? == "wrap";
            match (m.only_ty()?, wrap) {
                (Type::B32, false) => d.map2(i, |at: u32, len: u32| bit_mask(at.min(32), len.min(32))),
                (Type::B32, true) => d.map2(i, |at: u32, len: u32| bit_mask(at & 31, len & 31)),
                _ => unknown(),
            }
        }
        "szext" => {
            let wrap = m.one_of(&["clamp", "wrap"]).ok_or("needs .clamp or .wrap")? == "wrap";
            match (m.only_ty()?, wrap) {
                (Type::U32, false) => {
                    d.map2(i, |a: u32, n: u32| extract(a.into(), 0, n.min(32), 32, false) as u32)
                }
                (Type::U32, true) => {
                    d.map2(i, |a: u32, n: u32| extract(a.into(), 0, n & 31, 32, false) as u32)
                }
                (Type::S32, false) => {
                    d.map2(i, |a: i32, n: u32| extract(a as i64 as u64, 0, n.min(32), 32, true) as u32)
                }
                (Type::S32, true) => {
                    d.map2(i, |a: i32, n: u32| extract(a as i64 as u64, 0, n & 31, 32, true) as u32)
                }
                _ => unknown(),
            }
        }
        _ => unknown(),
    }
}

fn add(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let subtract = i.opcode.starts_with("sub");
    let carry_in = i.opcode.ends_with('c');
    let carry_out = m.take("cc");
    let saturate = m.take("sat");
    let ty = m.only_ty()?;
    if carry_in || carry_out {
        if saturate {
            return unknown();
        }
        return match ty {
            Type::U32 | Type::S32 | Type::B32 => with_carry::<u32>(d, i, [subtract, carry_in, carry_out]),
            Type::U64 | Type::S64 | Type::B64 => with_carry::<u64>(d, i, [subtract, carry_in, carry_out]),
            _ => unknown(),
        };
    }
    match (ty, saturate, subtract) {
        (Type::S32, true, false) => d.map2(i, i32::saturating_add),
        (Type::S32, true, true) => d.map2(i, i32::saturating_sub),
        (_, true, _) | (Type::B16 | Type::B32 | Type::B64, ..) => unknown(),
        (_, _, false) => for_int!(ty, d, i, map2, |a, b| a.wrapping_add(b)),
        (_, _, true) => for_int!(ty, d, i, map2, |a, b| a.wrapping_sub(b)),
    }
}

/// A word that carries.
trait Word: Lane {
    /// `self + other + carry` and the carry out.
    fn add(self, other: Self, carry: bool) -> (Self, bool);
    fn not(self) -> Self;
}

macro_rules! word {
    ($($ty:ty),*) => {$(
        impl Word for $ty {
            fn add(self, other: Self, carry: bool) -> (Self, bool) {
                let (sum, first) = self.overflowing_add(other);
                let (sum, second) = sum.overflowing_add(carry.into());
                (sum, first | second)
            }
            fn not(self) -> Self {
                !self
            }
        }
    )*};
}
word!(u32, u64);

/// `a ± b ± CC`; `e` is the condition code, `imm` the bits subtract, carry in, carry out.
///
/// A subtraction is `a + !b + 1`; its condition code is a borrow, the opposite of the carry.
fn with_carry<T: Word>(d: &mut Decoder, i: &Instruction, flags: [bool; 3]) -> Decoded {
    let function: AluFn = |r, x, mask| {
        let [subtract, carry_in, carry_out] = [0, 1, 2].map(|bit| x.imm >> bit & 1 != 0);
        let (a, b, cc) = (T::load(r, x.a), T::load(r, x.b), bool::load(r, x.e));
        let result: [(T, bool); 32] = std::array::from_fn(|k| {
            let cc = carry_in && cc[k];
            let (sum, carry) = if subtract { a[k].add(b[k].not(), !cc) } else { a[k].add(b[k], cc) };
            (sum, carry != subtract)
        });
        T::store(r, x.d, mask, &result.map(|(sum, _)| sum));
        if carry_out {
            bool::store(r, x.e, mask, &result.map(|(_, carry)| carry));
        }
    };
    let Op::Alu(function, mut args) = d.alu2::<T, T, T>(i, function)? else { return unknown() };
    args.e = d.carry;
    args.imm = flags.iter().rev().fold(0, |bits, &flag| bits << 1 | u32::from(flag));
    Ok(Op::Alu(function, args))
}

fn multiply(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let part = m.one_of(&["hi", "lo", "wide"]).ok_or("needs .hi, .lo or .wide")?;
    match (part, m.only_ty()?) {
        ("lo", ty) => for_int!(ty, d, i, map2, |a, b| a.wrapping_mul(b)),
        ("hi", Type::U16) => d.map2(i, |a: u16, b: u16| ((u32::from(a) * u32::from(b)) >> 16) as u16),
        ("hi", Type::S16) => d.map2(i, |a: i16, b: i16| ((i32::from(a) * i32::from(b)) >> 16) as i16),
        ("hi", Type::U32) => d.map2(i, |a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32),
        ("hi", Type::S32) => d.map2(i, |a: i32, b: i32| ((i64::from(a) * i64::from(b)) >> 32) as i32),
        ("hi", Type::U64) => d.map2(i, |a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> 64) as u64),
        ("hi", Type::S64) => d.map2(i, |a: i64, b: i64| ((i128::from(a) * i128::from(b)) >> 64) as i64),
        ("wide", Type::U16) => d.map2(i, |a: u16, b: u16| u32::from(a) * u32::from(b)),
        ("wide", Type::S16) => d.map2(i, |a: i16, b: i16| i32::from(a) * i32::from(b)),
        ("wide", Type::U32) => d.map2(i, |a: u32, b: u32| u64::from(a) * u64::from(b)),
        ("wide", Type::S32) => d.map2(i, |a: i32, b: i32| i64::from(a) * i64::from(b)),
        _ => unknown(),
    }
}

fn multiply_add(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let part = m.one_of(&["hi", "lo", "wide"]).ok_or("needs .hi, .lo or .wide")?;
    if i.opcode == "madc" {
        return unknown();
    }
    match (part, m.only_ty()?) {
        ("lo", ty) => for_int!(ty, d, i, map3, |a, b, c| a.wrapping_mul(b).wrapping_add(c)),
        ("hi", Type::U32) => {
            d.map3(i, |a: u32, b: u32, c: u32| (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c))
        }
        ("hi", Type::S32) => {
            d.map3(i, |a: i32, b: i32, c: i32| (((i64::from(a) * i64::from(b)) >> 32) as i32).wrapping_add(c))
        }
        ("hi", Type::U64) => d.map3(i, |a: u64, b: u64, c: u64| {
            (((u128::from(a) * u128::from(b)) >> 64) as u64).wrapping_add(c)
        }),
        ("hi", Type::S64) => d.map3(i, |a: i64, b: i64, c: i64| {
            (((i128::from(a) * i128::from(b)) >> 64) as i64).wrapping_add(c)
        }),
        ("wide", Type::U16) => {
            d.map3(i, |a: u16, b: u16, c: u32| (u32::from(a) * u32::from(b)).wrapping_add(c))
        }
        ("wide", Type::S16) => {
            d.map3(i, |a: i16, b: i16, c: i32| (i32::from(a) * i32::from(b)).wrapping_add(c))
        }
        ("wide", Type::U32) => {
            d.map3(i, |a: u32, b: u32, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c))
        }
        ("wide", Type::S32) => {
            d.map3(i, |a: i32, b: i32, c: i64| (i64::from(a) * i64::from(b)).wrapping_add(c))
        }
        _ => unknown(),
    }
}

fn find_bit(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    // The highest bit that differs from the sign; all ones when there is none.
    let shift = m.take("shiftamt");
    match (m.only_ty()?, shift) {
        (Type::U32, false) => d.map1(i, |a: u32| a.checked_ilog2().unwrap_or(!0)),
        (Type::S32, false) => d.map1(i, |a: i32| ((a ^ a >> 31) as u32).checked_ilog2().unwrap_or(!0)),
        (Type::U64, false) => d.map1(i, |a: u64| a.checked_ilog2().unwrap_or(!0)),
        (Type::S64, false) => d.map1(i, |a: i64| ((a ^ a >> 63) as u64).checked_ilog2().unwrap_or(!0)),
        (Type::U32, true) => d.map1(i, |a: u32| a.checked_ilog2().map_or(!0, |bit| 31 - bit)),
        (Type::S32, true) => {
            d.map1(i, |a: i32| ((a ^ a >> 31) as u32).checked_ilog2().map_or(!0, |bit| 31 - bit))
        }
        _ => unknown(),
    }
}

/// `len` bits from bit `at`, filled up with zeros, or with the field's (or the number's) highest bit (§9.7.1.19).
fn extract(a: u64, at: u32, len: u32, bits: u32, signed: bool) -> u64 {
    let (at, len) = (at & 0xFF, len & 0xFF);
    if len == 0 {
        return 0;
    }
    let msb = bits - 1;
    let sign = signed && a >> (at + len - 1).min(msb) & 1 != 0;
    (0..bits).fold(0, |out, k| {
        let bit = if k < len && at + k <= msb { a >> (at + k) & 1 != 0 } else { sign };
        out | u64::from(bit) << k
    })
}

fn bit_mask(at: u32, len: u32) -> u32 {
    ((1u64 << len) - 1).checked_shl(at).unwrap_or(0) as u32
}

/// `bfi f, a, b, at, len`: b with `len` bits from `at` on taken from a.
fn insert(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    fn field<T: Lane>(d: &mut Decoder, i: &Instruction, function: AluFn) -> Decoded {
        d.count(i, &[5])?;
        let args = crate::exec::lanes::Args {
            d: d.dst(&i.operands[0], T::CLASS)?,
            a: d.source::<T>(&i.operands[1])?,
            b: d.source::<T>(&i.operands[2])?,
            c: d.source::<u32>(&i.operands[3])?,
            e: d.source::<u32>(&i.operands[4])?,
            imm: 0,
        };
        Ok(Op::Alu(function, args))
    }
    fn merge(a: u64, b: u64, at: u32, len: u32) -> u64 {
        let (at, len) = (at & 0xFF, len & 0xFF);
        let mask = 1u64.checked_shl(len).map_or(!0, |bit| bit - 1).checked_shl(at).unwrap_or(0);
        b & !mask | a.checked_shl(at).unwrap_or(0) & mask
    }
    macro_rules! bfi {
        ($ty:ty) => {
            field::<$ty>(d, i, |r, x, mask| {
                let (a, b) = (<$ty>::load(r, x.a), <$ty>::load(r, x.b));
                let (at, len) = (u32::load(r, x.c), u32::load(r, x.e));
                let out = std::array::from_fn(|k| merge(a[k].into(), b[k].into(), at[k], len[k]) as $ty);
                <$ty>::store(r, x.d, mask, &out);
            })
        };
    }
    match m.only_ty()? {
        Type::B32 => bfi!(u32),
        Type::B64 => bfi!(u64),
        _ => unknown(),
    }
}

fn dot(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    fn sum(a: [i32; 4], b: [i32; 4], c: u32) -> u32 {
        a.iter().zip(b).fold(c, |c, (a, b)| c.wrapping_add((a * b) as u32))
    }
    let unsigned = |v: u32| v.to_le_bytes().map(i32::from);
    let signed = |v: u32| v.to_le_bytes().map(|b| i32::from(b as i8));
    let (a, b) = (m.ty()?, m.only_ty()?);
    match (a, b) {
        (Type::U32, Type::U32) => d.map3(i, move |a: u32, b: u32, c: u32| sum(unsigned(a), unsigned(b), c)),
        (Type::U32, Type::S32) => d.map3(i, move |a: u32, b: u32, c: u32| sum(unsigned(a), signed(b), c)),
        (Type::S32, Type::U32) => d.map3(i, move |a: u32, b: u32, c: u32| sum(signed(a), unsigned(b), c)),
        (Type::S32, Type::S32) => d.map3(i, move |a: u32, b: u32, c: u32| sum(signed(a), signed(b), c)),
        _ => unknown(),
    }
}

/// `dp2a`: two 16-bit numbers of a by the low or high two bytes of b.
fn dot_of_two(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    /// Flags: b's high half; a signed; b signed.
    fn sum(a: u32, b: u32, c: u32, flags: u32) -> u32 {
        let b = if flags & 1 != 0 { b >> 16 } else { b };
        (0..2).fold(c, |c, k| {
            let (x, y) = ((a >> (16 * k)) as u16, (b >> (8 * k)) as u8);
            let x = if flags & 2 != 0 { i32::from(x as i16) } else { i32::from(x) };
            let y = if flags & 4 != 0 { i32::from(y as i8) } else { i32::from(y) };
            c.wrapping_add((x * y) as u32)
        })
    }
    let high = m.one_of(&["hi", "lo"]).ok_or("needs .hi or .lo")? == "hi";
    let (a, b) = (m.ty()?, m.only_ty()?);
    if ![a, b].iter().all(|ty| matches!(ty, Type::U32 | Type::S32)) {
        return unknown();
    }
    let flags = u32::from(high) | u32::from(a == Type::S32) << 1 | u32::from(b == Type::S32) << 2;
    d.map3_imm(i, flags, sum)
}
