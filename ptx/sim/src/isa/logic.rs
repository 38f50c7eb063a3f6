//! Bitwise operations, shifts and byte permutation (PTX ISA §9.7.8, §9.7.9.7).

use super::decoder::Decoder;
use super::mods::Mods;
use super::{Decoded, Op, unknown};
use crate::exec::lanes::{AluFn, Args, Class, Lane};
use crate::parse::{Instruction, Operand, Type};

macro_rules! for_bits {
    ($m:expr, $d:expr, $i:expr, $map:ident, |$($x:ident),*| $body:expr) => {
        match $m.only_ty()? {
            Type::B16 => $d.$map($i, |$($x: u16),*| $body),
            Type::B32 => $d.$map($i, |$($x: u32),*| $body),
            Type::B64 => $d.$map($i, |$($x: u64),*| $body),
            Type::Pred => $d.$map($i, |$($x: bool),*| $body),
            _ => unknown(),
        }
    };
}

pub fn decode(d: &mut Decoder, i: &Instruction) -> Decoded {
    let mut m = Mods::new(i);
    match i.opcode.as_str() {
        "and" => for_bits!(m, d, i, map2, |a, b| a & b),
        "or" => for_bits!(m, d, i, map2, |a, b| a | b),
        "xor" => for_bits!(m, d, i, map2, |a, b| a ^ b),
        "not" => for_bits!(m, d, i, map1, |a| !a),
        "cnot" => match m.only_ty()? {
            Type::B16 => d.map1(i, |a: u16| u16::from(a == 0)),
            Type::B32 => d.map1(i, |a: u32| u32::from(a == 0)),
            Type::B64 => d.map1(i, |a: u64| u64::from(a == 0)),
            _ => unknown(),
        },
        "shl" => match m.only_ty()? {
            Type::B16 => d.map2(i, |a: u16, n: u32| a.checked_shl(n).unwrap_or(0)),
            Type::B32 => d.map2(i, |a: u32, n: u32| a.checked_shl(n).unwrap_or(0)),
            Type::B64 => d.map2(i, |a: u64, n: u32| a.checked_shl(n).unwrap_or(0)),
            _ => unknown(),
        },
        "shr" => match m.only_ty()? {
            Type::B16 | Type::U16 => d.map2(i, |a: u16, n: u32| a.checked_shr(n).unwrap_or(0)),
            Type::B32 | Type::U32 => d.map2(i, |a: u32, n: u32| a.checked_shr(n).unwrap_or(0)),
            Type::B64 | Type::U64 => d.map2(i, |a: u64, n: u32| a.checked_shr(n).unwrap_or(0)),
            Type::S16 => d.map2(i, |a: i16, n: u32| a >> n.min(15)),
            Type::S32 => d.map2(i, |a: i32, n: u32| a >> n.min(31)),
            Type::S64 => d.map2(i, |a: i64, n: u32| a >> n.min(63)),
            _ => unknown(),
        },
        "shf" => funnel_shift(d, i, &mut m),
        "lop3" => lop3(d, i, &mut m),
        "prmt" => permute(d, i, &mut m),
        _ => unknown(),
    }
}

/// `shf d, lo, hi, n`: the high (left) or low (right) word of `hi:lo` shifted.
fn funnel_shift(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    fn joined(lo: u32, hi: u32) -> u64 {
        u64::from(hi) << 32 | u64::from(lo)
    }
    let left = m.one_of(&["l", "r"]).ok_or("needs .l or .r")? == "l";
    let wrap = m.one_of(&["wrap", "clamp"]).ok_or("needs .wrap or .clamp")? == "wrap";
    if m.only_ty()? != Type::B32 {
        return unknown();
    }
    match (left, wrap) {
        (true, true) => d.map3(i, |lo: u32, hi: u32, n: u32| (joined(lo, hi) << (n & 31) >> 32) as u32),
        (true, false) => d.map3(i, |lo: u32, hi: u32, n: u32| (joined(lo, hi) << n.min(32) >> 32) as u32),
        (false, true) => d.map3(i, |lo: u32, hi: u32, n: u32| (joined(lo, hi) >> (n & 31)) as u32),
        (false, false) => d.map3(i, |lo: u32, hi: u32, n: u32| (joined(lo, hi) >> n.min(32)) as u32),
    }
}

fn lop3(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    if m.only_ty()? != Type::B32 {
        return unknown();
    }
    d.count(i, &[5])?;
    let Operand::Int(table @ 0..=255) = i.operands[4] else {
        return Err("the table must be a constant 0…255".into());
    };
    // The eight terms of the truth table, each present (all ones) or absent.
    let function: AluFn = |r, x, mask| {
        let (a, b, c) = (u32::load(r, x.a), u32::load(r, x.b), u32::load(r, x.c));
        let mut out = [0u32; 32];
        for term in 0..8u32 {
            if x.imm >> term & 1 != 0 {
                let flip = |bit: u32| if term >> bit & 1 != 0 { 0 } else { !0 };
                let (fa, fb, fc) = (flip(2), flip(1), flip(0));
                for k in 0..32 {
                    out[k] |= (a[k] ^ fa) & (b[k] ^ fb) & (c[k] ^ fc);
                }
            }
        }
        u32::store(r, x.d, mask, &out);
    };
    let args = Args {
        d: d.dst(&i.operands[0], Class::B32)?,
        a: d.source::<u32>(&i.operands[1])?,
        b: d.source::<u32>(&i.operands[2])?,
        c: d.source::<u32>(&i.operands[3])?,
        e: 0,
        imm: table as u32,
    };
    Ok(Op::Alu(function, args))
}

fn permute(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    /// The four selectors of each mode and each value of the control's two low bits, the highest byte first.
    const MODES: [(&str, [u32; 4]); 6] = [
        ("f4e", [0x3210, 0x4321, 0x5432, 0x6543]),
        ("b4e", [0x5670, 0x6701, 0x7012, 0x0123]),
        ("rc8", [0x0000, 0x1111, 0x2222, 0x3333]),
        ("ecl", [0x3210, 0x3211, 0x3222, 0x3333]),
        ("ecr", [0x0000, 0x1110, 0x2210, 0x3210]),
        ("rc16", [0x1010, 0x3232, 0x1010, 0x3232]),
    ];
    fn pick(a: u32, b: u32, selector: u32) -> u32 {
        let bytes = u64::from(b) << 32 | u64::from(a);
        (0..4).fold(0, |out, k| {
            let s = selector >> (4 * k);
            let byte = (bytes >> (8 * (s & 7))) as u8;
            // Bit 3 replicates the byte's sign.
            let byte = if s & 8 != 0 { (byte as i8 >> 7) as u8 } else { byte };
            out | u32::from(byte) << (8 * k)
        })
    }
    let mode = MODES.iter().position(|(name, _)| m.take(name));
    if m.only_ty()? != Type::B32 {
        return unknown();
    }
    match mode {
        None => d.map3(i, pick),
        Some(mode) => d.map3_imm(i, mode as u32, |a: u32, b: u32, c: u32, mode| {
            pick(a, b, MODES[mode as usize].1[(c & 3) as usize])
        }),
    }
}
