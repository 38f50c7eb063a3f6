//! `wgmma` (PTX ISA §9.7.15) and `setmaxnreg`.

use super::decoder::Decoder;
use super::matrix::{element, fragment};
use super::mods::Mods;
use super::{Decoded, Element, Factor, Op, Wgmma, unknown};
use crate::parse::{Instruction, Operand, Type};

pub fn decode(d: &mut Decoder, i: &Instruction) -> Decoded {
    let mut m = Mods::new(i);
    let name =
        m.one_of(&["fence", "commit_group", "wait_group", "mma_async"]).ok_or("an operation is missing")?;
    if !(m.take("sync") && m.take("aligned")) {
        return Err("needs .sync.aligned".into());
    }
    match (name, i.operands.as_slice()) {
        ("fence", []) => m.finish().map(|()| Op::WgmmaFence),
        ("commit_group", []) => m.finish().map(|()| Op::WgmmaCommit),
        ("wait_group", [Operand::Int(n)]) => {
            m.finish()?;
            Ok(Op::WgmmaWait(u32::try_from(*n).map_err(|e| e.to_string())?))
        }
        ("mma_async", _) => product(d, i, &mut m),
        _ => unknown(),
    }
}

/// `m64n128k16` to its n and k.
fn shape(word: &str) -> Option<(usize, usize)> {
    let (n, k) = word.strip_prefix("m64n")?.split_once('k')?;
    let (n, k) = (n.parse().ok()?, k.parse().ok()?);
    (n % 8 == 0 && (8..=256).contains(&n)).then_some((n, k))
}

fn product(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let (n, k) = m.next_word().and_then(shape).ok_or("unknown shape")?;
    let mut types = [Element::F32; 3];
    for ty in &mut types {
        let word = m.next_word().ok_or("types are missing")?;
        *ty = element(word).ok_or_else(|| format!("unknown type .{word}"))?;
    }
    m.finish()?;
    let [c_type, a_type, b_type] = types;
    use Element::*;
    let known = match (a_type, b_type, k) {
        (F16, F16, 16) => matches!(c_type, F16 | F32),
        (Bf16, Bf16, 16) | (Tf32, Tf32, 8) => c_type == F32,
        (E4m3 | E5m2, E4m3 | E5m2, 32) => matches!(c_type, F16 | F32),
        (S8 | U8, S8 | U8, 32) => c_type == S32,
        _ => false,
    };
    if !known {
        return unknown();
    }
    let transposable = k == 16;
    let from_registers = matches!(i.operands.get(1), Some(Operand::Vector(_)));
    // d, a, b, scale-d, then scale-a and scale-b (not for integers), then the transpositions of what is in shared memory.
    let scales = if c_type == S32 { 0 } else { 2 };
    let transposes = if transposable { 2 - usize::from(from_registers) } else { 0 };
    d.count(i, &[4 + scales + transposes])?;
    let constant = |at: usize, allowed: [i64; 2]| match i.operands[at] {
        Operand::Int(value) if allowed.contains(&value) => Ok(value == allowed[1]),
        _ => Err(format!("operand {} must be {} or {}", at + 1, allowed[0], allowed[1])),
    };
    let negates = |at: usize| if scales == 2 { constant(at, [1, -1]) } else { Ok(false) };
    let descriptor = |d: &mut Decoder, at: usize, transposed: bool| {
        Ok::<_, String>(Factor::Descriptor { register: d.source::<u64>(&i.operands[at])?, transposed })
    };
    let transposed = |k: usize| if transposable { constant(4 + scales + k, [0, 1]) } else { Ok(false) };
    let a = if from_registers {
        Factor::Fragment(fragment(d, &i.operands[1], 4, true)?)
    } else {
        descriptor(d, 1, transposed(0)?)?
    };
    let b = descriptor(d, 2, transposed(usize::from(!from_registers))?)?;
    Ok(Op::Wgmma(Box::new(Wgmma {
        n,
        k,
        a_type,
        b_type,
        c_type,
        d: fragment(d, &i.operands[0], n / 2 / c_type.per_register(), false)?,
        a,
        b,
        accumulate: d.predicate(&i.operands[3])?,
        negate_a: negates(4)?,
        negate_b: negates(5)?,
    })))
}

/// The register budget of a warpgroup: nothing here depends on it.
pub fn setmaxnreg(i: &Instruction) -> Decoded {
    let mut m = Mods::new(i);
    let known = m.one_of(&["inc", "dec"]).is_some() && m.take("sync") && m.take("aligned");
    if !known || m.only_ty()? != Type::U32 {
        return unknown();
    }
    match i.operands.as_slice() {
        [Operand::Int(count @ 24..=256)] if count % 8 == 0 => Ok(Op::Nop),
        _ => Err("wants a multiple of 8 from 24 to 256".into()),
    }
}
