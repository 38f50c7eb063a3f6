//! Moves between registers, and addresses between state spaces (PTX ISA §9.7.9.1–9.7.9.20).

use super::decoder::Decoder;
use super::mods::Mods;
use super::{Decoded, Op, unknown};
use crate::exec::lanes::{AluFn, Args, Class, Lane};
use crate::memory::{CLUSTER_WINDOW, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_SIZE};
use crate::parse::{Instruction, Operand, Type};

pub fn decode(d: &mut Decoder, i: &Instruction) -> Decoded {
    let mut m = Mods::new(i);
    match i.opcode.as_str() {
        "mov" => mov(d, i, &mut m),
        "cvta" => cvta(d, i, &mut m),
        "mapa" => {
            if !m.take("shared::cluster") || m.only_ty()? != Type::U32 {
                return unknown();
            }
            // Beyond a block's own addresses are those of the cluster's blocks, window after window.
            const WINDOW: u32 = CLUSTER_WINDOW as u32;
            d.map2(i, |a: u32, rank: u32| rank.wrapping_add(1).wrapping_mul(WINDOW) | (a % WINDOW))
        }
        // isspacep
        _ => {
            let space =
                m.one_of(&["global", "shared", "shared::cta", "local"]).ok_or("a state space is missing")?;
            m.finish()?;
            match space {
                "global" => d.map1(i, |a: u64| a < SHARED_WINDOW),
                "local" => d.map1(i, |a: u64| a.wrapping_sub(LOCAL_WINDOW) < WINDOW_SIZE),
                _ => d.map1(i, |a: u64| a.wrapping_sub(SHARED_WINDOW) < WINDOW_SIZE),
            }
        }
    }
}

fn mov(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let ty = m.only_ty()?;
    d.count(i, &[2])?;
    match (&i.operands[0], &i.operands[1]) {
        (Operand::Vector(parts), source) => return unpack(d, ty, parts, source),
        (_, Operand::Vector(parts)) => return pack(d, ty, &i.operands[0], parts),
        _ => {}
    }
    if let Operand::Name(name) = &i.operands[1]
        && let "%clock" | "%clock64" | "%globaltimer" | "%globaltimer_lo" = name.as_str()
    {
        let reg = d.any_register(&i.operands[0])?.ok_or("a destination is missing")?;
        let wide = matches!(name.as_str(), "%clock64" | "%globaltimer");
        let class = if wide { Class::B64 } else { Class::B32 };
        return if reg.class == class { Ok(Op::Clock(reg)) } else { Err("register of a wrong width".into()) };
    }
    match ty {
        Type::Pred => d.map1(i, |a: bool| a),
        Type::B16 | Type::U16 | Type::S16 => d.map1(i, |a: u16| a),
        Type::B32 | Type::U32 | Type::S32 => d.map1(i, |a: u32| a),
        Type::B64 | Type::U64 | Type::S64 => d.map1(i, |a: u64| a),
        Type::B128 => d.map1(i, |a: u128| a),
        Type::F32 => d.map1(i, |a: f32| a),
        Type::F64 => d.map1(i, |a: f64| a),
        _ => unknown(),
    }
}

/// `mov.b32 d, {lo, hi}`.
fn pack(d: &mut Decoder, ty: Type, dst: &Operand, parts: &[Operand]) -> Decoded {
    let mut args = Args::default();
    macro_rules! join {
        ($to:ty, $from:ty) => {{
            let function: AluFn = |r, x, mask| {
                let (lo, hi) = (<$from>::load(r, x.a), <$from>::load(r, x.b));
                let out = std::array::from_fn(|k| <$to>::from(hi[k]) << <$from>::BITS | <$to>::from(lo[k]));
                <$to>::store(r, x.d, mask, &out);
            };
            (function, <$to>::CLASS, <$from>::CLASS)
        }};
    }
    let (function, to, from) = match (ty, parts.len()) {
        (Type::B16, 2) => join!(u16, u8),
        (Type::B32, 2) => join!(u32, u16),
        (Type::B64, 2) => join!(u64, u32),
        (Type::B128, 2) => join!(u128, u64),
        (Type::B64, 4) => {
            let function: AluFn = |r, x, mask| {
                let parts = [x.a, x.b, x.c, x.e].map(|index| u16::load(r, index));
                let out = std::array::from_fn(|k| {
                    parts.iter().rev().fold(0, |word, part| word << 16 | u64::from(part[k]))
                });
                u64::store(r, x.d, mask, &out);
            };
            (function, Class::B64, Class::B16)
        }
        (Type::B32, 4) => {
            let function: AluFn = |r, x, mask| {
                let parts = [x.a, x.b, x.c, x.e].map(|index| u8::load(r, index));
                let out = std::array::from_fn(|k| {
                    u32::from_le_bytes([parts[0][k], parts[1][k], parts[2][k], parts[3][k]])
                });
                u32::store(r, x.d, mask, &out);
            };
            (function, Class::B32, Class::B8)
        }
        _ => return unknown(),
    };
    args.d = d.dst(dst, to)?;
    for (into, part) in [&mut args.a, &mut args.b, &mut args.c, &mut args.e].into_iter().zip(parts) {
        *into = d.src(part, from, false)?;
    }
    Ok(Op::Alu(function, args))
}

/// `mov.b32 {lo, hi}, a`.
fn unpack(d: &mut Decoder, ty: Type, parts: &[Operand], source: &Operand) -> Decoded {
    macro_rules! split {
        ($from:ty, $to:ty) => {{
            let function: AluFn = |r, x, mask| {
                let a = <$from>::load(r, x.a);
                <$to>::store(r, x.d, mask, &a.map(|a| a as $to));
                <$to>::store(r, x.e, mask, &a.map(|a| (a >> <$to>::BITS) as $to));
            };
            (function, <$from>::CLASS, <$to>::CLASS)
        }};
    }
    let (function, from, to) = match (ty, parts.len()) {
        (Type::B16, 2) => split!(u16, u8),
        (Type::B32, 2) => split!(u32, u16),
        (Type::B64, 2) => split!(u64, u32),
        (Type::B128, 2) => split!(u128, u64),
        (Type::B64, 4) => {
            let function: AluFn = |r, x, mask| {
                let a = u64::load(r, x.a);
                for (k, index) in [x.d, x.e, x.b, x.c].into_iter().enumerate() {
                    u16::store(r, index, mask, &a.map(|a| (a >> (16 * k)) as u16));
                }
            };
            (function, Class::B64, Class::B16)
        }
        (Type::B32, 4) => {
            let function: AluFn = |r, x, mask| {
                let a = u32::load(r, x.a);
                for (k, index) in [x.d, x.e, x.b, x.c].into_iter().enumerate() {
                    u8::store(r, index, mask, &a.map(|a| (a >> (8 * k)) as u8));
                }
            };
            (function, Class::B32, Class::B8)
        }
        _ => return unknown(),
    };
    let mut args = Args { a: d.src(source, from, false)?, ..Args::default() };
    for (into, part) in [&mut args.d, &mut args.e, &mut args.b, &mut args.c].into_iter().zip(parts) {
        *into = d.dst(part, to)?;
    }
    Ok(Op::Alu(function, args))
}

fn cvta(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let to = m.take("to");
    let space = m
        .one_of(&["global", "shared", "shared::cta", "local", "const", "param"])
        .ok_or("a state space is missing")?;
    if m.only_ty()? != Type::U64 {
        return unknown();
    }
    match (space, to) {
        // Global and constant addresses are generic addresses.
        ("global" | "const", _) => d.map1(i, |a: u64| a),
        ("shared" | "shared::cta", false) => d.map1(i, |a: u64| a.wrapping_add(SHARED_WINDOW)),
        ("shared" | "shared::cta", true) => d.map1(i, |a: u64| a.wrapping_sub(SHARED_WINDOW)),
        ("local", false) => d.map1(i, |a: u64| a.wrapping_add(LOCAL_WINDOW)),
        ("param", false) => d.map1(i, |a: u64| a.wrapping_add(PARAM_WINDOW)),
        ("local", true) => d.map1(i, |a: u64| a.wrapping_sub(LOCAL_WINDOW)),
        _ => unknown(),
    }
}
