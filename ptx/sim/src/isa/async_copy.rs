//! Asynchronous copies and the barriers that track them (PTX ISA §9.7.9.25, §9.7.13.15).

use super::decoder::Decoder;
use super::mods::Mods;
use super::{AddressSpace, BulkCopy, CpAsync, Decoded, Mbarrier, MbarrierOp, Op, TensorCopy, unknown};
use crate::exec::lanes::{Class, Reg};
use crate::parse::{Instruction, Operand, Space, Type};

pub fn decode(d: &mut Decoder, i: &Instruction) -> Decoded {
    let mut m = Mods::new(i);
    match i.opcode.as_str() {
        "cp" if !m.take("async") => unknown(),
        "cp" if m.take("bulk") => bulk(d, i, &mut m),
        "cp" if m.take("mbarrier") => {
            if !m.take("arrive") {
                return unknown();
            }
            let noinc = m.take("noinc");
            mbarrier_form(d, i, &mut m, MbarrierOp::CpAsyncArrive { noinc })
        }
        "cp" => cp_async(d, i, &mut m),
        "mbarrier" => mbarrier(d, i, &mut m),
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

fn mbarrier(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let name = m.next_word().ok_or("an operation is missing")?;
    let op = match name {
        "init" => MbarrierOp::Init,
        "inval" => MbarrierOp::Inval,
        "expect_tx" => MbarrierOp::ExpectTx,
        "complete_tx" => MbarrierOp::CompleteTx,
        "arrive" | "arrive_drop" => {
            MbarrierOp::Arrive { expect_tx: m.take("expect_tx"), drop: name == "arrive_drop" }
        }
        "test_wait" | "try_wait" => {
            MbarrierOp::Wait { parity: m.take("parity"), suspends: name == "try_wait" }
        }
        _ => return unknown(),
    };
    mbarrier_form(d, i, m, op)
}

/// Semantics, state space, type and operands: `{dst,} [address] {, operand} {, time hint}`.
fn mbarrier_form(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>, op: MbarrierOp) -> Decoded {
    // Arrivals release and waits acquire; held to that, .relaxed ones are treated alike, on the side of silence.
    m.one_of(&["release", "acquire", "relaxed"]);
    m.one_of(&["cta", "cluster"]);
    let space = match m.one_of(&["shared", "shared::cta", "shared::cluster"]) {
        Some(_) => AddressSpace::In(Space::Shared),
        None => AddressSpace::Generic,
    };
    if m.only_ty()? != Type::B64 {
        return unknown();
    }
    let mut operands = i.operands.iter();
    let mut next = || operands.next().ok_or("operands are missing");
    let dst = match op {
        MbarrierOp::Arrive { .. } => {
            let operand = next()?;
            let reg = d.any_register(operand)?;
            if reg.is_some_and(|reg| reg.class != Class::B64) {
                return Err("the state has 64 bits".into());
            }
            reg
        }
        MbarrierOp::Wait { .. } => Some(Reg { class: Class::Pred, index: d.dst(next()?, Class::Pred)? }),
        _ => None,
    };
    let address = d.address_in(next()?, space)?;
    let class = if matches!(op, MbarrierOp::Wait { parity: false, .. }) { Class::B64 } else { Class::B32 };
    let mut operand = None;
    if !matches!(op, MbarrierOp::Inval | MbarrierOp::CpAsyncArrive { .. })
        && let Some(source) = operands.next()
    {
        operand = Some(Reg { class, index: d.src(source, class, false)? });
    }
    let needs_operand = !matches!(
        op,
        MbarrierOp::Inval | MbarrierOp::CpAsyncArrive { .. } | MbarrierOp::Arrive { expect_tx: false, .. }
    );
    if needs_operand && operand.is_none() {
        return Err("operands are missing".into());
    }
    // try_wait may have a time limit; it waits as long as it takes here.
    if matches!(op, MbarrierOp::Wait { suspends: true, .. })
        && let Some(limit) = operands.next()
    {
        d.source::<u32>(limit)?;
    }
    if operands.next().is_some() {
        return Err("too many operands".into());
    }
    Ok(Op::Mbarrier(Box::new(Mbarrier { op, space, address, dst, operand })))
}

fn bulk(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    if m.take("commit_group") {
        m.finish()?;
        d.count(i, &[0])?;
        return Ok(Op::BulkCommit);
    }
    if m.take("wait_group") {
        // .read waits for the sources to be read; that is when everything is done here.
        m.take("read");
        m.finish()?;
        return match i.operands.as_slice() {
            [Operand::Int(n)] => Ok(Op::BulkWait(u32::try_from(*n).map_err(|e| e.to_string())?)),
            _ => Err("wants a constant".into()),
        };
    }
    if m.take("prefetch") {
        m.ignore_prefix("L2");
        m.one_of(&["tensor"]);
        m.one_of(&["1d", "2d", "3d", "4d", "5d"]);
        m.take("tile");
        return if m.take("global") && m.finish().is_ok() { Ok(Op::Nop) } else { unknown() };
    }
    if m.take("tensor") {
        return tensor(d, i, m);
    }
    let (policy, multicast) = (usize::from(m.take("L2::cache_hint")), m.take("multicast::cluster"));
    let (shared, global) = (AddressSpace::In(Space::Shared), AddressSpace::In(Space::Global));
    let words = [m.next_word(), m.next_word(), m.next_word()];
    m.finish()?;
    match words {
        [Some("shared::cluster" | "shared::cta"), Some("global"), Some("mbarrier::complete_tx::bytes")] => {
            d.count(i, &[4 + usize::from(multicast) + policy])?;
            Ok(Op::BulkLoad(Box::new(BulkCopy {
                shared: d.address_in(&i.operands[0], shared)?,
                global: d.address_in(&i.operands[1], global)?,
                size: d.source::<u32>(&i.operands[2])?,
                mbarrier: Some(d.address_in(&i.operands[3], shared)?),
                blocks: blocks(d, i, 4, multicast)?,
            })))
        }
        [Some("global"), Some("shared::cta"), Some("bulk_group")] if !multicast => {
            d.count(i, &[3 + policy])?;
            Ok(Op::BulkStore(Box::new(BulkCopy {
                global: d.address_in(&i.operands[0], global)?,
                shared: d.address_in(&i.operands[1], shared)?,
                size: d.source::<u32>(&i.operands[2])?,
                mbarrier: None,
                blocks: None,
            })))
        }
        _ => unknown(),
    }
}

/// The mask of blocks of a multicast.
fn blocks(d: &mut Decoder, i: &Instruction, at: usize, multicast: bool) -> Result<Option<u16>, String> {
    multicast.then(|| d.source::<u16>(&i.operands[at])).transpose()
}

/// `cp.async.bulk.tensor` in tile mode.
fn tensor(d: &mut Decoder, i: &Instruction, m: &mut Mods<'_>) -> Decoded {
    let dimensions =
        m.one_of(&["1d", "2d", "3d", "4d", "5d"]).ok_or("the number of dimensions is missing")?;
    let rank = usize::from(dimensions.as_bytes()[0] - b'0');
    m.take("tile");
    let (policy, multicast) = (usize::from(m.take("L2::cache_hint")), m.take("multicast::cluster"));
    let words = [m.next_word(), m.next_word(), m.next_word()];
    m.finish()?;
    let shared = AddressSpace::In(Space::Shared);
    let map = |d: &mut Decoder, operand: &Operand| {
        let Operand::TensorAddress(base, coordinates) = operand else {
            return Err("[map, {coordinates}] is wanted".to_owned());
        };
        if coordinates.len() != rank {
            return Err(format!("{} coordinates, wanted {rank}", coordinates.len()));
        }
        let (address, _) = d.address(&Operand::Address(base.clone(), 0))?;
        let coordinates = coordinates.iter().map(|c| d.source::<u32>(c)).collect::<Result<Vec<_>, _>>()?;
        Ok((address, coordinates))
    };
    match words {
        [Some("shared::cluster" | "shared::cta"), Some("global"), Some("mbarrier::complete_tx::bytes")] => {
            d.count(i, &[3 + usize::from(multicast) + policy])?;
            let (map, coordinates) = map(d, &i.operands[1])?;
            Ok(Op::TensorLoad(Box::new(TensorCopy {
                map,
                coordinates,
                shared: d.address_in(&i.operands[0], shared)?,
                mbarrier: Some(d.address_in(&i.operands[2], shared)?),
                blocks: blocks(d, i, 3, multicast)?,
            })))
        }
        [Some("global"), Some("shared::cta"), Some("bulk_group")] if !multicast => {
            d.count(i, &[2 + policy])?;
            let (map, coordinates) = map(d, &i.operands[0])?;
            let shared = d.address_in(&i.operands[1], shared)?;
            Ok(Op::TensorStore(Box::new(TensorCopy {
                map,
                coordinates,
                shared,
                mbarrier: None,
                blocks: None,
            })))
        }
        _ => unknown(),
    }
}
