//! Matrix loads and products of a warp (PTX ISA §9.7.14).

use super::decoder::Decoder;
use super::mods::Mods;
use super::{AddressSpace, Decoded, Element, Ldmatrix, Mma, Op, unknown};
use crate::exec::lanes::Class;
use crate::parse::{Instruction, Operand, Space};

pub fn decode(d: &mut Decoder, i: &Instruction) -> Decoded {
    let mut m = Mods::new(i);
    if !(m.take("sync") && m.take("aligned")) {
        return Err("needs .sync.aligned".into());
    }
    match i.opcode.as_str() {
        "ldmatrix" | "stmatrix" => ldmatrix(d, i, &mut m),
        "movmatrix" => {
            if !(m.take("m8n8") && m.take("trans") && m.take("b16")) {
                return unknown();
            }
            m.finish()?;
            d.count(i, &[2])?;
            Ok(Op::Movmatrix { d: d.dst(&i.operands[0], Class::B32)?, a: d.source::<u32>(&i.operands[1])? })
        }
        "mma" => mma(d, i, &mut m),
        _ => unknown(),
    }
}

/// The 32-bit registers of a fragment.
pub(super) fn fragment(
    d: &mut Decoder,
    operand: &Operand,
    count: usize,
    source: bool,
) -> Result<Vec<u16>, String> {
    let single = std::slice::from_ref(operand);
    let parts = match operand {
        Operand::Vector(parts) => parts.as_slice(),
        _ => single,
    };
    if parts.len() != count {
        return Err(format!("a fragment of {} registers, wanted {count}", parts.len()));
    }
    let register = |part: &Operand| if source { d.source::<u32>(part) } else { d.dst(part, Class::B32) };
    parts.iter().map(register).collect()
}

fn ldmatrix(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let store = i.opcode == "stmatrix";
    if !m.take("m8n8") {
        return unknown();
    }
    let count = match m.one_of(&["x1", "x2", "x4"]) {
        Some("x1") => 1,
        Some("x2") => 2,
        Some(_) => 4,
        None => return Err("needs .x1, .x2 or .x4".into()),
    };
    let trans = m.take("trans");
    if m.one_of(&["shared", "shared::cta"]).is_none() || !m.take("b16") {
        return unknown();
    }
    m.finish()?;
    d.count(i, &[2])?;
    let (data, address) = if store { (1, 0) } else { (0, 1) };
    let registers = fragment(d, &i.operands[data], count, store)?;
    let address = d.address_in(&i.operands[address], AddressSpace::In(Space::Shared))?;
    let op = Box::new(Ldmatrix { registers, address, trans });
    Ok(if store { Op::Stmatrix(op) } else { Op::Ldmatrix(op) })
}

pub(super) fn element(name: &str) -> Option<Element> {
    Some(match name {
        "f16" => Element::F16,
        "bf16" => Element::Bf16,
        "tf32" => Element::Tf32,
        "f32" => Element::F32,
        "s8" => Element::S8,
        "u8" => Element::U8,
        "s32" => Element::S32,
        "e4m3" => Element::E4m3,
        "e5m2" => Element::E5m2,
        _ => return None,
    })
}

fn mma(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    const SHAPES: [(&str, [usize; 3]); 5] = [
        ("m16n8k4", [16, 8, 4]),
        ("m16n8k8", [16, 8, 8]),
        ("m16n8k16", [16, 8, 16]),
        ("m16n8k32", [16, 8, 32]),
        ("m8n8k16", [8, 8, 16]),
    ];
    let Some(&(_, shape)) = SHAPES.iter().find(|(name, _)| m.take(name)) else { return unknown() };
    if !(m.take("row") && m.take("col")) {
        return unknown();
    }
    let saturate = m.take("satfinite");
    m.take("kind::f8f6f4");
    // What is left are the types of D, A, B and C.
    let mut types = [Element::F32; 4];
    for ty in &mut types {
        let word = m.next_word().ok_or("types are missing")?;
        *ty = element(word).ok_or_else(|| format!("unknown type .{word}"))?;
    }
    m.finish()?;
    let [d_type, a_type, b_type, c_type] = types;
    use Element::*;
    let known = match (shape, a_type, b_type) {
        ([16, 8, 8 | 16], F16, F16) => matches!(c_type, F16 | F32),
        ([16, 8, 8 | 16], Bf16, Bf16) => c_type == F32,
        ([16, 8, 4 | 8], Tf32, Tf32) => c_type == F32,
        ([16, 8, 16 | 32] | [8, 8, 16], S8 | U8, S8 | U8) => c_type == S32,
        ([16, 8, 16 | 32], E4m3 | E5m2, E4m3 | E5m2) => matches!(c_type, F16 | F32),
        _ => false,
    };
    if !known || d_type != c_type || saturate && c_type != S32 {
        return unknown();
    }
    d.count(i, &[4])?;
    let [rows, cols, depth] = shape;
    let per_register = a_type.per_register();
    let c_count = rows * cols / WARP / c_type.per_register();
    Ok(Op::Mma(Box::new(Mma {
        shape,
        a_type,
        b_type,
        c_type,
        saturate,
        d: fragment(d, &i.operands[0], c_count, false)?,
        a: fragment(d, &i.operands[1], rows * depth / WARP / per_register, true)?,
        b: fragment(d, &i.operands[2], depth * cols / WARP / per_register, true)?,
        c: fragment(d, &i.operands[3], c_count, true)?,
    })))
}

const WARP: usize = crate::exec::lanes::WARP;

impl Element {
    /// Elements in a 32-bit register.
    pub const fn per_register(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::Tf32 | Self::F32 | Self::S32 => 1,
            Self::S8 | Self::U8 | Self::E4m3 | Self::E5m2 => 4,
        }
    }
}
