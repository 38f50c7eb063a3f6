//! Asynchronous copies and the barriers that track them (PTX ISA §9.7.9.25, §9.7.13.15).

use super::decoder::Decoder;
use super::mods::Mods;
use super::op::{AddressSpace, CpAsync, Op};
use super::{Decoded, unknown};
use crate::parse::{Instruction, Operand, Space};

pub fn decode(d: &mut Decoder, i: &Instruction) -> Decoded {
    let mut m = Mods::new(i);
    match i.opcode.as_str() {
        "cp" if m.take("async") => cp_async(d, i, &mut m),
        _ => unknown(),
    }
}

fn cp_async(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    if m.take("commit_group") {
        m.finish()?;
        d.count(i, &[0])?;
        return Ok(Op::CpAsyncCommit);
    }
    if m.take("wait_all") {
        m.finish()?;
        d.count(i, &[0])?;
        return Ok(Op::CpAsyncWaitAll);
    }
    if m.take("wait_group") {
        m.finish()?;
        return match i.operands.as_slice() {
            [Operand::Int(n)] => Ok(Op::CpAsyncWaitGroup(u32::try_from(*n).map_err(|e| e.to_string())?)),
            _ => Err("wants a constant".into()),
        };
    }
    let level = m.one_of(&["ca", "cg"]).ok_or("needs .ca or .cg")?;
    if m.one_of(&["shared", "shared::cta"]).is_none() || !m.take("global") {
        return unknown();
    }
    let policy = m.take("L2::cache_hint");
    for size in ["64B", "128B", "256B"] {
        m.take(&format!("L2::{size}"));
    }
    m.finish()?;
    let operands = i.operands.len() - usize::from(policy);
    if !matches!(operands, 3 | 4) {
        return Err("wrong number of operands".into());
    }
    let Operand::Int(size) = i.operands[2] else { return Err("the size must be a constant".into()) };
    if !(level == "cg" && size == 16 || level == "ca" && matches!(size, 4 | 8 | 16)) {
        return Err(format!("cp.async.{level} does not copy {size} bytes"));
    }
    let (mut src_size, mut ignore) = (None, None);
    if operands == 4 {
        // A number of source bytes, or a predicate to take zeros instead.
        match d.source::<u32>(&i.operands[3]) {
            Ok(register) => src_size = Some(register),
            Err(_) => ignore = Some(d.predicate(&i.operands[3])?),
        }
    }
    Ok(Op::CpAsync(Box::new(CpAsync {
        dst: d.address_in(&i.operands[0], AddressSpace::In(Space::Shared))?,
        src: d.address_in(&i.operands[1], AddressSpace::In(Space::Global))?,
        size: size as usize,
        src_size,
        ignore,
    })))
}
